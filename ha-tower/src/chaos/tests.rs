use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use proptest::prelude::*;
use tokio::time::Instant;
use tower::{Layer as _, Service as _, ServiceExt as _, service_fn};

use super::*;

type Text = Full<Bytes>;

const SEC: Duration = Duration::from_secs(1);

fn get(path: &str) -> Request<Text> {
    Request::get(path).body(Text::default()).unwrap()
}

async fn answer(_: Request<Text>) -> Result<Response<Text>, Infallible> {
    Ok(Response::new(Full::from("answer")))
}

fn started(seed: u64, faults: Faults) -> ChaosLayer {
    let layer = ChaosLayer::builder(seed).faults(faults).started(true);
    layer.build().unwrap()
}

/// What happens to the first requests, one after the other.
async fn dealt(layer: &ChaosLayer, requests: usize) -> Vec<Option<Injected>> {
    let service = layer.layer(service_fn(answer));
    let mut dealt = Vec::new();
    for _ in 0..requests {
        let response = service.clone().oneshot(get("/")).await.unwrap();
        dealt.push(response.extensions().get().copied());
    }
    dealt
}

fn some_of_all() -> Faults {
    Faults::none()
        .latency_between(0.3, SEC, 2 * SEC)
        .status(0.2, StatusCode::BAD_GATEWAY)
        .cuts(0.1)
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_deals_the_same_faults_in_the_same_order_and_another_seed_others() {
    let first = dealt(&started(1, some_of_all()), 200).await;
    assert_eq!(first, dealt(&started(1, some_of_all()), 200).await);
    assert_ne!(first, dealt(&started(2, some_of_all()), 200).await);
    let layer = started(1, some_of_all());
    dealt(&layer, 57).await;
    layer.handle().rewind();
    assert_eq!(first, dealt(&layer, 200).await);
}

#[tokio::test(start_paused = true)]
async fn ratios_are_kept_and_what_is_counted_is_what_happened() {
    let layer = started(7, some_of_all());
    let dealt = dealt(&layer, 10_000).await;
    let count = |is: fn(&Injected) -> bool| dealt.iter().flatten().filter(|i| is(i)).count() as u64;
    let counts = layer.handle().counts();
    assert_eq!(counts.matched, 10_000);
    assert_eq!(counts.delays, count(|i| i.delay.is_some()));
    assert_eq!(
        counts.statuses,
        count(|i| matches!(i.fault, Some(Fault::Status(_))))
    );
    assert_eq!(counts.cuts, count(|i| i.fault == Some(Fault::Cut)));
    for (n, expected) in [
        (counts.delays, 3_000u64),
        (counts.statuses, 2_000),
        (counts.cuts, 1_000),
    ] {
        assert!(n.abs_diff(expected) < 200, "{n} of {expected}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_delay_comes_before_the_service_is_called_and_lasts_as_long_as_it_says() {
    let called = Arc::new(AtomicUsize::new(0));
    let counter = called.clone();
    let layer = started(3, Faults::none().latency_between(1.0, SEC, 3 * SEC));
    let service = layer.layer(service_fn(move |request| {
        counter.fetch_add(1, Ordering::Relaxed);
        answer(request)
    }));
    for _ in 0..20 {
        let before = (Instant::now(), called.load(Ordering::Relaxed));
        let mut call = Box::pin(service.clone().oneshot(get("/")));
        assert!(futures_util::poll!(call.as_mut()).is_pending());
        assert_eq!(called.load(Ordering::Relaxed), before.1);
        let response = call.await.unwrap();
        let injected = response.extensions().get::<Injected>().unwrap();
        let delay = injected.delay.unwrap();
        assert!((SEC..=3 * SEC).contains(&delay));
        // The timer counts in milliseconds.
        assert!(before.0.elapsed().abs_diff(delay) <= Duration::from_millis(1));
        assert_eq!(called.load(Ordering::Relaxed), before.1 + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn with_a_fault_the_service_is_not_called() {
    let untouched = service_fn(|_: Request<Text>| async {
        panic!("called");
        #[allow(unreachable_code)]
        Ok::<Response<Text>, Infallible>(Response::default())
    });
    let teapot = started(1, Faults::none().status(1.0, StatusCode::IM_A_TEAPOT));
    let response = teapot.layer(untouched).oneshot(get("/")).await.unwrap();
    assert_eq!(response.status(), StatusCode::IM_A_TEAPOT);
    assert!(
        response
            .extensions()
            .get::<crate::problem::LocalReply>()
            .is_none(),
        "to be taken for the service's own"
    );
    assert!(
        response
            .into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes()
            .is_empty()
    );

    let cut = started(1, Faults::none().cuts(1.0));
    let response = cut.layer(untouched).oneshot(get("/")).await.unwrap();
    let error = response.into_body().collect().await.unwrap_err();
    assert!(error.is::<Cut>());
}

#[tokio::test(start_paused = true)]
async fn errors_are_those_that_the_closure_makes() {
    let layer = ChaosLayer::builder(1)
        .faults(Faults::none().errors(0.5))
        .error_with(|| std::io::Error::other("injected"))
        .started(true)
        .build()
        .unwrap();
    let service = layer.layer(service_fn(|_: Request<Text>| async {
        Ok::<_, std::io::Error>(Response::new(Text::default()))
    }));
    let mut failed = 0;
    for _ in 0..100 {
        if let Err(error) = service.clone().oneshot(get("/")).await {
            assert_eq!(error.to_string(), "injected");
            failed += 1;
        }
    }
    assert_eq!(layer.handle().counts().errors, failed);
    assert!((30..70).contains(&failed), "{failed}");
}

#[tokio::test(start_paused = true)]
async fn it_does_nothing_until_it_is_started_and_after_it_is_stopped() {
    let layer = ChaosLayer::builder(1)
        .faults(Faults::none().status(1.0, StatusCode::BAD_GATEWAY))
        .build()
        .unwrap();
    let handle = layer.handle();
    let hit = async || dealt(&layer, 1).await[0].is_some();
    assert!(!handle.is_on() && !hit().await);
    handle.start();
    assert!(handle.is_on() && hit().await);
    handle.set(Faults::none()).unwrap();
    assert!(!hit().await);
    handle.set(Faults::none().latency(1.0, SEC)).unwrap();
    assert!(hit().await);
    handle.stop();
    assert!(!hit().await);
    assert_eq!(handle.counts().matched, 3);
}

#[tokio::test(start_paused = true)]
async fn only_what_matches_is_hit_and_takes_a_number() {
    let layer = ChaosLayer::builder(1)
        .faults(Faults::none().status(1.0, StatusCode::BAD_GATEWAY))
        .only(|target| target.method == Method::GET && target.path == "/a")
        .started(true)
        .build()
        .unwrap();
    let service = layer.layer(service_fn(answer));
    let post = Request::post("/a").body(Text::default()).unwrap();
    for (request, status) in [
        (get("/a"), 502),
        (get("/a?b"), 502),
        (get("/b"), 200),
        (get("/b?/a"), 200),
        (post, 200),
    ] {
        let response = service.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), status);
    }
    assert_eq!(layer.handle().counts().matched, 2);
}

#[tokio::test(start_paused = true)]
async fn dropped_during_the_delay_the_service_is_never_called_and_its_readiness_is_kept() {
    let (mock, mut inner) = tower_test::mock::pair::<Request<Text>, Response<Text>>();
    let mut service = started(1, Faults::none().latency(1.0, SEC)).layer(mock);
    inner.allow(1);
    let mut call = Box::pin(service.ready().await.unwrap().call(get("/")));
    assert!(futures_util::poll!(call.as_mut()).is_pending());
    drop(call);
    // One call was allowed, and it was given back.
    let call = tokio::spawn(service.oneshot(get("/")));
    let (_, respond) = inner.next_request().await.unwrap();
    respond.send_response(Response::default());
    assert!(call.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "polled after completion")]
async fn a_future_that_is_polled_after_its_end_says_so() {
    let layer = started(1, Faults::none().status(1.0, StatusCode::BAD_GATEWAY));
    let mut service = layer.layer(service_fn(answer));
    let mut call = Box::pin(service.call(get("/")));
    call.as_mut().await.unwrap();
    let _ = call.await;
}

/// A real server and a real socket.
#[tokio::test]
async fn a_cut_closes_the_connection_before_the_answer_is_whole() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let layer = started(1, Faults::none().cuts(1.0));
    let app: axum::Router = axum::Router::new()
        .route("/", axum::routing::get(|| async { "answer" }))
        .layer(layer.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    let ask = async || {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut read = Vec::new();
        let mut buffer = [0; 1024];
        while !read.ends_with(b"answer") {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return (read, true),
                Ok(n) => read.extend_from_slice(&buffer[..n]),
            }
        }
        (read, false)
    };
    let (read, closed) = tokio::time::timeout(10 * SEC, ask()).await.unwrap();
    assert!(closed && !read.ends_with(b"0\r\n\r\n"), "{read:?}");
    layer.handle().stop();
    let (_, closed) = tokio::time::timeout(10 * SEC, ask()).await.unwrap();
    assert!(!closed, "kept open after a whole answer");
    server.abort();
}

#[test]
fn senseless_numbers_are_refused_by_name_and_value_and_change_nothing() {
    let layer = ChaosLayer::builder(1).build().unwrap();
    let none = Faults::none();
    let day = 24 * 60 * 60 * SEC;
    for (faults, message) in [
        (none.latency(f64::NAN, SEC), "chaos.latency_ratio is NaN: "),
        (none.latency(-0.1, SEC), "chaos.latency_ratio is -0.1: "),
        (none.errors(1.5), "chaos.error_ratio is 1.5: "),
        (
            none.errors(0.5),
            "chaos.error_ratio is 0.5: needs error_with",
        ),
        (
            none.status(f64::INFINITY, StatusCode::OK),
            "chaos.status_ratio is inf: ",
        ),
        (none.cuts(2.0), "chaos.cut_ratio is 2: "),
        (
            none.cuts(0.6).status(0.6, StatusCode::OK),
            "chaos.error_ratio + status_ratio + cut_ratio is 1.2: ",
        ),
        (
            none.status(0.1, StatusCode::CONTINUE),
            "chaos.status is 100 Continue: ",
        ),
        (
            none.latency(0.1, day + SEC),
            "chaos.latency_max is 86401s: ",
        ),
        (
            none.latency_between(0.1, 2 * SEC, SEC),
            "chaos.latency_max is 1s: must not be shorter than chaos.latency_min",
        ),
    ] {
        let built = ChaosLayer::builder(1).faults(faults).build().unwrap_err();
        assert!(built.to_string().starts_with(message), "{built}");
        let set = layer.handle().set(faults).unwrap_err();
        assert_eq!(set, built);
        assert_eq!(layer.handle().faults(), none);
    }
    let whole = none.cuts(0.1).status(0.7, StatusCode::OK).errors(0.2);
    assert!(whole.validate().is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Names that proxies listen to among any others, in headers and in the query.
    #[test]
    fn no_request_can_turn_it_on(
        names in prop::collection::vec(prop_oneof![
            "[a-z][a-z-]{0,20}",
            Just("x-envoy-fault-abort-request".to_owned()),
            Just("x-envoy-fault-delay-request".to_owned()),
            Just("x-ha-chaos".to_owned()),
            Just("x-chaos".to_owned()),
        ], 0..8),
        value in "(true|on|1|100|503|[ -~]{0,20})",
        query in "[a-z=&0-9]{0,20}",
        method in prop::sample::select(vec![Method::GET, Method::POST, Method::PUT, Method::OPTIONS]),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let layer = ChaosLayer::builder(1)
                .faults(Faults::none().status(1.0, StatusCode::BAD_GATEWAY))
                .build()
                .unwrap();
            let mut request = Request::builder().method(method).uri(format!("/chaos?{query}"));
            for name in &names {
                let name: HeaderName = name.parse().unwrap();
                if let Ok(value) = http::HeaderValue::from_str(&value) {
                    request = request.header(name, value);
                }
            }
            // As if a proxy had copied what it was told.
            let hint = Injected { delay: None, fault: Some(Fault::Cut) };
            let request = request.extension(hint).body(Text::default()).unwrap();
            let response = layer.layer(service_fn(answer)).oneshot(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            assert!(response.extensions().get::<Injected>().is_none());
            assert!(!layer.handle().is_on());
            assert_eq!(layer.handle().counts(), Counts::default());
        });
    }

    #[test]
    fn a_larger_ratio_deals_the_same_faults_and_some_more(
        seed in any::<u64>(), number in any::<u64>(), small in 0.0f64..0.5, more in 0.0f64..0.5,
    ) {
        let faults = |ratio| Faults::none().latency_between(ratio, SEC, 9 * SEC).cuts(ratio);
        let (less, more) = (faults(small).deal(seed, number), faults(small + more).deal(seed, number));
        prop_assert!(less.delay.is_none() || less.delay == more.delay);
        prop_assert!(less.fault.is_none() || less.fault == more.fault);
        prop_assert!(more.delay.is_none_or(|delay| (SEC..=9 * SEC).contains(&delay)));
    }
}
