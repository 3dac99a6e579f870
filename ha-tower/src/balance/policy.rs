/// How an endpoint is picked. Made from [`P2c`] or [`RoundRobin`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy(pub(super) Kind);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Kind {
    #[default]
    PeakEwma,
    LeastRequest,
    RoundRobin,
}

/// Power of two choices: two candidates are drawn at random by weight, and the better one is taken. Costs the same
/// with two endpoints and with ten thousand, and does not send a herd to the one that looks best at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct P2c(Kind);

impl P2c {
    /// The better one has the lower `latency estimate · (in flight + 1) + penalty for failures`.
    #[must_use]
    pub const fn peak_ewma() -> Self {
        Self(Kind::PeakEwma)
    }

    /// The better one has fewer requests in flight, failures count as in [`peak_ewma`](Self::peak_ewma).
    #[must_use]
    pub const fn least_request() -> Self {
        Self(Kind::LeastRequest)
    }
}

/// Each in turn, as often as its weight says. Blind for load and latency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RoundRobin;

impl From<P2c> for Policy {
    fn from(p2c: P2c) -> Self {
        Self(p2c.0)
    }
}

impl From<RoundRobin> for Policy {
    fn from(_: RoundRobin) -> Self {
        Self(Kind::RoundRobin)
    }
}
