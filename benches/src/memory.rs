//! Counting allocations. The program that counts installs the allocator:
//!
//! ```
//! use std::alloc::System;
//! use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
//!
//! #[global_allocator]
//! static GLOBAL: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;
//!
//! let (vec, bytes) = ha_benches::memory::held(|| vec![0u8; 100]);
//! assert_eq!(bytes, 100);
//! let per_call = ha_benches::memory::allocations_per_call(|| drop(vec.clone()));
//! assert_eq!(per_call, 1.0);
//! ```

use std::path::Path;
use std::{env, fs, io};

use serde_json::{Value, json};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region};

const CALLS: u32 = 10_000;

/// Makes something, and says how many bytes of the heap it holds on to.
pub fn held<T>(make: impl FnOnce() -> T) -> (T, usize) {
    let region = Region::new(&INSTRUMENTED_SYSTEM);
    let made = make();
    let change = region.change();
    (made, change.bytes_allocated - change.bytes_deallocated)
}

/// How often one call allocates, over many of them.
pub fn allocations_per_call(mut call: impl FnMut()) -> f64 {
    // What is made once per thread is made by the first call.
    call();
    let region = Region::new(&INSTRUMENTED_SYSTEM);
    for _ in 0..CALLS {
        call();
    }
    let change = region.change();
    (change.allocations + change.reallocations) as f64 / f64::from(CALLS)
}

/// What was counted, for `cargo xtask bench`.
#[derive(Debug, Default)]
pub struct Rows(Vec<Value>);

impl Rows {
    /// The allocations of one pick from so many endpoints, and the bytes of the heap that all of them hold.
    pub fn add(
        &mut self,
        policy: &str,
        endpoints: usize,
        who: &str,
        allocations: f64,
        bytes: usize,
    ) {
        for (unit, case, value) in [
            ("allocations", "pick", allocations),
            (
                "bytes",
                "memory_per_endpoint",
                bytes as f64 / endpoints as f64,
            ),
        ] {
            let case = format!("{case}_{policy}_{endpoints}");
            self.0
                .push(json!({"unit": unit, "case": case, "who": who, "value": value}));
        }
    }

    /// Writes the rows to the file after `--rows`, or prints them when none is named.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn finish(self) -> io::Result<()> {
        let file = env::args_os().skip_while(|arg| arg != "--rows").nth(1);
        let text = format!("{:#}\n", Value::Array(self.0));
        match file {
            Some(file) => fs::write(Path::new(&file), text),
            None => {
                print!("{text}");
                Ok(())
            }
        }
    }
}
