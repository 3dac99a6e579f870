//! What the benches here and those in `peers` have in common, so that all are measured the same way.
//!
//! Each file or folder in `benches` is one criterion group of that name. Functions in it are `<case>/<who>`, where `who` is `ours`
//! or the name of a peer. `peers` is a workspace of its own with groups of the same names: `cargo xtask bench` puts its
//! results into the same rows. Benches whose name ends in `_memory` count instead of measuring time and write [`memory::Rows`].

mod arguments;
mod crowd;
pub mod markdown;
pub mod memory;
mod service;

pub use arguments::Arguments;
pub use crowd::Crowd;
pub use service::{Noop, Work, Worked, at_once, work};

/// How many endpoints balancers are measured with.
pub const SIZES: [usize; 5] = [2, 10, 100, 1_000, 10_000];

/// 65,536 keys of 16 bytes, to be looked up in turn.
///
/// # Panics
/// Never: all these keys have 16 bytes.
#[must_use]
pub fn hash_keys() -> Vec<[u8; 16]> {
    let key = |i| format!("session{i:09}").into_bytes().try_into();
    (0..65_536)
        .map(|i| key(i).expect("seven letters and nine digits"))
        .collect()
}
