//! Which part of a large fleet one client talks to.
//!
//! With a thousand clients and a thousand servers, connections, health checks and memory for all of them cost a million
//! times something. A [`Subset`] lets each client use `size` servers only.
//!
//! # Rules
//! 1. Each server draws a score from the client's seed; the `size` highest are the subset (rendezvous hashing, Thaler and
//!    Ravishankar 1998). Same seed and same fleet give the same subset, in every process and version.
//! 2. One server more or less in the fleet changes at most one server of the subset: a newcomer takes the place of the last one or
//!    none, a leaver is replaced by the next one or was not there.
//! 3. Weights do not take part. They divide the traffic inside the subset, and a new weight changes no connection. Leave
//!    out servers of weight zero before.
//!
//! # What it does not do
//! Clients choose without knowing each other, so servers do not get equal numbers of clients: with `c` clients and `n` servers the number
//! is `c · size / n`, give or take its square root. Choose `size` so that this is a small part: about 20 with tens of
//! clients per server, more when there are few clients. A subset that is too small also has no room for failures; below
//! three it is hardly worth it.

use crate::config::ConfigError;
use crate::endpoint::EndpointKey;
use crate::hash::{hash_key, mix, seed};

/// The choice of one client.
///
/// ```
/// use ha_core::endpoint::EndpointKey;
/// use ha_core::subset::Subset;
///
/// let fleet: Vec<EndpointKey> = (0..100).map(|i| EndpointKey::new(format!("app{i}:3000"))).collect();
/// let mine = Subset::new(b"edge-1", 20)?.select(&fleet);
/// let yours = Subset::new(b"edge-2", 20)?.select(&fleet);
/// assert_eq!((mine.len(), yours.len()), (20, 20));
/// assert_ne!(mine, yours);
/// # Ok::<(), ha_core::config::ConfigError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subset {
    seed: u64,
    size: usize,
}

impl Subset {
    /// The subset of `size` servers of the client with this identity. Give each client one that is its own and survives a restart,
    /// such as the name of the host: clients of one identity all choose the same servers.
    ///
    /// # Errors
    /// `subset.size` when it is 0.
    pub fn new(client: &[u8], size: usize) -> Result<Self, ConfigError> {
        if size == 0 {
            return Err(ConfigError::new("subset.size", size, "must be at least 1"));
        }
        Ok(Self {
            seed: mix(hash_key(client)),
            size,
        })
    }

    /// The positions in `fleet` of the servers to use, in ascending order. All, when there are not more than `size`.
    #[must_use]
    pub fn select<'a>(&self, fleet: impl IntoIterator<Item = &'a EndpointKey>) -> Vec<usize> {
        let mut scored: Vec<(u64, &EndpointKey, usize)> = fleet
            .into_iter()
            .enumerate()
            .map(|(i, key)| (mix(self.seed ^ seed(key)), key, i))
            .collect();
        if self.size < scored.len() {
            // Sorting the whole fleet on each change is not needed to know the highest.
            scored.select_nth_unstable_by(self.size, |a, b| b.cmp(a));
            scored.truncate(self.size);
        }
        let mut chosen: Vec<usize> = scored.into_iter().map(|(_, _, i)| i).collect();
        chosen.sort_unstable();
        chosen
    }
}

#[cfg(all(test, not(ha_loom)))]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use proptest::prelude::*;

    fn fleet(n: usize) -> Vec<EndpointKey> {
        (0..n)
            .map(|i| EndpointKey::new(format!("app{i}:80")))
            .collect()
    }

    fn chosen(client: &str, size: usize, fleet: &[EndpointKey]) -> HashSet<EndpointKey> {
        let subset = Subset::new(client.as_bytes(), size).unwrap();
        let places = subset.select(fleet);
        places.into_iter().map(|i| fleet[i].clone()).collect()
    }

    #[test]
    fn a_small_fleet_is_used_whole_and_an_empty_one_gives_nothing() {
        let subset = Subset::new(b"me", 5).unwrap();
        assert_eq!(subset.select(&fleet(3)), [0, 1, 2]);
        assert_eq!(subset.select(&fleet(5)), [0, 1, 2, 3, 4]);
        assert!(subset.select(&fleet(0)).is_empty());
    }

    #[test]
    fn a_size_of_zero_is_refused_by_name() {
        let error = Subset::new(b"me", 0).unwrap_err();
        assert_eq!((error.field(), error.value()), ("subset.size", "0"));
    }

    #[test]
    fn servers_get_about_as_many_clients_each_as_chance_allows() {
        let fleet = fleet(100);
        let mut clients = vec![0u32; fleet.len()];
        for client in 0..1_000 {
            let subset = Subset::new(format!("edge{client}").as_bytes(), 20).unwrap();
            for i in subset.select(&fleet) {
                clients[i] += 1;
            }
        }
        // 200 each; four standard deviations of √(200 · 0.8).
        assert!(clients.iter().all(|n| n.abs_diff(200) < 51), "{clients:?}");
    }

    #[test]
    fn the_negative_control_of_drawing_positions_changes_most_of_the_subset() {
        let by_position =
            |n: usize| -> HashSet<u64> { (0..20).map(|k| mix(k ^ 0xfeed) % n as u64).collect() };
        let kept = by_position(100).intersection(&by_position(99)).count();
        assert!(kept < 10, "{kept}");
    }

    proptest! {
        #[test]
        fn one_server_less_changes_at_most_one_server_of_the_subset(
            n in 2usize..200, size in 1usize..50, leaver in any::<prop::sample::Index>(), client in ".*",
        ) {
            let before = fleet(n);
            let mut after = before.clone();
            let gone = after.remove(leaver.index(n));
            let (old, new) = (chosen(&client, size, &before), chosen(&client, size, &after));
            let lost: Vec<_> = old.difference(&new).collect();
            // Read the other way round it is one server more.
            let won = new.difference(&old).count();
            prop_assert_eq!(lost.len(), usize::from(old.contains(&gone)));
            prop_assert!(lost.iter().all(|key| **key == gone));
            prop_assert!(won <= 1);
            prop_assert_eq!(new.len(), size.min(n - 1));
        }

        #[test]
        fn the_order_in_which_the_fleet_is_named_does_not_matter(n in 1usize..100, size in 1usize..50) {
            let forward = fleet(n);
            let backward: Vec<_> = forward.iter().rev().cloned().collect();
            prop_assert_eq!(chosen("me", size, &forward), chosen("me", size, &backward));
        }
    }
}
