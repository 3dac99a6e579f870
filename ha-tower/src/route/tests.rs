use std::time::Duration;

use axum::body::Body;
use axum::routing::{any, get};
use axum::{Extension, Router};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use tower::{Layer, ServiceExt};

use super::*;
use crate::limit::{LimitKey, Priority};
use crate::timeout::TimeoutLayer;

fn named(seconds: u64) -> Policy {
    let policy = Policy::builder().deadline(Duration::from_secs(seconds));
    policy.build().unwrap()
}

fn fits(matcher: &Matcher, method: Method, uri: &str) -> bool {
    let request = Request::builder().method(method).uri(uri);
    matcher.fits(&request.body(()).unwrap().into_parts().0)
}

/// The handler says which policy it sees, by its deadline in seconds.
async fn seen(policy: Option<Extension<Policy>>) -> String {
    let deadline = policy.and_then(|Extension(policy)| policy.deadline());
    deadline.map_or("none".to_owned(), |limit| limit.as_secs().to_string())
}

async fn ask(app: &Router, method: Method, uri: &str) -> (StatusCode, String) {
    let request = Request::builder().method(method).uri(uri);
    let request = request.body(Body::empty()).unwrap();
    let response = app.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

async fn says(app: &Router, uri: &str) -> String {
    ask(app, Method::GET, uri).await.1
}

#[test]
fn a_prefix_ends_where_a_segment_ends() {
    for (given, uri, expected) in [
        ("/api", "/api", true),
        ("/api", "/api/", true),
        ("/api", "/api/x?y", true),
        ("/api", "/apix", false),
        ("/api", "/", false),
        ("/api/", "/api", true),
        ("/api/", "/api/x", true),
        ("/", "/", true),
        ("/", "/x", true),
    ] {
        assert_eq!(
            fits(&prefix(given), Method::GET, uri),
            expected,
            "{given} {uri}"
        );
    }
}

#[test]
fn a_template_fits_whole_segments_that_are_not_empty() {
    for (template, uri, expected) in [
        ("/", "/", true),
        ("/users", "/users", true),
        ("/users", "/users/", false),
        ("/users/{id}", "/users/7", true),
        ("/users/{id}", "/users/7?all", true),
        ("/users/{id}", "/users/", false),
        ("/users/{id}", "/users", false),
        ("/users/{id}", "/users/7/8", false),
        ("/users/{id}/orders", "/users/7/orders", true),
        ("/users/{id}/orders", "/users/7/others", false),
        ("/files/{*path}", "/files/a/b/c", true),
        ("/files/{*path}", "/files/a", true),
        ("/files/{*path}", "/files/", false),
        ("/files/{*path}", "/files", false),
    ] {
        let matcher = path(template);
        assert_eq!(
            fits(&matcher, Method::GET, uri),
            expected,
            "{template} {uri}"
        );
    }
}

#[test]
fn matchers_combine() {
    let both = method(Method::POST).and(prefix("/a"));
    let either = method(Method::POST).or(prefix("/a"));
    for (method, uri, and, or) in [
        (Method::POST, "/a", true, true),
        (Method::POST, "/b", false, true),
        (Method::GET, "/a", false, true),
        (Method::GET, "/b", false, false),
    ] {
        assert_eq!(fits(&both, method.clone(), uri), and);
        assert_eq!(fits(&either, method, uri), or);
    }
    let keyed = when(|head| head.headers.contains_key("idempotency-key"));
    assert!(!fits(&keyed, Method::POST, "/"));
    let text = format!("{:?}", both.or(keyed));
    assert_eq!(text, r#"or(and(method(POST), prefix("/a")), when(..))"#);
}

#[test]
fn senseless_settings_are_refused_by_name_and_value() {
    let (zero, long) = (Duration::ZERO, Duration::from_secs(86_401));
    let policy = Policy::builder;
    for (builder, message) in [
        (
            policy().deadline(zero),
            "route.deadline is 0ns: must be longer than zero",
        ),
        (
            policy().deadline(long),
            "route.deadline is 86401s: must not be longer than a day",
        ),
        (
            policy().hedge(Hedge::After(zero)),
            "route.hedge is 0ns: must be longer than zero",
        ),
        (
            policy().hedge(Hedge::After(long)),
            "route.hedge is 86401s: must not be longer than a day",
        ),
        (
            policy().retry(Retry::Attempts(0)),
            "route.retry is 0: must be from 1 to 10 attempts",
        ),
        (
            policy().retry(Retry::Attempts(11)),
            "route.retry is 11: must be from 1 to 10 attempts",
        ),
    ] {
        assert_eq!(builder.build().unwrap_err().to_string(), message);
    }
    let braces = "must have a name in each pair of braces, around a whole segment";
    for (matcher, message) in [
        (
            prefix("api"),
            "route.prefix is \"api\": must begin with '/'".to_owned(),
        ),
        (
            path(""),
            "route.path is \"\": must begin with '/'".to_owned(),
        ),
        (path("/{}"), format!("route.path is \"/{{}}\": {braces}")),
        (path("/{*}"), format!("route.path is \"/{{*}}\": {braces}")),
        (
            path("/a{b}"),
            format!("route.path is \"/a{{b}}\": {braces}"),
        ),
        (path("/{a"), format!("route.path is \"/{{a\": {braces}")),
        (
            method(Method::GET).and(path("/{*a}/b")),
            "route.path is \"/{*a}/b\": must have {*name} only at its end".to_owned(),
        ),
    ] {
        let built = PolicyLayer::builder().route(matcher, named(1)).build();
        assert_eq!(built.unwrap_err().to_string(), message);
    }
}

#[tokio::test]
async fn the_first_that_fits_decides_on_a_router_and_around_one() {
    let policies = PolicyLayer::builder()
        .route(method(Method::POST).and(prefix("/a")), named(1))
        .route(path("/a/{id}"), named(2))
        .route(prefix("/a"), named(3))
        .otherwise(named(4))
        .build()
        .unwrap();
    let routes = || {
        Router::new()
            .route("/a/{id}", any(seen))
            .route("/a", any(seen))
            .fallback(seen)
    };
    let around = Router::new().fallback_service(policies.layer(routes()));
    for app in [routes().layer(policies), around] {
        for (method, uri, expected) in [
            (Method::POST, "/a/1", "1"),
            (Method::GET, "/a/1", "2"),
            (Method::GET, "/a", "3"),
            (Method::GET, "/a/1/2", "3"),
            (Method::POST, "/b", "4"),
        ] {
            let (status, policy) = ask(&app, method, uri).await;
            assert_eq!((status, &*policy), (StatusCode::OK, expected), "{uri}");
        }
    }
}

#[tokio::test]
async fn inside_of_a_nest_the_prefix_is_gone_and_around_it_is_there() {
    let inner = PolicyLayer::builder().route(path("/users/{id}"), named(1));
    let outer = PolicyLayer::builder().route(path("/api/users/{id}"), named(2));
    let (inner, outer) = (inner.build().unwrap(), outer.build().unwrap());
    let users = || Router::new().route("/users/{id}", get(seen));
    let inside = Router::new().nest("/api", users().layer(inner.clone()));
    let wrong = Router::new().nest("/api", users().layer(outer.clone()));
    let outside = Router::new().nest("/api", users()).layer(outer);
    let too_far = Router::new().nest("/api", users()).layer(inner);
    for (app, expected) in [
        (inside, "1"),
        (wrong, "none"),
        (outside, "2"),
        (too_far, "none"),
    ] {
        assert_eq!(says(&app, "/api/users/7").await, expected);
    }
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn the_matched_template_is_the_whole_one_wherever_the_layer_stands() {
    let layer = PolicyLayer::builder().route(matched("/api/users/{id}"), named(1));
    let layer = layer.build().unwrap();
    let users = || {
        Router::new()
            .route("/users/{id}", get(seen))
            .route("/users/me", get(seen))
    };
    let inside = Router::new().nest("/api", users().layer(layer.clone()));
    let outside = Router::new().nest("/api", users()).layer(layer.clone());
    for app in [inside, outside] {
        assert_eq!(says(&app, "/api/users/7").await, "1");
        // Another route, although a template of text would fit it.
        assert_eq!(says(&app, "/api/users/me").await, "none");
    }
    let around = layer.layer(Router::new().nest("/api", users()));
    let around = Router::new().fallback_service(around);
    assert_eq!(says(&around, "/api/users/7").await, "none");
}

#[tokio::test]
async fn a_policy_is_a_layer_and_an_extension() {
    let app = Router::new()
        .route("/layer", get(seen).layer(named(1)))
        .route("/extension", get(seen).layer(Extension(named(2))))
        .route("/none", get(seen))
        .merge(
            Router::new()
                .route("/route_layer", get(seen))
                .route_layer(named(3)),
        );
    for (uri, expected) in [
        ("/layer", "1"),
        ("/extension", "2"),
        ("/route_layer", "3"),
        ("/none", "none"),
    ] {
        assert_eq!(says(&app, uri).await, expected, "{uri}");
    }
}

#[test]
fn the_inner_policy_wins_and_leaves_what_it_does_not_name() {
    let outer = Policy::builder()
        .deadline(Duration::from_secs(1))
        .retry(Retry::Off)
        .priority(Priority::Sheddable)
        .limit_key(LimitKey::new("outer"))
        .build()
        .unwrap();
    let inner = Policy::builder()
        .retry(Retry::Attempts(2))
        .idempotent(true)
        .hedge(Hedge::Off)
        .priority(Priority::Critical)
        .build()
        .unwrap();
    let mut extensions = http::Extensions::new();
    outer.apply(&mut extensions);
    assert_eq!(extensions.get(), Some(&Priority::Sheddable));
    inner.apply(&mut extensions);
    let policy = extensions.get::<Policy>().unwrap();
    assert_eq!(policy.deadline(), Some(Duration::from_secs(1)));
    assert_eq!(policy.retry(), Some(Retry::Attempts(2)));
    assert_eq!(policy.idempotent(), Some(true));
    assert_eq!(policy.hedge(), Some(Hedge::Off));
    assert_eq!(policy.priority(), Some(Priority::Critical));
    assert_eq!(policy.limit_key(), Some(&LimitKey::new("outer")));
    assert_eq!(extensions.get(), Some(&Priority::Critical));
    assert_eq!(extensions.get(), Some(&LimitKey::new("outer")));
}

#[tokio::test(start_paused = true)]
async fn a_slow_route_of_a_nested_router_has_its_own_deadline_and_the_others_keep_theirs() {
    let slow = || tokio::time::sleep(Duration::from_secs(5));
    let reports = Router::new()
        .route("/{id}", get(slow))
        .route("/", get(slow));
    let policies = PolicyLayer::builder().route(path("/reports/{id}"), named(60));
    let app = Router::new()
        .nest("/reports", reports)
        .route("/search", get(slow))
        .layer(TimeoutLayer::deadline(Duration::from_secs(1)))
        .layer(policies.build().unwrap());
    for (uri, expected) in [
        ("/reports/7", StatusCode::OK),
        ("/search", StatusCode::GATEWAY_TIMEOUT),
    ] {
        assert_eq!(ask(&app, Method::GET, uri).await.0, expected, "{uri}");
    }
}

#[tokio::test(start_paused = true)]
async fn retries_are_those_of_the_route_by_layer_and_by_extension() {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use crate::retry::{Override, RetryLayer};

    let policy = Policy::builder;
    for (builder, method, attempts) in [
        (policy(), Method::GET, 3),
        (policy().retry(Retry::Off), Method::GET, 1),
        (policy().retry(Retry::Attempts(5)), Method::GET, 5),
        (policy().idempotent(false), Method::GET, 1),
        (policy(), Method::POST, 1),
        (policy().idempotent(true), Method::POST, 3),
    ] {
        let made = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&made);
        let fails = tower::service_fn(move |request: Request<crate::body::Replay<Body>>| {
            counted.fetch_add(1, Ordering::Relaxed);
            drop(request);
            async {
                let mut response = http::Response::new(Body::empty());
                *response.status_mut() = StatusCode::BAD_GATEWAY;
                Ok::<_, Infallible>(response)
            }
        });
        let retrying = RetryLayer::http().layer(fails);
        let policy = builder.build().unwrap();
        let layer = PolicyLayer::builder().route(prefix("/api"), policy.clone());
        let layer = layer.build().unwrap();
        let inner = || Router::new().route_service("/x", retrying.clone());
        let by_table = Router::new().nest("/api", inner()).layer(layer);
        let by_layer = Router::new().nest("/api", inner().route_layer(policy.clone()));
        let by_extension = Router::new().nest("/api", inner().layer(Extension(policy.clone())));
        for app in [by_table, by_layer, by_extension] {
            made.store(0, Ordering::Relaxed);
            let (status, _) = ask(&app, method.clone(), "/api/x").await;
            assert_eq!(status, StatusCode::BAD_GATEWAY);
            assert_eq!(made.load(Ordering::Relaxed), attempts, "{policy:?}");
        }
        // What was asked of this very request goes before what is said of its route.
        let app = inner().layer(Extension(Override::off())).layer(policy);
        made.store(0, Ordering::Relaxed);
        ask(&app, method, "/x").await;
        assert_eq!(made.load(Ordering::Relaxed), 1);
    }
}
