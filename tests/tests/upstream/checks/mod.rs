//! Health checks against real sockets that misbehave in each way that a socket can.

mod custom;
mod grpc;
mod http;
mod tasks;
mod tcp;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::app::call;
use crate::wait::eventually;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all};
use ha_core::endpoint::Endpoint;
use ha_core::health::State;
use ha_tower::discover;
use ha_tower::health::{Check, Event, Http, Probe, Reason, Start, Tcp};
use ha_tower::upstream::Upstream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

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
