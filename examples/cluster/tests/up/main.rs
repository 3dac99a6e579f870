//! The cluster as a visitor meets it: `up`, requests through both edges, parts killed and frozen, and every way it ends.

#![allow(clippy::unwrap_used)]

mod browser;
mod end;
mod supervisor;
mod visit;
