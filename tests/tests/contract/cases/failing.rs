use std::convert::Infallible;
use std::time::Duration;

use ha_tower::chaos::{ChaosLayer, Faults};
use ha_tower::fallback::FallbackLayer;
use http::Response;

use super::both_are_counted;
use crate::laws::Case;
use crate::probe::Step;
use crate::subject::{Bed, Body};

/// The fallback is the probe again, so that its readiness counts too; when it fails as well, the first failure stays.
pub(crate) fn fallback() -> Case {
    Case {
        steps: &[Step::Fail, Step::Answer(200)],
        ..Case::new(|probe| {
            let layer = FallbackLayer::service(probe.clone());
            Bed::layer(probe, layer.build().unwrap())
        })
    }
}

pub(crate) fn fallback_answer() -> Case {
    Case::new(|probe| {
        let layer = FallbackLayer::answer(|_| async {
            Ok::<_, Infallible>(Response::new(Body::from("instead")))
        });
        Bed::layer(probe, layer.build().unwrap())
    })
}

/// Every request is late.
pub(crate) fn chaos() -> Case {
    Case {
        shared: Some(|shared| Box::pin(both_are_counted(shared))),
        ..Case::new(|probe| {
            let late = Faults::none().latency(1.0, Duration::from_millis(5));
            let layer = ChaosLayer::builder(7).faults(late).started(true);
            let layer = layer.build().unwrap();
            let handle = layer.handle();
            Bed::layer(probe, layer)
                .counter(move || usize::try_from(handle.counts().delays).unwrap())
        })
    }
}
