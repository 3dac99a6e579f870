//! The keys that sign cookies, shared by every app server.
//!
//! They come from the environment, never from the command line, which every user of the machine can read:
//! `HA_KEYS` holds them, or `HA_KEYS_FILE` names a file that does. One key per line or between commas, URL-safe base64
//! of at least 32 random bytes; the first signs, the others still verify.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ha_core::sign::{Key, KeyError, KeyRing};

/// Names the variable that holds the keys.
pub const KEYS: &str = "HA_KEYS";

/// Names the variable that holds the path of a file with the keys.
pub const KEYS_FILE: &str = "HA_KEYS_FILE";

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Neither variable is set.
    #[error(
        "no signing key: set {KEYS}, or {KEYS_FILE} to a file, with url-safe base64 of 32 random bytes, \
         the same for every app (for example: export {KEYS}=$(head -c 32 /dev/urandom | basenc --base64url | tr -d =))"
    )]
    Missing,
    /// The variables are set and hold no key.
    #[error("{from} holds no key")]
    Empty {
        /// Which variable or file.
        from: String,
    },
    /// A key is malformed.
    #[error("key {number} in {from} cannot be used")]
    Bad {
        /// Which one, from 1.
        number: usize,
        /// Which variable or file.
        from: String,
        /// What is wrong with it.
        source: KeyError,
    },
    /// The file cannot be read or written.
    #[error("cannot use the key file {}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Reads the key ring from the environment.
///
/// # Errors
/// See [`Error`].
pub fn from_env() -> Result<KeyRing, Error> {
    if let Ok(text) = std::env::var(KEYS) {
        return parse(&text, KEYS);
    }
    let path = std::env::var_os(KEYS_FILE)
        .map(PathBuf::from)
        .ok_or(Error::Missing)?;
    let text = fs::read_to_string(&path).map_err(|source| Error::File {
        path: path.clone(),
        source,
    })?;
    parse(&text, &path.display().to_string())
}

fn parse(text: &str, from: &str) -> Result<KeyRing, Error> {
    let keys = text
        .split([',', '\n'])
        .map(str::trim)
        .filter(|key| !key.is_empty())
        .enumerate()
        .map(|(index, key)| {
            Key::from_base64(key).map_err(|source| Error::Bad {
                number: index + 1,
                from: from.to_owned(),
                source,
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let mut keys = keys.into_iter();
    let current = keys.next().ok_or_else(|| Error::Empty {
        from: from.to_owned(),
    })?;
    Ok(KeyRing::new(current, keys))
}

/// Writes a fresh random key to a file that only its owner can read.
///
/// # Errors
/// [`Error::File`].
pub fn create(path: &Path) -> Result<(), Error> {
    let failed = |source| Error::File {
        path: path.to_owned(),
        source,
    };
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|e| failed(io::Error::other(e.to_string())))?;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    writeln!(file, "{}", URL_SAFE_NO_PAD.encode(secret)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_created_file_holds_a_ring_and_is_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        create(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        parse(&text, "file").unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn bad_keys_are_refused_by_number_without_showing_them() {
        let good = URL_SAFE_NO_PAD.encode([7; 32]);
        assert!(matches!(parse(" ,\n", "x"), Err(Error::Empty { .. })));
        let error = parse(&format!("{good},c2VjcmV0"), "HA_KEYS").unwrap_err();
        assert!(matches!(error, Error::Bad { number: 2, .. }));
        assert!(!format!("{error} {error:?}").contains("c2VjcmV0"));
        assert!(parse(&format!("{good}\n{good}\n"), "x").is_ok());
    }
}
