use super::*;

#[cfg(not(ha_loom))]
mod bounds;
#[cfg(not(ha_loom))]
mod moves;
#[cfg(not(ha_loom))]
mod order;
#[cfg(not(ha_loom))]
mod shares;

#[cfg(not(ha_loom))]
mod bed {
    use super::*;
    use crate::config::ConfigError;
    use crate::endpoint::{EndpointKey, Weight};

    #[derive(Debug, Clone, Copy, PartialEq)]
    pub(super) enum Kind {
        Ring,
        Maglev,
        Rendezvous,
    }

    pub(super) const ALL: [Kind; 3] = [Kind::Ring, Kind::Maglev, Kind::Rendezvous];

    pub(super) enum Table {
        Ring(Ring),
        Maglev(Maglev),
        Rendezvous(Rendezvous),
    }

    /// Endpoints by a number that names them, with their weights.
    pub(super) type Set = Vec<(u32, u32)>;

    pub(super) fn equal(n: u32) -> Set {
        (0..n).map(|name| (name, 1)).collect()
    }

    pub(super) fn build(kind: Kind, set: &Set) -> Result<Table, ConfigError> {
        let keys: Vec<EndpointKey> = set
            .iter()
            .map(|(name, _)| EndpointKey::new(format!("app{name}:3000")))
            .collect();
        let weights = set.iter().map(|(_, w)| Weight::new(*w).unwrap());
        let endpoints = keys.iter().zip(weights);
        Ok(match kind {
            Kind::Ring => Table::Ring(Ring::new(&RingConfig::default(), endpoints)?),
            Kind::Maglev => Table::Maglev(Maglev::new(&MaglevConfig::default(), endpoints)?),
            Kind::Rendezvous => Table::Rendezvous(Rendezvous::new(endpoints)?),
        })
    }

    pub(super) fn table(kind: Kind, set: &Set) -> Table {
        build(kind, set).unwrap()
    }

    impl Table {
        pub(super) fn pick(&self, hash: u64) -> Option<usize> {
            match self {
                Self::Ring(ring) => ring.pick(hash),
                Self::Maglev(maglev) => maglev.pick(hash),
                Self::Rendezvous(rendezvous) => rendezvous.pick(hash),
            }
        }

        pub(super) fn candidates(&self, hash: u64) -> Candidates<'_> {
            match self {
                Self::Ring(ring) => ring.candidates(hash),
                Self::Maglev(maglev) => maglev.candidates(hash),
                Self::Rendezvous(rendezvous) => rendezvous.candidates(hash),
            }
        }
    }

    /// The same keys in every test: what comes from a client.
    pub(super) fn keys(n: u32) -> impl Iterator<Item = u64> {
        (0..n).map(|i| hash_key(format!("user {i}").as_bytes()))
    }

    /// The name of each key's endpoint.
    pub(super) fn owners(kind: Kind, set: &Set, count: u32) -> Vec<u32> {
        let table = table(kind, set);
        keys(count)
            .map(|hash| set[table.pick(hash).unwrap()].0)
            .collect()
    }
}

/// `RUSTFLAGS="--cfg ha_loom" cargo test -p ha-core --release --lib hash::tests::loom`
#[cfg(ha_loom)]
mod loom;
