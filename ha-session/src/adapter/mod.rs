//! [`TowerSessions`]: a [`Store`](crate::Store) behind the `SessionStore` trait of tower-sessions, so that an app, or axum-login, that stands on
//! tower-sessions gets most of what this crate promises without another handler API.
//!
//! # What it brings
//! - Requests that change different names merge: a save writes what differs from what was loaded, and nothing else.
//! - A session that ended stays ended: saving it is an error, not a resurrection.
//! - "The store cannot say" is an error, not "no session".
//! - The store sees a hash of the id only.
//! - A save without changes writes nothing before a tenth of the idle window has passed.
//! - Whatever the [`Store`](crate::Store) does about failovers and outages.
//!
//! # What the trait cannot carry
//! - *Atomic rotation.* tower-sessions' `cycle_id` deletes the old id and then creates the new one. A crash in between, or a store
//!   that goes away, ends the session. [`Session::rotate`](crate::Session::rotate) is one step.
//! - *503.* tower-sessions' own layer answers 500 when a store fails, and takes the cookie away when a load says "none". The
//!   adapter never says "none" when it does not know, but what a handler does with an error of `session.get` is its own.
//! - *Key rotation and encryption* of the cookie, which is the layer's.
//! - *Conflicts.* The last writer of a name wins.
//! - *Principals.* tower-sessions does not tell a store whose session it is.
//!
//! # How a save knows what was loaded
//! The trait's records carry no version, so the adapter puts one more value under [`BASE`] into each record that it
//! hands out: a hash of every value as it was. It is never stored. `Session::clear` removes it with all else, and a save without it
//! means what `clear` means: whatever is stored and not in the record goes.

mod base;
mod core;
mod traits;

pub use self::base::BASE;
pub use self::core::{AdapterError, TowerSessions};
pub use self::traits::PurgeExpired;
