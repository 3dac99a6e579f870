//! HTTP/2 to the endpoints of an `Upstream`: streams, places, PINGs, and what a server that refuses or leaves has not seen.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{LONG, call, only, spawn, text};
use crate::wait::eventually;
use bytes::Bytes;
use futures_util::future::join_all;
use h2::server::SendResponse;
use ha_tower::discover;
use ha_tower::upstream::{BuildError, Builder, Connections, Error, Http2, Upstream};
use http::header::HOST;
use http::{Request, Response};
use http_body_util::Empty;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower::ServiceExt as _;

#[derive(Debug, Default)]
struct Seen {
    accepted: AtomicUsize,
    requests: AtomicUsize,
    resets: AtomicUsize,
}

fn number(count: &AtomicUsize) -> usize {
    count.load(Ordering::SeqCst)
}

/// Answers `/` with its authority, `/hold` when the gate opens; refuses `/refused` and cancels `/cancelled`; says goodbye
/// after `/last`.
struct Server {
    addr: SocketAddr,
    seen: Arc<Seen>,
    gate: watch::Sender<bool>,
    _accepting: JoinSet<()>,
}

impl Server {
    async fn start(max_streams: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let seen = Arc::<Seen>::default();
        let (gate, watching) = watch::channel(false);
        let mut accepting = JoinSet::new();
        let counted = seen.clone();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counted.accepted.fetch_add(1, Ordering::SeqCst);
                connections.spawn(serve(
                    stream,
                    max_streams,
                    counted.clone(),
                    watching.clone(),
                ));
            }
        });
        Self {
            addr,
            seen,
            gate,
            _accepting: accepting,
        }
    }

    fn upstream(&self) -> Builder {
        over(self.addr)
    }
}

async fn serve(stream: TcpStream, max: u32, seen: Arc<Seen>, gate: watch::Receiver<bool>) {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(max);
    let mut connection = builder.handshake::<_, Bytes>(stream).await.unwrap();
    let mut streams = JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        seen.requests.fetch_add(1, Ordering::SeqCst);
        if request.uri().path() == "/last" {
            connection.graceful_shutdown();
        }
        streams.spawn(answer(request, respond, seen.clone(), gate.clone()));
    }
}

async fn answer(
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    seen: Arc<Seen>,
    mut gate: watch::Receiver<bool>,
) {
    match request.uri().path() {
        "/refused" => return respond.send_reset(h2::Reason::REFUSED_STREAM),
        "/cancelled" => return respond.send_reset(h2::Reason::CANCEL),
        "/hold" => {
            tokio::select! {
                _ = gate.wait_for(|open| *open) => {}
                _ = std::future::poll_fn(|cx| respond.poll_reset(cx)) => {
                    seen.resets.fetch_add(1, Ordering::SeqCst);
                    return;
                }
            }
        }
        _ => {}
    }
    let authority = request.uri().authority().unwrap().to_string();
    let mut body = respond.send_response(Response::new(()), false).unwrap();
    body.send_data(authority.into(), true).unwrap();
}

fn over(addr: SocketAddr) -> Builder {
    Upstream::builder("multiplexed")
        .discover(discover::fixed([format!("http://{addr}")]).unwrap())
        .http2(Http2::prior_knowledge())
        .connect_timeout(LONG)
        .attempt_timeout(LONG)
}

/// One stream on one connection, and nobody waits for it.
fn one_place(server: &Server) -> Upstream {
    server
        .upstream()
        .http2(Http2::prior_knowledge().max_streams(1))
        .connections(Connections::default().max(1).max_pending(0))
        .build()
        .unwrap()
}

/// Opens one request after the other and says how many connections they needed.
async fn connections_for_six(server: &Server, builder: Builder) -> usize {
    let upstream = builder.build().unwrap();
    let first = call(&upstream, "/").await.unwrap();
    text(first).await;
    let before = number(&server.seen.requests);
    let mut held = Vec::new();
    for n in 1..=6 {
        held.push(spawn(&upstream, "/hold"));
        eventually("it is held", || number(&server.seen.requests) == before + n).await;
    }
    let open = only(&upstream).open_connections;
    server.gate.send_replace(true);
    for held in join_all(held).await {
        held.unwrap().unwrap();
    }
    let endpoint = only(&upstream);
    assert_eq!(endpoint.idle_connections, open);
    server.gate.send_replace(false);
    open as usize
}

