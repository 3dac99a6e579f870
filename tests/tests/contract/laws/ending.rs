//! What a call leaves behind, however it ends.

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Poll;
use std::time::Duration;

use super::{Case, Errors, MS, Verdict, ensure};
use crate::probe::{Injected, Readiness, Step};
use crate::subject::{Driven, eventually, is_real_time, pass, settle};

/// How many calls are made at once where places are scarce.
const CROWD: usize = 8;

/// A future that is dropped, at whatever point, has given everything back.
pub(crate) async fn drop_returns_all(case: &Case) -> Verdict {
    let (probe, bed) = case.bed();
    if let Some(arrange) = case.arrange {
        arrange(&bed, &probe).await;
    }
    let given_back = async |when: &str| {
        settle().await;
        eventually(|| probe.live() + probe.places() + bed.given_out() == 0).await;
        let (live, places, permits) = (probe.live(), probe.places(), bed.given_out());
        ensure!(live == 0, "{live} calls go on after a drop {when}");
        ensure!(places == 0, "{places} places are kept after a drop {when}");
        ensure!(
            permits == 0,
            "{permits} permits are kept after a drop {when}"
        );
        Ok(())
    };
    // The waits between attempts take some of these; sockets have none.
    let between = if is_real_time() { MS } else { 13 * MS };
    let mut held = 0;
    let mut last = case.steps.to_vec();
    last.pop();
    last.push(Step::Hold);
    probe.readiness(Readiness::Places(case.places));
    for steps in [&[Step::Hold][..], &last] {
        for turns in 0..24 {
            let mut subject = bed.apply();
            probe.plan(steps);
            let ready = subject.ready().await?;
            if turns % 2 == 1 {
                drop(subject.clone());
            }
            if ready.is_err() {
                return Err(format!("not ready after {turns} drops"));
            }
            if turns == 0 {
                drop(subject);
                given_back("of a service that was ready").await?;
                continue;
            }
            let before = probe.calls();
            let mut call = Driven::new(subject.call((case.request)()));
            for _ in 1..turns {
                if call.turn().is_ready() {
                    return Err(format!("a call was refused after {turns} drops"));
                }
                pass(between).await;
            }
            held = held.max(bed.given_out());
            ensure!(
                turns < 4 || probe.calls() > before || is_real_time(),
                "the service was not reached after {turns} drops"
            );
            drop(call);
            drop(subject);
            given_back(&format!("after {} polls", turns - 1)).await?;
        }
    }

    // More at once than some layers let in: every other one is dropped, some of them while they wait, and the rest ends.
    probe.readiness(Readiness::Always);
    probe.plan(&[Step::Hold]);
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        let mut subject = bed.apply();
        if matches!(subject.ready().await?, Ok(())) {
            let mut call = Driven::new(subject.call((case.request)()));
            if call.turn().is_pending() {
                crowd.push(call);
            }
        }
    }
    pass(between).await;
    // The last ones first: they wait for those before them.
    for at in (0..crowd.len()).rev().step_by(2) {
        drop(crowd.remove(at));
        ensure!(
            eventually(|| bed.given_out() <= crowd.len()).await,
            "{} calls of a crowd have {} permits",
            crowd.len(),
            bed.given_out()
        );
    }
    probe.release();
    for call in crowd {
        drop(call.finish("one of a crowd").await?);
    }
    given_back("of a crowd").await?;
    ensure!(
        probe.unready_calls() == 0,
        "who waited called an instance that was not ready"
    );

    probe.readiness(Readiness::Places(case.places));
    ensure!(
        held > 0 || !bed.counts_permits(),
        "the permits that are counted are none"
    );

    probe.plan(&[Step::Answer(200)]);
    let answer = bed.apply().exchange((case.request)()).await?;
    ensure!(
        answer.as_ref().is_ok_and(|answer| answer.status == 200),
        "the next call was refused"
    );
    ensure!(probe.places() == 0, "a place is kept after the answer");
    drop(answer);
    given_back("of the answer").await?;
    Ok(())
}

/// A poll after the end panics or gives something; it waits for nothing, calls nothing and gives nothing back twice.
pub(crate) async fn poll_after_end_is_defined(case: &Case) -> Verdict {
    for repeats in [false, true] {
        for step in [Step::Answer(200), Step::Fail] {
            let (probe, bed) = case.bed();
            probe.repeat_outcomes(repeats);
            probe.plan(&[step]);
            let mut subject = bed.apply();
            ensure!(subject.ready().await?.is_ok(), "never ready");
            let mut call = Driven::new(subject.call((case.request)()));
            let outcome = call.during(Duration::from_secs(60)).await;
            ensure!(outcome.is_some(), "did not end");
            drop(outcome);
            eventually(|| probe.live() + bed.given_out() == 0).await;
            let before = (probe.calls(), probe.live(), bed.given_out());
            let again = catch_unwind(AssertUnwindSafe(|| call.poll_once()));
            ensure!(
                !matches!(again, Ok(Poll::Pending)),
                "pending for ever when polled after {step:?}"
            );
            drop((again, call));
            settle().await;
            let after = (probe.calls(), probe.live(), bed.given_out());
            ensure!(
                before == after,
                "calls, live and permits were {before:?} and became {after:?}"
            );
        }
    }
    Ok(())
}

/// What the service inside says is the error or a source of it, or a local answer, as documented.
pub(crate) async fn error_is_kept(case: &Case) -> Verdict {
    for readiness in [Readiness::Always, Readiness::Fails] {
        let (probe, bed) = case.bed();
        probe.readiness(readiness);
        probe.plan(&[Step::Fail]);
        let outcome = bed.apply().exchange((case.request)()).await?;
        match (case.errors, outcome) {
            (Errors::Kept, Err(error)) => {
                let Some(inner) = injected(&*error) else {
                    return Err(format!("the service's error is lost: {error:?}"));
                };
                let outer = error.downcast_ref::<Injected>().is_none();
                ensure!(
                    !outer || !error.to_string().contains(&inner.to_string()),
                    "the text of the source is in its own: {error}"
                );
            }
            (Errors::Answered(status), Ok(answer)) => {
                ensure!(
                    answer.status == status && answer.is_local,
                    "answered {}, local: {}",
                    answer.status,
                    answer.is_local
                );
            }
            (Errors::Told(tells), Err(error)) => {
                ensure!(tells(&*error), "does not tell what failed: {error:?}");
            }
            (Errors::Answered(_), Err(error)) => return Err(format!("passed on: {error:?}")),
            (_, Ok(answer)) => return Err(format!("became an answer of {}", answer.status)),
        }
    }
    Ok(())
}

/// The probe's error, among the sources of `error`.
fn injected(error: &(dyn Error + 'static)) -> Option<Injected> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(injected) = error.downcast_ref() {
            return Some(*injected);
        }
        cause = error.source();
    }
    None
}
