//! Health checks against real sockets that misbehave in each way that a socket can.
#![allow(clippy::unwrap_used)]

mod upstream_app;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all};
use ha_core::endpoint::Endpoint;
use ha_core::health::State;
use ha_testbed::redis::Redis;
use ha_tower::discover;
use ha_tower::health::{self, Check, Event, Failure, Grpc, Http, Probe, Reason, Start, Tcp};
use ha_tower::upstream::Upstream;
use http::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use upstream_app::{call, eventually};

const DEADLINE: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(300);
const DRIP: Duration = Duration::from_millis(20);

/// A server that does the same with every connection, until it is dropped.
struct Server {
    addr: SocketAddr,
    _tasks: JoinSet<()>,
}

type Play = Arc<dyn Fn(TcpStream) -> BoxFuture<'static, ()> + Send + Sync>;

impl Server {
    async fn start(play: Play) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                open.spawn(play(stream));
                while open.try_join_next().is_some() {}
            }
        });
        Self {
            addr,
            _tasks: tasks,
        }
    }

    fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

fn play<F: Future<Output = ()> + Send + 'static>(
    play: impl Fn(TcpStream) -> F + Send + Sync + 'static,
) -> Play {
    Arc::new(move |stream| play(stream).boxed())
}

/// Reads a request's head.
async fn head(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => read.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(read).unwrap()
}

/// Answers every request with this, and closes.
fn says(answer: &'static str) -> Play {
    play(move |mut stream| async move {
        head(&mut stream).await;
        let _ = stream.write_all(answer.as_bytes()).await;
    })
}

/// Answers with this, and then with the same piece for ever.
fn never_ends(answer: &'static str, piece: &'static str, pause: Duration) -> Play {
    play(move |mut stream| async move {
        head(&mut stream).await;
        let mut sent = stream.write_all(answer.as_bytes()).await;
        while sent.is_ok() {
            tokio::time::sleep(pause).await;
            sent = stream.write_all(piece.as_bytes()).await;
        }
    })
}

