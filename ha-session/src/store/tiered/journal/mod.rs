//! Writes that PostgreSQL cannot take now: kept on this machine's disk until it can.

mod files;
mod record;
mod replay;
mod write;

pub use self::files::{Journal, JournalError, JournalStatus};
pub(crate) use self::record::Changes;
pub(super) use self::replay::Replayer;

#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(bytes: &[u8]) {
    record::Records::of(bytes).for_each(drop);
}
