use std::net::{IpAddr, SocketAddr};

use http::HeaderName;
use tower::{Layer, ServiceExt, service_fn};

use super::*;
use crate::proxy::Peer;

const SECOND: Duration = Duration::from_secs(1);

fn now() -> impl Service<
    Request<()>,
    Response = Answer,
    Error = Infallible,
    Future: Future<Output = Result<Answer, Infallible>>,
> + Clone {
    app(|| std::future::ready(Ok(answer(200))))
}

async fn status<S, B>(service: &S, request: Request<()>) -> u16
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible> + Clone,
{
    service
        .clone()
        .oneshot(request)
        .await
        .unwrap()
        .status()
        .as_u16()
}

fn from(ip: &str) -> Request<()> {
    with(Peer(SocketAddr::new(ip.parse::<IpAddr>().unwrap(), 4711)))
}

#[tokio::test(start_paused = true)]
async fn a_key_has_its_burst_and_then_its_rate() {
    let layer = RateLimitLayer::http(2, SECOND).burst(3).build().unwrap();
    let service = layer.layer(now());
    for expected in [200, 200, 200, 429] {
        assert_eq!(status(&service, from("10.0.0.1")).await, expected);
    }
    assert_eq!(status(&service, from("10.0.0.2")).await, 200, "another key");
    tokio::time::advance(500 * MS).await;
    for expected in [200, 429] {
        assert_eq!(status(&service, from("10.0.0.1")).await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn refusals_say_when_the_next_one_is_allowed() {
    let layer = RateLimitLayer::http(2, Duration::from_secs(60))
        .announce(true)
        .build()
        .unwrap();
    let service = layer.layer(now());
    let first = service.clone().oneshot(from("10.0.0.1")).await.unwrap();
    assert_eq!(first.headers()["ratelimit"], "\"default\";r=1;t=30");
    assert_eq!(first.headers()["ratelimit-policy"], "\"default\";q=2;w=60");
    assert_eq!(status(&service, from("10.0.0.1")).await, 200);
    tokio::time::advance(SECOND).await;
    let refused = service.oneshot(from("10.0.0.1")).await.unwrap();
    assert!(is_refusal(&refused, 429), "{refused:?}");
    assert_eq!(refused.headers()["retry-after"], "29");
    assert_eq!(refused.headers()["ratelimit"], "\"default\";r=0;t=60");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_announced_unless_it_is_asked_for() {
    let service = RateLimitLayer::http(1, SECOND)
        .build()
        .unwrap()
        .layer(now());
    for _ in 0..2 {
        let response = service.clone().oneshot(from("10.0.0.1")).await.unwrap();
        assert!(!response.headers().contains_key("ratelimit"));
    }
}

#[tokio::test(start_paused = true)]
async fn keys_come_from_the_extension_a_header_the_peer_or_a_function() {
    let header = HeaderName::from_static("x-tenant");
    let tenant = |name: &str| Request::get("/").header("x-tenant", name).body(()).unwrap();
    let path = HttpKey::with(|head| Some(LimitKey::new(head.uri.path())));
    let at = |path: &str| Request::get(path).body(()).unwrap();
    for (key, one, other) in [
        (HttpKey::header(header), tenant("a"), tenant("b")),
        (HttpKey::peer(), from("10.0.0.1"), from("10.0.0.2")),
        (
            HttpKey::peer(),
            from("2001:db8::1"),
            from("2001:db8:0:1::1"),
        ),
        (
            HttpKey::extension(),
            with(LimitKey::new("a")),
            with(LimitKey::new("b")),
        ),
        (path, at("/a"), at("/b")),
    ] {
        let layer = RateLimitLayer::http(1, SECOND).key(key).build().unwrap();
        let service = layer.layer(now());
        assert_eq!(status(&service, one.clone()).await, 200);
        assert_eq!(status(&service, one.clone()).await, 429);
        assert_eq!(status(&service, other).await, 200);
        let mut moved = one;
        moved.extensions_mut().insert(LimitKey::new("elsewhere"));
        assert_eq!(status(&service, moved).await, 200, "the extension wins");
    }
}

#[tokio::test(start_paused = true)]
async fn addresses_of_one_network_and_of_one_host_are_one_key() {
    for (one, same) in [
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff"),
        ("10.0.0.1", "::ffff:10.0.0.1"),
    ] {
        let service = RateLimitLayer::http(1, SECOND)
            .build()
            .unwrap()
            .layer(now());
        assert_eq!(status(&service, from(one)).await, 200);
        assert_eq!(status(&service, from(same)).await, 429);
    }
}

#[tokio::test(start_paused = true)]
async fn requests_without_a_key_share_one_rate_or_are_free_if_that_is_chosen() {
    let shared = RateLimitLayer::http(1, SECOND)
        .build()
        .unwrap()
        .layer(now());
    assert_eq!(status(&shared, request()).await, 200);
    assert_eq!(status(&shared, request()).await, 429);
    let free = RateLimitLayer::http(1, SECOND)
        .unkeyed(Unkeyed::Free)
        .build()
        .unwrap();
    let free = free.layer(now());
    for _ in 0..10 {
        assert_eq!(status(&free, request()).await, 200);
    }
}

#[tokio::test(start_paused = true)]
async fn the_generic_form_takes_a_function_and_refuses_with_an_error() {
    let layer = RateLimitLayer::builder(1, SECOND)
        .key_by(|tenant: &u32| Some(*tenant))
        .build()
        .unwrap();
    let service = layer.layer(service_fn(|tenant: u32| async move {
        Ok::<_, Infallible>(tenant)
    }));
    assert_eq!(service.clone().oneshot(7).await.unwrap(), 7);
    let error = service.clone().oneshot(7).await.unwrap_err();
    assert_eq!(
        (error.reason(), error.retry_after()),
        (Some(Reason::Rate), Some(SECOND))
    );
    assert_eq!(service.oneshot(8).await.unwrap(), 8);
}

/// A million keys in room for 4,096, while one caller asks for more than is allowed.
#[tokio::test(start_paused = true)]
async fn a_million_keys_take_no_more_room_and_free_nobody_who_is_limited() {
    let layer = RateLimitLayer::builder(10, SECOND)
        .keys(4_096)
        .key_by(|key: &u64| Some(*key))
        .build()
        .unwrap();
    let service = layer.layer(service_fn(|_: u64| {
        std::future::ready(Ok::<_, Infallible>(()))
    }));
    let ask = async |key| service.clone().call(key).await.is_ok();
    let mut served = 0;
    for key in 0..1_000_000u64 {
        assert!(ask(key + 1_000).await, "each of them asks once");
        if key % 1_000 == 0 {
            for _ in 0..20 {
                served += u32::from(ask(7).await);
            }
        }
    }
    assert_eq!(served, 10, "no time has passed");
    assert!(layer.forgotten() > 900_000);

    // With time between them, those that are whole again go, and that is no loss.
    let before = layer.forgotten();
    for key in 0..100_000u64 {
        tokio::time::advance(Duration::from_millis(1)).await;
        ask(key + 2_000_000).await;
    }
    assert!(
        layer.forgotten() - before < 5_000,
        "{}",
        layer.forgotten() - before
    );
}

/// The negative control: a table that forgets at random lets the heavy caller start anew.
#[test]
fn forgetting_just_anybody_would_free_those_who_are_limited() {
    let mut random = fastrand::Rng::with_seed(1);
    let mut table: Vec<(u64, u32)> = vec![(7, 10)];
    let mut freed = 0;
    for key in 0..100_000u64 {
        if table.len() == 4_096 {
            let gone = table.swap_remove(random.usize(..4_096));
            freed += u32::from(gone.0 == 7);
            if gone.0 == 7 {
                table.push((7, 10));
                continue;
            }
        }
        table.push((key + 1_000, 1));
    }
    assert!(freed > 5, "{freed}");
}

#[test]
fn numbers_that_make_no_sense_are_refused_by_name_and_value() {
    let rate = |requests, per| RateLimitLayer::http(requests, per);
    for (builder, field, value) in [
        (rate(0, SECOND), "rate.requests", "0"),
        (rate(1, Duration::ZERO), "rate.per", "0ns"),
        (rate(1, Duration::from_secs(86_401)), "rate.per", "86401s"),
        (rate(u32::MAX, Duration::from_nanos(5)), "rate.per", "5ns"),
        (rate(1, SECOND).burst(0), "rate.burst", "0"),
        (rate(1, SECOND).burst(u32::MAX), "rate.burst", "4294967295"),
        (rate(1, SECOND).keys(0), "rate.keys", "0"),
        (rate(1, SECOND).keys(1 << 25), "rate.keys", "33554432"),
    ] {
        let error = builder.build().unwrap_err();
        assert_eq!((error.field(), error.value()), (field, value));
    }
}
