//! The connections of an `Upstream`, counted by the server at their other end.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use super::server::Server;
use super::{LONG, call, only, request, spawn, text};
use crate::polls::{MOST_POLLS, cut_after};
use crate::wait::eventually;
use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream::unfold;
use ha_core::endpoint::Endpoint;
use ha_tower::balance::RoundRobin;
use ha_tower::discover;
use ha_tower::retry::RetryLayer;
use ha_tower::upstream::{BuildError, Builder, Connections, Error, Upstream};
use http::{Method, Request};
use http_body_util::{BodyExt as _, Empty};
use tokio::sync::watch;
use tower::{Layer as _, ServiceExt as _};

fn over<'a>(servers: impl IntoIterator<Item = &'a Server>) -> Builder {
    Upstream::builder("counted")
        .discover(discover::fixed(servers.into_iter().map(Server::url)).unwrap())
        .balance(RoundRobin)
        .connect_timeout(LONG)
        .attempt_timeout(LONG)
}

/// The connection that answered.
async fn connection(upstream: &Upstream) -> String {
    text(call(upstream, "/").await.unwrap()).await
}

fn counts(upstream: &Upstream) -> (u32, u32, u32) {
    let endpoint = only(upstream);
    (
        endpoint.open_connections,
        endpoint.idle_connections,
        endpoint.pending,
    )
}

/// How many connections ten requests at once open, and whether an eleventh is refused.
async fn ten_at_once(connections: Connections) -> (usize, bool) {
    let server = Server::start().await;
    let upstream = over([&server]).connections(connections).build().unwrap();
    let held: Vec<_> = (0..10).map(|_| spawn(&upstream, "/hold")).collect();
    eventually("all ten are sent or wait", || {
        server.seen.requests() + counts(&upstream).2 as usize == 10
    })
    .await;
    let eleventh = spawn(&upstream, "/hold");
    eventually("the eleventh is somewhere", || {
        eleventh.is_finished() || server.seen.requests() + counts(&upstream).2 as usize == 11
    })
    .await;
    server.open_gate();
    for answer in join_all(held).await {
        answer.unwrap().unwrap();
    }
    let refused = match eleventh.await.unwrap() {
        Ok(_) => false,
        Err(error) => {
            assert!(error.is_full() && error.is_unsent(), "{error:?}");
            assert!(!error.is_connect() && !error.is_timeout());
            true
        }
    };
    let endpoint = only(&upstream);
    assert_eq!((endpoint.pending, endpoint.penalty_ms), (0, 0.0));
    (server.seen.most(), refused)
}

#[tokio::test]
async fn requests_beyond_the_limit_wait_in_a_bounded_queue_and_open_no_connection() {
    assert_eq!(
        ten_at_once(Connections::default().max(2).max_pending(8)).await,
        (2, true)
    );
}

#[tokio::test]
async fn without_a_limit_the_same_requests_open_a_connection_each() {
    assert_eq!(ten_at_once(Connections::default()).await, (11, false));
}

#[tokio::test]
async fn a_post_that_finds_one_endpoint_full_goes_to_another() {
    let servers = [Server::start().await, Server::start().await];
    let limited = || {
        over(&servers)
            .connections(Connections::default().max(1).max_pending(0))
            .build()
            .unwrap()
    };
    let upstream = limited();
    let _held = spawn(&upstream, "/hold");
    eventually("one is busy", || {
        servers[0].seen.requests() + servers[1].seen.requests() == 1
    })
    .await;
    for _ in 0..10 {
        let response = RetryLayer::http()
            .layer(upstream.clone())
            .oneshot(request("/"))
            .await
            .unwrap();
        response.into_body().collect().await.unwrap();
    }
    // The control: without retries every other one is refused.
    let mut refused = 0;
    for _ in 0..10 {
        match call(&upstream, "/").await {
            Ok(response) => drop(text(response).await),
            Err(error) => refused += usize::from(error.is_full()),
        }
    }
    assert_eq!(refused, 5);
}

