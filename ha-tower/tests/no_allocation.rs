//! What a request allocates on its way while all is well. The counters are the process's, so that tests take turns.
#![allow(clippy::unwrap_used)]

use std::alloc::System;
use std::convert::Infallible;
use std::future::{Future as _, Ready, ready};
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use ha_core::endpoint::{Endpoint, Weight};
use ha_core::hash::hash_key;
use ha_tower::balance::{
    Any, Balance, HashKey, Keyed, Maglev, P2c, Policy, Random, Rendezvous, RingHash, RoundRobin,
};
use ha_tower::breaker::{self, BreakerLayer, SlowCalls};
use ha_tower::fallback::FallbackLayer;
use ha_tower::hedge::{Generic, HedgeLayer};
use ha_tower::limit::{AdaptiveConfig, LimitLayer, LoadShedLayer, QueueConfig, ThrottleLayer};
use ha_tower::retry::generic::OnError;
use ha_tower::retry::{MARKER, RetryLayer};
use ha_tower::tried::Tried;
use http::{HeaderValue, Method, Request, Response};
use http_body_util::Empty;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tower::{Layer, Service};

#[global_allocator]
static GLOBAL: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[derive(Debug, Clone)]
struct Noop;

impl Service<()> for Noop {
    type Response = ();
    type Error = Infallible;
    type Future = Ready<Result<(), Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        ready(Ok(()))
    }
}

type Protocol = Keyed<Any, fn(&()) -> Option<u64>>;

fn calls(balance: &Balance<Noop, Protocol>, n: usize) {
    for _ in 0..n {
        let mut clone = balance.clone();
        let call = pin!(clone.call(()));
        assert!(
            call.poll(&mut Context::from_waker(Waker::noop()))
                .is_ready()
        );
    }
}

static TURN: Mutex<()> = Mutex::new(());

#[test]
fn picking_and_calling_allocates_nothing() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for policy in [
        Policy::from(RoundRobin),
        P2c::peak_ewma().into(),
        P2c::least_request().into(),
        Random.into(),
        RingHash::new(HashKey::from_protocol()).into(),
        Maglev::new(HashKey::from_protocol()).into(),
        Rendezvous::new(HashKey::from_protocol()).into(),
        RingHash::new(HashKey::from_protocol()).unbounded().into(),
    ] {
        for n in [1u32, 2, 10, 1_000] {
            let endpoints = (0..n).map(|i| {
                let endpoint: Endpoint = format!("http://host{i}").parse().unwrap();
                (endpoint.with_weight(Weight::new(i % 3 + 1).unwrap()), Noop)
            });
            let balance = Balance::builder(endpoints)
                .policy(policy.clone())
                .protocol(Protocol::new(Any, |()| Some(hash_key(b"user"))))
                .build()
                .unwrap();
            // Thread-locals are made by the first call.
            calls(&balance, 10);
            let region = Region::new(GLOBAL);
            calls(&balance, 10_000);
            let change = region.change();
            // The test harness' own threads may allocate a little; one allocation per call would be 10,000.
            assert!(
                change.allocations < 50,
                "{policy:?}, {n} endpoints: {change:?}"
            );
        }
    }
}

/// Answers every HTTP request at once.
#[derive(Clone)]
struct Http;

impl<B> Service<Request<B>> for Http {
    type Response = Response<Empty<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        ready(Ok(Response::new(Empty::new())))
    }
}

/// How often `call` allocates for all of these requests together. The first ones make what is made once per thread.
fn allocations<Req>(requests: Vec<Req>, mut call: impl FnMut(Req)) -> usize {
    let mut requests = requests.into_iter();
    requests.by_ref().take(10).for_each(&mut call);
    let region = Region::new(GLOBAL);
    requests.for_each(call);
    region.change().allocations
}

fn served<S: Service<Req>, Req>(service: &mut S) -> impl FnMut(Req) {
    |request| {
        let mut context = Context::from_waker(Waker::noop());
        assert!(service.poll_ready(&mut context).is_ready());
        let call = pin!(service.call(request));
        assert!(call.poll(&mut context).is_ready());
    }
}

fn requests(method: Method, fields: usize) -> Vec<Request<Empty<Bytes>>> {
    let request = |_| {
        let mut request = Request::builder()
            .method(method.clone())
            .uri("http://app/x");
        for field in 0..fields {
            request = request.header(format!("x-field-{field}"), "value");
        }
        request.body(Empty::new()).unwrap()
    };
    (0..10_010).map(request).collect()
}

