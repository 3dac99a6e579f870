//! Layers that are broken on purpose: each fails the law that it breaks, and a good one fails none.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::broken::{Broken, Fault, QUOTA};
use super::laws::{self, Case, Verdict};
use super::probe::{Probe, Step};
use super::rows::LAWS;
use super::subject::Bed;

fn case(fault: Fault) -> Case {
    Case {
        shared: Some(|mut shared| {
            Box::pin(async move {
                shared.probe.plan(&[Step::Answer(200)]);
                for _ in 0..QUOTA {
                    drop(shared.a.exchange((shared.request)()).await?);
                }
                let before = shared.probe.calls();
                drop(shared.b.exchange((shared.request)()).await?);
                Ok(shared.probe.calls() == before)
            })
        }),
        ..Case::new(move |probe| {
            let layer = Broken::new(fault);
            let state = Arc::clone(&layer.state);
            Bed::layer(probe, layer).permits(move || state.permits.load(Ordering::SeqCst))
        })
    }
}

async fn verdict(law: &str, case: &Case) -> Verdict {
    match law {
        "readiness_is_driven" => laws::readiness_is_driven(case).await,
        "readied_is_called" => laws::readied_is_called(case).await,
        "clones_are_safe" => laws::clones_are_safe(case).await,
        "drop_returns_all" => laws::drop_returns_all(case).await,
        "never_busy_polls" => laws::never_busy_polls(case).await,
        "error_is_kept" => laws::error_is_kept(case).await,
        "poll_after_end_is_defined" => laws::poll_after_end_is_defined(case).await,
        "can_be_sent_and_shared" => laws::can_be_sent_and_shared(case).await,
        "no_lock_is_held" => laws::no_lock_is_held(case).await,
        "state_is_shared" => laws::state_is_shared(case).await,
        _ => unreachable!("no law is called {law}"),
    }
}

/// The laws that a fault breaks.
async fn broken_by(fault: Fault) -> Vec<&'static str> {
    let case = case(fault);
    let mut broken = Vec::new();
    for law in LAWS {
        if let Err(how) = verdict(law, &case).await {
            println!("{fault:?} breaks {law}: {how}");
            broken.push(law);
        }
    }
    broken
}

macro_rules! controls {
    ($($name:ident: $fault:ident breaks [$($law:ident),*];)+) => {$(
        #[tokio::test(start_paused = true)]
        async fn $name() {
            super::subject::time_is_real(false);
            let expected: &[&str] = &[$(stringify!($law)),*];
            assert_eq!(broken_by(Fault::$fault).await, expected);
        }
    )+};
}

controls! {
    a_good_layer_breaks_no_law: None breaks [];
    skipping_readiness_is_noticed: SkipsReadiness breaks
        [readiness_is_driven, readied_is_called, clones_are_safe, drop_returns_all, no_lock_is_held];
    calling_a_fresh_clone_is_noticed: CallsAFreshClone breaks
        [readiness_is_driven, readied_is_called, clones_are_safe, drop_returns_all];
    making_one_ready_and_calling_another_is_noticed: ReadiesAnother breaks
        [readied_is_called, drop_returns_all];
    a_clone_that_claims_to_be_ready_is_noticed: ClonesReadiness breaks [clones_are_safe];
    a_call_that_outlives_its_future_is_noticed: SpawnsTheCall breaks
        [clones_are_safe, drop_returns_all];
    a_leaked_permit_is_noticed: LeaksThePermit breaks [drop_returns_all];
    busy_polling_for_readiness_is_noticed: BusyPollsReadiness breaks [never_busy_polls];
    busy_polling_the_call_is_noticed: BusyPollsTheCall breaks [never_busy_polls];
    an_error_without_its_source_is_noticed: FlattensTheError breaks [error_is_kept];
    an_error_that_repeats_its_source_is_noticed: RepeatsTheText breaks [error_is_kept];
    a_swallowed_error_is_noticed: SwallowsTheError breaks [error_is_kept];
    pending_for_ever_after_the_end_is_noticed: PendsAfterTheEnd breaks [poll_after_end_is_defined];
    a_second_call_after_the_end_is_noticed: CallsAgainAfterTheEnd breaks
        [poll_after_end_is_defined];
    a_lock_over_the_inner_call_is_noticed: LocksWhileItCalls breaks [no_lock_is_held];
    a_lock_over_the_inner_poll_is_noticed: LocksWhileItPolls breaks [no_lock_is_held];
    a_lock_over_an_await_is_noticed: LocksOverTheAwait breaks
        [clones_are_safe, no_lock_is_held];
    state_per_application_is_noticed: StatePerApplication breaks
        [drop_returns_all, state_is_shared];
    a_task_that_layer_spawns_is_noticed: SpawnsInLayer breaks [state_is_shared];
}

/// What the compiler checks for each row, for one type: a type that lacks it has the constant of the trait.
macro_rules! is {
    ($type:ty: $bound:path) => {{
        #[allow(dead_code)]
        trait Otherwise {
            const HOLDS: bool = false;
        }
        impl<T: ?Sized> Otherwise for T {}
        struct Asked<T: ?Sized>(std::marker::PhantomData<T>);
        #[allow(dead_code)]
        impl<T: ?Sized + $bound> Asked<T> {
            const HOLDS: bool = true;
        }
        Asked::<$type>::HOLDS
    }};
}

#[test]
fn a_service_that_is_not_send_or_not_sync_or_not_clone_does_not_compile_as_a_row() {
    type Layered = <Broken as tower::Layer<Probe>>::Service;
    assert!(is!(Layered: Send) && is!(Layered: Sync) && is!(Layered: Clone));
    assert!(!is!(std::rc::Rc<Layered>: Send));
    assert!(!is!(std::cell::Cell<Layered>: Sync));
    assert!(!is!(std::sync::Mutex<Layered>: Clone));
}