#[tokio::test]
async fn a_request_that_waited_in_vain_was_not_sent_and_one_that_was_sent_says_so() {
    let server = Server::start().await;
    let upstream = over([&server])
        .attempt_timeout(Duration::from_millis(500))
        .connections(Connections::default().max(1))
        .build()
        .unwrap();
    let sent = spawn(&upstream, "/hold");
    eventually("it is sent", || server.seen.requests() == 1).await;
    let error = sent.await.unwrap().unwrap_err();
    assert!(error.is_timeout() && !error.is_unsent(), "{error:?}");

    // A response whose body is not read keeps its connection.
    let response = call(&upstream, "/half").await.unwrap();
    let waited = call(&upstream, "/").await.unwrap_err();
    assert!(waited.is_timeout() && waited.is_unsent(), "{waited:?}");
    assert_eq!(counts(&upstream), (1, 0, 0));
    server.open_gate();
    assert_eq!(text(response).await, "half");
}

#[tokio::test]
async fn the_connection_used_last_is_used_next_and_the_others_are_closed_when_idle() {
    let server = Server::start().await;
    let idle = Duration::from_secs(1);
    let upstream = over([&server])
        .connections(Connections::default().idle_timeout(idle))
        .build()
        .unwrap();
    let patient = over([&server])
        .connections(Connections::default().idle_timeout(LONG))
        .build()
        .unwrap();
    let held: Vec<_> = [&upstream, &upstream, &upstream, &patient]
        .map(|upstream| spawn(upstream, "/hold"))
        .into();
    eventually("four are open", || server.seen.requests() == 4).await;
    server.open_gate();
    join_all(held).await;
    eventually("all are idle", || counts(&upstream) == (3, 3, 0)).await;
    let last = connection(&upstream).await;
    let others_closed = async {
        while server.seen.open() > 2 {
            assert_eq!(connection(&upstream).await, last);
            tokio::time::sleep(idle / 20).await;
        }
    };
    tokio::time::timeout(LONG, others_closed).await.unwrap();
    eventually("that one is closed too", || server.seen.open() == 1).await;
    assert_eq!(counts(&upstream), (0, 0, 0));
    assert_eq!(counts(&patient), (1, 1, 0), "the control");
    assert_eq!(server.seen.accepted(), 4);
}

