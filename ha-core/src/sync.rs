// One place to swap in loom's types, so that the same code that ships is the code that is checked.

#[cfg(not(ha_loom))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
#[cfg(not(ha_loom))]
pub(crate) use std::sync::{Mutex, MutexGuard};

#[cfg(ha_loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
#[cfg(ha_loom)]
pub(crate) use loom::sync::{Mutex, MutexGuard};
