use std::sync::{Arc, Mutex};

use tokio::time::Instant;
use tower::{Layer, ServiceExt};

use super::*;
use crate::timeout::Deadline;

fn queued(max: u32, config: QueueConfig) -> LimitLayer<Http> {
    LimitLayer::concurrency(max)
        .queue(config)
        .http()
        .build()
        .unwrap()
}

fn small() -> QueueConfig {
    QueueConfig {
        capacity: 2,
        ..QueueConfig::default()
    }
}

/// Lets every task run that can.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_gets_the_place_that_becomes_free() {
    let layer = queued(1, QueueConfig::default());
    let service = layer.layer(slow());
    let held = service.clone().oneshot(request()).await.unwrap();
    let waiting = tokio::spawn(service.clone().oneshot(request()));
    settle().await;
    assert_eq!(layer.handle().snapshot().waiting, 1);
    drop(held);
    assert_eq!(waiting.await.unwrap().unwrap().status(), 200);
    let after = layer.handle().snapshot();
    assert_eq!((after.in_flight, after.waiting), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn who_is_more_important_goes_first() {
    let layer = queued(1, QueueConfig::default());
    let service = layer.layer(slow());
    let held = service.clone().oneshot(request()).await.unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut calls = Vec::new();
    for priority in [Priority::Sheddable, Priority::Default, Priority::Critical] {
        let (service, order) = (service.clone(), Arc::clone(&order));
        calls.push(tokio::spawn(async move {
            let response = service.oneshot(with(priority)).await.unwrap();
            assert_eq!(response.status(), 200);
            order.lock().unwrap().push(priority);
        }));
        settle().await;
    }
    drop(held);
    for call in calls {
        call.await.unwrap();
    }
    assert_eq!(*order.lock().unwrap(), Priority::ALL);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_at_once_except_for_somebody_more_important() {
    let layer = queued(1, small());
    let service = layer.layer(slow());
    let held = service.clone().oneshot(request()).await.unwrap();
    let waiting: Vec<_> = (0..2)
        .map(|_| tokio::spawn(service.clone().oneshot(with(Priority::Sheddable))))
        .collect();
    settle().await;
    let started = Instant::now();
    let refused = service
        .clone()
        .oneshot(with(Priority::Sheddable))
        .await
        .unwrap();
    assert!(is_refusal(&refused, 503) && started.elapsed().is_zero());
    let critical = tokio::spawn(service.clone().oneshot(with(Priority::Critical)));
    settle().await;
    assert!(waiting[1].is_finished() && !waiting[0].is_finished());
    drop(held);
    assert_eq!(critical.await.unwrap().unwrap().status(), 200);
    let statuses = [waiting
        .into_iter()
        .map(|call| async { call.await.unwrap().unwrap().status().as_u16() })];
    let [statuses] = statuses.map(futures_util::future::join_all);
    assert_eq!(statuses.await, [200, 503]);
}

#[tokio::test(start_paused = true)]
async fn the_wait_ends_at_the_interval_or_the_deadline_whichever_is_first() {
    let layer = queued(1, QueueConfig::default());
    let service = layer.layer(slow());
    let held = service.clone().oneshot(request()).await.unwrap();
    for (deadline, wait) in [
        (None, 100),
        (Some(30), 30),
        (Some(5_000), 100),
        (Some(0), 0),
    ] {
        let started = Instant::now();
        let request = match deadline {
            Some(millis) => with(Deadline(started + MS * millis)),
            None => request(),
        };
        let refused = service.clone().oneshot(request).await.unwrap();
        assert!(is_refusal(&refused, 503), "{refused:?}");
        assert_eq!(started.elapsed().as_millis(), wait, "{deadline:?}");
        assert_eq!(layer.handle().snapshot().waiting, 0);
    }
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_leaves_the_queue() {
    let layer = queued(1, small());
    let service = layer.layer(slow());
    let held = service.clone().oneshot(request()).await.unwrap();
    for _ in 0..100 {
        let call = service.clone().oneshot(request());
        assert!(!dropped_after(1, call).await);
        assert_eq!(layer.handle().snapshot().waiting, 0);
    }
    drop(held);
    assert_eq!(service.oneshot(request()).await.unwrap().status(), 200);
}

/// The place was given while its caller went away: it has to go on to the next.
#[tokio::test(start_paused = true)]
async fn a_place_that_was_given_to_one_that_has_gone_goes_to_the_next() {
    let layer = queued(1, small());
    let service = layer.layer(slow());
    let held = service.clone().oneshot(request()).await.unwrap();
    let mut leaving = Box::pin(service.clone().oneshot(request()));
    assert!(futures_util::poll!(&mut leaving).is_pending());
    let next = tokio::spawn(service.clone().oneshot(request()));
    settle().await;
    drop(held);
    // It was given the place, and does not know.
    assert_eq!(layer.handle().snapshot().waiting, 1);
    drop(leaving);
    assert_eq!(next.await.unwrap().unwrap().status(), 200);
    assert_eq!(layer.handle().snapshot().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_at_any_await_point_leaves_nothing_behind() {
    let mut ended = false;
    for polls in 0..20 {
        let layer = queued(1, small());
        let service = layer.layer(slow());
        let held = service.clone().oneshot(request()).await.unwrap();
        let release = tokio::spawn(async move {
            tokio::time::sleep(MS).await;
            drop(held);
        });
        ended |= dropped_after(polls, service.clone().oneshot(request())).await;
        release.await.unwrap();
        let after = layer.handle().snapshot();
        assert_eq!((after.in_flight, after.waiting), (0, 0), "{polls} polls");
        assert_eq!(service.oneshot(request()).await.unwrap().status(), 200);
    }
    assert!(ended, "one of them was long enough");
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_is_raised_lets_those_in_who_wait() {
    let layer = queued(1, small());
    let service = layer.layer(slow());
    let held = service.clone().oneshot(request()).await.unwrap();
    let waiting = tokio::spawn(service.clone().oneshot(request()));
    settle().await;
    layer.handle().set_limit(2).unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().status(), 200);
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_sent_through_the_instance_that_was_ready() {
    let (mock, mut inner) = tower_test::mock::pair::<(), ()>();
    let layer = LimitLayer::concurrency(1).queue(small()).build().unwrap();
    let service = layer.layer(mock);
    inner.allow(2);
    let first = tokio::spawn(service.clone().oneshot(()));
    let ((), answer_first) = inner.next_request().await.unwrap();
    // A mock panics when an instance is called that was not polled ready.
    let second = tokio::spawn(service.clone().oneshot(()));
    settle().await;
    answer_first.send_response(());
    first.await.unwrap().unwrap();
    let ((), answer_second) = inner.next_request().await.unwrap();
    answer_second.send_response(());
    second.await.unwrap().unwrap();
}