#[tokio::test]
async fn a_connection_that_is_too_old_finishes_its_response_and_takes_no_other_request() {
    let server = Server::start().await;
    let age = Duration::from_millis(600);
    for (max_age, connections) in [(Some(age), ["1", "2"]), (None, ["3", "3"])] {
        server.close_gate();
        let upstream = over([&server])
            .attempt_timeout(age)
            .connections(Connections::default().max_age(max_age))
            .build()
            .unwrap();
        assert_eq!(connection(&upstream).await, connections[0]);
        let response = call(&upstream, "/half").await.unwrap();
        tokio::time::sleep(age).await;
        server.open_gate();
        assert_eq!(text(response).await, "half");
        assert_eq!(connection(&upstream).await, connections[1]);
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_when_it_is_too_old() {
    let server = Server::start().await;
    let age = Duration::from_millis(500);
    let upstream = over([&server])
        .attempt_timeout(age)
        .connections(Connections::default().max_age(Some(age)))
        .build()
        .unwrap();
    connection(&upstream).await;
    assert_eq!(server.seen.open(), 1);
    eventually("it is closed", || server.seen.open() == 0).await;
}

#[tokio::test]
async fn a_dropped_request_closes_its_connection_before_the_next_one_opens_another() {
    let server = Server::start().await;
    let upstream = over([&server])
        .connections(Connections::default().max(1))
        .build()
        .unwrap();
    for round in 1..=50 {
        let held = spawn(&upstream, "/hold");
        eventually("it is sent", || server.seen.requests() == 2 * round - 1).await;
        held.abort();
        assert_eq!(connection(&upstream).await, (round + 1).to_string());
        assert_eq!(counts(&upstream).0, 1);
    }
    // The server may see the end of one a moment after the beginning of the next.
    assert!(server.seen.most() <= 2);
}

/// Cuts a request after each number of polls, in every state that the only connection can be in.
#[tokio::test]
async fn a_request_dropped_at_any_await_leaves_nothing_behind() {
    for path in ["/", "/half", "/hold"] {
        for busy in [false, true] {
            for warm in [false, true] {
                let server = Server::start().await;
                let upstream = over([&server])
                    .connections(Connections::default().max(1))
                    .build()
                    .unwrap();
                for cut in 0..MOST_POLLS {
                    server.close_gate();
                    if warm {
                        connection(&upstream).await;
                    }
                    let before = server.seen.requests();
                    let held = busy.then(|| spawn(&upstream, "/hold"));
                    eventually("the other one is sent", || {
                        server.seen.requests() - before == usize::from(busy)
                    })
                    .await;
                    let exchange = async { text(call(&upstream, path).await.unwrap()).await };
                    // Who waits for the other one is not polled again before it ends.
                    let cut = cut_after(cut, exchange);
                    let cut = tokio::time::timeout(Duration::from_millis(10), cut).await;
                    server.open_gate();
                    if let Some(held) = held {
                        held.await.unwrap().unwrap();
                    }
                    // The only place is free again.
                    connection(&upstream).await;
                    let endpoint = only(&upstream);
                    assert_eq!((endpoint.in_flight, endpoint.pending), (0, 0));
                    assert_eq!(endpoint.open_connections, 1, "{path} {busy} {warm}");
                    if !matches!(cut, Ok(None)) {
                        break;
                    }
                }
            }
        }
    }
}

/// Blocks the only thread, so that the client cannot notice that the connection was closed before it sends.
#[test]
fn a_request_that_a_closed_connection_gave_back_goes_to_another_one_at_once() {
    // The driver is polled after every task, see below.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .event_interval(1)
        .build()
        .unwrap();
    for listens in [true, false] {
        runtime.block_on(request_meets_a_closed_connection(listens));
    }
}

fn answer_one(stream: &mut std::net::TcpStream) {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        read.push(byte[0]);
    }
    stream
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        .unwrap();
}

async fn request_meets_a_closed_connection(listens: bool) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (close, closing) = std::sync::mpsc::channel();
    let (done, closed) = std::sync::mpsc::channel();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        answer_one(&mut stream);
        closing.recv().unwrap();
        drop(stream);
        if !listens {
            drop(listener);
            done.send(()).unwrap();
            return;
        }
        done.send(()).unwrap();
        answer_one(&mut listener.accept().unwrap().0);
    });
    let upstream = Upstream::builder("closing")
        .discover(discover::fixed([url]).unwrap())
        .connect_timeout(LONG)
        .attempt_timeout(LONG)
        .build()
        .unwrap();
    assert_eq!(connection(&upstream).await, "ok");
    eventually("it is idle", || counts(&upstream) == (1, 1, 0)).await;
    // What has woken the connection's task must be over.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    close.send(()).unwrap();
    closed.recv().unwrap();
    // Runs between the call, which hands the request to the connection, and the connection's own task: by then the
    // driver has seen the end of the stream, and the connection finds it before it takes the request.
    tokio::spawn(async {});
    let answer = call(&upstream, "/").await;
    if listens {
        assert_eq!(text(answer.unwrap()).await, "ok");
        assert_eq!(only(&upstream).penalty_ms, 0.0, "nobody's fault");
    } else {
        let error = answer.unwrap_err();
        assert!(error.is_connect() && error.is_unsent(), "{error:?}");
    }
    server.join().unwrap();
}

