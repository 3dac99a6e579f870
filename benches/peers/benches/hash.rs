//! The rows that pingora adds to `hash`: its whole `select` over ketama. The ring alone is in `hash` itself.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ha_benches::{SIZES, hash_keys};
use ha_benches_peers::{NAME, balancer, select};
use pingora_load_balancing::selection::consistent::KetamaHashing;

fn hash(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hash");
    group.warm_up_time(Duration::from_millis(500));
    group.measurement_time(Duration::from_secs(1));
    group.sample_size(30);
    let keys = hash_keys();
    for n in SIZES {
        let balancer = balancer::<KetamaHashing>(n);
        group.bench_function(BenchmarkId::new(format!("ring_{n}"), NAME), |b| {
            let mut next = keys.iter().cycle();
            b.iter(|| next.next().map(|key| select(&balancer, key)));
        });
    }
    group.finish();
}

criterion_group!(benches, hash);
criterion_main!(benches);
