use std::time::Duration;

use http::header::{CONTENT_TYPE, GetAll};
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use tokio::time::Instant;

use super::deadline::{Deadline, Untold};

/// Request header: how many milliseconds the caller goes on waiting for the response head, counted from when it was sent.
///
/// A number without a sign or a fraction. Only a duration travels, so that clocks need not agree.
pub const TIMEOUT_MS: HeaderName = HeaderName::from_static("x-ha-timeout-ms");

/// The same by the gRPC protocol: up to eight digits and a unit.
pub(super) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// gRPC allows no more.
const MOST_DIGITS: usize = 8;
const MOST: u128 = 99_999_999;

/// Units of gRPC in nanoseconds, from fine to coarse.
const UNITS: [(char, u128); 6] = [
    ('n', 1),
    ('u', 1_000),
    ('m', 1_000_000),
    ('S', 1_000_000_000),
    ('M', 60 * 1_000_000_000),
    ('H', 3_600 * 1_000_000_000),
];

/// What a request's headers say about the time its caller has left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// The shortest that was told in a way that can be read.
    pub(super) rest: Option<Duration>,
    /// Whether something was told that cannot be read.
    pub(super) malformed: bool,
}

impl Told {
    pub(super) fn read(headers: &HeaderMap) -> Self {
        let mut told = Self::default();
        told.add(headers.get_all(TIMEOUT_MS), milliseconds);
        if is_grpc(headers) {
            told.add(headers.get_all(GRPC_TIMEOUT), grpc_timeout);
        }
        told
    }

    fn add(
        &mut self,
        values: GetAll<'_, HeaderValue>,
        parse: impl FnOnce(&[u8]) -> Option<Duration>,
    ) {
        let mut values = values.iter();
        match (values.next(), values.next()) {
            (None, _) => {}
            (Some(value), None) => match parse(value.as_bytes()) {
                Some(rest) => self.rest = Some(self.rest.map_or(rest, |other| other.min(rest))),
                None => self.malformed = true,
            },
            // Two values are two meanings.
            (Some(_), Some(_)) => self.malformed = true,
        }
    }
}

/// Whether the request speaks gRPC (and not gRPC-Web, whose answers look otherwise).
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"))
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// Digits; more than fit are longer than any maximum.
fn milliseconds(text: &[u8]) -> Option<Duration> {
    digits(text).map(Duration::from_millis)
}

/// `TimeoutValue TimeoutUnit` of the gRPC protocol.
fn grpc_timeout(text: &[u8]) -> Option<Duration> {
    let (unit, number) = text.split_last()?;
    if number.len() > MOST_DIGITS {
        return None;
    }
    let number = digits(number)?;
    let (_, nanos) = UNITS.iter().find(|(name, _)| *name == char::from(*unit))?;
    let nanos = nanos * u128::from(number);
    // Eight digits of hours are fewer seconds than 64 bits hold.
    let seconds = u64::try_from(nanos / 1_000_000_000).ok()?;
    Some(Duration::from_secs(seconds) + Duration::from_nanos((nanos % 1_000_000_000) as u64))
}

fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = text.iter().fold(0u64, |number, digit| {
        number
            .saturating_mul(10)
            .saturating_add(u64::from(digit - b'0'))
    });
    Some(number)
}

/// In the finest unit that fits eight digits, rounded down: nobody is told more time than there is.
fn to_grpc(rest: Duration) -> (u128, char) {
    let nanos = rest.as_nanos();
    let coarsest = UNITS[UNITS.len() - 1];
    let (unit, size) = UNITS
        .into_iter()
        .find(|(_, size)| nanos / size <= MOST)
        .unwrap_or(coarsest);
    ((nanos / size).min(MOST), unit)
}

fn to_milliseconds(rest: Duration) -> u64 {
    u64::try_from(rest.as_millis()).unwrap_or(u64::MAX)
}

/// Tells the process that gets this request how long its caller goes on waiting, counted from now.
///
/// Does nothing for a request without a deadline. A shorter time that the caller wrote there itself stays.
pub(crate) fn tell<B>(request: &mut Request<B>) {
    let Some(deadline) = request.extensions().get::<Deadline>().copied() else {
        return;
    };
    if request.extensions().get::<Untold>().is_some() {
        // What a tier in front has told would tell it too.
        request.headers_mut().remove(TIMEOUT_MS);
        request.headers_mut().remove(GRPC_TIMEOUT);
        return;
    }
    let told = Told::read(request.headers()).rest;
    let rest = deadline.remaining(Instant::now());
    let rest = told.map_or(rest, |told| told.min(rest));
    if is_grpc(request.headers()) {
        let (number, unit) = to_grpc(rest);
        if let Ok(value) = HeaderValue::try_from(format!("{number}{unit}")) {
            request.headers_mut().insert(GRPC_TIMEOUT, value);
        }
        // A tier in front may have told it in the other way, and what it told has gone stale.
        if !request.headers().contains_key(TIMEOUT_MS) {
            return;
        }
    }
    let value = HeaderValue::from(to_milliseconds(rest));
    request.headers_mut().insert(TIMEOUT_MS, value);
}

