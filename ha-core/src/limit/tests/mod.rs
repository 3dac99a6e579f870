mod adaptive;
mod overload;
mod places;
mod queue;
mod simulation;
mod throttle;

use std::time::{Duration, Instant};

const MS: Duration = Duration::from_millis(1);

fn start() -> Instant {
    Instant::now()
}

/// SplitMix64: small, and the same everywhere.
#[derive(Debug, Clone)]
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}