#[test]
fn retrying_allocates_what_the_copy_of_a_head_does_and_nothing_where_none_is_made() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut generic = RetryLayer::generic(OnError).layer(Noop);
    let made = allocations(vec![(); 10_010], served(&mut generic));
    assert!(made < 50, "generic: {made}");

    let mut http = RetryLayer::http().layer(Http);
    let made = allocations(requests(Method::CONNECT, 4), served(&mut http));
    assert!(made < 50, "not copied: {made}");

    for fields in [0, 4] {
        let copied = allocations(requests(Method::GET, fields), |request| {
            let (mut head, _) = request.into_parts();
            head.extensions.insert(Tried::new());
            head.headers.insert(MARKER, HeaderValue::from_static("1"));
            drop(head.clone());
        });
        let made = allocations(requests(Method::GET, fields), served(&mut http));
        assert!(copied >= 10_000, "{fields} fields: {copied}");
        assert!(
            made < copied + 50,
            "{fields} fields: {made}, copies {copied}"
        );
    }
}

#[test]
fn a_closed_breaker_allocates_nothing_and_neither_does_a_fallback_that_is_not_needed() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut counting = breaker::Config::default();
    counting.slow_calls = Some(SlowCalls::over(std::time::Duration::from_secs(60)));
    for config in [breaker::Config::default(), counting] {
        let mut plain = BreakerLayer::new(config.clone(), Any).unwrap().layer(Noop);
        let made = allocations(vec![(); 10_010], served(&mut plain));
        assert!(made < 50, "{config:?}: {made}");

        let mut http = BreakerLayer::http(config.clone()).unwrap().layer(Http);
        let made = allocations(requests(Method::GET, 4), served(&mut http));
        assert!(made < 50, "http, {config:?}: {made}");
    }
    let fallback =
        FallbackLayer::answer(|_| ready(Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))));
    let mut fallback = fallback.build().unwrap().layer(Http);
    let made = allocations(requests(Method::GET, 4), served(&mut fallback));
    assert!(made < 50, "fallback: {made}");
}

#[test]
fn hedging_allocates_what_the_copy_of_a_head_does_and_nothing_where_none_is_made() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut timers = tokio::runtime::Builder::new_current_thread();
    let timers = timers.enable_time().build().unwrap();
    let _entered = timers.enter();
    let minute = std::time::Duration::from_secs(60);
    // Fifty calls are enough to know the percentile, which is then sorted out ten times a second.
    for delay in [None, Some(minute)] {
        let mut builder = HedgeLayer::of(Generic::when(|(): &()| true));
        if let Some(delay) = delay {
            builder = builder.after(delay);
        }
        let mut generic = builder.build().unwrap().layer(Noop);
        let made = allocations(vec![(); 10_010], served(&mut generic));
        assert!(made < 50, "generic, {delay:?}: {made}");
    }
    let mut http = HedgeLayer::builder()
        .after(minute)
        .build()
        .unwrap()
        .layer(Http);
    let made = allocations(requests(Method::POST, 4), served(&mut http));
    assert!(made < 50, "not hedged: {made}");

    let copied = allocations(requests(Method::GET, 4), |request| {
        let (mut head, _) = request.into_parts();
        head.extensions.insert(Tried::new());
        drop(head.clone());
    });
    let made = allocations(requests(Method::GET, 4), served(&mut http));
    assert!(copied >= 10_000, "{copied}");
    assert!(made < copied + 50, "{made}, copies {copied}");
}

#[test]
fn a_limit_that_lets_in_allocates_nothing_and_neither_does_a_typed_refusal() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for builder in [
        LimitLayer::concurrency(10),
        LimitLayer::concurrency(10).queue(QueueConfig::default()),
        LimitLayer::adaptive(AdaptiveConfig::default()).queue(QueueConfig::default()),
    ] {
        let mut generic = builder.clone().build().unwrap().layer(Noop);
        let made = allocations(vec![(); 10_010], served(&mut generic));
        assert!(made < 50, "{builder:?}: {made}");

        let mut http = builder.clone().http().build().unwrap().layer(Http);
        let made = allocations(requests(Method::GET, 4), served(&mut http));
        assert!(made < 50, "http, {builder:?}: {made}");
    }
    let mut shed = LoadShedLayer::new().layer(Noop);
    let made = allocations(vec![(); 10_010], served(&mut shed));
    assert!(made < 50, "load shed: {made}");
    let mut throttled = ThrottleLayer::http(Default::default()).unwrap().layer(Http);
    let made = allocations(requests(Method::GET, 4), served(&mut throttled));
    assert!(made < 50, "throttle: {made}");
    let mut service = LimitLayer::concurrency(1).build().unwrap().layer(Noop);
    let held = service.call(());
    let made = allocations(vec![(); 10_010], served(&mut service));
    // Counted, a refusal is given its labels.
    let most = if cfg!(feature = "metrics") {
        20_050
    } else {
        50
    };
    assert!(made < most, "refused: {made}");
    drop(held);
}
