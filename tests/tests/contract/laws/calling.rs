//! Which instance of the service inside is called, and when.

use std::future::poll_fn;

use super::{Case, MS, Verdict, ensure};
use crate::probe::{Readiness, Step};
use crate::subject::{Driven, eventually};

/// No instance is called that has not said that it is ready, for any attempt.
pub(crate) async fn readiness_is_driven(case: &Case) -> Verdict {
    let (probe, bed) = case.bed();
    let mut same = bed.apply();
    for turn in 0..6 {
        probe.readiness(case.readiness);
        probe.plan(case.steps);
        let before = probe.calls();
        let _ = if turn % 2 == 0 {
            same.exchange((case.request)()).await?
        } else {
            bed.apply().clone().exchange((case.request)()).await?
        };
        let calls = probe.calls() - before;
        ensure!(
            calls == case.steps.len(),
            "{calls} calls for one request, not {}",
            case.steps.len()
        );
    }
    ensure!(
        probe.unready_calls() == 0,
        "{} of {} calls went to an instance that was not ready",
        probe.unready_calls(),
        probe.calls()
    );

    let before = probe.calls();
    probe.readiness(Readiness::Never);
    let mut subject = bed.apply();
    let mut ready = Driven::new(poll_fn(|cx| subject.poll_ready(cx)));
    let became = ready.during(50 * MS).await;
    drop(ready);
    if matches!(became, Some(Ok(()))) {
        let call = subject.call((case.request)());
        drop(Driven::new(call).during(50 * MS).await);
    }
    ensure!(
        probe.calls() == before,
        "called although the service never became ready"
    );
    Ok(())
}

/// The instance that has become ready is the one that is called: readiness may hold a place.
pub(crate) async fn readied_is_called(case: &Case) -> Verdict {
    let (probe, bed) = case.bed();
    probe.readiness(Readiness::Places(case.places));
    let mut same = bed.apply();
    for turn in 0..6 {
        probe.plan(case.steps);
        let before = probe.calls();
        let outcome = if turn % 2 == 0 {
            same.exchange((case.request)()).await
        } else {
            bed.apply().clone().exchange((case.request)()).await
        };
        if let Err(late) = outcome {
            return Err(format!("{late}: an instance was made ready and not called"));
        }
        let calls = probe.calls() - before;
        ensure!(calls == case.steps.len(), "{calls} calls for one request");
        ensure!(
            probe.places() == 0,
            "an instance was made ready and not called"
        );
    }
    ensure!(probe.unready_calls() == 0, "an unready instance was called");
    Ok(())
}

/// Clones become ready by themselves, outlive each other, and leave nothing behind.
pub(crate) async fn clones_are_safe(case: &Case) -> Verdict {
    let (probe, bed) = case.bed();
    let baseline = probe.others();
    probe.readiness(case.readiness);
    probe.plan(&[Step::Hold]);
    let mut first = bed.apply();
    let ready = first.ready().await?;
    ensure!(ready.is_ok(), "never ready");
    let mut second = first.clone();
    ensure!(second.ready().await?.is_ok(), "the clone was never ready");
    // axum drops the service as soon as it has the future.
    let mut of_second = Driven::new(second.call((case.request)()));
    drop(second);
    ensure!(
        of_second.until(|| probe.begun() == 1).await,
        "the call of a dropped service does not reach the service inside"
    );
    let mut of_first = Driven::new(first.call((case.request)()));
    drop(first);
    ensure!(
        of_first.until(|| probe.begun() == 2).await,
        "{} of 2 calls reached the service",
        probe.begun()
    );
    drop(of_first);
    ensure!(
        eventually(|| probe.live() == 1).await,
        "dropping one call left {} of 1 other",
        probe.live()
    );
    probe.release();
    let outcome = of_second.finish("the call of a dropped service");
    ensure!(outcome.await?.is_ok(), "the call of a clone failed");
    ensure!(
        probe.unready_calls() == 0,
        "a clone took over that another instance was ready"
    );
    drop(bed);
    ensure!(
        eventually(|| probe.others() < baseline.max(1)).await,
        "{} instances are still there when all services are gone",
        probe.others()
    );
    Ok(())
}
