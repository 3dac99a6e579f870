//! Starting: servers first and side by side, then the apps, then the edges, each waited for.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ha_testbed::patroni::{self, Patroni};
use ha_testbed::ports::Reservation;
use ha_testbed::process::{Bed, Process, Spec};
use ha_testbed::redis::{self, Redis};
use http::{Method, StatusCode};

use super::{Cluster, Defence, Error, Options, Own, Port, observe};
use crate::client;
use crate::keys;
use crate::part::{Kind, Part};
use crate::port::{self, Held};
use crate::state::Place;

/// What has to be free: three PostgreSQL servers and etcd take 375 MiB at the start, and keep more of their logs as they
/// work.
const NEEDED: u64 = 1024 * 1024 * 1024;

/// Less than this is as good as nothing: one file of PostgreSQL's log.
const NOTHING_LEFT: u64 = 16 * 1024 * 1024;

/// How often the room is looked at while the servers write their first files.
const DISK_LOOK: Duration = Duration::from_millis(50);

/// How long an app or edge gets until it serves. Long, because a loaded machine is no reason to give up.
const SERVING: Duration = Duration::from_secs(60);

/// How long one look at it may take.
const LOOK: Duration = Duration::from_secs(1);

impl Cluster {
    /// Starts everything and returns when a request through any edge is served.
    ///
    /// # Errors
    /// See [`Error`]; nothing is left running then.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, it ends what it had started.
    pub async fn launch(options: Options, progress: &dyn Fn(&str)) -> Result<Self, Error> {
        let temporary = match &options.dir {
            Some(_) => None,
            None => Some(temporary()?),
        };
        let dir = match (&options.dir, &temporary) {
            (Some(dir), _) => dir.clone(),
            (None, Some(temporary)) => temporary.path().to_owned(),
            (None, None) => std::env::temp_dir(),
        };
        let place = Place::find(Some(&dir))?;
        let program = match &options.program {
            Some(program) => program.clone(),
            None => std::env::current_exe().map_err(|source| Error::Io {
                action: "find this program's own file",
                source,
            })?,
        };
        check_space(&dir, NEEDED)?;
        let edges = match options.port {
            Port::Exactly(port) => Ok((port::edges(options.edges, Some(port))?, None)),
            Port::Friendly => Ok((port::edges(options.edges, None)?, None)),
            Port::Any => any_port(options.edges),
        }?;
        tokio::select! {
            started = start(options, &place, program, edges, temporary, progress) => {
                started.map_err(|error| blame_disk(&dir, error))
            }
            full = disk_full(&dir) => Err(full),
        }
    }
}

async fn start(
    options: Options,
    place: &Place,
    program: PathBuf,
    (edges, port): (Held, Option<Reservation>),
    temporary: Option<tempfile::TempDir>,
    progress: &dyn Fn(&str),
) -> Result<Cluster, Error> {
    let shape = options.shape();
    keys::create(&place.keys())?;

    progress(&format!(
        "starting PostgreSQL ({} nodes under Patroni), etcd, Redis ({} nodes) and {} Sentinels",
        shape.postgres, shape.redis, shape.sentinels
    ));
    let patroni = async {
        let patroni = Patroni::cluster(shape.postgres)
            .dir(place.postgres())
            .start()
            .await?;
        progress("PostgreSQL streams to its replicas");
        Ok::<_, Error>(patroni)
    };
    let redis = async {
        let redis = Redis::sentinel(shape.redis)
            .dir(place.redis())
            .start()
            .await?;
        progress("Redis is watched by its Sentinels");
        Ok::<_, Error>(redis)
    };
    let (patroni, redis) = tokio::try_join!(patroni, redis)?;

    let bed = Bed::at(place.run())?;
    let ports = reserve(2 * options.apps + options.edges)?;
    let mut free = ports
        .ports()
        .iter()
        .map(|&port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let launch = Launch {
        bed: &bed,
        program,
        keys: place.keys(),
        without: &options.without,
    };

    let mut apps = Vec::new();
    for number in 1..=options.apps {
        let (Some(address), Some(admin)) = (free.next(), free.next()) else {
            break;
        };
        apps.push(launch.app(number, address, admin, &patroni, &redis)?);
    }
    let mut started = Vec::new();
    for (index, address) in edges.release().into_iter().enumerate() {
        let Some(admin) = free.next() else { break };
        started.push(launch.edge(index + 1, address, admin, &apps)?);
    }
    for app in &apps {
        serving(&app.process, app.address, "/readyz").await?;
    }
    progress(&format!("{} apps are ready", apps.len()));
    for edge in &started {
        let admin = edge.admin;
        edge.process
            .wait_until(
                "sees all apps",
                SERVING,
                async || match observe::endpoints(admin, LOOK).await {
                    Some(endpoints) if endpoints.iter().all(|endpoint| endpoint.available) => {
                        Ok(())
                    }
                    Some(_) => Err("an app is not available yet".to_owned()),
                    None => Err("it does not answer yet".to_owned()),
                },
            )
            .await?;
    }
    progress(&format!("{} edges see all apps", started.len()));
    Ok(Cluster {
        shape,
        edges: started,
        apps,
        patroni,
        redis,
        _bed: bed,
        _ports: (ports, port),
        _temporary: temporary,
    })
}

/// A port that no other cluster and no test bed takes while this one is there, not even while its edges are dead.
fn any_port(edges: usize) -> Result<(Held, Option<Reservation>), Error> {
    const TRIES: usize = 50;
    for _ in 0..TRIES {
        let reserved = reserve(1)?;
        // Reserved on 127.0.0.1; the other addresses may have it taken.
        if let Some(held) = reserved
            .ports()
            .iter()
            .find_map(|&port| port::hold(edges, port).ok())
        {
            return Ok((held, Some(reserved)));
        }
    }
    Err(port::Error::NoneFree.into())
}

fn reserve(count: usize) -> Result<Reservation, Error> {
    Reservation::take(count).map_err(|source| Error::Io {
        action: "reserve ports",
        source,
    })
}

struct Launch<'a> {
    bed: &'a Bed,
    program: PathBuf,
    keys: PathBuf,
    without: &'a [Defence],
}

