//! HAProxy hands each request to the next of three app processes, one of which is killed: no user notices.
//!
//! No affinity: consecutive requests of one user go to different apps, so that what one acknowledged is asked of another.
#![allow(clippy::unwrap_used)]

mod app;
mod users;

use std::fs;
use std::path::Path;
use std::time::Duration;

use ha_testbed::ports::Reservation;
use ha_testbed::postgres::Postgres;
use ha_testbed::process::{Bed, Process, Spec};
use ha_testbed::redis::Redis;
use ha_testbed::setup::{self, Tool};
use tokio::net::TcpStream;
use tokio::time::Instant;

use self::users::Users;

const DEADLINE: Duration = Duration::from_secs(60);
const USERS: usize = 12;

/// What HAProxy needs to hide a dead app: look at each, and send again what got no answer. A session's patch may be sent twice: it has the
/// effect of one.
fn config(front: u16, apps: &[u16]) -> String {
    let servers: Vec<_> = apps
        .iter()
        .map(|port| format!("  server app-{port} 127.0.0.1:{port} check inter 200ms fall 2 rise 2"))
        .collect();
    format!(
        "global\n  maxconn 500\n\
         defaults\n  mode http\n  timeout connect 2s\n  timeout client 60s\n  timeout server 30s\n  \
         retries 5\n  option redispatch 1\n  retry-on all-retryable-errors\n\
         frontend edge\n  bind 127.0.0.1:{front}\n  default_backend apps\n\
         backend apps\n  balance roundrobin\n  option httpchk GET /ready\n{}\n",
        servers.join("\n")
    )
}

struct Service {
    apps: Vec<Process>,
    front: u16,
    _proxy: Process,
    // Gives the ports back after the processes are gone.
    _ports: Reservation,
}

impl Service {
    async fn start(bed: &Bed, stores: Option<&(String, String)>) -> Self {
        let ports = Reservation::take(4).unwrap();
        let [front, app_ports @ ..] = ports.ports() else {
            panic!("four ports");
        };
        let program = std::env::current_exe().unwrap();
        let apps = app_ports.iter().map(|port| {
            let mut spec = Spec::new(format!("app-{port}"), &program)
                .arg("app::an_app_process_serves_when_the_environment_names_a_port")
                .args(["--exact", "--nocapture"])
                .env(app::PORT, port.to_string())
                .port(*port)
                .as_owner();
            if let Some((redis, postgres)) = stores {
                spec = spec.env(app::REDIS, redis).env(app::POSTGRES, postgres);
            }
            bed.spawn(spec).unwrap()
        });
        let apps = apps.collect();
        for port in app_ports {
            answers(*port).await;
        }
        let file = bed
            .make_dir(&format!("edge-{front}"))
            .unwrap()
            .join("haproxy.cfg");
        fs::write(&file, config(*front, app_ports)).unwrap();
        let proxy = Spec::new(
            format!("haproxy-{front}"),
            setup::find(Tool::HaProxy).unwrap(),
        )
        .args([Path::new("-db"), Path::new("-f"), &file])
        .port(*front);
        let proxy = bed.spawn(proxy).unwrap();
        answers(*front).await;
        Self {
            apps,
            front: *front,
            _proxy: proxy,
            _ports: ports,
        }
    }

    /// Lets users work, kills an app under them, lets them go on, and says what they noticed.
    async fn noticed_by_users(&self) -> Vec<String> {
        let users = Users::start(self.front, USERS);
        users.each_made(4).await;
        self.apps[0].kill().await.unwrap();
        users.each_made(8).await;
        users.stop().await
    }
}

async fn answers(port: u16) {
    let end = Instant::now() + DEADLINE;
    while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        assert!(Instant::now() < end, "port {port} does not answer");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn behind_haproxy_without_affinity_nobody_notices_a_killed_app() {
    setup::ensure(&[Tool::HaProxy]).unwrap();
    let bed = Bed::temporary().unwrap();
    let (redis, postgres) = tokio::join!(Redis::single().start(), Postgres::primary().start());
    let (redis, postgres) = (redis.unwrap(), postgres.unwrap());
    let stores = (redis.url(), postgres.nodes[0].conninfo());
    let service = Service::start(&bed, Some(&stores)).await;
    assert_eq!(service.noticed_by_users().await, Vec::<String>::new());
}

/// The control: sessions in each app's own memory, which only affinity could hide, until the app is killed.
#[tokio::test]
async fn with_sessions_in_each_apps_memory_everybody_notices() {
    setup::ensure(&[Tool::HaProxy]).unwrap();
    let bed = Bed::temporary().unwrap();
    let service = Service::start(&bed, None).await;
    assert!(service.noticed_by_users().await.len() >= USERS);
}
