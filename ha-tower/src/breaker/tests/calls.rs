use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

use proptest::prelude::*;

use super::*;

#[tokio::test(start_paused = true)]
async fn five_failures_open_it_for_every_clone_and_a_good_probe_pair_closes_it() {
    let mut bed = Bed::new(Config::default());
    bed.fail(5).await;
    assert!(bed.refused().await.retry_in().is_some());
    tokio::time::advance(10 * SEC).await;
    for state in [State::HalfOpen, State::Closed] {
        let call = tokio::spawn(bed.service.clone().oneshot(()));
        let ((), respond) = bed.inner.next_request().await.unwrap();
        assert_eq!(bed.refused().await.retry_in(), None, "one at a time");
        respond.send_response(());
        call.await.unwrap().unwrap();
        assert_eq!(bed.state(), state);
    }
    assert_eq!(bed.handle.refused(), 3);
}

#[tokio::test(start_paused = true)]
async fn all_services_of_a_layer_share_one_breaker() {
    let (mock, mut inner) = mock::pair::<(), ()>();
    let layer = BreakerLayer::new(Config::default(), Any).unwrap();
    let (one, other) = (layer.layer(mock.clone()), layer.clone().layer(mock));
    for _ in 0..5 {
        let call = tokio::spawn(one.clone().oneshot(()));
        inner.next_request().await.unwrap().1.send_error("broken");
        call.await.unwrap().unwrap_err();
    }
    assert!(other.oneshot(()).await.unwrap_err().is_open());
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_before_its_end_counts_as_nothing_and_a_dropped_probe_makes_room() {
    let mut bed = Bed::new(Config::default());
    for polls in 0..2 {
        for _ in 0..10 {
            let mut service = bed.service.clone();
            let mut call = Box::pin(service.ready().await.unwrap().call(()));
            for _ in 0..polls {
                assert!(futures_util::poll!(call.as_mut()).is_pending());
            }
            drop(call);
        }
    }
    let snapshot = bed.handle.snapshot();
    assert_eq!((snapshot.calls, snapshot.failures), (0, 0));
    while futures_util::poll!(pin!(bed.inner.next_request())).is_ready() {}

    bed.fail(5).await;
    tokio::time::advance(10 * SEC).await;
    for polls in 0..2 {
        let mut service = bed.service.clone();
        let mut probe = Box::pin(service.ready().await.unwrap().call(()));
        for _ in 0..polls {
            assert!(futures_util::poll!(probe.as_mut()).is_pending());
        }
        bed.refused().await;
        drop(probe);
        assert_eq!(bed.state(), State::HalfOpen);
        while futures_util::poll!(pin!(bed.inner.next_request())).is_ready() {}
    }
    bed.call(Duration::ZERO, true).await.unwrap();
    bed.call(Duration::ZERO, true).await.unwrap();
    assert_eq!(bed.state(), State::Closed);
}

fn slow() -> Config {
    let mut config = Config::default();
    config.minimum_calls = 10;
    config.window = 60 * SEC;
    config.slow_calls = Some(SlowCalls::over(SEC));
    config
}

#[tokio::test(start_paused = true)]
async fn slow_successes_open_it_where_slow_calls_count_and_nowhere_else() {
    for (config, state) in [(slow(), State::Open), (Config::default(), State::Closed)] {
        let mut bed = Bed::new(config);
        for _ in 0..10 {
            bed.call(SEC + Duration::from_millis(1), true)
                .await
                .unwrap();
        }
        assert_eq!(bed.state(), state);
        if state == State::Open {
            assert_eq!(bed.handle.snapshot().tripped_by, Some(Trip::SlowCallRatio));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn callers_that_leave_a_frozen_service_open_it_where_slow_calls_count() {
    let bed = Bed::new(slow());
    let give_up = async |after: Duration| {
        for _ in 0..10 {
            let call = bed.service.clone().oneshot(());
            tokio::time::timeout(after, call).await.unwrap_err();
        }
    };
    give_up(SEC / 2).await;
    assert_eq!(bed.handle.snapshot().slow_calls, 0, "too early to tell");
    give_up(2 * SEC).await;
    assert_eq!(bed.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn a_slow_probe_opens_it_again() {
    let mut bed = Bed::new(slow());
    bed.fail(5).await;
    tokio::time::advance(10 * SEC).await;
    bed.call(3 * SEC, true).await.unwrap();
    assert_eq!(bed.state(), State::Open);
    assert_eq!(bed.handle.snapshot().trips, 2);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_panics_in_the_call_leaves_the_probe_free() {
    let layer = BreakerLayer::new(Config::default(), Any).unwrap();
    let breaker = &layer.handle();
    let service = layer.layer(tower::service_fn(|panics: bool| {
        assert!(!panics, "as asked");
        std::future::ready(Err::<(), _>(std::io::Error::other("broken")))
    }));
    for _ in 0..5 {
        service.clone().oneshot(false).await.unwrap_err();
    }
    tokio::time::advance(10 * SEC).await;
    let probe = tokio::spawn(service.clone().oneshot(true));
    assert!(probe.await.unwrap_err().is_panic());
    assert_eq!(breaker.snapshot().state, State::HalfOpen);
    assert!(!service.oneshot(false).await.unwrap_err().is_open());
}

#[tokio::test(start_paused = true)]
async fn after_ten_thousand_successes_it_still_trips_within_the_window() {
    let mut config = Config::default();
    config.consecutive_failures = u32::MAX;
    let layer = BreakerLayer::new(config, Any).unwrap();
    let mut service = layer.layer(tower::service_fn(|good: bool| {
        std::future::ready(
            if good { Ok(()) } else { Err("broken".into()) } as Result<(), tower::BoxError>
        )
    }));
    for _ in 0..10_000 {
        service.ready().await.unwrap().call(true).await.unwrap();
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    // A thousand calls a second, all of which fail.
    let mut failures = 0;
    while layer.handle().snapshot().state == State::Closed {
        service
            .ready()
            .await
            .unwrap()
            .call(false)
            .await
            .unwrap_err();
        tokio::time::advance(Duration::from_millis(1)).await;
        failures += 1;
    }
    assert!(
        failures < 6_000,
        "{failures} in a window that had 10,000 calls"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is called, dropped and waited for: no permit stays behind.
    #[test]
    fn after_everything_has_ended_it_can_always_close(steps in prop::collection::vec((0u8..5, 0u64..8_000), 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut bed = Bed::new(Config::default());
            let mut out = Vec::new();
            let mut context = Context::from_waker(Waker::noop());
            for (step, millis) in steps {
                match step {
                    0 | 1 => {
                        let mut service = bed.service.clone();
                        if service.poll_ready(&mut context).is_ready() {
                            let mut call = Box::pin(service.call(()));
                            if call.as_mut().poll(&mut context).is_pending() {
                                out.push(call);
                            }
                        }
                    }
                    2 => drop(out.pop()),
                    3 => tokio::time::advance(Duration::from_millis(millis)).await,
                    _ => {
                        if let std::task::Poll::Ready(Some(((), respond))) = bed.inner.poll_request() {
                            respond.send_error("broken");
                            out.retain_mut(|call| call.as_mut().poll(&mut context).is_pending());
                        }
                    }
                }
            }
            out.clear();
            while let std::task::Poll::Ready(Some(_)) = bed.inner.poll_request() {}
            tokio::time::advance(60 * SEC).await;
            for _ in 0..2 {
                bed.call(Duration::ZERO, true).await.unwrap();
            }
            assert_eq!(bed.state(), State::Closed);
        });
    }
}
