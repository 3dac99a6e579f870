//! How one value is written: a format byte, then MessagePack with field names.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;

use crate::error::SessionError;

const MESSAGE_PACK: u8 = 1;
const MAX_NAME: usize = 128;

pub(crate) fn check_name(key: &str) -> Result<(), SessionError> {
    if key.is_empty() || key.len() > MAX_NAME || key.chars().any(char::is_control) {
        return Err(SessionError::BadName {
            key: key.to_owned(),
        });
    }
    Ok(())
}

pub(crate) fn encode<T: Serialize>(key: &str, value: &T) -> Result<Vec<u8>, SessionError> {
    let mut bytes = vec![MESSAGE_PACK];
    // Named fields let a newer type with one more optional field read an older value.
    let mut serializer = rmp_serde::Serializer::new(&mut bytes).with_struct_map();
    value
        .serialize(&mut serializer)
        .map_err(|source| SessionError::Encode {
            key: key.to_owned(),
            source: Arc::new(source),
        })?;
    Ok(bytes)
}

pub(crate) fn decode<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, SessionError> {
    match bytes.split_first() {
        Some((&MESSAGE_PACK, body)) => {
            rmp_serde::from_slice(body).map_err(|source| SessionError::Decode {
                key: key.to_owned(),
                source: Arc::new(source),
            })
        }
        other => Err(SessionError::ValueFormat {
            key: key.to_owned(),
            found: other.map_or(0, |(format, _)| *format),
            supported: MESSAGE_PACK,
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
        let bytes = encode("n", &"text").unwrap();
        assert_eq!(decode::<String>("n", &bytes).unwrap(), "text");
        let error = decode::<u8>("n", &bytes).unwrap_err();
        assert!(error.to_string().contains("\"n\""), "{error}");
    }

    #[test]
    fn names_are_bounded_and_printable() {
        assert!(check_name("user").is_ok());
        for bad in ["", "a\0b", "a\nb", &"x".repeat(129)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }
}
