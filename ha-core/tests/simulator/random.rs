#[path = "../splitmix/mod.rs"]
mod splitmix;

use std::time::Duration;

pub(crate) use splitmix::Random;

impl Random {
    pub(crate) fn exponential(&mut self, mean: Duration) -> Duration {
        mean.mul_f64(-(1.0 - self.unit()).ln())
    }
}
