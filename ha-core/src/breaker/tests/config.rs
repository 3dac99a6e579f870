use super::*;

fn slow(threshold: Duration, ratio: f64) -> Config {
    let slow_calls = SlowCalls {
        ratio,
        ..SlowCalls::over(threshold)
    };
    Config {
        slow_calls: Some(slow_calls),
        ..Config::default()
    }
}

#[test]
fn senseless_numbers_are_refused_by_name_and_value() {
    let good = Config::default;
    for (config, message) in [
        (
            Config {
                failure_ratio: 0.0,
                ..good()
            },
            "breaker.failure_ratio is 0: ",
        ),
        (
            Config {
                failure_ratio: f64::NAN,
                ..good()
            },
            "breaker.failure_ratio is NaN: ",
        ),
        (
            Config {
                failure_ratio: 50.0,
                ..good()
            },
            "breaker.failure_ratio is 50: ",
        ),
        (
            Config {
                minimum_calls: 0,
                ..good()
            },
            "breaker.minimum_calls is 0: ",
        ),
        (
            Config {
                consecutive_failures: 0,
                ..good()
            },
            "breaker.consecutive_failures is 0: ",
        ),
        (
            Config {
                probes: 0,
                ..good()
            },
            "breaker.probes is 0: ",
        ),
        (
            Config {
                window: Duration::ZERO,
                ..good()
            },
            "breaker.window is 0ns: ",
        ),
        (
            Config {
                open_min: Duration::ZERO,
                ..good()
            },
            "breaker.open_min is 0ns: ",
        ),
        (
            Config {
                open_max: SEC,
                ..good()
            },
            "breaker.open_max is 1s: ",
        ),
        (
            Config {
                open_max: Duration::MAX,
                ..good()
            },
            "breaker.open_max is ",
        ),
        (
            Config {
                probe_timeout: Duration::ZERO,
                ..good()
            },
            "breaker.probe_timeout is 0ns: ",
        ),
        (
            slow(Duration::ZERO, 0.5),
            "breaker.slow_calls.threshold is 0ns: ",
        ),
        (slow(Duration::MAX, 0.5), "breaker.slow_calls.threshold is "),
        (slow(SEC, f64::NAN), "breaker.slow_calls.ratio is NaN: "),
        (slow(SEC, -0.1), "breaker.slow_calls.ratio is -0.1: "),
        (slow(SEC, 0.0), "breaker.slow_calls.ratio is 0: "),
        (slow(SEC, 1.1), "breaker.slow_calls.ratio is 1.1: "),
    ] {
        let error = Breaker::new(config, Instant::now())
            .unwrap_err()
            .to_string();
        assert!(error.starts_with(message), "{error}");
    }
}
