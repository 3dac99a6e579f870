//! Connections killed at random bytes: what may be repeated never fails, what may not is never repeated.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use ha_core::backoff::Backoff;
use ha_core::budget;
use ha_tower::balance::RoundRobin;
use ha_tower::discover;
use ha_tower::retry::RetryLayer;
use ha_tower::upstream::Upstream;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tower::{Layer as _, ServiceExt as _};

const SEED: u64 = 0x5eed_0004;
const CALLERS: u64 = 16;
const BODY: &str = "forty bytes that are to be booked once!!";

/// What the application saw.
#[derive(Default)]
struct App {
    /// How often each request reached it, by the number in its path. It counts as soon as the number is there.
    arrivals: Mutex<HashMap<u64, u32>>,
    connections: AtomicU64,
    kills: AtomicU64,
}

impl App {
    fn arrived(&self, request: u64) {
        *self.arrivals.lock().unwrap().entry(request).or_default() += 1;
    }

    fn arrivals(&self, request: u64) -> u32 {
        self.arrivals
            .lock()
            .unwrap()
            .get(&request)
            .copied()
            .unwrap_or(0)
    }

    fn kills(&self) -> u64 {
        self.kills.load(Ordering::Relaxed)
    }
}

/// A server of which each connection lives for so many bytes, read or written.
async fn server(app: Arc<App>, servers: &mut JoinSet<()>, deadly: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    servers.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let number = app.connections.fetch_add(1, Ordering::Relaxed);
            let mut rng = Rng::with_seed(SEED ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            // A request and its answer have about 300 bytes.
            let life = if deadly {
                rng.usize(0..400)
            } else {
                usize::MAX
            };
            let app = Arc::clone(&app);
            connections.spawn(async move {
                let Some(stream) = live(stream, &app, life).await else {
                    return;
                };
                app.kills.fetch_add(1, Ordering::Relaxed);
                if rng.bool() {
                    // A reset instead of an end.
                    let _ = stream.set_zero_linger();
                }
            });
            while connections.try_join_next().is_some() {}
        }
    });
    address
}

/// Gives the stream back when its life is over, and nothing when the client has gone.
async fn live(mut stream: TcpStream, app: &App, mut life: usize) -> Option<TcpStream> {
    let (mut read, mut piece) = (Vec::new(), [0; 512]);
    loop {
        let mut number = None;
        loop {
            if number.is_none() {
                number = number_of(&read);
                number.into_iter().for_each(|number| app.arrived(number));
            }
            if is_whole(&read) {
                break;
            }
            let most = life.min(piece.len());
            if most == 0 {
                return Some(stream);
            }
            let n = stream
                .read(&mut piece[..most])
                .await
                .ok()
                .filter(|n| *n > 0)?;
            read.extend_from_slice(&piece[..n]);
            life -= n;
        }
        read.clear();
        let text = format!("did {}", number?);
        let length = text.len();
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{text}");
        let most = life.min(answer.len());
        stream.write_all(&answer.as_bytes()[..most]).await.ok()?;
        life -= most;
        if life == 0 {
            return Some(stream);
        }
    }
}

/// The number in the path of the request, once it is there as a whole.
fn number_of(read: &[u8]) -> Option<u64> {
    let line = std::str::from_utf8(read).ok()?;
    let (_, rest) = line.split_once(" /")?;
    let (number, _) = rest.split_once(' ')?;
    number.parse().ok()
}

fn is_whole(read: &[u8]) -> bool {
    let end: &[u8] = if read.starts_with(b"POST") {
        BODY.as_bytes()
    } else {
        b"\r\n\r\n"
    };
    read.ends_with(end)
}

/// Two deadly servers and one that lives, all of one application.
async fn fleet() -> (Arc<App>, JoinSet<()>, Upstream) {
    let (app, mut servers, mut urls) = (Arc::new(App::default()), JoinSet::new(), Vec::new());
    for deadly in [true, true, false] {
        let address = server(Arc::clone(&app), &mut servers, deadly).await;
        urls.push(format!("http://{address}"));
    }
    let upstream = Upstream::builder("kills")
        .discover(discover::fixed(urls).unwrap())
        .balance(RoundRobin)
        .breaker(crate::never_trips())
        .connect_timeout(Duration::from_secs(10))
        .attempt_timeout(Duration::from_secs(30))
        .build()
        .unwrap();
    (app, servers, upstream)
}

