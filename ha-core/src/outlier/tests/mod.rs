use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::endpoint::EndpointKey;

#[cfg(not(ha_loom))]
mod bed;
#[cfg(not(ha_loom))]
mod config;
#[cfg(not(ha_loom))]
mod detectors;
#[cfg(not(ha_loom))]
mod ejections;
#[cfg(not(ha_loom))]
mod laws;
#[cfg(ha_loom)]
mod loom;

#[cfg(not(ha_loom))]
const SEC: Duration = Duration::from_secs(1);

fn key(i: usize) -> EndpointKey {
    EndpointKey::new(format!("{i:03}"))
}
