//! A bounded fuzz of everything that reads bytes from outside, over the same entry points as the targets in `fuzz/`: seeds of our
//! own making, mutated. `HA_FUZZ_SECONDS` says how long, two by default; the seed is printed and can be given by `HA_FUZZ_SEED`.
#![cfg(feature = "fuzzing")]
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use ha_session::fuzzing;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text:?} is no number")),
    )
}

fn mutated(rng: &mut fastrand::Rng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seeds[rng.usize(..seeds.len())].clone();
    for _ in 0..rng.usize(1..6) {
        let at = rng.usize(..=bytes.len());
        match rng.u8(0..6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.u8(0..8),
            1 if at < bytes.len() => bytes[at] = rng.u8(..),
            2 => bytes.truncate(at),
            3 => bytes.insert(at, rng.u8(..)),
            4 => {
                let part = bytes[at..].to_vec();
                bytes.extend(part);
            }
            _ => {
                let other = &seeds[rng.usize(..seeds.len())];
                let from = rng.usize(..=other.len());
                bytes.splice(at.., other[from..].iter().copied());
            }
        }
        bytes.truncate(1 << 16);
    }
    bytes
}

fn fuzz(target: fn(&[u8]), seeds: &[Vec<u8>]) {
    let seed = number("HA_FUZZ_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("HA_FUZZ_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let end = Instant::now() + Duration::from_secs(number("HA_FUZZ_SECONDS").unwrap_or(2));
    seeds.iter().for_each(|seed| target(seed));
    let mut corpus = seeds.to_vec();
    let mut runs = 0_u64;
    while Instant::now() < end {
        for _ in 0..200 {
            let bytes = mutated(&mut rng, &corpus);
            target(&bytes);
            // Deeper mutations of some, so that it does not stay next to the seeds.
            if rng.u8(..) == 0 && corpus.len() < 512 {
                corpus.push(bytes);
            }
            runs += 1;
        }
    }
    println!("{runs} inputs");
}

#[test]
fn no_cookie_makes_it_panic_and_no_forged_one_is_accepted() {
    fuzz(fuzzing::cookie, &fuzzing::cookie_seeds());
}

#[test]
fn no_stored_bytes_make_it_panic() {
    fuzz(fuzzing::record, &fuzzing::record_seeds());
}
