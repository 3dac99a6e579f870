//! What stands between the clients and the servers: our edge, HAProxy, nginx. Each has one thread.

use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ha_testbed::ports::Reservation;
use ha_testbed::process::{Bed, Process, Spec};
use ha_tower::balance::{HashKey, Maglev, P2c, Policy, Random, RoundRobin};
use ha_tower::discover;
use ha_tower::drain::{self, Drain};
use ha_tower::proxy::ReverseProxy;
use ha_tower::retry::RetryLayer;
use ha_tower::timeout::TimeoutLayer;
use ha_tower::upstream::Upstream;
use tokio::task::JoinSet;
use tower::ServiceBuilder;

use crate::generator::KEY;
use crate::thread::Thread;

/// Two limits that all of them have alike: what a busy machine holds up for longer fails, and it should fail for everybody or nobody.
const CONNECT: Duration = Duration::from_secs(1);
const ANSWER: Duration = Duration::from_secs(5);

/// One way to run one of them.
#[derive(Debug, Clone)]
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Ours(Policy),
    Haproxy {
        program: PathBuf,
        balance: &'static str,
    },
    Nginx {
        program: PathBuf,
        method: &'static str,
    },
}

/// One that runs, until it is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    // Only held.
    _parts: Parts,
}

#[derive(Debug)]
enum Parts {
    Ours { _thread: Thread },
    Peer { _process: Process, _bed: Bed },
}

/// Ours, and those of the peers that are installed.
pub(crate) fn all() -> Vec<Contender> {
    let mut all: Vec<_> = [
        ("ours", Policy::from(P2c::peak_ewma())),
        ("ours_least_request", P2c::least_request().into()),
        ("ours_round_robin", RoundRobin.into()),
        ("ours_random", Random.into()),
        ("ours_maglev", Maglev::new(HashKey::header(KEY)).into()),
    ]
    .map(|(name, policy)| Contender {
        name,
        kind: Kind::Ours(policy),
    })
    .into();
    if let Some(program) = installed("haproxy") {
        for (name, balance) in [
            ("haproxy_leastconn", "leastconn"),
            ("haproxy_roundrobin", "roundrobin"),
            ("haproxy_random2", "random(2)"),
        ] {
            let program = program.clone();
            let kind = Kind::Haproxy { program, balance };
            all.push(Contender { name, kind });
        }
    }
    if let Some(program) = installed("nginx") {
        for (name, method) in [
            ("nginx_least_conn", "least_conn;"),
            ("nginx_round_robin", ""),
            ("nginx_random2", "random two least_conn;"),
        ] {
            let program = program.clone();
            let kind = Kind::Nginx { program, method };
            all.push(Contender { name, kind });
        }
    }
    all
}

fn installed(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian puts servers where an ordinary user's PATH does not look.
    let found = std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")])
        .map(|dir| dir.join(name))
        .find(|path| path.is_file());
    if found.is_none() {
        eprintln!("{name} is not installed, so it is left out (apt-get install {name})");
    }
    found
}

impl Contender {
    pub(crate) async fn start(&self, backends: &[SocketAddr]) -> io::Result<Running> {
        match &self.kind {
            Kind::Ours(policy) => ours(policy.clone(), backends),
            Kind::Haproxy { program, balance } => {
                peer("haproxy", program, |port, _| {
                    haproxy(port, balance, backends)
                })
                .await
            }
            Kind::Nginx { program, method } => {
                peer("nginx", program, |port, dir| {
                    nginx(port, dir, method, backends)
                })
                .await
            }
        }
    }
}

fn ours(policy: Policy, backends: &[SocketAddr]) -> io::Result<Running> {
    let urls: Vec<_> = backends.iter().map(|a| format!("http://{a}")).collect();
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let thread = Thread::start("edge", async move {
        let upstream = Upstream::builder("backends")
            .discover(discover::fixed(&urls).map_err(io::Error::other)?)
            .balance(policy)
            .connect_timeout(CONNECT)
            .attempt_timeout(ANSWER)
            .build()
            .map_err(io::Error::other)?;
        let client = ServiceBuilder::new()
            .layer(TimeoutLayer::deadline(2 * ANSWER))
            .layer(RetryLayer::http())
            .service(upstream);
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let mut serving = JoinSet::new();
        let served = drain::serve(listener, ReverseProxy::new(client), Drain::new());
        serving.spawn(served.into_future());
        Ok(serving)
    })?;
    Ok(Running {
        address,
        _parts: Parts::Ours { _thread: thread },
    })
}

async fn peer(
    name: &str,
    program: &std::path::Path,
    config: impl FnOnce(u16, &str) -> String,
) -> io::Result<Running> {
    let bed = Bed::temporary().map_err(io::Error::other)?;
    let port = Reservation::take(1)?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.ports()[0]));
    let dir = bed.make_dir(name).map_err(io::Error::other)?;
    let file = dir.join("config");
    std::fs::write(&file, config(address.port(), &dir.display().to_string()))?;
    let spec = Spec::new(name, program);
    let spec = match name {
        "haproxy" => spec.args(["-db", "-f"]).arg(&file),
        _ => spec.arg("-c").arg(&file),
    };
    let process = bed.spawn(spec).map_err(io::Error::other)?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while tokio::net::TcpStream::connect(address).await.is_err() {
        if Instant::now() >= deadline {
            let log = process.log_tail(20);
            return Err(io::Error::other(format!("{name} does not listen:\n{log}")));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(Running {
        address,
        _parts: Parts::Peer {
            _process: process,
            _bed: bed,
        },
    })
}

fn haproxy(port: u16, balance: &str, backends: &[SocketAddr]) -> String {
    let mut text = format!(
        "global\n  nbthread 1\n  maxconn 4096\n\
         defaults\n  mode http\n  timeout connect {connect}s\n  timeout client 30s\n  timeout server {answer}s\n  \
         option redispatch\n  retries 2\n  http-reuse always\n\
         frontend edge\n  bind 127.0.0.1:{port}\n  default_backend apps\n\
         backend apps\n  balance {balance}\n",
        connect = CONNECT.as_secs(),
        answer = ANSWER.as_secs(),
    );
    for (i, address) in backends.iter().enumerate() {
        let _ = writeln!(text, "  server app{i} {address}");
    }
    text
}

fn nginx(port: u16, dir: &str, method: &str, backends: &[SocketAddr]) -> String {
    let mut servers = String::new();
    for address in backends {
        let _ = write!(servers, "server {address}; ");
    }
    format!(
        "daemon off;\nworker_processes 1;\npid {dir}/pid;\nerror_log {dir}/error.log;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n  access_log off;\n  keepalive_requests 1000000000;\n  \
         client_body_temp_path {dir}/a;\n  proxy_temp_path {dir}/b;\n  fastcgi_temp_path {dir}/c;\n  \
         uwsgi_temp_path {dir}/d;\n  scgi_temp_path {dir}/e;\n  \
         upstream apps {{ {method} {servers} keepalive 256; keepalive_requests 1000000000; }}\n  \
         server {{\n    listen 127.0.0.1:{port};\n    location / {{\n      proxy_pass http://apps;\n      \
         proxy_http_version 1.1;\n      proxy_set_header Connection \"\";\n      \
         proxy_connect_timeout {connect}s;\n      proxy_read_timeout {answer}s;\n    }}\n  }}\n}}\n",
        connect = CONNECT.as_secs(),
        answer = ANSWER.as_secs(),
    )
}