impl Launch<'_> {
    fn spec(&self, part: Part, address: SocketAddr, admin: SocketAddr) -> Spec {
        let mut spec = Spec::new(part.to_string(), &self.program)
            .arg(part.kind.as_str())
            .args(["--name", &part.to_string()])
            .args(["--listen", &address.to_string()])
            .args(["--admin", &admin.to_string()])
            // The program may lie where only this user may look.
            .as_owner();
        for defence in self.without {
            spec = spec.args(["--without", defence.as_str()]);
        }
        spec
    }

    fn app(
        &self,
        number: usize,
        address: SocketAddr,
        admin: SocketAddr,
        patroni: &patroni::Cluster,
        redis: &redis::Cluster,
    ) -> Result<Own, Error> {
        let nodes = (1..).zip(&patroni.nodes);
        let nodes = nodes.map(|(number, node)| {
            format!("{}={}", Part::new(Kind::Pg, number), node.app_conninfo())
        });
        let spec = self
            .spec(Part::new(Kind::App, number), address, admin)
            .env("HA_POSTGRES", nodes.collect::<Vec<_>>().join(";"))
            .env("HA_REDIS", redis.sentinel_url())
            .env(keys::KEYS_FILE, &self.keys);
        let process = self.bed.spawn(spec)?;
        Ok(Own {
            process,
            address,
            admin,
        })
    }

    fn edge(
        &self,
        number: usize,
        address: SocketAddr,
        admin: SocketAddr,
        apps: &[Own],
    ) -> Result<Own, Error> {
        let upstream: Vec<String> = apps
            .iter()
            .map(|app| format!("http://{}", app.address))
            .collect();
        let spec = self
            .spec(Part::new(Kind::Edge, number), address, admin)
            .args(["--upstream", &upstream.join(",")]);
        let process = self.bed.spawn(spec)?;
        Ok(Own {
            process,
            address,
            admin,
        })
    }
}

async fn serving(process: &Process, address: SocketAddr, path: &str) -> Result<(), Error> {
    process
        .wait_until("ready", SERVING, async || {
            match client::send(Method::GET, address, path, LOOK).await {
                Ok((StatusCode::OK, _)) => Ok(()),
                Ok((status, body)) => Err(format!(
                    "{status}: {}",
                    String::from_utf8_lossy(&body).trim()
                )),
                Err(error) => Err(crate::chain(&error)),
            }
        })
        .await?;
    Ok(())
}

fn temporary() -> Result<tempfile::TempDir, Error> {
    use std::os::unix::fs::PermissionsExt as _;
    tempfile::Builder::new()
        .prefix("ha-cluster-")
        // Servers that run as another user have to pass through it.
        .permissions(std::fs::Permissions::from_mode(0o755))
        .tempdir()
        .map_err(|source| Error::Io {
            action: "make a temporary directory",
            source,
        })
}

/// A full disk makes servers fail in many ways; what to do about it is always the same.
fn blame_disk(dir: &Path, error: Error) -> Error {
    let full = error.is_disk_full() || free(dir).is_some_and(|free| free < NOTHING_LEFT);
    if !full || matches!(error, Error::NoSpace { .. }) {
        return error;
    }
    Error::DiskFull {
        dir: dir.to_owned(),
        source: Some(Box::new(error)),
    }
}

/// Resolves when the disk has filled up. Servers that meet a full disk end, give their room back or wait for each other,
/// and what is reported minutes later names another reason.
async fn disk_full(dir: &Path) -> Error {
    while free(dir).is_none_or(|free| free >= NOTHING_LEFT) {
        tokio::time::sleep(DISK_LOOK).await;
    }
    Error::DiskFull {
        dir: dir.to_owned(),
        source: None,
    }
}

fn free(dir: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Says before anything runs whether the disk has room: a server that finds out later says it less clearly.
fn check_space(dir: &Path, needed: u64) -> Result<(), Error> {
    const MIB: u64 = 1024 * 1024;
    match free(dir) {
        Some(free) if free < needed => Err(Error::NoSpace {
            dir: dir.to_owned(),
            free: free / MIB,
            needed: needed / MIB,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_without_room_is_refused_with_both_numbers() {
        let dir = tempfile::tempdir().unwrap();
        check_space(dir.path(), 1).unwrap();
        let error = check_space(dir.path(), u64::MAX).unwrap_err();
        assert!(error.is_disk_full());
        assert!(error.to_string().contains("MiB are free in"), "{error}");
    }
}
