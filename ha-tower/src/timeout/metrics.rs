//! Names and labels are documented in the [module](super).

#[cfg(feature = "metrics")]
fn one_more(name: &'static str, side: &'static str) {
    metrics::counter!(name, "side" => side).increment(1);
}

#[cfg(not(feature = "metrics"))]
const fn one_more(_: &'static str, _: &'static str) {}

/// On which side of a request a deadline is kept.
#[derive(Clone, Copy, Debug)]
pub(super) enum Side {
    Client,
    Server,
}

impl Side {
    const fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }

    pub(super) fn expired(self) {
        one_more("ha_deadline_expired_total", self.label());
    }

    pub(super) fn refused(self) {
        one_more("ha_deadline_refused_total", self.label());
    }

    pub(super) fn malformed(self) {
        one_more("ha_deadline_malformed_total", self.label());
    }

    pub(super) fn clamped(self) {
        one_more("ha_deadline_clamped_total", self.label());
    }
}
