//! tower-sessions with its own stores on real servers, beside this workspace's sessions: what it loses, and how its sessions
//! move over.
#![allow(clippy::unwrap_used)]

mod app;
mod bed;
mod faults;
mod moving;
mod theirs;
