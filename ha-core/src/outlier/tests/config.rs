use super::*;

#[test]
fn senseless_numbers_are_refused_by_name_and_value() {
    type Spoil = fn(&mut Config);
    let cases: [(Spoil, &str); 16] = [
        (|c| c.interval = Duration::ZERO, "outlier.interval is 0ns"),
        (|c| c.interval = 3601 * SEC, "outlier.interval is 3601s"),
        (
            |c| c.consecutive_failures = Some(0),
            "outlier.consecutive_failures is 0",
        ),
        (
            |c| c.consecutive_connect_failures = Some(0),
            "outlier.consecutive_connect_failures is 0",
        ),
        (
            |c| rate(c).deviations = f64::NAN,
            "outlier.success_rate.deviations is NaN",
        ),
        (
            |c| rate(c).deviations = 0.0,
            "outlier.success_rate.deviations is 0",
        ),
        (
            |c| rate(c).minimum_gap_ratio = 1.0,
            "outlier.success_rate.minimum_gap_ratio is 1",
        ),
        (
            |c| rate(c).minimum_hosts = 0,
            "outlier.success_rate.minimum_hosts is 0",
        ),
        (
            |c| rate(c).minimum_requests = 0,
            "outlier.success_rate.minimum_requests is 0",
        ),
        (
            |c| failure(c).failure_ratio = 0.0,
            "outlier.failure.failure_ratio is 0",
        ),
        (
            |c| failure(c).failure_ratio = 85.0,
            "outlier.failure.failure_ratio is 85",
        ),
        (
            |c| failure(c).minimum_hosts = 0,
            "outlier.failure.minimum_hosts is 0",
        ),
        (
            |c| failure(c).minimum_requests = 0,
            "outlier.failure.minimum_requests is 0",
        ),
        (
            |c| c.base_ejection = Duration::ZERO,
            "outlier.base_ejection is 0ns",
        ),
        (|c| c.max_ejection = SEC, "outlier.max_ejection is 1s"),
        (
            |c| c.max_ejected_ratio = f64::NAN,
            "outlier.max_ejected_ratio is NaN",
        ),
    ];
    for (spoil, text) in cases {
        let mut config = Config::default();
        spoil(&mut config);
        let error = Outliers::new(config, Instant::now())
            .unwrap_err()
            .to_string();
        assert!(error.starts_with(text), "{text}: {error}");
    }
}

fn rate(config: &mut Config) -> &mut SuccessRate {
    config.success_rate.as_mut().unwrap()
}

fn failure(config: &mut Config) -> &mut Failure {
    config.failure.as_mut().unwrap()
}
