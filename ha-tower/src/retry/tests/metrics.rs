//! What is counted, under which names.

use ::metrics::set_default_local_recorder;

use super::*;
use crate::recorded::Recorded;

/// What is counted when a server does `acts`.
async fn counted(builder: Builder, request: Request<Full<Bytes>>, acts: Vec<Act>) -> Vec<String> {
    let counted = Recorded::default();
    let _guard = set_default_local_recorder(&counted);
    let (service, _) = server(acts);
    let layer = built(builder.name("shop"));
    let _ = layer.layer(service).oneshot(request).await;
    let line = |(name, n): (String, u64)| {
        let name = name.strip_prefix("ha_retry_").unwrap();
        format!("{name} {n}")
    };
    counted.counters().into_iter().map(line).collect()
}

#[tokio::test(start_paused = true)]
async fn retries_and_failures_given_up_and_bad_headers_are_counted_by_cause() {
    let quick = || RetryLayer::builder().backoff(Backoff::new(Duration::ZERO, Duration::ZERO));
    let second = Duration::from_secs(1);
    let none = budget::Config {
        retry_ratio: 0.0,
        reserve_per_second: 0.0,
        ..budget::Config::default()
    };
    let get = || request(Method::GET);
    let (mut hurried, mut bomb) = (get(), get());
    let soon = Instant::now() + second;
    hurried
        .extensions_mut()
        .insert(crate::timeout::Deadline(soon));
    for _ in 0..300 {
        bomb.headers_mut().append("x-bomb", "b".parse().unwrap());
    }
    for (builder, request, acts, expected) in [
        (quick(), get(), vec![], &[][..]),
        (
            quick(),
            get(),
            vec![Act::Break, Act::Status(503)],
            &[
                "retries_total{cause=error,retry=shop} 1",
                "retries_total{cause=status,retry=shop} 1",
            ],
        ),
        (
            quick(),
            get(),
            vec![Act::Unsent, Act::Truncated],
            &[
                "retries_total{cause=broken,retry=shop} 1",
                "retries_total{cause=unsent,retry=shop} 1",
            ],
        ),
        (
            quick().attempt_timeout(second),
            get(),
            vec![Act::Hangs],
            &["retries_total{cause=timeout,retry=shop} 1"],
        ),
        (
            quick().attempts(2),
            get(),
            vec![Act::Break, Act::Break],
            &[
                "given_up_total{reason=attempts,retry=shop} 1",
                "retries_total{cause=error,retry=shop} 1",
            ],
        ),
        (
            quick().budget(none),
            get(),
            vec![Act::Break],
            &["given_up_total{reason=budget,retry=shop} 1"],
        ),
        (
            quick().replay_limit(1),
            get(),
            vec![Act::Break],
            &["given_up_total{reason=body,retry=shop} 1"],
        ),
        (
            quick(),
            get(),
            vec![Act::After("60")],
            &["given_up_total{reason=pushback,retry=shop} 1"],
        ),
        (
            quick(),
            hurried,
            vec![Act::After("2")],
            &["given_up_total{reason=deadline,retry=shop} 1"],
        ),
        (
            quick(),
            get(),
            vec![Act::After("soon")],
            &[
                "bad_headers_total{header=retry-after,retry=shop} 1",
                "retries_total{cause=status,retry=shop} 1",
            ],
        ),
        (
            quick(),
            bomb,
            vec![Act::Break],
            &["bad_headers_total{header=too_many,retry=shop} 1"],
        ),
    ] {
        assert_eq!(counted(builder, request, acts).await, expected);
    }
}
