use std::time::Duration;

use ha_tower::limit::{
    AdaptiveConfig, Handle, LimitLayer, LoadShedLayer, QueueConfig, RateLimitLayer, ThrottleConfig,
    ThrottleLayer,
};

use super::both_are_in_flight;
use crate::laws::{Case, Shared};
use crate::probe::{Probe, Readiness, Step};
use crate::subject::Bed;

/// More than one law has under way, less than a crowd.
const PLACES: u32 = 4;

/// What a limit has given out: places, and tickets of those who wait.
fn out(handle: &Handle) -> usize {
    let snapshot = handle.snapshot();
    (snapshot.in_flight + snapshot.waiting) as usize
}

fn limiting(build: fn(&Probe) -> Bed) -> Case {
    Case {
        shared: Some(|shared| Box::pin(both_are_in_flight(shared))),
        ..Case::new(build)
    }
}

pub(crate) fn limit() -> Case {
    limiting(|probe| {
        let layer = LimitLayer::concurrency(PLACES).http().build().unwrap();
        let handle = layer.handle();
        Bed::layer(probe, layer).permits(move || out(&handle))
    })
}

pub(crate) fn limit_generic() -> Case {
    limiting(|probe| {
        let layer = LimitLayer::concurrency(PLACES).build().unwrap();
        let handle = layer.handle();
        Bed::layer(probe, layer).permits(move || out(&handle))
    })
}

pub(crate) fn limit_adaptive() -> Case {
    limiting(|probe| {
        let layer = LimitLayer::adaptive(AdaptiveConfig::default()).http();
        let layer = layer.build().unwrap();
        let handle = layer.handle();
        Bed::layer(probe, layer).permits(move || out(&handle))
    })
}

/// Half of a crowd waits.
pub(crate) fn limit_queue() -> Case {
    limiting(|probe| {
        let layer = LimitLayer::concurrency(PLACES).queue(QueueConfig::default());
        let layer = layer.http().build().unwrap();
        let handle = layer.handle();
        Bed::layer(probe, layer).permits(move || out(&handle))
    })
}

/// Requests without a key share one rate. It is used up through the first service, and the second refuses.
pub(crate) fn rate_limit() -> Case {
    fn build(probe: &Probe, requests: u32) -> Bed {
        let layer = RateLimitLayer::http(requests, Duration::from_secs(60));
        Bed::layer(probe, layer.build().unwrap())
    }
    async fn used_up(mut shared: Shared<'_>) -> Result<bool, String> {
        shared.probe.plan(&[Step::Answer(200)]);
        for _ in 0..5 {
            drop(shared.a.exchange((shared.request)()).await?);
        }
        let before = shared.probe.calls();
        drop(shared.b.exchange((shared.request)()).await?);
        Ok(before == 5 && shared.probe.calls() == before)
    }
    Case {
        scarce: Some(|probe| build(probe, 5)),
        shared: Some(|shared| Box::pin(used_up(shared))),
        ..Case::new(|probe| build(probe, 1_000_000))
    }
}

/// What the first service is refused is hardly asked for through the second: about one time in two hundred.
pub(crate) fn throttle() -> Case {
    async fn throttled(mut shared: Shared<'_>) -> Result<bool, String> {
        shared.probe.plan(&[Step::Answer(503)]);
        for _ in 0..200 {
            drop(shared.a.exchange((shared.request)()).await?);
        }
        let before = shared.probe.calls();
        shared.probe.plan(&[Step::Answer(200)]);
        for _ in 0..20 {
            drop(shared.b.exchange((shared.request)()).await?);
        }
        Ok(shared.probe.calls() < before + 10)
    }
    Case {
        shared: Some(|shared| Box::pin(throttled(shared))),
        ..Case::new(|probe| {
            let config = ThrottleConfig {
                max_reject_ratio: 1.0,
                ..ThrottleConfig::default()
            };
            Bed::layer(probe, ThrottleLayer::http(config).unwrap())
        })
    }
}

/// Refuses while the service is not ready, so that it never waits for it.
pub(crate) fn load_shed() -> Case {
    Case {
        readiness: Readiness::Always,
        ..Case::new(|probe| Bed::layer(probe, LoadShedLayer::http()))
    }
}
