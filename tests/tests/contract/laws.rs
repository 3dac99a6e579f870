//! The laws. Each takes a [`Case`] and says how it is broken, if it is.

use std::error::Error;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use http::Request;
use tokio::runtime::Handle;

use super::probe::{Injected, PLACES, Place, Probe, Readiness, Step};
use super::subject::{Bed, Body, Driven, Subject, eventually, is_real_time, pass, settle};

/// How a law is broken.
pub(crate) type Verdict = Result<(), String>;

macro_rules! ensure {
    ($holds:expr, $($says:tt)+) => {
        if !$holds {
            return Err(format!($($says)+));
        }
    };
}

/// Polls that one second of waiting may cost: timers that look again are allowed, looking all the time is not.
const MOST_POLLS_PER_SECOND: usize = 64;
/// How long another thread may take for what takes microseconds when no lock is in its way.
const LOCKED: Duration = Duration::from_secs(3);
/// How many calls are made at once where places are scarce.
const CROWD: usize = 8;
const MS: Duration = Duration::from_millis(1);

/// What becomes of an error of the service inside.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Errors {
    /// It is the error, or a source of it.
    Kept,
    /// It becomes a local answer of this status.
    Answered(u16),
    /// It cannot be passed on, but what has failed is told by the type.
    Told(fn(&(dyn Error + 'static)) -> bool),
}

pub(crate) type Async<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// What the state of a layer is asked for.
pub(crate) struct Shared<'a> {
    /// Two services, made by applying the layer twice.
    pub(crate) a: Subject,
    pub(crate) b: Subject,
    /// The bed of the first one.
    pub(crate) bed: &'a Bed,
    pub(crate) probe: &'a Probe,
    pub(crate) request: fn() -> Request<Body>,
}

type Shows = for<'a> fn(Shared<'a>) -> Async<'a, Result<bool, String>>;

/// One layer, and what the laws have to know of it.
pub(crate) struct Case {
    pub(crate) build: Box<dyn Fn(&Probe) -> Bed>,
    pub(crate) request: fn() -> Request<Body>,
    /// What the probe brings to one request so that the layer calls it as often as it ever does.
    pub(crate) steps: &'static [Step],
    /// How many calls one request may have under way at once.
    pub(crate) places: usize,
    pub(crate) errors: Errors,
    /// Brings a new bed to where its permits are scarce.
    pub(crate) arrange: Option<for<'a> fn(&'a Bed, &'a Probe) -> Async<'a, ()>>,
    /// How it is built where its state shall be used up soon.
    pub(crate) scarce: Option<fn(&Probe) -> Bed>,
    /// Whether what went through the first service shows in the second.
    pub(crate) shared: Option<Shows>,
}

impl Case {
    pub(crate) fn new(build: impl Fn(&Probe) -> Bed + 'static) -> Self {
        Self {
            build: Box::new(build),
            request: get,
            steps: &[Step::Answer(200)],
            places: 1,
            errors: Errors::Kept,
            arrange: None,
            scarce: None,
            shared: None,
        }
    }

    fn bed(&self) -> (Probe, Bed) {
        let probe = Probe::new();
        let bed = (self.build)(&probe);
        (probe, bed)
    }
}

pub(crate) fn get() -> Request<Body> {
    Request::get("http://service/")
        .header("host", "service")
        .body(Body::default())
        .unwrap()
}