#[tokio::test]
async fn an_endpoint_that_is_removed_loses_what_is_idle_and_finishes_what_is_under_way() {
    let servers = [Server::start().await, Server::start().await];
    let endpoints = [&servers[0], &servers[1]].map(|s| s.url().parse::<Endpoint>().unwrap());
    let (sets, receiver) = watch::channel(endpoints.to_vec());
    let stream = unfold((receiver, true), |(mut receiver, first)| async move {
        if !first {
            receiver.changed().await.ok()?;
        }
        let set = receiver.borrow_and_update().clone();
        Some((set, (receiver, false)))
    });
    let upstream = Upstream::builder("leaving")
        .discover(discover::stream(stream))
        .balance(RoundRobin)
        .attempt_timeout(LONG)
        .connections(Connections::default().idle_timeout(Duration::from_secs(3600)))
        .build()
        .unwrap();
    eventually("both are known", || upstream.endpoints().len() == 2).await;
    let held: Vec<_> = (0..4).map(|_| spawn(&upstream, "/half")).collect();
    eventually("both have two", || {
        servers.iter().all(|s| s.seen.requests() == 2)
    })
    .await;
    servers.iter().for_each(Server::open_gate);
    join_all(held).await;
    servers.iter().for_each(Server::close_gate);
    let held = [spawn(&upstream, "/half"), spawn(&upstream, "/half")];
    eventually("each has one more", || {
        servers.iter().all(|s| s.seen.requests() == 3)
    })
    .await;

    sets.send_replace(vec![endpoints[0].clone()]);
    eventually("the idle one is closed", || servers[1].seen.open() == 1).await;
    servers.iter().for_each(Server::open_gate);
    for half in held {
        assert_eq!(half.await.unwrap().unwrap(), "half");
    }
    eventually("the last one is closed", || servers[1].seen.open() == 0).await;
    assert_eq!(servers[0].seen.open(), 2, "the other keeps both");
}

#[tokio::test]
async fn a_connect_error_names_the_address_and_a_plain_connect_is_refused() {
    let vacant = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = vacant.local_addr().unwrap();
    drop(vacant);
    let upstream = Upstream::builder("gone")
        .discover(discover::fixed([format!("http://{addr}")]).unwrap())
        .build()
        .unwrap();
    let error = call(&upstream, "/").await.unwrap_err();
    assert!(error.is_connect() && error.is_unsent());
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(cause, format!("could not open a TCP connection to {addr}"));

    let tunnel = Request::builder()
        .method(Method::CONNECT)
        .uri("a:1")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let error = upstream.oneshot(tunnel).await.unwrap_err();
    assert!(matches!(error, Error::Request { .. }), "{error:?}");
}

#[tokio::test]
async fn settings_that_make_no_sense_are_refused_by_field_and_value() {
    let ms = Duration::from_millis;
    let with = Connections::default;
    for (connections, message) in [
        (with().max(0), "connections.max is 0: must be at least 1"),
        (
            with().idle_timeout(Duration::ZERO),
            "connections.idle_timeout is 0ns: ",
        ),
        (
            with().idle_timeout(Duration::MAX),
            "connections.idle_timeout is ",
        ),
        (
            with().max_age(Some(Duration::ZERO)),
            "connections.max_age is 0ns: ",
        ),
        (
            with().max_age(Some(ms(999))),
            "connections.max_age is 999ms: must not be shorter than attempt_timeout",
        ),
        (
            with().tcp_keepalive(Some(ms(999))),
            "connections.tcp_keepalive is 999ms: must be from 1 s to 32767 s",
        ),
        (
            with().tcp_user_timeout(Some(Duration::from_micros(999))),
            "connections.tcp_user_timeout is 999µs: must be at least 1 ms",
        ),
    ] {
        let built = Upstream::builder("bad")
            .discover(discover::fixed(["http://a"]).unwrap())
            .connections(connections)
            .build();
        let Err(BuildError::Config { source, .. }) = built else {
            panic!("{message} was taken");
        };
        assert!(source.to_string().starts_with(message), "{source}");
    }
}
