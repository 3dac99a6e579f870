use std::future::poll_fn;
use std::pin::pin;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_late_answer_is_overtaken_and_the_loser_is_dropped_in_that_moment() {
    let server = Server::new(&[(1_000, 200), (30, 200)]);
    let mut service = after(100).build().unwrap().layer(server.clone());
    let mut call = pin!(service.call(request(Method::PUT)));
    let response = call.as_mut().await.unwrap();
    assert_eq!(Instant::now() - server.started, MS * 130);
    // The future of the call is still there.
    let seen = server.seen();
    let hedged = response.extensions().get();
    assert_eq!(hedged, Some(&Hedged { sent: 1, winner: 1 }));
    assert_eq!(server.sent_at(), [0, 100]);
    assert_eq!(seen[0].dropped, Some(MS * 130));
    assert_eq!(
        (&*seen[0].body, &*seen[1].body),
        (&b"body"[..], &b"body"[..])
    );
    assert_eq!(
        (seen[0].marker.as_deref(), seen[1].marker.as_deref()),
        (None, Some("2"))
    );
    assert_eq!((seen[0].tried, seen[1].tried), (Some(0), Some(1)));
}

#[tokio::test(start_paused = true)]
async fn an_answer_in_time_is_not_hedged_and_costs_nothing() {
    let server = Server::new(&[(99, 200)]);
    let budget = budget_of(5);
    let layer = after(100)
        .shared_budget(Arc::clone(&budget))
        .build()
        .unwrap();
    let got = outcome(&layer, &server, request(Method::GET)).await;
    assert_eq!(got, (ok(200, "0"), 99));
    assert_eq!(left(&budget), 5);
}

#[tokio::test(start_paused = true)]
async fn the_first_success_wins_and_of_failures_an_answer_before_an_error_and_an_early_one() {
    for (script, expected, elapsed) in [
        // The first one is late and right.
        ([(150, 200), (100, 200)], ok(200, "0"), 150),
        // The hedge fails first: the first one still wins.
        ([(150, 200), (10, 500)], ok(200, "0"), 150),
        ([(150, 200), (10, 0)], ok(200, "0"), 150),
        // The first one fails while the hedge is under way.
        ([(110, 500), (100, 200)], ok(200, "1"), 200),
        ([(110, 0), (100, 404)], ok(404, "1"), 200),
        ([(110, 429), (100, 200)], ok(200, "1"), 200),
        // All fail.
        ([(110, 503), (100, 500)], ok(503, "0"), 200),
        ([(110, 0), (100, 500)], ok(500, "1"), 200),
        ([(110, 503), (100, 0)], ok(503, "0"), 200),
        ([(110, 0), (100, 0)], Err("attempt 0 broke".into()), 200),
    ] {
        let server = Server::new(&script);
        let layer = after(100).build().unwrap();
        let got = outcome(&layer, &server, request(Method::GET)).await;
        assert_eq!(got, (expected, elapsed), "{script:?}");
    }
}