/// Every other request is a POST without a key.
fn request(number: u64) -> Request<Full<Bytes>> {
    let (method, body) = match number % 2 {
        0 => (Method::GET, ""),
        _ => (Method::POST, BODY),
    };
    Request::builder()
        .method(method)
        .uri(format!("http://kills/{number}"))
        .body(Full::from(body))
        .unwrap()
}

/// Whether the answer came whole.
async fn is_done<B, E>(number: u64, answer: Result<Response<B>, E>) -> bool
where
    B: http_body::Body<Data = Bytes>,
{
    let Ok(response) = answer else { return false };
    let body = response.into_body().collect().await;
    body.is_ok_and(|body| body.to_bytes() == format!("did {number}"))
}

#[derive(Debug, Default)]
struct Tally {
    failed_gets: Vec<u64>,
    done_posts: Vec<u64>,
    posts: Vec<u64>,
}

/// Calls until so many connections were killed.
async fn run<F, Fut>(app: &Arc<App>, kills: u64, send: F) -> Tally
where
    F: Fn(u64) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = bool> + Send,
{
    let tally = Arc::new(Mutex::new(Tally::default()));
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (app, tally, send) = (Arc::clone(app), Arc::clone(&tally), send.clone());
        callers.spawn(async move {
            // Both methods by turns, and no number twice.
            for round in 0.. {
                if app.kills() >= kills {
                    return;
                }
                let number = round * CALLERS + (caller + round) % CALLERS;
                let done = send(number).await;
                let mut tally = tally.lock().unwrap();
                match (number % 2, done) {
                    (0, true) => {}
                    (0, false) => tally.failed_gets.push(number),
                    (_, done) => {
                        tally.posts.push(number);
                        if done {
                            tally.done_posts.push(number);
                        }
                    }
                }
            }
        });
    }
    while let Some(caller) = callers.join_next().await {
        caller.unwrap();
    }
    Arc::into_inner(tally).unwrap().into_inner().unwrap()
}

fn repeated(app: &App, posts: &[u64]) -> Vec<u64> {
    let twice = |number: &&u64| app.arrivals(**number) > 1;
    posts.iter().filter(twice).copied().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_ten_thousand_kills_no_get_fails_and_no_post_arrives_twice() {
    let (app, _servers, upstream) = fleet().await;
    let plenty = budget::Config {
        retry_ratio: 1.0,
        reserve_per_second: 10_000.0,
        ..budget::Config::default()
    };
    let client = RetryLayer::builder()
        .budget(plenty)
        .backoff(Backoff::new(Duration::ZERO, Duration::ZERO))
        .build()
        .unwrap()
        .layer(upstream);
    let tally = run(&app, 10_000, move |number| {
        let answer = client.clone().oneshot(request(number));
        async move { is_done(number, answer.await).await }
    })
    .await;
    assert_eq!(tally.failed_gets, [] as [u64; 0], "seed {SEED}");
    assert_eq!(repeated(&app, &tally.posts), [] as [u64; 0], "seed {SEED}");
    for number in &tally.done_posts {
        assert_eq!(app.arrivals(*number), 1, "POST {number}, seed {SEED}");
    }
    let arrived = |number: &&u64| app.arrivals(**number) == 1;
    let arrived = tally.posts.iter().filter(arrived).count();
    let lost = arrived - tally.done_posts.len();
    assert!(lost > 500, "only {lost} were killed after they had arrived");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_repeats_everything_books_twice() {
    let (app, _servers, upstream) = fleet().await;
    let tally = run(&app, 500, move |number| {
        let upstream = upstream.clone();
        async move {
            for _ in 0..3 {
                let answer = upstream.clone().oneshot(request(number)).await;
                if is_done(number, answer).await {
                    return true;
                }
            }
            false
        }
    })
    .await;
    assert!(!repeated(&app, &tally.posts).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_repeats_nothing_loses_gets() {
    let (app, _servers, upstream) = fleet().await;
    let tally = run(&app, 500, move |number| {
        let answer = upstream.clone().oneshot(request(number));
        async move { is_done(number, answer.await).await }
    })
    .await;
    assert!(!tally.failed_gets.is_empty());
    assert_eq!(repeated(&app, &tally.posts), [] as [u64; 0]);
}
