use std::fmt;

/// Most characters that a key may have.
pub const MAX_KEY_LEN: usize = 255;

/// Why the text is not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// There is nothing in it.
    #[error("the key is empty")]
    Empty,
    /// It has more than [`MAX_KEY_LEN`] characters.
    #[error("the key has {len} characters, at most {MAX_KEY_LEN} are allowed")]
    TooLong {
        /// How many it has.
        len: usize,
    },
    /// It is neither a quoted string (RFC 8941) nor a plain word of visible ASCII characters.
    #[error("the key is neither a quoted string nor a plain word")]
    Malformed,
    /// There is more than one.
    #[error("there is more than one key")]
    Several,
}

/// The name that a client gave to one intent. A random UUID is a good one.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key(String);

impl Key {
    /// Reads the value of an `Idempotency-Key` header: a string as the draft has it (`"8e03978e"`), or the bare word that most
    /// clients send (`8e03978e`). Both name the same key.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let text = text.trim_matches([' ', '\t']);
        let key = match text.strip_prefix('"') {
            Some(rest) => unquote(rest)?,
            None => {
                let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | ',' | ';' | '\\');
                if !text.chars().all(plain) {
                    return Err(KeyError::Malformed);
                }
                text.to_owned()
            }
        };
        match key.len() {
            0 => Err(KeyError::Empty),
            len if len > MAX_KEY_LEN => Err(KeyError::TooLong { len }),
            _ => Ok(Self(key)),
        }
    }

    /// The key without quotes.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What follows the opening quote.
fn unquote(rest: &str) -> Result<String, KeyError> {
    let mut key = String::new();
    let mut chars = rest.chars();
    loop {
        match chars.next() {
            Some('"') => break,
            Some('\\') => match chars.next() {
                Some(c @ ('"' | '\\')) => key.push(c),
                _ => return Err(KeyError::Malformed),
            },
            Some(c @ ' '..='~') => key.push(c),
            _ => return Err(KeyError::Malformed),
        }
    }
    if chars.next().is_some() {
        return Err(KeyError::Malformed);
    }
    Ok(key)
}

/// Keys are the clients' own and may say much about them, so logs get the first characters only.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head: String = self.0.chars().take(4).collect();
        write!(f, "Key({head}.., {} characters)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quoted_and_bare_forms_name_the_same_key() {
        let bare = Key::parse("8e03978e-40d5").unwrap();
        assert_eq!(Key::parse("\"8e03978e-40d5\"").unwrap(), bare);
        assert_eq!(Key::parse("  8e03978e-40d5\t").unwrap(), bare);
        assert_eq!(Key::parse(r#""a\"b\\c d""#).unwrap().as_str(), r#"a"b\c d"#);
    }

    #[test]
    fn what_is_no_key_is_refused_by_reason() {
        let long = "k".repeat(MAX_KEY_LEN + 1);
        for (text, error) in [
            ("", KeyError::Empty),
            ("  ", KeyError::Empty),
            ("\"\"", KeyError::Empty),
            ("\"", KeyError::Malformed),
            ("\"a", KeyError::Malformed),
            ("\"a\"b", KeyError::Malformed),
            ("\"a\\\"", KeyError::Malformed),
            ("\"a\\n\"", KeyError::Malformed),
            ("a b", KeyError::Malformed),
            ("a,b", KeyError::Malformed),
            ("a;b=1", KeyError::Malformed),
            ("a\"b", KeyError::Malformed),
            ("é", KeyError::Malformed),
            ("\"é\"", KeyError::Malformed),
            (
                long.as_str(),
                KeyError::TooLong {
                    len: MAX_KEY_LEN + 1,
                },
            ),
        ] {
            assert_eq!(Key::parse(text).unwrap_err(), error, "{text}");
        }
        assert!(Key::parse(&long[1..]).is_ok());
    }

    #[test]
    fn debug_output_shows_the_head_only() {
        let key = Key::parse("secret-order-of-alice").unwrap();
        assert_eq!(format!("{key:?}"), "Key(secr.., 21 characters)");
    }

    proptest! {
        #[test]
        fn no_text_makes_parsing_panic(text in "\\PC*") {
            if let Ok(key) = Key::parse(&text) {
                prop_assert!((1..=MAX_KEY_LEN).contains(&key.as_str().len()));
            }
        }

        #[test]
        fn every_printable_key_survives_quoting(key in "[ -~]{1,255}") {
            let quoted = format!("\"{}\"", key.replace('\\', "\\\\").replace('"', "\\\""));
            let parsed = Key::parse(&quoted).unwrap();
            prop_assert_eq!(parsed.as_str(), key);
        }
    }
}
