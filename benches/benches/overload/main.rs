//! What an axum service is worth that is asked for four times what it can do: with each of the limits, and without.
//!
//! Sixteen workers take 25 ms for each request, and do what has been asked for whether or not somebody still waits. Clients give up after
//! 250 ms. `peak` is what the workers can do at best when just enough is asked; `idle` is half of that. All of it runs on real sockets
//! in one process, so that clients and service share the cores.
//!
//! `cargo xtask bench overload` runs it.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../../../tests/tests/overload/service.rs"]
mod service;

use std::time::Duration;

use axum::Router;
use ha_benches::Arguments;
use ha_testbed::load::Histogram;
use ha_tower::limit::{
    AdaptiveConfig, Algorithm, Gradient2, LimitLayer, Order, QueueConfig, Vegas,
};
use http::HeaderName;
use serde_json::{Value, json};
use service::{PRIORITY, Service, Size, Tally, drive};

const SIZE: Size = Size {
    workers: 16,
    work: Duration::from_millis(25),
    patience: Duration::from_millis(250),
};
const WARM_UP: Duration = Duration::from_secs(5);
const MEASURE: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Line {
    name: &'static str,
    good_per_second: f64,
    p50: Duration,
    p99: Duration,
    refused_per_second: f64,
    wasted_per_second: f64,
    critical_ratio: f64,
}

fn adaptive(algorithm: Algorithm, order: Order) -> impl FnOnce(Router) -> Router {
    let config = AdaptiveConfig {
        algorithm,
        ..AdaptiveConfig::default()
    };
    protected(LimitLayer::adaptive(config).queue(QueueConfig {
        order,
        ..QueueConfig::default()
    }))
}

fn protected<P>(builder: ha_tower::limit::Builder<P>) -> impl FnOnce(Router) -> Router {
    let protocol = ha_tower::limit::Http::new();
    let name = HeaderName::from_static(PRIORITY);
    let layer = builder
        .protocol(protocol.trust_priority_header(name))
        .build();
    move |app| app.layer(layer.unwrap())
}

async fn line(name: &'static str, factor: f64, protect: impl FnOnce(Router) -> Router) -> Line {
    eprintln!("{name}");
    let service = Service::start(SIZE, protect).await;
    let tallies = drive(&service, SIZE, factor, WARM_UP, MEASURE).await;
    let mut latency = Histogram::default();
    tallies
        .iter()
        .for_each(|tally| latency.merge(&tally.latency));
    let sum = |of: fn(&Tally) -> u64| tallies.iter().map(of).sum::<u64>() as f64;
    let quantile = |q| latency.quantile(q).unwrap_or_default();
    Line {
        name,
        good_per_second: sum(|tally| tally.good) / MEASURE.as_secs_f64(),
        refused_per_second: sum(|tally| tally.refused) / MEASURE.as_secs_f64(),
        // The warm-up counts here, and its length with it.
        wasted_per_second: service.wasted() as f64 / (WARM_UP + MEASURE).as_secs_f64(),
        p50: quantile(0.5),
        p99: quantile(0.99),
        critical_ratio: tallies[0].good as f64 / tallies[0].sent as f64,
    }
}

async fn measure() -> Vec<Line> {
    let (gradient, vegas) = (Gradient2::default().into(), Vegas::default().into());
    vec![
        line("idle (0.5x)", 0.5, |app| app).await,
        line("peak (0.95x)", 0.95, |app| app).await,
        line("none (4x)", 4.0, |app| app).await,
        line(
            "fixed 1000 (4x)",
            4.0,
            protected(LimitLayer::concurrency(1_000)),
        )
        .await,
        line("fixed 16 (4x)", 4.0, protected(LimitLayer::concurrency(16))).await,
        line("gradient2 (4x)", 4.0, adaptive(gradient, Order::Fifo)).await,
        line("vegas (4x)", 4.0, adaptive(vegas, Order::Fifo)).await,
        line(
            "vegas, lifo (4x)",
            4.0,
            adaptive(vegas, Order::AdaptiveLifo),
        )
        .await,
    ]
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let lines = runtime.block_on(measure());
    let (idle, peak) = (&lines[0], &lines[1]);
    println!(
        "\n{:<18} {:>8} {:>8} {:>9} {:>9} {:>9} {:>10} {:>9} {:>10}",
        "overload",
        "good/s",
        "of peak",
        "p50 ms",
        "p99 ms",
        "p99/idle",
        "refused/s",
        "wasted/s",
        "critical"
    );
    for line in &lines {
        let ms = |latency: Duration| latency.as_secs_f64() * 1e3;
        println!(
            "{:<18} {:>8.0} {:>7.1}% {:>9.1} {:>9.1} {:>8.2}x {:>10.0} {:>9.0} {:>9.2}%",
            line.name,
            line.good_per_second,
            100.0 * line.good_per_second / peak.good_per_second,
            ms(line.p50),
            ms(line.p99),
            ms(line.p99) / ms(idle.p99),
            line.refused_per_second,
            line.wasted_per_second,
            100.0 * line.critical_ratio,
        );
    }
    let rows = lines.iter().map(|line| {
        json!({
            "bench": "overload",
            "case": line.name,
            "good_per_second": line.good_per_second,
            "of_peak": line.good_per_second / peak.good_per_second,
            "p99_ns": line.p99.as_nanos() as u64,
            "p99_of_idle": line.p99.as_secs_f64() / idle.p99.as_secs_f64(),
            "critical_ratio": line.critical_ratio,
        })
    });
    let text = format!("{:#}\n", Value::Array(rows.collect()));
    Arguments::read().write(text).unwrap();
}
