//! Settings that make no sense.

use super::*;

#[tokio::test]
async fn senseless_settings_are_refused_by_name_and_value() {
    let builder = RetryLayer::builder;
    let day = Duration::from_secs(86_401);
    let ratio = |retry_ratio| budget::Config {
        retry_ratio,
        ..budget::Config::default()
    };
    for (bad, message) in [
        (
            builder().attempts(0),
            "retry.attempts is 0: must be at least 1",
        ),
        (
            builder().attempts(11),
            "retry.attempts is 11: must be at most 10",
        ),
        (
            builder().hold_stall(Duration::ZERO),
            "retry.hold_stall is 0ns: must be longer than zero",
        ),
        (
            builder().hold_stall(day),
            "retry.hold_stall is 86401s: must not be longer than a day",
        ),
        (
            builder().retry_after_cap(day),
            "retry.retry_after_cap is 86401s: must not be longer than a day",
        ),
        (
            builder().attempt_timeout(Duration::ZERO),
            "retry.attempt_timeout is 0ns: must be longer than zero",
        ),
        (
            builder().attempt_timeout(day),
            "retry.attempt_timeout is 86401s: must not be longer than a day",
        ),
        (
            builder().codes([14]),
            "retry.codes is [14]: must be left out without gRPC",
        ),
        (
            RetryLayer::grpc_builder().codes([14, 0]),
            "retry.codes is 0: must be the number of a status that is an error, 1 to 16",
        ),
        (
            builder().backoff(Backoff::new(day, Duration::ZERO)),
            "backoff.base is 86401s: must not be longer than backoff.cap",
        ),
        (
            builder().replay_limit(1 << 27),
            "retry.replay_limit is 134217728: must be at most 67108864 bytes (64 MiB) per request",
        ),
        (
            builder().hold_small_responses(1 << 27),
            "retry.hold_small_responses is 134217728: must be at most 67108864 bytes (64 MiB) per request",
        ),
        (
            builder().attempts_header(http::header::CONTENT_LENGTH),
            "retry.attempts_header is content-length: must not be a field that frames messages",
        ),
        (
            builder().budget(ratio(f64::NAN)),
            "budget.retry_ratio is NaN: must be within 0.0..=1.0",
        ),
        (
            builder().budget(ratio(-0.5)),
            "budget.retry_ratio is -0.5: must be within 0.0..=1.0",
        ),
    ] {
        assert_eq!(bad.build().unwrap_err().to_string(), message);
    }
    assert!(builder().build().is_ok());
}
