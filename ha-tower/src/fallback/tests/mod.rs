use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use proptest::prelude::*;
use tower::{BoxError, Layer as _, ServiceExt as _, service_fn};

use super::*;
use crate::breaker::{self, BreakerLayer};
use crate::problem::Problem;

mod cancelled;
mod services;

type Body = Full<Bytes>;

fn response(status: u16, body: &'static str) -> Response<Body> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Body::default()).unwrap()
}

async fn text<B>(response: Response<B>) -> String
where
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What a service that gives `result` and has a closure for a fallback gives, and how often that was asked.
async fn with_answer(
    result: Result<Response<Body>, BoxError>,
    answer: Result<Response<Body>, BoxError>,
) -> (
    Result<Response<http_body_util::Either<Body, Body>>, BoxError>,
    usize,
) {
    let asked = Arc::new(AtomicUsize::new(0));
    let (counter, answer) = (asked.clone(), Arc::new(std::sync::Mutex::new(Some(answer))));
    let layer = FallbackLayer::answer(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
        std::future::ready(answer.lock().unwrap().take().unwrap())
    })
    .build()
    .unwrap();
    let result = Arc::new(std::sync::Mutex::new(Some(result)));
    let service = service_fn(move |_| std::future::ready(result.lock().unwrap().take().unwrap()));
    let given = layer.layer(service).oneshot(get("/")).await;
    (given, asked.load(Ordering::Relaxed))
}

fn good() -> Result<Response<Body>, BoxError> {
    Ok(response(200, "from the fallback"))
}

#[tokio::test]
async fn a_failure_is_replaced_and_says_why_and_nothing_else_is_touched() {
    let local =
        |status: u16| Problem::new(StatusCode::from_u16(status).unwrap()).into_response::<Body>();
    let mut opened = local(503);
    opened
        .extensions_mut()
        .insert(breaker::Open { retry_in: None });
    let status = |status: u16| Some(Reason::Status(StatusCode::from_u16(status).unwrap()));
    for (result, reason) in [
        (response(200, ""), None),
        (response(404, ""), None),
        (response(429, ""), None),
        (response(500, ""), None),
        (response(502, ""), status(502)),
        (response(503, ""), status(503)),
        (response(504, ""), Some(Reason::Timeout)),
        (local(429), Some(Reason::Refused)),
        (local(503), Some(Reason::Refused)),
        (local(504), Some(Reason::Timeout)),
        (opened, Some(Reason::Open)),
    ] {
        let before = result.status();
        let (given, asked) = with_answer(Ok(result), good()).await;
        let given = given.unwrap();
        let used = given.extensions().get::<FallbackUsed>().copied();
        assert_eq!(used.map(|used| used.reason), reason, "{before}");
        assert_eq!(asked, usize::from(reason.is_some()));
        if reason.is_none() {
            assert_eq!(given.status(), before);
            assert!(given.extensions().get::<FallbackFailed>().is_none());
        } else {
            assert_eq!(text(given).await, "from the fallback");
        }
    }
}

#[tokio::test]
async fn an_error_is_replaced_and_told_apart_by_its_kind() {
    let elapsed = tokio::time::timeout(Duration::ZERO, std::future::pending::<()>())
        .await
        .unwrap_err();
    let unavailable = crate::upstream::Error::Unavailable {
        upstream: "x".to_owned(),
        known: 0,
    };
    for (error, reason) in [
        ("broken".into(), Reason::Error),
        (elapsed.into(), Reason::Timeout),
        (breaker::Error::Open { retry_in: None }.into(), Reason::Open),
        (
            breaker::Error::Service(Box::new(unavailable)).into(),
            Reason::Refused,
        ),
    ] as [(BoxError, Reason); 4]
    {
        let (given, _) = with_answer(Err(error), good()).await;
        let given = given.unwrap();
        assert_eq!(given.extensions().get(), Some(&FallbackUsed { reason }));
    }
}

