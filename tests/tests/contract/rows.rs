//! One row of the matrix for each layer; each cell is a test that is made here.

use super::{cases, laws};

/// A layer in the matrix.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// Where it is documented.
    pub(crate) layer: &'static str,
    /// Laws that do not apply, and why.
    pub(crate) not: &'static [(&'static str, &'static str)],
}

/// The laws, in the order of the columns.
pub(crate) const LAWS: [&str; 10] = [
    "readiness_is_driven",
    "readied_is_called",
    "clones_are_safe",
    "drop_returns_all",
    "never_busy_polls",
    "error_is_kept",
    "poll_after_end_is_defined",
    "can_be_sent_and_shared",
    "no_lock_is_held",
    "state_is_shared",
];

/// A test of one law, unless the row says that it does not apply.
macro_rules! cell {
    (readiness_is_driven [readiness_is_driven $($rest:tt)*]) => {};
    (readied_is_called [readied_is_called $($rest:tt)*]) => {};
    (clones_are_safe [clones_are_safe $($rest:tt)*]) => {};
    (drop_returns_all [drop_returns_all $($rest:tt)*]) => {};
    (never_busy_polls [never_busy_polls $($rest:tt)*]) => {};
    (error_is_kept [error_is_kept $($rest:tt)*]) => {};
    (poll_after_end_is_defined [poll_after_end_is_defined $($rest:tt)*]) => {};
    (can_be_sent_and_shared [can_be_sent_and_shared $($rest:tt)*]) => {};
    (no_lock_is_held [no_lock_is_held $($rest:tt)*]) => {};
    (state_is_shared [state_is_shared $($rest:tt)*]) => {};
    ($law:ident [$other:ident $($rest:ident)*]) => {
        cell!($law [$($rest)*]);
    };
    ($law:ident []) => {
        #[tokio::test(start_paused = true)]
        async fn $law() {
            if let Err(broken) = laws::$law(&case()).await {
                panic!("{broken}");
            }
        }
    };
}

macro_rules! contract {
    ($($name:ident, $layer:literal $(, not { $($law:ident: $why:literal),+ $(,)? })?;)+) => {
        $(
            mod $name {
                use super::cases::$name as case;
                use super::laws;

                cell!(readiness_is_driven [$($($law)+)?]);
                cell!(readied_is_called [$($($law)+)?]);
                cell!(clones_are_safe [$($($law)+)?]);
                cell!(drop_returns_all [$($($law)+)?]);
                cell!(never_busy_polls [$($($law)+)?]);
                cell!(error_is_kept [$($($law)+)?]);
                cell!(poll_after_end_is_defined [$($($law)+)?]);
                cell!(can_be_sent_and_shared [$($($law)+)?]);
                cell!(no_lock_is_held [$($($law)+)?]);
                cell!(state_is_shared [$($($law)+)?]);
            }
        )+

        pub(crate) const ROWS: &[Row] = &[$(
            Row {
                name: stringify!($name),
                layer: $layer,
                not: &[$($((stringify!($law), $why)),+)?],
            }
        ),+];
    };
}

contract! {
    balance, "ha_tower::balance::Balance";
    breaker, "ha_tower::breaker::BreakerLayer";
    breaker_http, "ha_tower::breaker::HttpBreakerLayer";
    retry, "ha_tower::retry::RetryLayer";
    timeout, "ha_tower::timeout::TimeoutLayer", not {
        state_is_shared: "holds a duration and no state",
    };
    deadline, "ha_tower::timeout::DeadlineLayer", not {
        state_is_shared: "holds durations and no state",
    };
    propagate, "ha_tower::timeout::PropagateLayer", not {
        state_is_shared: "holds nothing",
    };
    policies, "ha_tower::route::PolicyLayer", not {
        state_is_shared: "holds a table that never changes",
    };
    policy, "ha_tower::route::Policy", not {
        state_is_shared: "holds settings and no state",
    };
    drain, "ha_tower::drain::DrainLayer";
    proxy, "ha_tower::proxy::ReverseProxy", not {
        state_is_shared: "holds settings and no state",
    };
    causal, "ha_db::causal::CausalLayer";
    idempotency, "ha_db::idempotency::IdempotencyLayer";
    session, "ha_session::SessionLayer";
}
