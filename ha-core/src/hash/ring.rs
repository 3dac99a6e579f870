use super::candidates::by_key;
use super::key::nth;
use super::members::{Member, Members};
use crate::config::ConfigError;
use crate::endpoint::{EndpointKey, Weight};

/// The size of a [`Ring`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RingConfig {
    /// Points on the ring per unit of weight. Default 160, as in ketama, nginx and pingora: shares are then within 8 %
    /// of the weight (one standard deviation, `1/√points`). Four times the points halve that and take four times the memory.
    pub points_per_weight: u32,
    /// When weights ask for fewer points than this, all endpoints get more, in proportion. Default 0. Envoy uses 1,024, which
    /// evens out small sets; but every change of a set below the minimum changes the points of *all* endpoints and so
    /// moves up to twice the keys that it has to.
    pub min_points: u32,
    /// When weights ask for more points than this, all endpoints get fewer, in proportion, though at least one. Default
    /// 8,388,608 as in Envoy, which is 64 MiB; above it a change moves keys as described for the minimum.
    pub max_points: u32,
}

impl Default for RingConfig {
    fn default() -> Self {
        Self {
            points_per_weight: 160,
            min_points: 0,
            max_points: 8 << 20,
        }
    }
}

impl RingConfig {
    /// Whether the numbers make sense.
    ///
    /// # Errors
    /// [`ConfigError`] with the field and the value.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::at_least_one("ring.points_per_weight", self.points_per_weight)?;
        ConfigError::at_least_one("ring.max_points", self.max_points)?;
        if self.min_points > self.max_points {
            return Err(ConfigError::new(
                "ring.min_points",
                self.min_points,
                "must not be above ring.max_points",
            ));
        }
        Ok(())
    }

    /// How many points a member gets, where all weights together are `total`.
    fn points(&self, member: &Member, total: u64) -> u32 {
        let wanted = u64::from(self.points_per_weight) * total;
        let size = wanted.clamp(self.min_points.into(), self.max_points.into());
        let weight = u64::from(member.weight);
        let points = if size == wanted {
            u64::from(self.points_per_weight) * weight
        } else {
            // Weights stay below 2^20 and sizes below 2^32.
            size * weight / total
        };
        u32::try_from(points).unwrap_or(u32::MAX).max(1)
    }
}

/// A ring hash: each endpoint owns many points on a circle of hashes, a key belongs to the first point at or after its own hash.
///
/// ```
/// use ha_core::endpoint::{EndpointKey, Weight};
/// use ha_core::hash::{Ring, RingConfig, hash_key};
///
/// let endpoints = ["one", "two", "three"].map(EndpointKey::from);
/// let ring = Ring::new(&RingConfig::default(), endpoints.iter().map(|key| (key, Weight::ONE)))?;
/// let hash = hash_key(b"user 17");
/// let first = ring.pick(hash);
/// assert_eq!(first, ring.candidates(hash).next());
///
/// // Without the endpoint that it did not go to, the key stays where it was.
/// let other = (0..3).find(|i| Some(*i) != first).unwrap_or(0);
/// let fewer = Ring::new(
///     &RingConfig::default(),
///     endpoints.iter().enumerate().map(|(i, key)| (key, if i == other { Weight::ZERO } else { Weight::ONE })),
/// )?;
/// assert_eq!(fewer.pick(hash), first);
/// # Ok::<(), ha_core::config::ConfigError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Ring {
    members: Members,
    points: Box<[Point]>,
    // Where the points of each bucket begin. Buckets are equal arcs of the ring, a power of two of them, with about
    // four points each: a lookup touches one cache line here and one or two of the points, whatever the size.
    starts: Box<[u32]>,
    shift: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Point {
    hash: u32,
    // The position among the members while they are sorted (which decides between points at one place), the caller's index after.
    owner: u32,
}

const POINTS_PER_BUCKET: usize = 4;

impl Ring {
    /// A ring of these endpoints. What it returns are positions in this sequence. Weight zero means no picks.
    ///
    /// # Errors
    /// As [`RingConfig::validate`], and `endpoint.key` when a key is there twice.
    pub fn new<'a>(
        config: &RingConfig,
        endpoints: impl IntoIterator<Item = (&'a EndpointKey, Weight)>,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        let members = Members::new(endpoints)?;
        let total = members.total_weight();
        let counts: Vec<u32> = members.iter().map(|m| config.points(m, total)).collect();
        let count = counts.iter().map(|n| *n as usize).sum::<usize>();
        let buckets = (count / POINTS_PER_BUCKET).next_power_of_two();
        let shift = u32::BITS - buckets.trailing_zeros();
        let all = || {
            (0u32..)
                .zip(members.iter().zip(&counts))
                .flat_map(|(owner, (member, count))| {
                    (1..=*count).map(move |n| Point {
                        hash: (nth(member.seed, n) >> 32) as u32,
                        owner,
                    })
                })
        };
        let (mut points, starts) = sorted(all, buckets, shift);
        for point in &mut points {
            point.owner = members.index_at(point.owner).unwrap_or(point.owner);
        }
        // The circle closes: what is after the last point belongs to the first.
        if let Some(first) = points.first().copied() {
            points.push(Point {
                hash: u32::MAX,
                owner: first.owner,
            });
        }
        Ok(Self {
            members,
            points: points.into(),
            starts,
            shift,
        })
    }

    /// How many points are on the ring.
    #[must_use]
    pub fn points(&self) -> usize {
        self.points.len().saturating_sub(1)
    }

    #[inline]
    pub(super) fn draw(&self, hash: u64, attempt: u32) -> Option<u32> {
        let place = (nth(hash, attempt) >> 32) as u32;
        let bucket = u64::from(place) >> self.shift;
        let start = *self.starts.get(bucket as usize)?;
        self.points
            .get(start as usize..)?
            .iter()
            .find(|point| point.hash >= place)
            .map(|point| point.owner)
    }
}

by_key!(Ring);

/// The points in order, and where each bucket begins. A counting sort by bucket leaves only a few points to compare with each other,
/// which matters with a million of them on each change of the set.
fn sorted<I: Iterator<Item = Point>>(
    all: impl Fn() -> I,
    buckets: usize,
    shift: u32,
) -> (Vec<Point>, Box<[u32]>) {
    let bucket = |point: &Point| (u64::from(point.hash) >> shift) as usize;
    let mut ends = vec![0u32; buckets];
    for point in all() {
        ends[bucket(&point)] += 1;
    }
    let mut count = 0;
    for end in &mut ends {
        count += *end;
        *end = count;
    }
    let mut points = vec![Point { hash: 0, owner: 0 }; count as usize];
    for point in all() {
        let end = &mut ends[bucket(&point)];
        *end -= 1;
        points[*end as usize] = point;
    }
    // Filled from its end, each bucket's end is its start now.
    let starts = ends;
    for (i, start) in starts.iter().enumerate() {
        let end = starts.get(i + 1).copied().unwrap_or(count);
        points[*start as usize..end as usize].sort_unstable();
    }
    (points, starts.into())
}
