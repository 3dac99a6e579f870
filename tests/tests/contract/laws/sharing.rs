//! What many services of one layer, and many threads, do to each other.

use std::future::poll_fn;
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use http::Request;
use tokio::runtime::Handle;

use super::{Case, MS, Shared, Verdict, ensure};
use crate::probe::{PLACES, Place, Probe, Step};
use crate::subject::{Body, Driven, Subject, eventually, settle};

/// How long another thread may take for what takes microseconds when no lock is in its way.
const LOCKED: Duration = Duration::from_secs(3);

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