/// No instance is called that has not said that it is ready, for any attempt.
pub(crate) async fn readiness_is_driven(case: &Case) -> Verdict {
    let (probe, bed) = case.bed();
    let mut same = bed.apply();
    for turn in 0..6 {
        probe.readiness(Readiness::SecondTime);
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
    probe.readiness(Readiness::SecondTime);
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

    // More at once than some layers let in, dropped while some wait: first every other one, then the rest.
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
    let mut turn = 0;
    crowd.retain(|_| {
        turn += 1;
        turn % 2 == 0
    });
    pass(between).await;
    for call in &mut crowd {
        let _ = call.turn();
    }
    drop(crowd);
    given_back("of a crowd").await?;

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

/// Layer, service and future can be sent and shared, which the compiler has checked; four threads do so.
pub(crate) async fn can_be_sent_and_shared(case: &Case) -> Verdict {
    const EACH: usize = 10;
    const MOST_TURNS: usize = 50_000;
    let (probe, bed) = case.bed();
    let request = case.request;
    let subject = bed.apply();
    let threads = (0..4).map(|_| {
        let (subject, runtime) = (subject.clone(), Handle::current());
        tokio::task::spawn_blocking(move || {
            let mut ended = 0;
            for _ in 0..EACH {
                let called = served(subject.clone(), request());
                ended += usize::from(runtime.block_on(called).is_some());
            }
            ended
        })
    });
    let mut all = Driven::new(futures_util::future::join_all(threads));
    let mut ended = None;
    for _ in 0..MOST_TURNS {
        if ended.is_none() {
            // They wait for time to pass here, and for the processor.
            ended = all.during(MS).await;
            thread::sleep(MS / 10);
        }
    }
    let ended = ended.ok_or("the threads did not end")?;
    let ended: usize = ended.into_iter().map(|thread| thread.unwrap_or(0)).sum();
    ensure!(ended == 4 * EACH, "{ended} of {} calls ended", 4 * EACH);
    ensure!(
        eventually(|| probe.live() == 0).await,
        "{} calls are left",
        probe.live()
    );
    Ok(())
}

async fn served(mut subject: Subject, request: Request<Body>) -> Option<()> {
    poll_fn(|cx| subject.poll_ready(cx)).await.ok()?;
    subject.call(request).await.ok().map(drop)
}

/// A call of a service that answers at once, without a runtime that drives it.
fn at_once(mut subject: Subject, request: Request<Body>) -> Option<()> {
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..10 {
        if let Poll::Ready(ready) = subject.poll_ready(&mut cx) {
            ready.ok()?;
            let mut call = subject.call(request);
            return (0..10).find_map(|_| match call.as_mut().poll(&mut cx) {
                Poll::Ready(outcome) => outcome.is_ok().then_some(()),
                Poll::Pending => None,
            });
        }
    }
    None
}

/// While the service inside is asked, called or waited for, others can clone, ask, call and drop.
pub(crate) async fn no_lock_is_held(case: &Case) -> Verdict {
    let (probe, bed) = case.bed();
    let (tell, told) = mpsc::channel();
    for place in PLACES {
        let (subject, runtime, request) = (bed.apply(), Handle::current(), case.request);
        let tell = tell.clone();
        probe.hook(place, move || {
            let subject = subject.clone();
            let (runtime, done, ended) = (runtime.clone(), tell.clone(), mpsc::channel());
            let end = ended.0;
            thread::spawn(move || {
                let _in = runtime.enter();
                let _ = subject.debug();
                let called = at_once(subject, request());
                let _ = end.send(called);
            });
            let _ = done.send((place, ended.1.recv_timeout(LOCKED).is_ok()));
        });
        probe.plan(&[Step::Answer(200)]);
        let mut subject = bed.apply();
        let outcome = subject.exchange((case.request)()).await?;
        ensure!(outcome.is_ok(), "refused");
        ensure!(!probe.is_hooked(), "nothing came to {place:?}");
    }
    for (place, free) in told.try_iter() {
        ensure!(
            free,
            "a lock is held over the service's {}",
            match place {
                Place::PollReady => "poll_ready",
                Place::Call => "call",
                Place::Poll => "poll",
            }
        );
    }

    probe.plan(&[Step::Hold]);
    let mut calls: Vec<Option<_>> = Vec::new();
    for _ in 0..2 {
        let mut subject = bed.apply();
        let mut ready = Driven::new(poll_fn(|cx| subject.poll_ready(cx)));
        let became = ready.during(10 * MS).await;
        drop(ready);
        ensure!(
            matches!(became, Some(Ok(()))),
            "not ready while another call waits"
        );
        let mut call = Driven::new(subject.call((case.request)()));
        calls.push(
            call.until(|| probe.begun() == calls.len() + 1)
                .await
                .then_some(call),
        );
    }
    ensure!(
        calls.iter().all(Option::is_some),
        "while one call waits, another does not reach the service"
    );
    Ok(())
}

/// What went through one service of a layer shows in another; what went through that of another layer does not.
pub(crate) async fn state_is_shared(case: &Case) -> Verdict {
    let shared = case.shared.ok_or("the case does not say what is shared")?;
    let tasks = || Handle::current().metrics().num_alive_tasks();
    for same in [true, false] {
        let probe = Probe::new();
        let build = || match case.scarce {
            Some(scarce) => scarce(&probe),
            None => (case.build)(&probe),
        };
        let (bed, other) = (build(), build());
        settle().await;
        let before = tasks();
        let (a, b) = (bed.apply(), if same { bed.apply() } else { other.apply() });
        settle().await;
        ensure!(tasks() <= before, "layer() spawns");
        let shows = shared(Shared {
            a,
            b,
            bed: &bed,
            probe: &probe,
            request: case.request,
        });
        let shows = shows.await?;
        ensure!(!same || shows, "each application has a state of its own");
        ensure!(
            same || !shows,
            "the check sees a shared state where there is none"
        );
    }
    Ok(())
}
