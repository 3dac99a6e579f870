//! Entry points for fuzzers: everything that reads bytes from outside. Not part of the API.
//!
//! The targets of `ha-session/fuzz` call them, and so does `tests/fuzz.rs`, which always runs.

use ha_core::sign::{Key, KeyRing};
use http::HeaderMap;
use http::header::{COOKIE, HeaderValue};

use crate::cookie::{CookieConfig, Cookies, Presented, Protection};
use crate::id::{ID_LEN, SessionId};
use crate::record::Version;
use crate::value;

fn cookies(protection: Protection) -> Option<Cookies> {
    let keys = KeyRing::from(Key::from_bytes(&[7; 32]).ok()?);
    let config = CookieConfig::default().protection(protection);
    Cookies::new(keys).configured(config).ok()
}

fn presented() -> Presented {
    Presented {
        id: SessionId::from_bytes([9; ID_LEN]),
        floor: Version::new(42),
    }
}

/// Cookie texts of this crate's own making, to mutate.
#[must_use]
pub fn cookie_seeds() -> Vec<Vec<u8>> {
    [Protection::Signed, Protection::Encrypted]
        .into_iter()
        .filter_map(|protection| {
            let (cookies, age) = (cookies(protection)?, std::time::Duration::from_secs(1));
            let id = cookies.set(presented(), age).ok()??;
            let version = cookies.set_version(presented(), age)?;
            Some([id.as_bytes(), version.as_bytes()].join(&b"; "[..]))
        })
        .collect()
}

/// Reads a `Cookie` header. Whatever comes out of it must be what was signed.
///
/// # Panics
/// When a cookie is accepted that was not issued.
pub fn cookie(bytes: &[u8]) {
    let Some(cookies) = cookies(Protection::Signed) else {
        return;
    };
    let Ok(header) = HeaderValue::from_bytes(bytes) else {
        return;
    };
    let mut headers = HeaderMap::new();
    headers.insert(COOKIE, header);
    if let Some(found) = cookies.read(&headers) {
        assert_eq!(found, presented(), "a forged cookie was accepted");
    }
    for text in cookies.tickets(&headers) {
        assert!(cookies.open_ticket(presented().id, &text).is_none());
    }
    crate::cookie::parse_ticket(bytes);
}

/// Stored records of this crate's own making, to mutate.
#[must_use]
pub fn record_seeds() -> Vec<Vec<u8>> {
    let value = value::encode(
        crate::value::ValueFormat::default(),
        "a",
        &serde_json::json!({"a": [1, null, "x"]}),
    );
    let row: &[u8] = br#"{"user":[1700000000000,"AaNhbm4="]}"#;
    vec![value.unwrap_or_default(), row.to_vec()]
}

/// Reads a stored value, and what each store returns.
pub fn record(bytes: &[u8]) {
    drop(value::decode::<serde_json::Value>("a", bytes));
    drop(value::decode::<Vec<(u8, String)>>("a", bytes));
    #[cfg(feature = "redis")]
    crate::store::fuzz_redis(bytes);
    #[cfg(feature = "postgres")]
    crate::store::fuzz_postgres(bytes);
    #[cfg(feature = "journal")]
    crate::store::fuzz_journal(bytes);
    #[cfg(feature = "migrate-tower-sessions")]
    crate::migrate_from::fuzz(bytes);
}
