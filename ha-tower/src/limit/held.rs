use super::Outcome;
use super::error::Remaining;
use super::gate::Permit;
use super::throttle::Nack;

/// What a request holds until its answer has ended: a place, or a count that waits for the outcome. It goes back when this is dropped.
#[derive(Debug)]
pub struct Held(Kind);

#[derive(Debug)]
enum Kind {
    Nothing,
    Permit(Permit),
    Nack(Nack),
    #[cfg_attr(not(feature = "rate-limit"), expect(dead_code))]
    Quota(Remaining),
}

impl Held {
    pub(super) const fn nothing() -> Self {
        Self(Kind::Nothing)
    }

    pub(super) const fn permit(permit: Permit) -> Self {
        Self(Kind::Permit(permit))
    }

    pub(super) const fn nack(nack: Nack) -> Self {
        Self(Kind::Nack(nack))
    }

    #[cfg(feature = "rate-limit")]
    pub(super) const fn quota_left(quota: Remaining) -> Self {
        Self(Kind::Quota(quota))
    }

    pub(super) const fn quota(&self) -> Option<Remaining> {
        match &self.0 {
            Kind::Quota(quota) => Some(*quota),
            _ => None,
        }
    }

    /// What the answer says about load. Only the first time counts, and [`Outcome::AtEnd`] says nothing yet.
    pub fn settle(&mut self, outcome: Outcome) {
        match &mut self.0 {
            Kind::Permit(permit) => permit.settle(outcome),
            Kind::Nack(nack) => nack.settle(outcome),
            Kind::Nothing | Kind::Quota(_) => {}
        }
    }
}
