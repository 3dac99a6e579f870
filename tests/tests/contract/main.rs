//! Every layer of the workspace against every law of a service that others can build on: `docs/contract-matrix.md` is made here,
//! and so is what `docs/layer-order.md` says of wrong orders.
//!
//! The laws are functions over a layer without its types, around a probe that writes down what is done to it. Each cell of
//! the matrix is a test made by one macro. Layers that are broken on purpose show that each law can be broken.
#![allow(clippy::unwrap_used)]

mod broken;
mod cases;
mod controls;
mod laws;
mod order;
mod probe;
mod rows;
mod subject;
mod table;
