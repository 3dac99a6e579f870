#[path = "../splitmix/mod.rs"]
mod splitmix;

use std::time::Duration;

pub(crate) use splitmix::Random;

impl Random {
    pub(crate) fn chance(&mut self, ratio: f64) -> bool {
        self.unit() < ratio
    }

    pub(crate) fn between(&mut self, least: Duration, most: Duration) -> Duration {
        least + (most - least).mul_f64(self.unit())
    }
}
