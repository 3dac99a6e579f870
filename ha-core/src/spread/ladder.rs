/// What a group has, by weight.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Capacity {
    pub(super) total: u64,
    pub(super) usable: u64,
}

impl std::iter::Sum for Capacity {
    fn sum<I: Iterator<Item = Self>>(capacities: I) -> Self {
        capacities.fold(Self::default(), |sum, capacity| Self {
            total: sum.total + capacity.total,
            usable: sum.usable + capacity.usable,
        })
    }
}

impl Capacity {
    /// The share of all traffic that it could take.
    pub(super) fn health(self, over_provisioning: f64) -> f64 {
        if self.total == 0 {
            return 0.0;
        }
        (self.usable as f64 / self.total as f64 * over_provisioning).min(1.0)
    }
}

/// The share of each rung: the first takes what it can, the next what is left, and when all together cannot take
/// everything, each takes more in proportion. The sum is 1, or 0 when nothing is usable.
pub(super) fn ladder(rungs: &[Capacity], over_provisioning: f64) -> Vec<f64> {
    let healths = rungs.iter().map(|rung| rung.health(over_provisioning));
    let mut left = 1.0;
    let mut shares: Vec<f64> = healths
        .map(|health| {
            let share = health.min(left);
            left -= share;
            share
        })
        .collect();
    let taken = 1.0 - left;
    if taken > 0.0 {
        shares.iter_mut().for_each(|share| *share /= taken);
    }
    shares
}
