//! Benchmarks of the workspace beside its peers; see the `benches` folder of this package.
//!
//! Each file is one criterion group named after the file. Functions in it are `<case>/<who>`, where `who` is `ours` or
//! the name of a peer.
