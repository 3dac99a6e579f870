use xxhash_rust::xxh3::xxh3_64;

// 2^64 divided by the golden ratio: multiples of it are spread evenly over all words.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The hash of a request's key: XXH3 with 64 bits and seed 0, as fixed by xxHash 0.8.
///
/// The same bytes give the same number in every process, on every machine and in every version of this crate, so that
/// all clients agree. It is quick and not cryptographic: who may choose keys freely may also choose ones that meet at
/// one endpoint, which is what a [`Bound`](super::Bound) is for.
///
/// ```
/// assert_eq!(ha_core::hash::hash_key(b""), 0x2d06_8005_38d3_94c2);
/// ```
#[inline]
#[must_use]
pub fn hash_key(key: &[u8]) -> u64 {
    xxh3_64(key)
}

/// Turns every bit of `x` into a coin toss for every bit of the result (the "moremur" finalizer). What callers bring need not be a
/// good hash then: numbers counted upwards are spread as well.
#[inline]
pub(crate) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 27)).wrapping_mul(0x3c79_ac49_2ba7_b653);
    x = (x ^ (x >> 33)).wrapping_mul(0x1c69_b3f7_4ac4_ae35);
    x ^ (x >> 27)
}

/// The `n`-th of many independent numbers from one hash.
#[inline]
pub(super) fn nth(hash: u64, n: u32) -> u64 {
    mix(hash.wrapping_add(GOLDEN.wrapping_mul(u64::from(n))))
}

/// A number below `bound` from the upper bits of `hash`, by multiplication instead of a slow division.
#[inline]
pub(super) fn below(hash: u64, bound: u32) -> u32 {
    ((u128::from(hash) * u128::from(bound)) >> 64) as u32
}