/// What tower does: whatever ends first is passed on.
#[tokio::test(start_paused = true)]
async fn who_takes_whatever_comes_first_loses_the_good_answer() {
    let server = Server::new(&[(110, 500), (100, 200)]);
    let mut both = (server.clone(), server);
    let send = || request(Method::GET).map(|body| Replay::new(body, 0).0);
    let first = both.0.call(send());
    let second = async {
        sleep(MS * 100).await;
        both.1.call(send()).await
    };
    let naive = tokio::select! {
        first = first => first,
        second = second => second,
    };
    assert_eq!(naive.unwrap().status(), StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test(start_paused = true)]
async fn a_failure_before_the_delay_is_passed_on_at_once() {
    for (status, expected) in [(503, ok(503, "0")), (0, Err("attempt 0 broke".into()))] {
        let server = Server::new(&[(10, status)]);
        let layer = after(100).build().unwrap();
        let got = outcome(&layer, &server, request(Method::GET)).await;
        assert_eq!(got, (expected, 10));
    }
}

#[tokio::test(start_paused = true)]
async fn two_hedges_follow_each_other_and_one_is_the_default() {
    let script = [(1_000, 200), (1_000, 200), (30, 200)];
    for (hedges, sent_at, expected) in [
        (1, &[0, 100][..], (ok(200, "0"), 1_000)),
        (2, &[0, 100, 200], (ok(200, "2"), 230)),
    ] {
        let server = Server::new(&script);
        let layer = after(100).max_hedges(hedges).build().unwrap();
        let got = outcome(&layer, &server, request(Method::GET)).await;
        assert_eq!(got, expected);
        assert_eq!(server.sent_at(), sent_at);
    }
    let server = Server::new(&script);
    let layer = after(100).build().unwrap();
    let _ = outcome(&layer, &server, request(Method::GET)).await;
    assert_eq!(server.sent_at(), [0, 100]);
}

#[tokio::test(start_paused = true)]
async fn without_budget_nothing_is_hedged() {
    let budget = budget_of(1);
    let layer = after(100).shared_budget(budget).build().unwrap();
    for (sent_at, elapsed) in [(&[0, 100][..], 130), (&[0], 1_000)] {
        let server = Server::new(&[(1_000, 200), (30, 200)]);
        let (_, took) = outcome(&layer, &server, request(Method::GET)).await;
        assert_eq!((server.sent_at().as_slice(), took), (sent_at, elapsed));
    }
}

#[tokio::test(start_paused = true)]
async fn requests_are_counted_into_a_budget_of_its_own_and_into_a_shared_one_only_when_told() {
    let config = budget::Config {
        retry_ratio: 0.2,
        reserve_per_second: 0.0,
        ..budget::Config::default()
    };
    let now = Instant::now().into_std();
    for (counts, hedges) in [(None, 0), (Some(false), 0), (Some(true), 2)] {
        let budget = Arc::new(Budget::new(config, now).unwrap());
        let mut builder = after(100).shared_budget(Arc::clone(&budget));
        if let Some(counts) = counts {
            builder = builder.counts_requests(counts);
        }
        let layer = builder.build().unwrap();
        for _ in 0..10 {
            let server = Server::new(&[(0, 200)]);
            let _ = outcome(&layer, &server, request(Method::GET)).await;
        }
        assert_eq!(left(&budget), hedges, "{counts:?}");
    }
    let layer = after(100).budget(config).build().unwrap();
    let mut hedged = 0;
    for _ in 0..10 {
        let server = Server::new(&[(1_000, 200), (0, 200)]);
        let _ = outcome(&layer, &server, request(Method::GET)).await;
        hedged += server.seen().len() - 1;
    }
    assert_eq!(hedged, 2, "a fifth of ten");
}

#[tokio::test(start_paused = true)]
async fn dropped_at_any_await_point_it_leaves_nothing_and_pays_only_for_what_was_sent() {
    let mut longest = 0;
    for polls in 0..20 {
        let server = Server::new(&[(1_000, 200), (1_000, 200), (1_000, 500)]);
        let budget = budget_of(5);
        let layer = after(100)
            .max_hedges(2)
            .shared_budget(Arc::clone(&budget))
            .build()
            .unwrap();
        let mut service = layer.layer(server.clone());
        let mut pending = 0;
        let ended = {
            let mut call = pin!(service.call(request(Method::GET)));
            poll_fn(|cx| {
                if pending == polls {
                    return Poll::Ready(false);
                }
                if call.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(true);
                }
                pending += 1;
                if pending == polls {
                    Poll::Ready(false)
                } else {
                    Poll::Pending
                }
            })
            .await
        };
        let sent = server.seen().len();
        sleep(MS * 5_000).await;
        assert_eq!(
            server.seen().len(),
            sent,
            "{polls} polls: nothing is sent later"
        );
        // Who answered has a response; all others were dropped when the call was.
        let dropped = server
            .seen()
            .iter()
            .filter(|it| it.dropped.is_some())
            .count();
        assert_eq!(dropped, sent - usize::from(ended), "{polls} polls");
        assert_eq!(left(&budget), 5 - (sent - 1), "{polls} polls");
        longest = longest.max(sent);
        if ended {
            break;
        }
    }
    assert_eq!(longest, 3, "cut at every one of the hedges");
}

/// Ready for the first call and then when told.
#[derive(Clone)]
struct Gate {
    server: Server,
    open: Arc<Mutex<Option<bool>>>,
    calls: usize,
}

impl Service<Request<Replay<Full<Bytes>>>> for Gate {
    type Response = Response<Full<Bytes>>;
    type Error = Broke;
    type Future = BoxFuture<'static, Result<Response<Full<Bytes>>, Broke>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broke>> {
        match *self.open.lock().unwrap() {
            _ if self.calls == 0 => Poll::Ready(Ok(())),
            None => Poll::Pending,
            Some(true) => Poll::Ready(Ok(())),
            Some(false) => Poll::Ready(Err(Broke(9))),
        }
    }

    fn call(&mut self, request: Request<Replay<Full<Bytes>>>) -> Self::Future {
        self.calls += 1;
        self.server.call(request)
    }
}

#[tokio::test(start_paused = true)]
async fn a_hedge_waits_for_readiness_and_goes_back_when_it_is_not_needed_any_more() {
    for (open, sent) in [(None, 1), (Some(false), 1), (Some(true), 2)] {
        let gate = Gate {
            server: Server::new(&[(300, 200), (500, 200)]),
            open: Arc::new(Mutex::new(open)),
            calls: 0,
        };
        let budget = budget_of(5);
        let layer = after(100)
            .shared_budget(Arc::clone(&budget))
            .build()
            .unwrap();
        let response = layer
            .layer(gate.clone())
            .oneshot(request(Method::GET))
            .await;
        assert_eq!(response.unwrap().status(), StatusCode::OK);
        assert_eq!(gate.server.seen().len(), sent, "{open:?}");
        assert_eq!(left(&budget), 6 - sent, "{open:?}");
    }
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "polled after completion")]
async fn an_answer_comes_once() {
    let server = Server::new(&[(1_000, 500), (30, 200)]);
    let mut service = after(100).build().unwrap().layer(server);
    let mut call = pin!(service.call(request(Method::GET)));
    let _ = call.as_mut().await;
    let _ = call.await;
}