#[tokio::test]
async fn requests_share_a_connection_until_its_streams_are_taken() {
    let server = Server::start(100).await;
    let limited = Http2::prior_knowledge().max_streams(4);
    assert_eq!(connections_for_six(&server, server.upstream()).await, 1);
    assert_eq!(
        connections_for_six(&server, server.upstream().http2(limited)).await,
        2
    );
}

#[tokio::test]
async fn a_server_that_allows_fewer_streams_gets_more_connections() {
    let server = Server::start(2).await;
    assert_eq!(connections_for_six(&server, server.upstream()).await, 3);
}

#[tokio::test]
async fn all_that_come_first_share_one_connect_and_its_failure() {
    let server = Server::start(100).await;
    let upstream = server.upstream().build().unwrap();
    server.gate.send_replace(true);
    let answers = join_all((0..20).map(|_| spawn(&upstream, "/hold"))).await;
    assert!(answers.into_iter().all(|answer| answer.unwrap().is_ok()));
    assert_eq!(number(&server.seen.accepted), 1);

    // Nobody listens there.
    let vacant = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = vacant.local_addr().unwrap();
    drop(vacant);
    let upstream = over(addr).build().unwrap();
    for answer in join_all((0..20).map(|_| spawn(&upstream, "/"))).await {
        let error = answer.unwrap().unwrap_err();
        assert!(error.is_connect() || error.is_unavailable(), "{error:?}");
    }
}

#[tokio::test]
async fn the_streams_of_all_connections_bound_the_requests_and_a_queue_takes_the_rest() {
    let server = Server::start(100).await;
    let upstream = server
        .upstream()
        .http2(Http2::prior_knowledge().max_streams(2))
        .connections(Connections::default().max(2).max_pending(1))
        .build()
        .unwrap();
    let held: Vec<_> = (0..5).map(|_| spawn(&upstream, "/hold")).collect();
    eventually("four are held and one waits", || {
        number(&server.seen.requests) == 4 && only(&upstream).pending == 1
    })
    .await;
    let error = call(&upstream, "/").await.unwrap_err();
    assert!(error.is_full() && error.is_unsent(), "{error:?}");
    server.gate.send_replace(true);
    for held in join_all(held).await {
        held.unwrap().unwrap();
    }
    assert_eq!(number(&server.seen.accepted), 2);
}

#[tokio::test]
async fn a_refused_stream_was_not_sent_and_a_cancelled_one_may_have_been() {
    let server = Server::start(100).await;
    let upstream = server.upstream().build().unwrap();
    let refused = call(&upstream, "/refused").await.unwrap_err();
    assert!(refused.is_unsent(), "{refused:?}");
    assert_eq!(only(&upstream).penalty_ms, 0.0);
    let cancelled = call(&upstream, "/cancelled").await.unwrap_err();
    assert!(!cancelled.is_unsent(), "{cancelled:?}");
    assert_eq!(number(&server.seen.accepted), 1);
}

#[tokio::test]
async fn after_a_goodbye_the_next_request_goes_to_a_new_connection() {
    let server = Server::start(100).await;
    let upstream = server.upstream().build().unwrap();
    for round in 1..=20 {
        let last = call(&upstream, "/last").await.unwrap();
        assert!(!text(last).await.is_empty());
        assert_eq!(number(&server.seen.accepted), round);
        eventually("the goodbye has come", || {
            only(&upstream).open_connections == 0
        })
        .await;
    }
}

/// A server of frames: reads until the first HEADERS and then says goodbye, promising to answer streams up to `last`.
async fn leaves(last: u32) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // Ends early when the client does.
            let _ = leave(&mut stream, last).await;
        }
    });
    addr
}

async fn leave(stream: &mut TcpStream, last: u32) -> std::io::Result<()> {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const HEADERS: u8 = 1;
    stream.write_all(&SETTINGS).await?;
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await?;
    let mut head = [0; 9];
    while head[3] != HEADERS {
        stream.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await?;
    }
    let mut goodbye = vec![0, 0, 8, 7, 0, 0, 0, 0, 0];
    goodbye.extend(last.to_be_bytes());
    goodbye.extend([0; 4]);
    stream.write_all(&goodbye).await
}

#[tokio::test]
async fn a_request_younger_than_the_last_one_promised_was_not_sent() {
    let beyond = over(leaves(0).await).build().unwrap();
    let error = call(&beyond, "/").await.unwrap_err();
    assert!(error.is_unsent(), "{error:?}");
    // The control: the same goodbye promised an answer, and the connection broke before it.
    let promised = over(leaves(1).await).build().unwrap();
    let error = call(&promised, "/").await.unwrap_err();
    assert!(!error.is_unsent(), "{error:?}");
}

