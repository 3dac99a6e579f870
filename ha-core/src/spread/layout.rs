use std::collections::BTreeMap;
use std::sync::Arc;

use super::Config;
use super::shares::{Shares, Standing};
use crate::config::ConfigError;
use crate::endpoint::{Endpoint, Locality, Weight};

/// Endpoints that take traffic together.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Group {
    /// Lower numbers are preferred.
    pub priority: u8,
    /// Where they stand.
    pub region: Arc<str>,
    /// Whether that is the caller's own zone.
    pub own_zone: bool,
    /// Their positions in the list that the layout was made of, in its order.
    pub members: Box<[u32]>,
    /// The place of the region in the order in which regions help; 0 is the caller's own.
    pub(super) rung: usize,
    pub(super) weights: Box<[Weight]>,
}

impl Group {
    /// The weights of the members, in their order: what a draw or a schedule of the group is made of.
    #[must_use]
    pub fn weights(&self) -> &[Weight] {
        &self.weights
    }
}

/// The groups of one set of endpoints. See the [module](super).
#[derive(Debug, Clone)]
pub struct Layout {
    // In the order of preference: by priority, then region, then zone.
    groups: Box<[Group]>,
    over_provisioning: f64,
    panic_ratio: f64,
    local_region_is_known: bool,
}

impl Layout {
    /// Sorts endpoints into groups.
    ///
    /// # Errors
    /// As [`Config::validate`].
    pub fn new<'a>(
        config: &Config,
        endpoints: impl IntoIterator<Item = &'a Endpoint>,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        let mut sorted: BTreeMap<_, Vec<(u32, Weight)>> = BTreeMap::new();
        for (i, endpoint) in (0u32..).zip(endpoints) {
            if endpoint.weight == Weight::ZERO {
                continue;
            }
            let region = &endpoint.locality.region;
            let not_own_zone = !is_own_zone(config, &endpoint.locality);
            let place = (
                endpoint.priority,
                rung(config, region),
                region,
                not_own_zone,
            );
            sorted.entry(place).or_default().push((i, endpoint.weight));
        }
        let groups = sorted
            .into_iter()
            .map(|((priority, rung, region, not_own_zone), members)| Group {
                priority,
                region: region.clone(),
                own_zone: !not_own_zone,
                members: members.iter().map(|(i, _)| *i).collect(),
                rung,
                weights: members.iter().map(|(_, weight)| *weight).collect(),
            })
            .collect::<Box<[Group]>>();
        Ok(Self {
            local_region_is_known: groups.iter().any(|group| group.rung == 0),
            groups,
            over_provisioning: config.over_provisioning,
            panic_ratio: config.panic_ratio,
        })
    }

    /// The groups, the preferred ones first.
    #[must_use]
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Whether any endpoint stands in the caller's own region. If none does although the caller has named one, its name
    /// is likely misspelt.
    #[must_use]
    pub fn local_region_is_known(&self) -> bool {
        self.local_region_is_known
    }

    /// Who takes how much while the endpoints stand as `standing` says of each position.
    #[must_use]
    pub fn shares(&self, standing: impl Fn(usize) -> Standing) -> Shares {
        Shares::new(
            &self.groups,
            self.over_provisioning,
            self.panic_ratio,
            standing,
        )
    }
}

fn rung(config: &Config, region: &Arc<str>) -> usize {
    if *region == config.local.region && !region.is_empty() {
        return 0;
    }
    let next = config.next_regions.iter().position(|next| next == region);
    1 + next.unwrap_or(config.next_regions.len())
}

fn is_own_zone(config: &Config, locality: &Locality) -> bool {
    !locality.zone.is_empty() && *locality == config.local
}