/// An attempt of its own limit: what is told is never more than that. A request without a deadline stays without.
pub(crate) fn limit_attempt<B>(request: &mut Request<B>, limit: Duration) {
    if request.extensions().get::<Deadline>().is_some() {
        Deadline::after(Instant::now(), limit).narrow(request.extensions_mut());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn milliseconds_are_digits_and_nothing_else() {
        let ms = Duration::from_millis;
        for (text, rest) in [
            ("0", Some(ms(0))),
            ("1", Some(ms(1))),
            ("0250", Some(ms(250))),
            ("18446744073709551615", Some(ms(u64::MAX))),
            ("99999999999999999999999999", Some(ms(u64::MAX))),
            ("", None),
            ("-1", None),
            ("+1", None),
            ("1.5", None),
            ("1e3", None),
            ("250ms", None),
            (" 250", None),
            ("0x10", None),
            ("NaN", None),
        ] {
            assert_eq!(milliseconds(text.as_bytes()), rest, "{text:?}");
        }
    }

    #[test]
    fn a_grpc_timeout_has_up_to_eight_digits_and_one_of_six_units() {
        for (text, rest) in [
            ("1H", Some(Duration::from_secs(3_600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("4m", Some(Duration::from_millis(4))),
            ("5u", Some(Duration::from_micros(5))),
            ("6n", Some(Duration::from_nanos(6))),
            ("0S", Some(Duration::ZERO)),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3_600))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("100000000n", None),
            ("S", None),
            ("", None),
            ("12", None),
            ("-1S", None),
            ("1 S", None),
            ("1s", None),
            ("1h", None),
            ("1.5S", None),
            ("1Sm", None),
            ("1\u{fc}", None),
        ] {
            assert_eq!(grpc_timeout(text.as_bytes()), rest, "{text:?}");
        }
    }

    #[test]
    fn a_rest_is_written_in_the_finest_unit_that_fits() {
        for (rest, text) in [
            (Duration::ZERO, "0n"),
            (Duration::from_nanos(99_999_999), "99999999n"),
            (Duration::from_nanos(100_000_999), "100000u"),
            (Duration::from_secs(99), "99000000u"),
            (Duration::from_secs(100), "100000m"),
            (Duration::from_secs(86_400), "86400000m"),
            (Duration::from_secs(100_000), "100000S"),
            (Duration::from_secs(100_000_000), "1666666M"),
            (Duration::from_secs(6_000_000_000), "1666666H"),
            (Duration::MAX, "99999999H"),
        ] {
            let (number, unit) = to_grpc(rest);
            assert_eq!(format!("{number}{unit}"), text);
        }
    }

    #[test]
    fn grpc_is_known_by_its_content_type() {
        for (value, is) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc; charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/grpcx", false),
            ("application/json", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(value));
            assert_eq!(is_grpc(&headers), is, "{value}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn of_two_headers_the_shorter_counts_and_two_values_of_one_are_garbage() {
        let read = |lines: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(*name, HeaderValue::from_static(value));
            }
            Told::read(&headers)
        };
        let told = |millis, malformed| Told {
            rest: Option::map(millis, Duration::from_millis),
            malformed,
        };
        let grpc = ("content-type", "application/grpc");
        assert_eq!(read(&[]), told(None, false));
        assert_eq!(read(&[("x-ha-timeout-ms", "7")]), told(Some(7), false));
        // Not a gRPC request: the field means nothing.
        assert_eq!(read(&[("grpc-timeout", "7m")]), told(None, false));
        assert_eq!(read(&[grpc, ("grpc-timeout", "7m")]), told(Some(7), false));
        let both = [grpc, ("grpc-timeout", "7m"), ("x-ha-timeout-ms", "5")];
        assert_eq!(read(&both), told(Some(5), false));
        let half = [grpc, ("grpc-timeout", "x"), ("x-ha-timeout-ms", "5")];
        assert_eq!(read(&half), told(Some(5), true));
        let two = [("x-ha-timeout-ms", "5"), ("x-ha-timeout-ms", "5")];
        assert_eq!(read(&two), told(None, true));
    }

    proptest! {
        #[test]
        fn nobody_is_told_more_than_there_is_nor_much_less(nanos in 0u64..) {
            let rest = Duration::from_nanos(nanos);
            let (number, unit) = to_grpc(rest);
            let text = format!("{number}{unit}");
            let read = grpc_timeout(text.as_bytes()).unwrap();
            prop_assert!(read <= rest);
            // Eight digits, of which the first two differ at least.
            prop_assert!(read >= rest.mul_f64(0.999), "{rest:?} became {text}");
        }

        #[test]
        fn no_text_panics(text in proptest::collection::vec(any::<u8>(), 0..32)) {
            let _ = (milliseconds(&text), grpc_timeout(&text));
        }
    }
}