#[tokio::test]
async fn a_peer_that_answers_no_ping_is_given_up_long_before_the_attempt_is() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    // Takes everything in and says nothing.
    let _silent = tokio::spawn(async move {
        let mut streams = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            streams.push(stream);
        }
    });
    let asking = Http2::prior_knowledge()
        .keep_alive_interval(Some(Duration::from_millis(50)))
        .keep_alive_timeout(Duration::from_millis(200));
    let patient = Http2::prior_knowledge().keep_alive_interval(None);
    let patient = over(addr).http2(patient).build().unwrap();
    let waiting = spawn(&patient, "/");
    let asking = over(addr).http2(asking).build().unwrap();
    let error = call(&asking, "/").await.unwrap_err();
    assert!(matches!(error, Error::Exchange { .. }), "{error:?}");
    assert!(!error.is_timeout() && !error.is_unsent());
    assert!(!waiting.is_finished(), "the control");
    waiting.abort();
}

#[tokio::test]
async fn a_dropped_request_resets_its_stream_and_gives_back_its_place() {
    let server = Server::start(100).await;
    let upstream = one_place(&server);
    for round in 1..=20 {
        let held = spawn(&upstream, "/hold");
        eventually("it is held", || number(&server.seen.requests) == round).await;
        assert!(call(&upstream, "/").await.unwrap_err().is_full());
        held.abort();
        eventually("it is reset", || number(&server.seen.resets) == round).await;
        let endpoint = only(&upstream);
        assert_eq!((endpoint.in_flight, endpoint.idle_connections), (0, 1));
    }
    assert_eq!(number(&server.seen.accepted), 1);
}

#[tokio::test]
async fn a_response_that_is_not_read_keeps_its_place() {
    let server = Server::start(100).await;
    let upstream = one_place(&server);
    let unread = call(&upstream, "/").await.unwrap();
    assert!(call(&upstream, "/").await.unwrap_err().is_full());
    drop(unread);
    assert!(call(&upstream, "/").await.is_ok());
}

#[tokio::test]
async fn a_connection_is_closed_when_idle_and_left_when_old() {
    let server = Server::start(100).await;
    let age = Duration::from_millis(500);
    let idle = Connections::default().idle_timeout(age);
    let old = Connections::default().max_age(Some(age));
    for (connections, fresh) in [(idle, 0), (old, 1)] {
        let builder = server.upstream().attempt_timeout(LONG.min(age));
        let upstream = builder.connections(connections).build().unwrap();
        let held = call(&upstream, "/").await.unwrap();
        let before = number(&server.seen.accepted);
        tokio::time::sleep(age).await;
        // A request under way keeps it from being idle, and not from growing old.
        let second = call(&upstream, "/").await.unwrap();
        assert_eq!(number(&server.seen.accepted) - before, fresh);
        text(second).await;
        assert!(!text(held).await.is_empty());
        eventually("all are closed", || only(&upstream).open_connections == 0).await;
    }
}

#[tokio::test]
async fn the_host_of_the_caller_is_the_authority_and_else_the_endpoint_is() {
    let server = Server::start(100).await;
    let upstream = server.upstream().build().unwrap();
    for (host, authority) in [
        (Some("shop.example"), "shop.example".to_owned()),
        (None, server.addr.to_string()),
    ] {
        let mut request = Request::get("/?q=1").body(Empty::<Bytes>::new()).unwrap();
        if let Some(host) = host {
            request.headers_mut().insert(HOST, host.parse().unwrap());
        }
        let response = upstream.clone().oneshot(request).await.unwrap();
        assert_eq!(text(response).await, authority);
    }
}

#[tokio::test]
async fn settings_that_make_no_sense_are_refused_by_field_and_value() {
    let with = Http2::prior_knowledge;
    for (http2, message) in [
        (
            with().max_streams(0),
            "http2.max_streams is 0: must be at least 1",
        ),
        (
            with().keep_alive_interval(Some(Duration::ZERO)),
            "http2.keep_alive_interval is 0ns: ",
        ),
        (
            with().keep_alive_timeout(Duration::ZERO),
            "http2.keep_alive_timeout is 0ns: ",
        ),
    ] {
        let built = over(([127, 0, 0, 1], 1).into()).http2(http2).build();
        let Err(BuildError::Config { source, .. }) = built else {
            panic!("{message} was taken");
        };
        assert!(source.to_string().starts_with(message), "{source}");
    }
}
