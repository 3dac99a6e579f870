//! Where endpoints come from.
//!
//! A source delivers whole sets; what changed is worked out here. An endpoint whose key stays keeps its state, a new
//! one starts without history, and one that is gone gets no new request while those in flight finish.

#[cfg(feature = "dns")]
mod dns;
mod fixed;

#[cfg(feature = "dns")]
pub use dns::{Dns, DnsError, dns};
pub use fixed::{FixedError, fixed};

use ha_core::endpoint::Endpoint;

/// A source of endpoint sets, made by [`fixed`] or, with the feature `dns`, from a [`Dns`].
#[derive(Debug)]
pub struct Source(Kind);

#[derive(Debug)]
enum Kind {
    Fixed(Vec<Endpoint>),
    #[cfg(feature = "dns")]
    Dns(Box<Dns>),
}

/// What there is to follow.
pub(crate) enum Follow {
    Once(Vec<Endpoint>),
    #[cfg(feature = "dns")]
    Dns(Box<dns::Running>),
}

impl Source {
    pub(crate) fn follow(self) -> Follow {
        match self.0 {
            Kind::Fixed(endpoints) => Follow::Once(endpoints),
            #[cfg(feature = "dns")]
            Kind::Dns(dns) => Follow::Dns(Box::new(dns.start())),
        }
    }
}
