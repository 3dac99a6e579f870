use std::sync::Arc;

use crate::config::ConfigError;
use crate::endpoint::Locality;

/// How traffic spreads over priorities, regions and zones.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// How many times the traffic of today the whole set could take. Default 1.4: while at least 1/1.4 = 71 % of a group
    /// is available, it takes all of its share, and below that the next one helps.
    pub over_provisioning: f64,
    /// A priority panics when less than this share of what passes its active checks is available, unless all
    /// priorities together have enough. Default 0.5. 0 means never.
    pub panic_ratio: f64,
    /// Where the caller itself stands. Default unknown: then all places are alike.
    pub local: Locality,
    /// Regions in the order in which they help when the caller's own loses capacity. Those not named here help last, all
    /// at once. Default empty.
    pub next_regions: Vec<Arc<str>>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            over_provisioning: 1.4,
            panic_ratio: 0.5,
            local: Locality::default(),
            next_regions: Vec::new(),
        }
    }
}

impl Config {
    /// Whether the settings make sense together.
    ///
    /// # Errors
    /// [`ConfigError`] with the field and the value.
    pub fn validate(&self) -> Result<(), ConfigError> {
        // NaN fails both of these as well.
        if !(self.over_provisioning >= 1.0 && self.over_provisioning <= 100.0) {
            return Err(ConfigError::new(
                "spread.over_provisioning",
                self.over_provisioning,
                "must be from 1 to 100",
            ));
        }
        if !(0.0..=1.0).contains(&self.panic_ratio) {
            return Err(ConfigError::new(
                "spread.panic_ratio",
                self.panic_ratio,
                "must be from 0 to 1",
            ));
        }
        if self.local.region.is_empty() && !self.local.zone.is_empty() {
            return Err(ConfigError::new(
                "spread.local.zone",
                format_args!("{:?}", self.local.zone),
                "needs spread.local.region, for a zone is a part of one",
            ));
        }
        self.validate_next_regions()
    }

    fn validate_next_regions(&self) -> Result<(), ConfigError> {
        let refuse = |region: &str, reason| {
            Err(ConfigError::new(
                "spread.next_regions",
                format_args!("{region:?}"),
                reason,
            ))
        };
        for (i, region) in self.next_regions.iter().enumerate() {
            if region.is_empty() {
                return refuse(region, "must not be empty");
            }
            if *region == self.local.region {
                return refuse(region, "is spread.local.region, which comes first anyway");
            }
            if self.next_regions[..i].contains(region) {
                return refuse(region, "comes twice");
            }
        }
        Ok(())
    }
}
