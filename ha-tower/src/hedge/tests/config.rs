use super::*;

#[tokio::test]
async fn senseless_settings_are_refused_by_name_and_value() {
    let percentile = |percentile| Percentile {
        percentile,
        ..Percentile::default()
    };
    let inverted = Percentile {
        minimum: MS * 2,
        maximum: MS,
        ..Percentile::default()
    };
    let builder = HedgeLayer::builder;
    for (builder, message) in [
        (after(0), "hedge.delay is 0ns: must be longer than zero"),
        (
            builder().max_hedges(0),
            "hedge.max_hedges is 0: must be 1 or 2",
        ),
        (
            builder().max_hedges(3),
            "hedge.max_hedges is 3: must be 1 or 2",
        ),
        (
            builder().percentile(percentile(f64::NAN)),
            "hedge.percentile is NaN: must be within 50.0..=99.9",
        ),
        (
            builder().percentile(percentile(0.95)),
            "hedge.percentile is 0.95: must be within 50.0..=99.9",
        ),
        (
            builder().percentile(inverted),
            "hedge.minimum is 2ms: must not be longer than hedge.maximum",
        ),
        (
            builder().budget(budget::Config {
                retry_ratio: 1.5,
                ..budget::Config::default()
            }),
            "budget.retry_ratio is 1.5: must be within 0.0..=1.0",
        ),
        (
            builder().replay_limit(64 * 1024 * 1024 + 1),
            "hedge.replay_limit is 67108865: must be at most 67108864 bytes (64 MiB) per request",
        ),
    ] {
        assert_eq!(builder.build().unwrap_err().to_string(), message);
    }
    let again = builder().replay_limit(usize::MAX).replay_limit(0);
    let _ = again.build().unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_it_makes_is_clone_and_crosses_threads() {
    fn usable<T: Clone + Send + Sync + 'static>(value: T) -> T {
        value
    }
    fn sendable<T: Send>(value: T) -> T {
        value
    }
    let layer = usable(HedgeLayer::builder().build().unwrap());
    let mut service = usable(layer.layer(Server::new(&[(0, 200)])));
    let call = sendable(service.call(Request::new(Empty::<Bytes>::new())));
    assert_eq!(call.await.unwrap().status(), StatusCode::OK);
}
