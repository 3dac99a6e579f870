//! `IdempotencyLayer` on real PostgreSQL: applied once, answered once, across concurrency, cancellation and failover. Beside each
//! promise the same service without the layer.

mod app;
mod expiry;
mod failures;
mod once;
mod outages;
mod refused;
