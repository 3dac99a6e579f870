//! An upload that is too large to be kept goes through as it comes.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use ha_tower::discover;
use ha_tower::retry::RetryLayer;
use ha_tower::upstream::Upstream;
use http::Request;
use http_body::Frame;
use http_body_util::{BodyExt as _, Full};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tower::{Layer as _, ServiceExt as _};

const CHUNK: usize = 64 * 1024;
const LARGE: usize = 100 * 1024 * 1024;
/// What is kept for replay.
const KEPT: usize = 64 * 1024;
/// What hyper queues for a connection before it stops reading the body, and one chunk more.
const UNDER_WAY: usize = 512 * 1024;

/// Counts the bytes of an upload that are in memory.
#[derive(Default)]
struct Memory {
    now: AtomicUsize,
    peak: AtomicUsize,
}

struct Chunk {
    bytes: Box<[u8]>,
    memory: Arc<Memory>,
}

impl Chunk {
    fn bytes(memory: &Arc<Memory>) -> Bytes {
        let now = memory.now.fetch_add(CHUNK, Ordering::Relaxed) + CHUNK;
        memory.peak.fetch_max(now, Ordering::Relaxed);
        Bytes::from_owner(Self {
            bytes: vec![7; CHUNK].into(),
            memory: Arc::clone(memory),
        })
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.memory.now.fetch_sub(CHUNK, Ordering::Relaxed);
    }
}

/// A body whose first chunk is followed by others only when the server has seen it, or gives up waiting for that.
struct Upload {
    frames: Pin<Box<dyn futures_util::Stream<Item = Bytes> + Send>>,
}

impl Upload {
    fn new(total: usize, memory: Arc<Memory>, server: &Arc<Server>, patience: Duration) -> Self {
        let server = Arc::clone(server);
        let frames = futures_util::stream::unfold(0, move |sent| {
            let (memory, server) = (Arc::clone(&memory), Arc::clone(&server));
            async move {
                if sent >= total {
                    return None;
                }
                if sent == CHUNK {
                    let seen = timeout(patience, server.first_byte.notified()).await;
                    server.came_first.store(seen.is_ok(), Ordering::Relaxed);
                }
                Some((Chunk::bytes(&memory), sent + CHUNK))
            }
        });
        Self {
            frames: Box::pin(frames),
        }
    }
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let next = self.frames.as_mut().poll_next(cx);
        next.map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
    }
}

/// What the server saw.
#[derive(Default)]
struct Server {
    first_byte: Notify,
    /// Whether the first byte had arrived before the second chunk was asked for.
    came_first: AtomicBool,
    received: AtomicUsize,
}

/// Reads a chunked body to its end and answers.
async fn server(state: &Arc<Server>, tasks: &mut JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let state = Arc::clone(state);
    tasks.spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (mut piece, mut head, mut last) = (vec![0; 256 * 1024], Vec::new(), Vec::new());
        let mut begun = false;
        while !last.ends_with(b"0\r\n\r\n") {
            let n = stream.read(&mut piece).await.unwrap();
            assert!(n > 0, "cut");
            state.received.fetch_add(n, Ordering::Relaxed);
            last.extend_from_slice(&piece[n.saturating_sub(5)..n]);
            last.drain(..last.len().saturating_sub(5));
            if !begun {
                head.extend_from_slice(&piece[..n]);
                let end = head.windows(4).position(|four| four == b"\r\n\r\n");
                if end.is_some_and(|end| head[end..].contains(&7)) {
                    begun = true;
                    state.first_byte.notify_one();
                }
            }
        }
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        stream.write_all(answer).await.unwrap();
    });
    address
}

fn upstream(to: SocketAddr) -> Upstream {
    Upstream::builder("upload")
        .discover(discover::fixed([format!("http://{to}")]).unwrap())
        .connect_timeout(Duration::from_secs(10))
        .attempt_timeout(Duration::from_secs(60))
        .build()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_megabytes_pass_as_they_come_and_keep_no_memory() {
    let (state, mut tasks) = (Arc::new(Server::default()), JoinSet::new());
    let address = server(&state, &mut tasks).await;
    let memory = Arc::new(Memory::default());
    let body = Upload::new(LARGE, Arc::clone(&memory), &state, Duration::from_secs(30));
    let request = Request::put("http://upload/").body(body).unwrap();
    let client = RetryLayer::http().layer(upstream(address));
    let response = client.oneshot(request).await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(
        state.came_first.load(Ordering::Relaxed),
        "no pause at first"
    );
    assert!(state.received.load(Ordering::Relaxed) > LARGE);
    let peak = memory.peak.load(Ordering::Relaxed);
    assert!(peak <= KEPT + UNDER_WAY, "{peak} bytes at once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_collects_the_body_first_keeps_it_all_and_sends_late() {
    const SOME: usize = 4 * 1024 * 1024;
    let (state, mut tasks) = (Arc::new(Server::default()), JoinSet::new());
    let address = server(&state, &mut tasks).await;
    let memory = Arc::new(Memory::default());
    let body = Upload::new(
        SOME,
        Arc::clone(&memory),
        &state,
        Duration::from_millis(100),
    );
    let whole = Full::new(body.collect().await.unwrap().to_bytes());
    let request = Request::put("http://upload/")
        .header("transfer-encoding", "chunked")
        .body(whole)
        .unwrap();
    let response = upstream(address).oneshot(request).await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(!state.came_first.load(Ordering::Relaxed));
    assert!(memory.peak.load(Ordering::Relaxed) > KEPT + UNDER_WAY);
}
