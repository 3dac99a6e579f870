//! Who the servers run as.

use std::{fs, process::Command};

/// The user servers run as when the owner is root, since PostgreSQL refuses root: `postgres` where it exists, else
/// `nobody`. Nothing when the owner is an ordinary user already, or neither exists.
pub fn unprivileged_user() -> Option<User> {
    if !is_root() {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    user_in(&passwd, "postgres").or_else(|| user_in(&passwd, "nobody"))
}

/// An account of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its user id.
    pub uid: u32,
    /// Its primary group.
    pub gid: u32,
}

pub(super) fn user_in(passwd: &str, name: &str) -> Option<User> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != name {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        // "nobody" may be -2 on other systems; an id of 0 would be root under another name.
        (uid != 0).then(|| User {
            name: name.to_owned(),
            uid,
            gid,
        })
    })
}

/// Whether this process runs as root: the standard library has no call for it.
pub(super) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    if let Ok(me) = fs::metadata("/proc/self") {
        return me.uid() == 0;
    }
    Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
