//! What waiting costs.

use std::future::poll_fn;
use std::time::Duration;

use super::{Case, Verdict, ensure};
use crate::probe::{Readiness, Step};
use crate::subject::Driven;

/// Polls that one second of waiting may cost: timers that look again are allowed, looking all the time is not.
const MOST_POLLS_PER_SECOND: usize = 64;

/// While there is nothing to do nothing is polled.
pub(crate) async fn never_busy_polls(case: &Case) -> Verdict {
    let (probe, bed) = case.bed();
    let second = Duration::from_secs(1);
    probe.readiness(Readiness::Never);
    let mut subject = bed.apply();
    let mut ready = Driven::new(poll_fn(|cx| subject.poll_ready(cx)));
    let became = ready.during(second).await;
    ensure!(
        ready.polls() <= MOST_POLLS_PER_SECOND,
        "readiness was polled {} times in a second",
        ready.polls()
    );
    drop(ready);
    if matches!(became, Some(Ok(()))) {
        let mut call = Driven::new(subject.call((case.request)()));
        let _ = call.during(second).await;
        ensure!(
            call.polls() <= MOST_POLLS_PER_SECOND,
            "polled {} times in a second of waiting for readiness",
            call.polls()
        );
    }
    ensure!(
        probe.ready_polls() <= 2 * MOST_POLLS_PER_SECOND,
        "the service was asked {} times whether it is ready",
        probe.ready_polls()
    );

    probe.readiness(Readiness::Always);
    probe.plan(&[Step::Hold]);
    let mut subject = bed.apply();
    ensure!(subject.ready().await?.is_ok(), "never ready");
    let mut call = Driven::new(subject.call((case.request)()));
    ensure!(
        call.during(second).await.is_none(),
        "did not wait for the service"
    );
    ensure!(
        call.polls() <= MOST_POLLS_PER_SECOND && probe.polls() <= MOST_POLLS_PER_SECOND,
        "polled {} times, and the service {} times, in a second of waiting",
        call.polls(),
        probe.polls()
    );
    probe.release();
    call.finish("the call").await?.map_err(|e| e.to_string())?;
    Ok(())
}
