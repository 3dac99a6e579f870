//! The cookie: a signed session id and the newest version that its holder was told.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cookie::{Cookie, SameSite};
use ha_core::sign::{KeyRing, TAG_LEN as SIGNATURE_LEN};
use http::header::{COOKIE, HeaderMap, HeaderValue};

use crate::error::ConfigError;
use crate::id::{ID_LEN, SessionId};
use crate::record::Version;

const FORMAT: u8 = 1;
const PAYLOAD_LEN: usize = 1 + ID_LEN + 8;
const DOMAIN: &str = "ha-session cookie";
/// Cookies of our name that are looked at in one request; a browser sends one.
const MAX_CANDIDATES: usize = 8;

/// What a request presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Presented {
    pub(crate) id: SessionId,
    pub(crate) floor: Version,
}

/// How cookies are named, signed and sent.
#[derive(Debug, Clone)]
pub(crate) struct Cookies {
    keys: KeyRing,
    base: String,
    name: String,
    secure: bool,
}

impl Cookies {
    pub(crate) fn new(keys: KeyRing) -> Self {
        let base = "id".to_owned();
        Self {
            keys,
            name: format!("__Host-{base}"),
            base,
            secure: true,
        }
    }

    pub(crate) fn named(self, base: &str) -> Result<Self, ConfigError> {
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if base.is_empty() || base.starts_with("__") || !base.bytes().all(token) {
            return Err(ConfigError::CookieName {
                name: base.to_owned(),
            });
        }
        let base = base.to_owned();
        Ok(Self { base, ..self }.renamed())
    }

    pub(crate) fn insecure(self) -> Self {
        Self {
            secure: false,
            ..self
        }
        .renamed()
    }

    fn renamed(self) -> Self {
        let name = if self.secure {
            format!("__Host-{}", self.base)
        } else {
            self.base.clone()
        };
        Self { name, ..self }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The first cookie of our name whose signature holds. Whatever else there is counts as no cookie: it says nothing
    /// about any session.
    pub(crate) fn read(&self, headers: &HeaderMap) -> Option<Presented> {
        headers
            .get_all(COOKIE)
            .iter()
            .filter_map(|header| header.to_str().ok())
            .flat_map(Cookie::split_parse)
            .filter_map(Result::ok)
            .filter(|cookie| cookie.name() == self.name)
            .take(MAX_CANDIDATES)
            .find_map(|cookie| self.decode(cookie.value()))
    }

    fn decode(&self, text: &str) -> Option<Presented> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (payload, signature) = bytes.split_at_checked(PAYLOAD_LEN)?;
        if signature.len() != SIGNATURE_LEN || payload[0] != FORMAT {
            return None;
        }
        if !self.keys.verify(DOMAIN, payload, signature) {
            return None;
        }
        let (id, floor) = payload[1..].split_at(ID_LEN);
        Some(Presented {
            id: SessionId::from_bytes(id.try_into().ok()?),
            floor: Version::new(u64::from_be_bytes(floor.try_into().ok()?)),
        })
    }

    fn encode(&self, presented: Presented) -> String {
        let mut bytes = Vec::with_capacity(PAYLOAD_LEN + SIGNATURE_LEN);
        bytes.push(FORMAT);
        bytes.extend_from_slice(presented.id.as_bytes());
        bytes.extend_from_slice(&presented.floor.get().to_be_bytes());
        let signature = self.keys.sign(DOMAIN, &bytes);
        bytes.extend_from_slice(&signature);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// `Set-Cookie` that hands out `presented` for `max_age`.
    pub(crate) fn set(&self, presented: Presented, max_age: Duration) -> Option<HeaderValue> {
        self.header(self.encode(presented), max_age)
    }

    /// `Set-Cookie` that takes the cookie back.
    pub(crate) fn clear(&self) -> Option<HeaderValue> {
        self.header(String::new(), Duration::ZERO)
    }

    fn header(&self, value: String, max_age: Duration) -> Option<HeaderValue> {
        let seconds = i64::try_from(max_age.as_secs()).unwrap_or(i64::MAX);
        let cookie = Cookie::build((self.name.as_str(), value))
            .path("/")
            .secure(self.secure)
            .http_only(true)
            .same_site(SameSite::Lax)
            .max_age(cookie::time::Duration::seconds(seconds))
            .build();
        HeaderValue::try_from(cookie.to_string()).ok()
    }
}

#[cfg(test)]
mod tests {
    use ha_core::sign::Key;

