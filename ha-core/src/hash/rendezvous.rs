use super::candidates::{Candidates, Source};
use super::key::mix;
use super::members::{Member, Members};
use crate::config::ConfigError;
use crate::endpoint::{EndpointKey, Weight};

/// Rendezvous hashing, highest random weight: each endpoint draws a score from the key, and the key belongs to the highest.
///
/// Looks at every endpoint on each pick (some nanoseconds each when weights differ, about one when they do not): for
/// tens of endpoints, or where the exact minimum of moved keys and the exact share matter more than that.
///
/// ```
/// use ha_core::endpoint::{EndpointKey, Weight};
/// use ha_core::hash::{Rendezvous, hash_key};
///
/// let endpoints = ["one", "two", "three"].map(EndpointKey::from);
/// let rendezvous = Rendezvous::new(endpoints.iter().map(|key| (key, Weight::ONE)))?;
/// let hash = hash_key(b"user 17");
/// let two_copies = rendezvous.top(hash, 2);
/// assert_eq!(two_copies.first().copied(), rendezvous.pick(hash));
/// # Ok::<(), ha_core::config::ConfigError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Rendezvous {
    members: Members,
    equal: bool,
}

impl Rendezvous {
    /// A rendezvous of these endpoints. What it returns are positions in this sequence. Weight zero means no picks.
    ///
    /// # Errors
    /// `endpoint.key` when a key is there twice.
    pub fn new<'a>(
        endpoints: impl IntoIterator<Item = (&'a EndpointKey, Weight)>,
    ) -> Result<Self, ConfigError> {
        let members = Members::new(endpoints)?;
        let equal = members.equal_weights();
        Ok(Self { members, equal })
    }

    /// Who this key belongs to, or none when nobody gets picks. Any number does as `hash`.
    #[inline]
    #[must_use]
    pub fn pick(&self, hash: u64) -> Option<usize> {
        self.best(hash, &[]).map(|index| index as usize)
    }

    /// Everyone who gets picks, the one that the key belongs to first.
    #[inline]
    #[must_use]
    pub fn candidates(&self, hash: u64) -> Candidates<'_> {
        Candidates::new(Source::Rendezvous(self), &self.members, hash)
    }

    /// The first `k` in the order of the scores, such as the places for `k` copies. Fewer when there are fewer. Unlike a pick it allocates.
    #[must_use]
    pub fn top(&self, hash: u64, k: usize) -> Vec<usize> {
        let mut scored: Vec<(f64, u32)> = self
            .members
            .iter()
            .map(|member| (self.score(member, hash), member.index))
            .collect();
        // Ties as in `best`: the sort is stable, and so is the order of the members.
        scored.sort_by(|a, b| b.0.total_cmp(&a.0));
        scored.truncate(k);
        scored.into_iter().map(|(_, i)| i as usize).collect()
    }

    /// The highest score that is not in `passed`.
    #[inline]
    pub(super) fn best(&self, hash: u64, passed: &[u32]) -> Option<u32> {
        let mut best = None;
        let mut highest = f64::NEG_INFINITY;
        for member in self.members.iter() {
            let score = self.score(member, hash);
            if score > highest && !passed.contains(&member.index) {
                highest = score;
                best = Some(member.index);
            }
        }
        best
    }

    #[inline]
    fn score(&self, member: &Member, hash: u64) -> f64 {
        // 53 bits are what a double holds; never 0 and never 1.
        let u = ((mix(hash ^ member.seed) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        if self.equal {
            // The logarithm changes no order among equal weights.
            u
        } else {
            f64::from(member.weight) / -u.ln()
        }
    }
}
