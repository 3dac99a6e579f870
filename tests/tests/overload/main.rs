//! A service on a socket that is asked for four times what it can do, with and without a limit.
#![allow(clippy::unwrap_used)]

mod service;

use std::time::Duration;

use ha_tower::limit::{AdaptiveConfig, LimitLayer, QueueConfig};
use http::HeaderName;
use service::{PRIORITY, Service, Size, Tally, drive};

const SIZE: Size = Size {
    workers: 8,
    work: Duration::from_millis(40),
    patience: Duration::from_millis(400),
};
const WARM_UP: Duration = Duration::from_secs(3);
const MEASURE: Duration = Duration::from_secs(4);

fn good(tallies: &[Tally]) -> u64 {
    tallies.iter().map(|tally| tally.good).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adaptive_limit_keeps_a_service_alive_that_collapses_without_one() {
    let service = Service::start(SIZE, |app| app).await;
    let collapsed = drive(&service, SIZE, 4.0, WARM_UP, MEASURE).await;
    let wasted_without = service.wasted();
    drop(service);

    let layer = LimitLayer::adaptive(AdaptiveConfig::default())
        .queue(QueueConfig::default())
        .http()
        .trust_priority_header(HeaderName::from_static(PRIORITY))
        .build()
        .unwrap();
    let handle = layer.handle();
    let service = Service::start(SIZE, |app| app.layer(layer)).await;
    let kept = drive(&service, SIZE, 4.0, WARM_UP, MEASURE).await;

    let (with, without) = (good(&kept), good(&collapsed));
    let shown = format!(
        "{with} {without} {kept:?} {collapsed:?} {:?}",
        handle.snapshot()
    );
    // The negative control: the same load without it is of use to nearly nobody, although all workers work.
    assert!(without * 3 < with, "{shown}");
    assert!(wasted_without > 10 * service.wasted(), "{shown}");
    let [critical, default, sheddable] = &kept;
    // The last ones were under way when the load ended.
    assert!(critical.good * 100 >= critical.sent * 95, "{shown}");
    assert!(default.refused > default.good, "{shown}");
    assert!(sheddable.good * 10 < sheddable.sent, "{shown}");
    assert!(handle.snapshot().limit < 40, "{shown}");
}
