use ::http::{HeaderMap, HeaderName};
use ha_core::health::Finding;

/// `x-ha-draining`: `true` on any response of an app that is leaving.
pub const DRAINING: HeaderName = HeaderName::from_static("x-ha-draining");

/// `x-ha-region`: `sick` on the readiness answer of an app whose region has lost what it shares.
pub const REGION: HeaderName = HeaderName::from_static("x-ha-region");

/// Whether a response says that its app is leaving, and wants no new requests: [`DRAINING`] is `true`.
///
/// ```
/// let mut response = http::Response::new("still served");
/// assert!(!ha_tower::health::is_draining(response.headers()));
/// response.headers_mut().insert(ha_tower::health::DRAINING, "true".parse()?);
/// assert!(ha_tower::health::is_draining(response.headers()));
/// # Ok::<(), http::header::InvalidHeaderValue>(())
/// ```
#[must_use]
pub fn is_draining(headers: &HeaderMap) -> bool {
    says(headers, &DRAINING, b"true")
}

/// Whether a readiness answer says that what its region shares is gone: [`REGION`] is `sick`.
#[must_use]
pub fn is_region_sick(headers: &HeaderMap) -> bool {
    says(headers, &REGION, b"sick")
}

/// What the app says of itself, if anything. Leaving is the stronger word: it is about this app for certain.
pub(super) fn said(headers: &HeaderMap) -> Option<Finding> {
    if is_draining(headers) {
        Some(Finding::Draining)
    } else if is_region_sick(headers) {
        Some(Finding::RegionSick)
    } else {
        None
    }
}

fn says(headers: &HeaderMap, name: &HeaderName, word: &[u8]) -> bool {
    headers
        .get_all(name)
        .iter()
        .any(|value| value.as_bytes().trim_ascii().eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_documented_words_count() {
        let with = |name: &HeaderName, values: &[&'static [u8]]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(name, ::http::HeaderValue::from_bytes(value).unwrap());
            }
            said(&headers)
        };
        for value in [&b"true"[..], b"True", b" true\t"] {
            assert_eq!(with(&DRAINING, &[value]), Some(Finding::Draining));
        }
        for value in [&b""[..], b"false", b"1", b"truer", b"\xff"] {
            assert_eq!(with(&DRAINING, &[value]), None);
            assert_eq!(with(&REGION, &[value]), None);
        }
        assert_eq!(with(&DRAINING, &[b"no", b"true"]), Some(Finding::Draining));
        assert_eq!(with(&REGION, &[b"SICK"]), Some(Finding::RegionSick));
    }

    #[test]
    fn leaving_is_stronger_than_a_sick_region() {
        let headers = [(REGION, "sick"), (DRAINING, "true")]
            .into_iter()
            .map(|(name, value)| (name, ::http::HeaderValue::from_static(value)))
            .collect();
        assert_eq!(said(&headers), Some(Finding::Draining));
    }
}
