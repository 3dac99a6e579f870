//! How one value is written: a format byte, then what the format makes of it.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::SessionError;

const MAX_NAME: usize = 128;

/// How values are written. Each value says in its first byte how it was, and every version reads all that it knows: the format can be
/// changed at any time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ValueFormat {
    /// MessagePack with field names, so that a newer type with one more optional field reads an older value. Compact, and the
    /// default.
    #[default]
    MessagePack,
    /// JSON, for whoever wants to look into the store or reads it with other languages. Floats that JSON cannot say, and bytes,
    /// do not survive it as they do MessagePack.
    Json,
}

impl ValueFormat {
    /// The newest format byte.
    const NEWEST: u8 = 2;

    const fn byte(self) -> u8 {
        match self {
            Self::MessagePack => 1,
            Self::Json => 2,
        }
    }

    const fn of(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::MessagePack),
            2 => Some(Self::Json),
            _ => None,
        }
    }
}

pub(crate) fn check_name(key: &str) -> Result<(), SessionError> {
    if key.is_empty() || key.len() > MAX_NAME || key.chars().any(char::is_control) {
        return Err(SessionError::BadName {
            key: key.to_owned(),
        });
    }
    Ok(())
}

pub(crate) fn encode<T: Serialize>(
    format: ValueFormat,
    key: &str,
    value: &T,
) -> Result<Vec<u8>, SessionError> {
    let refused = |source: Box<dyn std::error::Error + Send + Sync>| SessionError::Encode {
        key: key.to_owned(),
        source: source.into(),
    };
    let mut bytes = vec![format.byte()];
    match format {
        ValueFormat::MessagePack => {
            let mut serializer = rmp_serde::Serializer::new(&mut bytes).with_struct_map();
            let written = value.serialize(&mut serializer);
            written.map_err(|error| refused(error.into()))?;
        }
        ValueFormat::Json => {
            let written = serde_json::to_writer(&mut bytes, value);
            written.map_err(|error| refused(error.into()))?;
        }
    }
    Ok(bytes)
}

pub(crate) fn decode<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, SessionError> {
    let refused = |source: Arc<dyn std::error::Error + Send + Sync>| SessionError::Decode {
        key: key.to_owned(),
        source,
    };
    let found = bytes.first().copied().unwrap_or(0);
    match ValueFormat::of(found) {
        Some(ValueFormat::MessagePack) => {
            rmp_serde::from_slice(&bytes[1..]).map_err(|error| refused(Arc::new(error)))
        }
        Some(ValueFormat::Json) => {
            serde_json::from_slice(&bytes[1..]).map_err(|error| refused(Arc::new(error)))
        }
        None => Err(SessionError::ValueFormat {
            key: key.to_owned(),
            found,
            supported: ValueFormat::NEWEST,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_an_unknown_format_is_an_error_and_not_a_missing_value() {
        for (bytes, found) in [(&[9, 1][..], 9), (&[][..], 0)] {
            let error = decode::<u8>("k", bytes).unwrap_err();
            assert!(
                matches!(error, SessionError::ValueFormat { found: f, .. } if f == found),
                "{error:?}"
            );
        }
    }

    #[test]
    fn another_type_is_a_typed_error_with_the_name() {
        for format in [ValueFormat::MessagePack, ValueFormat::Json] {
            let bytes = encode(format, "n", &"text").unwrap();
            assert_eq!(decode::<String>("n", &bytes).unwrap(), "text");
            let error = decode::<u8>("n", &bytes).unwrap_err();
            assert!(error.to_string().contains("\"n\""), "{error}");
        }
    }

    #[test]
    fn what_a_format_cannot_say_is_an_error_with_the_name() {
        let keyed = std::collections::BTreeMap::from([((1, 2), 3)]);
        let error = encode(ValueFormat::Json, "n", &keyed).unwrap_err();
        assert!(matches!(&error, SessionError::Encode { key, .. } if key == "n"));
        assert!(std::error::Error::source(&error).is_some());
        assert!(encode(ValueFormat::MessagePack, "n", &keyed).is_ok());
    }

    #[test]
    fn names_are_bounded_and_printable() {
        assert!(check_name("user").is_ok());
        for bad in ["", "a\0b", "a\nb", &"x".repeat(129)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_value_or_a_typed_error(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
            let _ = decode::<std::collections::BTreeMap<String, Vec<Option<i64>>>>("n", &bytes);
            let _ = decode::<String>("n", &bytes);
        }

        #[test]
        fn a_value_comes_back_from_every_format(value: (String, i64, Option<bool>, Vec<u8>)) {
            for format in [ValueFormat::MessagePack, ValueFormat::Json] {
                let bytes = encode(format, "n", &value).unwrap();
                let back: (String, i64, Option<bool>, Vec<u8>) = decode("n", &bytes).unwrap();
                proptest::prop_assert_eq!(&back, &value);
            }
        }
    }
}
