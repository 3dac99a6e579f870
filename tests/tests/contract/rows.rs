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
    ($time:ident readiness_is_driven [readiness_is_driven $($rest:tt)*]) => {};
    ($time:ident readied_is_called [readied_is_called $($rest:tt)*]) => {};
    ($time:ident clones_are_safe [clones_are_safe $($rest:tt)*]) => {};
    ($time:ident drop_returns_all [drop_returns_all $($rest:tt)*]) => {};
    ($time:ident never_busy_polls [never_busy_polls $($rest:tt)*]) => {};
    ($time:ident error_is_kept [error_is_kept $($rest:tt)*]) => {};
    ($time:ident poll_after_end_is_defined [poll_after_end_is_defined $($rest:tt)*]) => {};
    ($time:ident can_be_sent_and_shared [can_be_sent_and_shared $($rest:tt)*]) => {};
    ($time:ident no_lock_is_held [no_lock_is_held $($rest:tt)*]) => {};
    ($time:ident state_is_shared [state_is_shared $($rest:tt)*]) => {};
    ($time:ident $law:ident [$other:ident $($rest:ident)*]) => {
        cell!($time $law [$($rest)*]);
    };
    (paused $law:ident []) => {
        #[tokio::test(start_paused = true)]
        async fn $law() {
            crate::subject::time_is_real(false);
            laws::$law(&case()).await.unwrap();
        }
    };
    (real $law:ident []) => {
        #[tokio::test]
        async fn $law() {
            crate::subject::time_is_real(true);
            laws::$law(&case()).await.unwrap();
        }
    };
}

macro_rules! contract {
    ($($time:ident $name:ident, $layer:literal $(, not { $($law:ident: $why:literal),+ $(,)? })?;)+) => {
        $(
            mod $name {
                use super::cases::$name as case;
                use super::laws;

                cell!($time readiness_is_driven [$($($law)+)?]);
                cell!($time readied_is_called [$($($law)+)?]);
                cell!($time clones_are_safe [$($($law)+)?]);
                cell!($time drop_returns_all [$($($law)+)?]);
                cell!($time never_busy_polls [$($($law)+)?]);
                cell!($time error_is_kept [$($($law)+)?]);
                cell!($time poll_after_end_is_defined [$($($law)+)?]);
                cell!($time can_be_sent_and_shared [$($($law)+)?]);
                cell!($time no_lock_is_held [$($($law)+)?]);
                cell!($time state_is_shared [$($($law)+)?]);
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
    paused balance, "ha_tower::balance::Balance";
    real upstream, "ha_tower::upstream::Upstream", not {
        readiness_is_driven: "always ready; it opens connections and calls no service",
        readied_is_called: "always ready; it opens connections and calls no service",
    };
    paused breaker, "ha_tower::breaker::BreakerLayer";
    paused breaker_http, "ha_tower::breaker::HttpBreakerLayer";
    paused retry, "ha_tower::retry::RetryLayer";
    paused retry_grpc, "ha_tower::retry::RetryLayer (gRPC)";
    paused retry_generic, "ha_tower::retry::generic::GenericLayer";
    paused hedge, "ha_tower::hedge::HedgeLayer";
    paused hedge_generic, "ha_tower::hedge::HedgeLayer (generic)";
    paused fallback, "ha_tower::fallback::FallbackLayer", not {
        state_is_shared: "holds a fallback and no state",
    };
    paused fallback_answer, "ha_tower::fallback::FallbackLayer (closure)", not {
        error_is_kept: "the closure's answer takes its place",
        state_is_shared: "holds a fallback and no state",
    };
    paused chaos, "ha_tower::chaos::ChaosLayer";
    paused timeout, "ha_tower::timeout::TimeoutLayer", not {
        state_is_shared: "holds a duration and no state",
    };
    paused deadline, "ha_tower::timeout::DeadlineLayer", not {
        state_is_shared: "holds durations and no state",
    };
    paused propagate, "ha_tower::timeout::PropagateLayer", not {
        state_is_shared: "holds nothing",
    };
    paused policies, "ha_tower::route::PolicyLayer", not {
        state_is_shared: "holds a table that never changes",
    };
    paused policy, "ha_tower::route::Policy", not {
        state_is_shared: "holds settings and no state",
    };
    paused limit, "ha_tower::limit::LimitLayer (concurrency)";
    paused limit_generic, "ha_tower::limit::LimitLayer (generic)";
    paused limit_adaptive, "ha_tower::limit::LimitLayer (adaptive)";
    paused limit_queue, "ha_tower::limit::LimitLayer (queue)";
    paused rate_limit, "ha_tower::limit::RateLimitLayer";
    paused throttle, "ha_tower::limit::ThrottleLayer";
    paused load_shed, "ha_tower::limit::LoadShedLayer", not {
        state_is_shared: "refuses by what is inside, and holds no state",
    };
    paused drain, "ha_tower::drain::DrainLayer";
    paused proxy, "ha_tower::proxy::ReverseProxy", not {
        state_is_shared: "holds settings and no state",
    };
    paused causal, "ha_db::causal::CausalLayer";
    paused idempotency, "ha_db::idempotency::IdempotencyLayer";
    paused session, "ha_session::SessionLayer";
}
