use super::key::{hash_key, mix};
use crate::config::ConfigError;
use crate::endpoint::{EndpointKey, Weight};

/// One endpoint that gets picks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    /// Its place in the sequence that the caller gave.
    pub(super) index: u32,
    pub(super) seed: u64,
    pub(super) weight: u32,
}

/// The endpoints with a weight above zero, in an order that follows from their keys alone: the order in which a
/// discovery happens to name them must not move a key.
#[derive(Debug, Clone)]
pub(super) struct Members {
    live: Box<[Member]>,
    prime: u32,
}

impl Members {
    pub(super) fn new<'a>(
        endpoints: impl IntoIterator<Item = (&'a EndpointKey, Weight)>,
    ) -> Result<Self, ConfigError> {
        let mut all: Vec<(u64, &EndpointKey, u32, Weight)> = (0u32..)
            .zip(endpoints)
            .map(|(index, (key, weight))| (seed(key), key, index, weight))
            .collect();
        all.sort_unstable();
        if let Some(pair) = all.windows(2).find(|pair| pair[0].1 == pair[1].1) {
            return Err(ConfigError::new(
                "endpoint.key",
                pair[0].1,
                "must be there only once",
            ));
        }
        let live: Box<[Member]> = all
            .into_iter()
            .filter(|(_, _, _, weight)| *weight > Weight::ZERO)
            .map(|(seed, _, index, weight)| Member {
                index,
                seed,
                weight: weight.value(),
            })
            .collect();
        let prime = prime_from(live.len() as u32);
        Ok(Self { live, prime })
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, Member> {
        self.live.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.live.len()
    }

    pub(super) fn total_weight(&self) -> u64 {
        self.iter().map(|member| u64::from(member.weight)).sum()
    }

    pub(super) fn equal_weights(&self) -> bool {
        self.live
            .windows(2)
            .all(|pair| pair[0].weight == pair[1].weight)
    }

    /// The caller's index of the member at `position`.
    pub(super) fn index_at(&self, position: u32) -> Option<u32> {
        self.live.get(position as usize).map(|member| member.index)
    }

    /// A prime that is not below the number of members: steps of any size modulo it visit every position once.
    pub(super) fn prime(&self) -> u32 {
        self.prime
    }
}

/// What an endpoint adds to a request's hash.
pub(crate) fn seed(key: &EndpointKey) -> u64 {
    // Mixed once more: a request whose key reads like the endpoint's must not meet it by that.
    mix(!hash_key(key.as_str().as_bytes()))
}

pub(super) fn is_prime(n: u32) -> bool {
    let divides = |d: &u32| n.is_multiple_of(*d);
    n >= 2
        && !(2..)
            .take_while(|d| u64::from(*d) * u64::from(*d) <= u64::from(n))
            .any(|d| divides(&d))
}

fn prime_from(n: u32) -> u32 {
    (n.max(2)..).find(|n| is_prime(*n)).unwrap_or(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn primes_are_told_from_the_rest() {
        let primes: Vec<u32> = (0..30).filter(|n| is_prime(*n)).collect();
        assert_eq!(primes, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]);
        assert!(is_prime(65_537) && is_prime(5_000_011) && is_prime(u32::MAX - 4));
        assert!(!is_prime(65_536) && !is_prime(65_535) && !is_prime(u32::MAX));
    }

    #[test]
    fn the_next_prime_is_never_below() {
        assert_eq!(
            [0, 1, 2, 3, 4, 14, 1_000].map(prime_from),
            [2, 2, 2, 3, 5, 17, 1_009]
        );
    }
}
