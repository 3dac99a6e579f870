//! A simulator of one caller and many endpoints, in virtual time and from a seed.
//!
//! Requests come on a timetable or from clients that wait for each answer; endpoints answer, fail, refuse or freeze by a
//! profile. In between stand the real types of this crate, put together as a balancer does. Nothing sleeps, so an hour of
//! traffic takes a second, and the same seed gives the same run to the last request.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod client;
mod controls;
mod engine;
mod picker;
mod random;
mod report;
mod server;

mod ejection;
mod failures;
mod hashed;
mod priorities;
mod ramp;
mod shares;
mod table;
