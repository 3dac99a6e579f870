use std::time::{Duration, Instant};

use super::*;

#[cfg(not(ha_loom))]
mod bed;
#[cfg(not(ha_loom))]
mod config;
#[cfg(not(ha_loom))]
mod laws;
#[cfg(ha_loom)]
mod loom;
#[cfg(not(ha_loom))]
mod rules;
#[cfg(not(ha_loom))]
mod slow;

#[cfg(not(ha_loom))]
use bed::{Bed, SEC, by_ratio_only};
