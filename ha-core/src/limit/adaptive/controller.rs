use std::time::{Duration, Instant};

use super::window::Reading;
use super::{AdaptiveConfig, Algorithm};

/// What a loss leaves of the limit.
const BACKOFF: f64 = 0.9;
/// How many windows the long-term average of [`Gradient2`](super::Gradient2) spans.
const LONG: f64 = 600.0;

/// Where the re-probe of the undisturbed latency is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Steady,
    /// Fewer are let in; what was under way before still waits for each other.
    Draining,
    /// Those that end now have met no queue.
    Measuring,
}

/// Decides a limit, window by window.
#[derive(Debug)]
pub(super) struct Controller {
    config: AdaptiveConfig,
    limit: f64,
    base: Option<Duration>,
    phase: Phase,
    next_probe: Instant,
}

impl Controller {
    pub(super) fn new(config: AdaptiveConfig, now: Instant) -> Self {
        Self {
            config,
            limit: f64::from(config.initial),
            base: None,
            phase: Phase::Steady,
            // The first window in use may be one of an overload that was there before.
            next_probe: now,
        }
    }

    pub(super) fn base(&self) -> Option<Duration> {
        self.base
    }

    pub(super) fn is_probing(&self) -> bool {
        self.phase != Phase::Steady
    }

    /// The limit from now on.
    pub(super) fn effective(&self) -> u32 {
        let whole = self.limit as u32;
        if self.is_probing() {
            (whole / 2).max(self.config.min)
        } else {
            whole
        }
    }

    /// Takes in one window.
    pub(super) fn close(&mut self, reading: &Reading, now: Instant, random: f64) {
        match self.phase {
            Phase::Draining => self.phase = Phase::Measuring,
            Phase::Measuring => {
                self.phase = Phase::Steady;
                self.measured(reading, now, random);
            }
            Phase::Steady => self.step(reading, now, random),
        }
    }

    fn measured(&mut self, reading: &Reading, now: Instant, random: f64) {
        self.base = reading.latency.or(self.base);
        // Apart from other clients, which would otherwise all probe in the same moment.
        self.next_probe = now
            + self
                .config
                .probe_interval
                .mul_f64(random.mul_add(0.5, 0.75));
    }

    fn step(&mut self, reading: &Reading, now: Instant, random: f64) {
        // A limit that is not reached says nothing about a higher one.
        let in_use = reading.most_in_flight.saturating_mul(2) >= self.limit as u32;
        self.learn(reading.latency);
        let samples = reading.answered.saturating_add(reading.losses);
        let lost = f64::from(reading.losses) > self.config.loss_ratio * f64::from(samples);
        let next = match (reading.latency, self.base) {
            _ if lost || self.is_late(reading.latency) => self.limit * BACKOFF,
            (Some(latency), Some(base)) if in_use => {
                self.config.algorithm.next(self.limit, latency, base)
            }
            _ => self.limit,
        };
        let (min, max) = (f64::from(self.config.min), f64::from(self.config.max));
        self.limit = next.clamp(min, max);
        if now < self.next_probe || matches!(self.config.algorithm, Algorithm::Aimd(_)) {
            return;
        }
        if in_use {
            self.phase = Phase::Draining;
        } else {
            // Nobody waited for anybody: this was a probe.
            self.measured(reading, now, random);
        }
    }

    fn is_late(&self, latency: Option<Duration>) -> bool {
        match (&self.config.algorithm, latency) {
            (Algorithm::Aimd(aimd), Some(latency)) => latency > aimd.latency,
            _ => false,
        }
    }

    fn learn(&mut self, latency: Option<Duration>) {
        let Some(latency) = latency else {
            return;
        };
        let base = self.base.unwrap_or(latency);
        self.base = Some(match self.config.algorithm {
            Algorithm::Gradient2(_) if latency < base => {
                let (latency, base) = (latency.as_secs_f64(), base.as_secs_f64());
                let long = (latency - base).mul_add(2.0 / (LONG + 1.0), base);
                // After an overload the average must not keep the limit up for minutes.
                let fade = if long > 2.0 * latency { 0.95 } else { 1.0 };
                Duration::from_secs_f64(long.max(0.0) * fade)
            }
            Algorithm::Gradient2(_) => base,
            _ => base.min(latency),
        });
    }
}
