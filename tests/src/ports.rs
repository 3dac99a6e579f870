//! Loopback ports that stay yours while a server is dead.
//!
//! Binding port 0 and letting go again is not enough for a test bed: between two starts of the same server any other
//! process may get that port, and so may any outgoing connection. So ports are taken from below the range that kernels
//! hand out by themselves, and each is reserved with a lock on a small file in a directory all beds of a machine share. The
//! kernel releases the lock when the owner ends, however it ends.

use std::{
    fs::{self, File, OpenOptions},
    io,
    net::{Ipv4Addr, TcpListener},
    ops::Range,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use crate::StartError;

/// Below 32768, where Linux begins to hand out ports (macOS: 49152).
const RANGE: Range<u16> = 15_000..32_000;

/// Ports nobody else who asks this module gets until this is dropped.
#[derive(Debug)]
pub struct Reservation {
    ports: Vec<u16>,
    _locks: Vec<File>,
}

impl Reservation {
    /// Reserves `count` loopback ports on which nothing listens.
    ///
    /// # Errors
    ///
    /// When the lock directory cannot be made, or the range is used up.
    pub fn take(count: usize) -> io::Result<Self> {
        let dir = directory();
        match fs::create_dir(&dir) {
            Ok(()) => fs::set_permissions(&dir, fs::Permissions::from_mode(0o1777))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let mut taken = Self {
            ports: Vec::with_capacity(count),
            _locks: Vec::with_capacity(count),
        };
        for _ in 0..RANGE.len() {
            if taken.ports.len() == count {
                return Ok(taken);
            }
            let port = fastrand::u16(RANGE);
            let Some(file) = lock(&dir, port) else {
                continue;
            };
            if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
                taken.ports.push(port);
                taken._locks.push(file);
            }
        }
        if taken.ports.len() == count {
            return Ok(taken);
        }
        Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("no {count} free ports in {RANGE:?}"),
        ))
    }

    /// The ports, in the order they were taken.
    pub fn ports(&self) -> &[u16] {
        &self.ports
    }
}

/// Whether somebody holds a reservation of this port.
pub fn is_reserved(port: u16) -> bool {
    let dir = directory();
    dir.exists() && lock(&dir, port).is_none()
}

fn directory() -> PathBuf {
    std::env::temp_dir().join("ha-testbed-ports")
}

/// The port's lock, or nothing when somebody has it. Another user's lock file may be closed to us; that port is then
/// not ours to take.
fn lock(dir: &Path, port: u16) -> Option<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o666)
        .open(dir.join(port.to_string()))
        .ok()?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
    Some(file)
}

/// Starts again on other ports when a process outside of all beds was faster.
pub(crate) async fn elsewhere<T, F, Start>(start: F) -> Result<T, StartError>
where
    F: Fn() -> Start,
    Start: Future<Output = Result<T, StartError>>,
{
    for _ in 0..2 {
        match start().await {
            Err(error) if error.is_port_taken() => {}
            other => return other,
        }
    }
    start().await
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_port_is_given_twice_while_it_is_held() {
        let held: Vec<_> = (0..20).map(|_| Reservation::take(20).unwrap()).collect();
        let all: Vec<_> = held
            .iter()
            .flat_map(|held| held.ports().iter().copied())
            .collect();
        assert_eq!(all.len(), 400);
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), 400);
    }

    #[test]
    fn a_port_that_somebody_holds_is_reserved_and_one_that_nobody_can_is_not() {
        let held = Reservation::take(1).unwrap();
        assert!(is_reserved(held.ports()[0]));
        assert!(!is_reserved(RANGE.end));
    }

    #[test]
    fn a_port_somebody_listens_on_is_not_given() {
        let held = Reservation::take(1).unwrap();
        let port = held.ports()[0];
        let _listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        drop(held);
        for _ in 0..50 {
            assert!(!Reservation::take(10).unwrap().ports().contains(&port));
        }
    }
}