    use super::*;

    fn keys(byte: u8) -> KeyRing {
        Key::from_bytes(&[byte; 32]).unwrap().into()
    }

    fn presented() -> Presented {
        Presented {
            id: SessionId::from_bytes([9; ID_LEN]),
            floor: Version::new(42),
        }
    }

    fn request(text: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, HeaderValue::try_from(text).unwrap());
        headers
    }

    #[test]
    fn the_cookie_has_the_host_prefix_and_what_the_prefix_demands() {
        let cookies = Cookies::new(keys(1));
        let header = cookies.set(presented(), Duration::from_secs(60)).unwrap();
        let text = header.to_str().unwrap();
        assert!(text.starts_with("__Host-id="), "{text}");
        for part in [
            "; Secure",
            "; HttpOnly",
            "; SameSite=Lax",
            "; Path=/",
            "; Max-Age=60",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("Domain"), "{text}");
    }

    #[test]
    fn a_cookie_comes_back_as_it_was_sent() {
        let cookies = Cookies::new(keys(1));
        let text = format!("a=b; __Host-id={}", cookies.encode(presented()));
        assert_eq!(cookies.read(&request(&text)), Some(presented()));
    }

    #[test]
    fn an_old_key_still_reads_and_an_unknown_key_does_not() {
        let old = Cookies::new(keys(1));
        let text = format!("__Host-id={}", old.encode(presented()));
        let both = KeyRing::new(
            Key::from_bytes(&[2; 32]).unwrap(),
            [Key::from_bytes(&[1; 32]).unwrap()],
        );
        assert_eq!(Cookies::new(both).read(&request(&text)), Some(presented()));
        assert_eq!(Cookies::new(keys(2)).read(&request(&text)), None);
    }

    #[test]
    fn garbage_is_no_cookie() {
        let cookies = Cookies::new(keys(1));
        let good = cookies.encode(presented());
        let mut flipped = good.clone().into_bytes();
        flipped[20] ^= 1;
        let flipped = String::from_utf8(flipped).unwrap();
        for value in [
            "",
            "=",
            "%00",
            "AAAA",
            &good[..40],
            &flipped,
            &format!("{good}AAAA"),
        ] {
            assert_eq!(
                cookies.read(&request(&format!("__Host-id={value}"))),
                None,
                "{value}"
            );
        }
        let mut raw = HeaderMap::new();
        raw.insert(
            COOKIE,
            HeaderValue::from_bytes(b"__Host-id=\xff\xfe").unwrap(),
        );
        assert_eq!(cookies.read(&raw), None);
    }

    #[test]
    fn a_planted_cookie_of_the_same_name_does_not_hide_the_real_one() {
        let cookies = Cookies::new(keys(1));
        let text = format!(
            "__Host-id=planted; __Host-id={}",
            cookies.encode(presented())
        );
        assert_eq!(cookies.read(&request(&text)), Some(presented()));
    }

    #[test]
    fn plain_names_need_the_explicit_choice() {
        let cookies = Cookies::new(keys(1)).named("cart").unwrap();
        assert_eq!(cookies.name(), "__Host-cart");
        let header = cookies.insecure().set(presented(), Duration::ZERO).unwrap();
        let text = header.to_str().unwrap();
        assert!(
            text.starts_with("cart=") && !text.contains("Secure"),
            "{text}"
        );
        for bad in ["", "__Host-x", "a b", "a=b", "a;b"] {
            assert!(Cookies::new(keys(1)).named(bad).is_err(), "{bad}");
        }
    }
}
