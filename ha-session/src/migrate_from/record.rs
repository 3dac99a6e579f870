//! A record of tower-sessions, as its stores write it: an array of id, values and expiry in MessagePack.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::IgnoredAny;
use serde_json::Value as Json;
use time::OffsetDateTime;

use super::Legacy;
use crate::record::Patch;
use crate::store::StoreError;
use crate::value;

const CORRUPT: &str = "tower-sessions";
/// What a session has left whose end has come by this app's clock and not by that of the old store: enough for the next request.
const LEAST_LEFT: Duration = Duration::from_secs(60);

/// What a session held, and how long it would have lived on unused.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Import {
    data: HashMap<String, Json>,
    pub(crate) left: Duration,
}

/// How tower-sessions writes an id.
#[cfg(any(feature = "tower-sessions-014", feature = "tower-sessions-015", test))]
pub(crate) fn text(id: i128) -> String {
    URL_SAFE_NO_PAD.encode(id.to_le_bytes())
}

/// Whether this is the text of an id, and not a way to name some other key.
pub(crate) fn is_id(text: &str) -> bool {
    URL_SAFE_NO_PAD
        .decode(text)
        .is_ok_and(|bytes| bytes.len() == 16)
}

impl Import {
    pub(crate) async fn read_text(
        legacy: &dyn Legacy,
        id: &str,
    ) -> Result<Option<Self>, StoreError> {
        let Some(bytes) = legacy.read(id).await? else {
            return Ok(None);
        };
        // tower-sessions writes an hour of the wall clock: to make a duration of it takes another.
        #[allow(clippy::disallowed_methods)]
        let now = OffsetDateTime::now_utc();
        Self::parse(&bytes, now).map(Some)
    }

    #[cfg(any(feature = "tower-sessions-014", feature = "tower-sessions-015"))]
    pub(crate) async fn read(legacy: &dyn Legacy, id: i128) -> Result<Option<Self>, StoreError> {
        Self::read_text(legacy, &text(id)).await
    }

    /// What a record says that the old store still has: that store says whether it lives, and an app whose clock is ahead signs
    /// nobody out.
    pub(crate) fn parse(bytes: &[u8], now: OffsetDateTime) -> Result<Self, StoreError> {
        let (_, data, expiry): (IgnoredAny, HashMap<String, Json>, OffsetDateTime) =
            rmp_serde::from_slice(bytes).map_err(|_| StoreError::Corrupt {
                store: CORRUPT,
                what: "the record is not one of tower-sessions",
            })?;
        let left = Duration::try_from(expiry - now).unwrap_or_default();
        Ok(Self {
            data,
            left: left.max(LEAST_LEFT),
        })
    }

    /// What to write into the session that takes over.
    pub(crate) fn patch(&self) -> Result<Patch, StoreError> {
        let corrupt = |what| {
            move |_| StoreError::Corrupt {
                store: CORRUPT,
                what,
            }
        };
        let mut patch = Patch::new();
        for (name, json) in &self.data {
            value::check_name(name).map_err(corrupt("a name is too long or not printable"))?;
            let bytes = value::encode(crate::value::ValueFormat::default(), name, json)
                .map_err(corrupt("a value cannot be encoded"))?;
            patch.set(name.clone(), bytes);
        }
        Ok(patch)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_decodes_to_sixteen_bytes_is_an_id() {
        assert!(is_id(&text(i128::MIN)) && is_id(&text(0)));
        for bad in [
            "",
            "abc",
            "ha:session",
            "AAAAAAAAAAAAAAAAAAAAAAAA",
            "../../etc/passwd0000a",
            "é",
        ] {
            assert!(!is_id(bad), "{bad}");
        }
    }

    #[test]
    fn what_the_old_store_still_has_lives_whatever_the_clock_here_says_and_a_garbled_record_is_an_error()
     {
        let now = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let hour = Duration::from_secs(3600);
        let data = HashMap::from([("user".to_owned(), Json::from("ann"))]);
        let bytes = |until: OffsetDateTime| rmp_serde::to_vec(&(7_i128, &data, until)).unwrap();
        let found = Import::parse(&bytes(now + hour), now).unwrap();
        assert_eq!((found.left, &found.data), (hour, &data));
        assert_eq!(found.patch().unwrap().iter().count(), 1);
        let ahead = Import::parse(&bytes(now - hour), now).unwrap();
        assert_eq!((ahead.left, &ahead.data), (LEAST_LEFT, &data));
        let good = bytes(now + hour);
        for len in 0..good.len() {
            assert!(Import::parse(&good[..len], now).is_err(), "{len}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Import::parse(&bytes, OffsetDateTime::UNIX_EPOCH);
        }
    }
}