#[tokio::test]
async fn when_the_fallback_fails_too_the_first_failure_is_passed_on_as_it_was() {
    let failed = || Err::<Response<Body>, BoxError>("fallback is broken".into());
    let (given, asked) = with_answer(Ok(response(503, "maintenance")), failed()).await;
    let given = given.unwrap();
    assert_eq!((given.status().as_u16(), asked), (503, 1));
    let reason = Reason::Status(StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(given.extensions().get(), Some(&FallbackFailed { reason }));
    assert!(given.extensions().get::<FallbackUsed>().is_none());
    assert_eq!(text(given).await, "maintenance");

    let (given, _) = with_answer(Err("first error".into()), failed()).await;
    assert_eq!(given.unwrap_err().to_string(), "first error");
}

#[tokio::test]
async fn an_answer_of_the_fallback_is_passed_on_whatever_its_status() {
    let (given, asked) = with_answer(Ok(response(502, "")), Ok(response(503, "sorry"))).await;
    let given = given.unwrap();
    assert_eq!((given.status().as_u16(), asked), (503, 1));
    assert!(given.extensions().get::<FallbackUsed>().is_some());
}

#[tokio::test]
async fn every_5xx_is_a_failure_to_those_who_ask_for_that_and_a_closure_may_say_anything() {
    let answer = |_| async { Ok::<_, Infallible>(response(200, "fallback")) };
    let service = service_fn(|request: Request<Body>| async move {
        let status = request.uri().path()[1..].parse().unwrap();
        Ok::<_, Infallible>(response(status, "service"))
    });
    let errors = FallbackLayer::answer(answer)
        .when(Failures::server_errors())
        .build()
        .unwrap();
    let teapots = FallbackLayer::answer(answer)
        .when(|result: Result<&Response<Body>, &Infallible>| {
            let teapot = result.is_ok_and(|r| r.status() == StatusCode::IM_A_TEAPOT);
            teapot.then_some(Reason::Custom("teapot"))
        })
        .build()
        .unwrap();
    for (path, by_errors, by_teapots) in [
        ("/500", "fallback", "service"),
        ("/418", "service", "fallback"),
        ("/200", "service", "service"),
    ] {
        let given = errors.layer(service).oneshot(get(path)).await.unwrap();
        assert_eq!(text(given).await, by_errors, "{path}");
        let given = teapots.layer(service).oneshot(get(path)).await.unwrap();
        assert_eq!(text(given).await, by_teapots, "{path}");
    }
}

#[tokio::test]
async fn a_closure_gets_the_head_of_the_request_with_its_extensions() {
    let layer = FallbackLayer::from_head(|head: http::request::Parts, reason| async move {
        let text = format!(
            "{} {} {} {} {reason:?}",
            head.method,
            head.uri,
            head.headers["x-user"].to_str().unwrap(),
            head.extensions.get::<u8>().unwrap()
        );
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(text)))
    })
    .build()
    .unwrap();
    let service = service_fn(|_| async { Ok::<_, Infallible>(response(502, "")) });
    let request = Request::post("/a?b=c")
        .header("x-user", "ada")
        .extension(7u8)
        .body(Body::default())
        .unwrap();
    let given = layer.layer(service).oneshot(request).await.unwrap();
    assert_eq!(text(given).await, "POST /a?b=c ada 7 Status(502)");
}

#[tokio::test]
async fn it_stands_in_for_an_open_breaker_in_a_router() {
    let breaker = BreakerLayer::http(breaker::Config::default()).unwrap();
    let handle = breaker.handle();
    let fallback = FallbackLayer::answer(|reason| async move {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(format!("{reason:?}"))))
    })
    .build()
    .unwrap();
    let app: axum::Router = axum::Router::new()
        .route("/", axum::routing::get(|| async { "service" }))
        .layer(breaker)
        .layer(fallback);
    for (expected, open) in [("service", false), ("Open", true)] {
        if open {
            handle.force_open();
        }
        let request = Request::get("/").body(axum::body::Body::empty()).unwrap();
        let given = app.clone().oneshot(request).await.unwrap();
        assert_eq!(text(given).await, expected);
    }
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "polled after completion")]
async fn a_future_that_is_polled_after_its_end_says_so() {
    let layer =
        FallbackLayer::answer(|_| std::future::ready(Ok::<_, Infallible>(response(200, ""))))
            .build()
            .unwrap();
    let mut service = layer.layer(service_fn(|_: Request<Body>| {
        std::future::ready(Ok::<_, Infallible>(response(502, "")))
    }));
    let mut call = Box::pin(tower::Service::call(&mut service, get("/")));
    call.as_mut().await.unwrap();
    let _ = call.await;
}

proptest! {
    /// Whatever both answer: the caller gets the one or the other, whole, and the extension tells which.
    #[test]
    fn the_extension_always_tells_whose_answer_it_is(
        first in prop_oneof![(200u16..600).prop_map(Some), Just(None)],
        second in prop_oneof![(200u16..600).prop_map(Some), Just(None)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let give = |status: Option<u16>, text| match status {
                Some(status) => Ok(response(status, text)),
                None => Err(BoxError::from(text)),
            };
            let (given, asked) = with_answer(give(first, "first"), give(second, "second")).await;
            let wanted = matches!(first, None | Some(502..=504));
            assert_eq!(asked, usize::from(wanted));
            match given {
                Ok(given) => {
                    let used = given.extensions().get::<FallbackUsed>().is_some();
                    let failed = given.extensions().get::<FallbackFailed>().is_some();
                    assert_eq!(used, wanted && second.is_some());
                    assert_eq!(failed, wanted && second.is_none());
                    assert_eq!(text(given).await, if used { "second" } else { "first" });
                }
                Err(error) => {
                    assert_eq!((first, second), (None, None));
                    assert_eq!(error.to_string(), "first");
                }
            }
        });
    }
}