/// Accepts, and says nothing until the other side closes.
fn silent() -> Play {
    play(|mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
}

/// The events of one upstream.
struct Watched {
    upstream: Upstream,
    events: mpsc::UnboundedReceiver<(State, String)>,
}

impl Watched {
    fn start<P: Probe>(url: &str, check: Check<P>) -> Self {
        let (told, events) = mpsc::unbounded_channel();
        let check = check.on_event(move |event| {
            let _ = told.send((event.to, reason(event)));
        });
        let upstream = Upstream::builder("checked")
            .discover(discover::fixed([url]).unwrap())
            .health(check)
            .build()
            .unwrap();
        Self { upstream, events }
    }

    async fn next(&mut self) -> (State, String) {
        let event = tokio::time::timeout(DEADLINE, self.events.recv()).await;
        event.expect("no event in time").unwrap()
    }
}

fn reason(event: &Event) -> String {
    match &event.reason {
        Reason::Failed(failure) => failure.to_string(),
        reason => format!("{reason:?}"),
    }
}

/// What the first check decides, which is enough when no traffic flows before it.
async fn verdict<P: Probe>(server: Play, check: Check<P>) -> (State, String) {
    let server = Server::start(server).await;
    let check = check.start(Start::FirstPass);
    Watched::start(&server.url(), check).next().await
}

/// Enough for any answer that comes.
fn patient<P>(check: Check<P>) -> Check<P> {
    check.interval(LONG).timeout(DEADLINE)
}

fn get() -> Check<Http> {
    patient(Http::get("/readyz"))
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nready";
const CHUNKS: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nready\r\n";

#[tokio::test]
async fn http_checks_look_at_the_status_and_the_body() {
    let cases = [
        (OK, get(), State::Passing, "Passed"),
        (OK, get().body_contains("ready"), State::Passing, "Passed"),
        (
            OK,
            get().body_contains("steady"),
            State::Failing,
            "the answer does not contain \"steady\"",
        ),
        (
            OK,
            get().statuses([204]),
            State::Failing,
            "the answer has the status 200 OK",
        ),
        (
            OK,
            get().body_limit(4),
            State::Failing,
            "the answer has more than 4 bytes",
        ),
        (
            "HTTP/1.1 204 No Content\r\n\r\n",
            get().statuses([204]),
            State::Passing,
            "Passed",
        ),
        (
            "HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n",
            get(),
            State::Failing,
            "the answer has the status 302 Found",
        ),
        (
            "HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n",
            get().statuses(200..=399),
            State::Passing,
            "Passed",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nready",
            get(),
            State::Failing,
            "the exchange broke off",
        ),
        (
            "SSH-2.0-OpenSSH_9.2\r\n",
            get(),
            State::Failing,
            "the exchange broke off",
        ),
        ("", get(), State::Failing, "the exchange broke off"),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
            patient(Http::head("/readyz")),
            State::Passing,
            "Passed",
        ),
    ];
    for (answer, check, state, reason) in cases {
        let found = verdict(says(answer), check).await;
        assert_eq!(found, (state, reason.to_owned()), "{answer}");
    }
}

#[tokio::test]
async fn an_answer_that_never_ends_costs_no_more_than_the_timeout_and_the_limit() {
    let brief = || Http::get("/readyz").interval(SHORT);
    let late = "the check was not over within 300ms";
    let long = "the answer has more than 65536 bytes";
    let big: &str = String::from_utf8(vec![b'x'; 10_000]).unwrap().leak();
    let big_chunk: &str = format!("2710\r\n{big}\r\n").leak();
    let found = join_all([
        // A head of one more byte now and then, and a body of the same kind.
        verdict(
            never_ends("HTTP/1.1 200 OK\r\nx-slow: ", "x", DRIP),
            brief(),
        ),
        verdict(never_ends(CHUNKS, "1\r\nx\r\n", DRIP), brief()),
        verdict(silent(), brief()),
        verdict(never_ends(CHUNKS, big_chunk, Duration::ZERO), get()),
        verdict(
            never_ends("HTTP/1.1 200 OK\r\nx-big: ", big, Duration::ZERO),
            get(),
        ),
        // What is wanted is there, so that the rest does not matter.
        verdict(
            never_ends(CHUNKS, "1\r\nx\r\n", DRIP),
            get().body_contains("ready"),
        ),
    ])
    .await;
    let failing = |reason: &str| (State::Failing, reason.to_owned());
    assert_eq!(
        found,
        [
            failing(late),
            failing(late),
            failing(late),
            failing(long),
            failing("the exchange broke off"),
            (State::Passing, "Passed".to_owned()),
        ]
    );
}

#[tokio::test]
async fn an_app_says_by_a_header_that_it_leaves_or_that_its_region_is_sick() {
    for (answer, state, reason) in [
        (
            "HTTP/1.1 200 OK\r\nx-ha-draining: true\r\ncontent-length: 0\r\n\r\n",
            State::Draining,
            "Said",
        ),
        (
            "HTTP/1.1 503 No\r\nx-ha-draining: true\r\ncontent-length: 0\r\n\r\n",
            State::Draining,
            "Said",
        ),
        (
            "HTTP/1.1 503 No\r\nx-ha-region: sick\r\ncontent-length: 0\r\n\r\n",
            State::RegionSick,
            "Said",
        ),
        (
            "HTTP/1.1 503 No\r\nx-ha-region: well\r\ncontent-length: 0\r\n\r\n",
            State::Failing,
            "the answer has the status 503 Service Unavailable",
        ),
    ] {
        // Only the last one needs as many as `fall` says; its fast checks are for that.
        let check = get().fall(3).transition_interval(DRIP);
        let server = Server::start(says(answer)).await;
        let mut watched = Watched::start(&server.url(), check);
        let found = watched.next().await;
        assert_eq!(found, (state, reason.to_owned()), "{answer}");
        let endpoint = watched.upstream.endpoints().remove(0);
        assert_eq!((endpoint.health, endpoint.available), (state, false));
    }
}

#[tokio::test]
async fn an_http_check_asks_what_it_was_told_on_a_connection_of_its_own() {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let connections = Arc::new(Mutex::new(Vec::new()));
    let (heard, opened) = (heads.clone(), connections.clone());
    let server = Server::start(play(move |mut stream| {
        let (heads, connections) = (heard.clone(), opened.clone());
        async move {
            let peer = stream.peer_addr().unwrap().port();
            // Kept open: whoever wants to ask again may.
            loop {
                let head = head(&mut stream).await;
                if head.is_empty() {
                    return;
                }
                let path = head.split(' ').nth(1).unwrap().to_owned();
                connections.lock().unwrap().push((path, peer));
                heads.lock().unwrap().push(head);
                let _ = stream.write_all(OK.as_bytes()).await;
            }
        }
    }))
    .await;
    let check = Http::request(Method::OPTIONS, "/readyz?deep=1")
        .host("shop.example")
        .interval(SHORT);
    let watched = Watched::start(&server.url(), check);
    let ports = |path: &str| -> Vec<u16> {
        let all = connections.lock().unwrap();
        let of_path = all.iter().filter(|(asked, _)| asked == path);
        of_path.map(|(_, port)| *port).collect()
    };
    for _ in 0..3 {
        let response = call(&watched.upstream, "/").await.unwrap();
        let body = http_body_util::BodyExt::collect(response.into_body()).await;
        assert_eq!(body.unwrap().to_bytes(), "ready");
    }
    eventually("five checks", || ports("/readyz?deep=1").len() >= 5).await;
    let checks = ports("/readyz?deep=1");
    let own: BTreeSet<_> = checks.iter().collect();
    assert_eq!(own.len(), checks.len(), "a connection for each");
    assert!(ports("/").iter().all(|port| !own.contains(port)));
    let heads = heads.lock().unwrap();
    let check = heads
        .iter()
        .find(|head| head.starts_with("OPTIONS"))
        .unwrap();
    let check = check.to_ascii_lowercase();
    assert!(
        check.starts_with("options /readyz?deep=1 http/1.1\r\n"),
        "{check}"
    );
    assert!(check.contains("\r\nhost: shop.example\r\n"), "{check}");
    assert!(check.contains("\r\nconnection: close\r\n"), "{check}");
}

#[tokio::test]
async fn tcp_checks_open_a_connection_and_look_for_bytes() {
    let pong = || {
        play(|mut stream| async move {
            let mut asked = [0; 4];
            if stream.read_exact(&mut asked).await.is_ok() && &asked == b"ping" {
                let _ = stream.write_all(b"oh, pong").await;
            }
            let _ = stream.read_to_end(&mut Vec::new()).await;
        })
    };
    let connect = || patient(Tcp::connect());
    let no_pong = "the answer does not contain \"pong\"";
    for (server, check, state, reason) in [
        (silent(), connect(), State::Passing, "Passed"),
        (
            pong(),
            connect().send("ping").expect("pong"),
            State::Passing,
            "Passed",
        ),
        (
            says("220 hello"),
            connect().send("\r\n\r\n").expect("220"),
            State::Passing,
            "Passed",
        ),
        (
            says("no"),
            connect().send("\r\n\r\n").expect("pong"),
            State::Failing,
            no_pong,
        ),
        (
            never_ends("", "no pun, no pin", Duration::ZERO),
            connect().send("\r\n\r\n").expect("pong"),
            State::Failing,
            "the answer has more than 65536 bytes",
        ),
        (
            pong(),
            Tcp::connect().interval(SHORT).expect("pong"),
            State::Failing,
            "the check was not over within 300ms",
        ),
    ] {
        let found = verdict(server, check).await;
        assert_eq!(found, (state, reason.to_owned()));
    }
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_is_a_connect_failure() {
    let addr = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let url = format!("http://{addr}");
    let check = patient(Tcp::connect()).start(Start::FirstPass);
    let found = Watched::start(&url, check).next().await;
    assert_eq!(found, (State::Failing, format!("no connection to {addr}")));
}

struct GrpcServer {
    addr: SocketAddr,
    reporter: HealthReporter,
    _task: JoinSet<()>,
}

impl GrpcServer {
    async fn start() -> Self {
        let (reporter, service) = tonic_health::server::health_reporter();
        let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let addr = incoming.local_addr().unwrap();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let server = tonic::transport::Server::builder().add_service(service);
            server.serve_with_incoming(incoming).await.unwrap();
        });
        Self {
            addr,
            reporter,
            _task: task,
        }
    }

    fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

#[tokio::test]
async fn a_grpc_check_follows_the_health_service_of_a_real_server() {
    let server = GrpcServer::start().await;
    let orders = "shop.Orders";
    server
        .reporter
        .set_service_status(orders, ServingStatus::Serving)
        .await;
    let check = Grpc::service(orders)
        .interval(SHORT)
        .transition_interval(DRIP);
    let mut watched = Watched::start(&server.url(), check);
    let passed = (State::Passing, "Passed".to_owned());
    assert_eq!(watched.next().await, passed);
    server
        .reporter
        .set_service_status(orders, ServingStatus::NotServing)
        .await;
    let not_serving = "the health service says that it does not serve: status 2";
    assert_eq!(
        watched.next().await,
        (State::Failing, not_serving.to_owned())
    );
    server
        .reporter
        .set_service_status(orders, ServingStatus::Serving)
        .await;
    assert_eq!(watched.next().await, passed);
}

#[tokio::test]
async fn a_grpc_check_tells_a_server_that_does_not_know_the_service_from_one_that_is_none() {
    let server = GrpcServer::start().await;
    let first = |url: String, check: Check<Grpc>| async move {
        let check = patient(check).start(Start::FirstPass);
        Watched::start(&url, check).next().await
    };
    let whole = first(server.url(), Grpc::server()).await;
    assert_eq!(whole, (State::Passing, "Passed".to_owned()));
    let unknown = first(server.url(), Grpc::service("shop.Nobody")).await;
    let not_found = "the health service answered with the gRPC status 5";
    assert_eq!(unknown, (State::Failing, not_found.to_owned()));
    let http1 = verdict(says(OK), patient(Grpc::server())).await;
    assert_eq!(http1, (State::Failing, "the exchange broke off".to_owned()));
    let frozen = verdict(silent(), Grpc::server().interval(SHORT)).await;
    let late = "the check was not over within 300ms";
    assert_eq!(frozen, (State::Failing, late.to_owned()));
}

#[tokio::test]
async fn a_custom_check_asks_what_it_wants_and_its_error_is_the_reason() {
    let check = health::custom(|endpoint: Endpoint| async move {
        match endpoint.address.port() {
            1 => Err(std::io::Error::other("the disk is full")),
            _ => Ok(()),
        }
    });
    let (told, mut events) = mpsc::unbounded_channel();
    let check = check.start(Start::FirstPass).on_event(move |event| {
        if let Reason::Failed(Failure::Custom(error)) = &event.reason {
            let _ = told.send((event.endpoint.to_string(), error.to_string()));
        }
    });
    let upstream = Upstream::builder("checked")
        .discover(discover::fixed(["http://127.0.0.1:1", "http://127.0.0.1:2"]).unwrap())
        .health(check)
        .build()
        .unwrap();
    let failed = tokio::time::timeout(DEADLINE, events.recv()).await.unwrap();
    let expected = ("127.0.0.1:1".to_owned(), "the disk is full".to_owned());
    assert_eq!(failed.unwrap(), expected);
    tokio::time::timeout(DEADLINE, upstream.ready())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_frozen_server_is_failing_after_fall_although_its_kernel_still_accepts() {
    let redis = Redis::single().start().await.unwrap();
    let node = &redis.nodes[0];
    let url = format!("http://{}", node.addr());
    let often = |check: Check<Tcp>| check.interval(SHORT).transition_interval(DRIP);
    let mut asks = Watched::start(&url, often(Tcp::connect().send("PING\r\n").expect("+PONG")));
    let mut merely_connects = Watched::start(&url, often(Tcp::connect()));
    let passed = (State::Passing, "Passed".to_owned());
    assert_eq!(asks.next().await, passed);
    assert_eq!(merely_connects.next().await, passed);
    node.freeze().unwrap();
    let late = "the check was not over within 300ms";
    assert_eq!(asks.next().await, (State::Failing, late.to_owned()));
    assert!(
        merely_connects.events.try_recv().is_err(),
        "the naive check sees nothing"
    );
    node.thaw().unwrap();
    assert_eq!(asks.next().await, passed);
}

/// A silent server that tells when a connection was opened, and when the other side closed it.
async fn tells_of_connections() -> (Server, mpsc::UnboundedReceiver<&'static str>) {
    let (told, connections) = mpsc::unbounded_channel();
    let server = Server::start(play(move |mut stream| {
        let told = told.clone();
        async move {
            let _ = told.send("opened");
            let _ = stream.read_to_end(&mut Vec::new()).await;
            let _ = told.send("closed");
        }
    }))
    .await;
    (server, connections)
}

async fn told(connections: &mut mpsc::UnboundedReceiver<&'static str>) -> &'static str {
    let event = tokio::time::timeout(DEADLINE, connections.recv()).await;
    event.expect("nothing told in time").unwrap()
}

#[tokio::test]
async fn the_check_under_way_is_closed_when_its_endpoint_goes_or_the_last_clone_does() {
    let (gone, mut at_gone) = tells_of_connections().await;
    let (kept, mut at_kept) = tells_of_connections().await;
    let endpoint = |server: &Server| server.url().parse::<Endpoint>().unwrap();
    let (sets, coming) = mpsc::unbounded_channel();
    sets.send(vec![endpoint(&gone), endpoint(&kept)]).unwrap();
    let coming = futures_util::stream::unfold(coming, async |mut coming| {
        let set: Vec<Endpoint> = coming.recv().await?;
        Some((set, coming))
    });
    let upstream = Upstream::builder("checked")
        .discover(discover::stream(coming))
        .health(Http::get("/readyz").interval(LONG).timeout(LONG))
        .build()
        .unwrap();
    assert_eq!(told(&mut at_gone).await, "opened");
    assert_eq!(told(&mut at_kept).await, "opened");
    sets.send(vec![endpoint(&kept)]).unwrap();
    assert_eq!(told(&mut at_gone).await, "closed");
    assert!(at_kept.try_recv().is_err(), "the other goes on");
    let clone = upstream.clone();
    drop(upstream);
    assert!(at_kept.try_recv().is_err(), "a clone keeps it");
    drop(clone);
    assert_eq!(told(&mut at_kept).await, "closed");
}

/// Two thousand endpoints behind one real listener, a few of which never answer.
#[tokio::test]
async fn two_thousand_endpoints_are_checked_by_few_tasks_although_some_never_answer() {
    const AT_ONCE: usize = 64;
    // The servers have a runtime of their own: on this one only the upstream has tasks.
    let servers = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let start = |play| servers.spawn(Server::start(play));
    let (well, hangs) = (start(says(OK)), start(silent()));
    let (well, hangs) = (well.await.unwrap(), hangs.await.unwrap());
    let endpoints = (0..2000).map(|i| {
        let server = if i % 50 == 0 { &hangs } else { &well };
        let endpoint = server.url().parse::<Endpoint>().unwrap();
        endpoint.with_key(format!("e{i}"))
    });
    let set = futures_util::stream::iter([endpoints.collect::<Vec<_>>()]);
    let check = Http::get("/readyz")
        .interval(Duration::from_secs(4))
        .timeout(Duration::from_secs(1))
        .start(Start::FirstPass)
        .at_once(AT_ONCE);
    let upstream = Upstream::builder("checked")
        .discover(discover::stream(set))
        .health(check)
        .build()
        .unwrap();
    let most = Mutex::new(0);
    let count = |state| {
        let tasks = tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks();
        let mut most = most.lock().unwrap();
        *most = tasks.max(*most);
        upstream
            .endpoints()
            .iter()
            .filter(|e| e.health == state)
            .count()
    };
    eventually("all that answer pass", || count(State::Passing) == 1960).await;
    eventually("all that hang fail", || count(State::Failing) == 40).await;
    let most = *most.lock().unwrap();
    assert!(
        most <= AT_ONCE + 2,
        "{most} tasks: the checks, their owner and discovery"
    );
    drop(upstream);
    servers.shutdown_background();
}
