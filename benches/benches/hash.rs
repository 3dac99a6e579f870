//! What finding the endpoint of a key costs, beside bare ketama (pingora's) and `hashring`; `peers` adds pingora's whole `select`.
//!
//! Case names are `<what>_<endpoints>`. Each lookup starts from the bytes of another key (16 of them, 65,536 keys in turn), so the
//! hash of the key is in every figure, ours and theirs; `key` is that hash alone. All rings have 160 points per
//! endpoint, `hashring` as 160 nodes. `bounded_*` takes a place within the bound and gives it back. `build_*` is one whole new table.
//! Maglev and rendezvous have no peer here: no maintained crate was found.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main};
use ha_benches::hash_keys;
use ha_core::endpoint::{EndpointKey, Weight};
use ha_core::hash::{
    Attempt, Bound, Candidates, Count, Maglev, MaglevConfig, Rendezvous, Ring, RingConfig, hash_key,
};
use hashring::HashRing;
use pingora_ketama::{Bucket, Continuum};

const SIZES: [u32; 5] = [2, 10, 100, 1_000, 10_000];
const POINTS: u32 = 160;

type Group<'a> = BenchmarkGroup<'a, WallTime>;
type Key = [u8; 16];

fn addresses(n: u32) -> Vec<SocketAddr> {
    (0..n)
        .map(|i| SocketAddr::from(([10, 0, (i >> 8) as u8, i as u8], 3000)))
        .collect()
}

fn endpoints(n: u32) -> Vec<EndpointKey> {
    let key = |address: SocketAddr| EndpointKey::new(address.to_string());
    addresses(n).into_iter().map(key).collect()
}

fn ring(endpoints: &[EndpointKey]) -> Ring {
    let equal = endpoints.iter().map(|key| (key, Weight::ONE));
    Ring::new(&RingConfig::default(), equal).unwrap()
}

fn maglev(endpoints: &[EndpointKey]) -> Maglev {
    let equal = endpoints.iter().map(|key| (key, Weight::ONE));
    Maglev::new(&MaglevConfig::default(), equal).unwrap()
}

fn ketama(n: u32) -> Continuum {
    let buckets: Vec<Bucket> = addresses(n)
        .into_iter()
        .map(|address| Bucket::new(address, 1))
        .collect();
    Continuum::new(&buckets)
}

fn hash_ring(n: u32) -> HashRing<(u32, u32)> {
    let mut ring = HashRing::new();
    ring.batch_add(
        (0..n)
            .flat_map(|node| (0..POINTS).map(move |point| (node, point)))
            .collect(),
    );
    ring
}

/// One lookup per key, going round.
fn lookups<T>(
    group: &mut Group<'_>,
    case: &str,
    who: &str,
    keys: &[Key],
    find: impl Fn(&Key) -> T,
) {
    group.bench_function(BenchmarkId::new(case, who), |b| {
        let mut next = keys.iter().cycle();
        b.iter(|| next.next().map(|key| find(black_box(key))));
    });
}

fn bounded<'a>(
    group: &mut Group<'_>,
    case: &str,
    keys: &[Key],
    n: u32,
    candidates: impl Fn(u64) -> Candidates<'a>,
) {
    let bound = Bound::new(Bound::DEFAULT_FACTOR, (0..n).map(|_| Weight::ONE)).unwrap();
    let counts: Vec<Count> = (0..n).map(|_| Count::new()).collect();
    let total = Count::new();
    let take = |hash| {
        bound.take(&total, candidates(hash), |i, cap| {
            if counts[i].try_take(cap) {
                Attempt::Taken
            } else {
                Attempt::Full
            }
        })
    };
    // As many in flight as there are endpoints, so that some are at their caps.
    for key in keys.iter().take(n as usize) {
        take(hash_key(key)).unwrap();
    }
    lookups(group, case, "ours", keys, |key| {
        let taken = take(hash_key(key)).unwrap();
        counts[taken].release();
        total.release();
    });
}

fn hash(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hash");
    group.warm_up_time(Duration::from_millis(500));
    group.measurement_time(Duration::from_secs(1));
    group.sample_size(30);
    let keys = hash_keys();
    lookups(&mut group, "key", "ours", &keys, |key| hash_key(key));
    for n in SIZES {
        let endpoints = endpoints(n);

        let case = format!("ring_{n}");
        let ours = ring(&endpoints);
        lookups(&mut group, &case, "ours", &keys, |key| {
            ours.pick(hash_key(key))
        });
        let theirs = ketama(n);
        lookups(&mut group, &case, "pingora_ketama", &keys, |key| {
            theirs.node(key)
        });
        let theirs = hash_ring(n);
        lookups(&mut group, &case, "hashring", &keys, |key| {
            theirs.get(key).copied()
        });
        bounded(&mut group, &format!("bounded_ring_{n}"), &keys, n, |hash| {
            ours.candidates(hash)
        });

        let ours = maglev(&endpoints);
        lookups(&mut group, &format!("maglev_{n}"), "ours", &keys, |key| {
            ours.pick(hash_key(key))
        });
        bounded(
            &mut group,
            &format!("bounded_maglev_{n}"),
            &keys,
            n,
            |hash| ours.candidates(hash),
        );
    }
    for n in [10, 100, 1_000] {
        let endpoints = endpoints(n);
        for (name, weights) in [("rendezvous", [1, 1]), ("rendezvous_weighted", [1, 2])] {
            let weights = weights.map(|w| Weight::new(w).unwrap());
            let ours = Rendezvous::new(endpoints.iter().zip(weights.into_iter().cycle())).unwrap();
            lookups(&mut group, &format!("{name}_{n}"), "ours", &keys, |key| {
                ours.pick(hash_key(key))
            });
        }
        build(&mut group, n);
    }
    build(&mut group, 10_000);
    group.finish();
}

fn build(group: &mut Group<'_>, n: u32) {
    let endpoints = endpoints(n);
    let case = format!("build_ring_{n}");
    group.bench_function(BenchmarkId::new(&case, "ours"), |b| {
        b.iter(|| ring(&endpoints))
    });
    group.bench_function(BenchmarkId::new(&case, "pingora_ketama"), |b| {
        b.iter(|| ketama(n));
    });
    group.bench_function(BenchmarkId::new(format!("build_maglev_{n}"), "ours"), |b| {
        b.iter(|| maglev(&endpoints));
    });
}

criterion_group!(benches, hash);
criterion_main!(benches);
