use tower::{Layer, ServiceExt};

use super::*;
use crate::recorded::Recorded;

#[test]
fn refusals_are_counted_by_reason_and_priority_and_a_limit_that_changed_is_told() {
    let recorded = Recorded::default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    ::metrics::with_local_recorder(&recorded, || {
        runtime.block_on(async {
            let layer = LimitLayer::concurrency(1)
                .name("shop")
                .http()
                .build()
                .unwrap();
            let service = layer.layer(slow());
            let held = service.clone().oneshot(request()).await.unwrap();
            for priority in [Priority::Sheddable, Priority::Critical, Priority::Critical] {
                drop(service.clone().oneshot(with(priority)).await.unwrap());
            }
            drop(held);

            let config = AdaptiveConfig {
                algorithm: Aimd::default().into(),
                samples: 1,
                window: MS,
                ..AdaptiveConfig::default()
            };
            let layer = LimitLayer::adaptive(config)
                .name("app")
                .http()
                .build()
                .unwrap();
            let overloaded = app(|| async {
                tokio::time::sleep(10 * MS).await;
                Ok(answer(503))
            });
            drop(layer.layer(overloaded).oneshot(request()).await.unwrap());
        });
    });
    let shed =
        |priority| format!("ha_limit_shed_total{{limit=shop,priority={priority},reason=full}}");
    assert_eq!(
        recorded.counters(),
        [(shed("critical"), 2), (shed("sheddable"), 1)]
    );
    assert_eq!(recorded.gauge("ha_limit_limit{limit=app}"), Some(18.0));
    assert_eq!(recorded.gauge("ha_limit_in_flight{limit=app}"), Some(1.0));
}
