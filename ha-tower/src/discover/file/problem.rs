use std::path::PathBuf;

use ha_core::config::ConfigError;
use ha_core::endpoint::{EndpointError, EndpointKey};

/// Why a file of endpoints was not taken. The last good set stays.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// Neither `.toml` nor `.json`.
    #[error("{} is neither .toml nor .json", path.display())]
    Extension {
        /// The path given.
        path: PathBuf,
    },
    /// A setting makes no sense.
    #[error("a setting of file discovery makes no sense")]
    Config(#[source] ConfigError),
    /// It cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// Reading takes so long that it looks stuck, as on a network file system whose server is gone.
    #[error("{} was not read within {limit:?}", path.display())]
    Slow {
        /// Which file.
        path: PathBuf,
        /// How long was waited.
        limit: std::time::Duration,
    },
    /// It is larger than any list of endpoints.
    #[error("{} has more than {limit} bytes", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// The largest that is read.
        limit: u64,
    },
    /// Its content is no good.
    #[error("{}:{line}:{column} is refused", path.display())]
    Refused {
        /// Which file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column in characters, from 1.
        column: usize,
        /// What is wrong there.
        #[source]
        source: Problem,
    },
}

impl FileError {
    /// Whether the file is there and its content is no good.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

/// What is wrong with the content of a file of endpoints. Fields are named by their path, such as `endpoints[2].weight`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// It is not UTF-8 from here on.
    #[error("it is not utf-8")]
    NotUtf8,
    /// It is not TOML or not JSON.
    #[error("it is not {format}: {message}")]
    Syntax {
        /// `toml` or `json`.
        format: &'static str,
        /// What the parser says.
        message: String,
    },
    /// A field has a value of another kind.
    #[error("{field} is {found}, it must be {expected}")]
    Kind {
        /// The field.
        field: String,
        /// What it is.
        found: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// A number is outside of its range.
    #[error("{field} is {value}, it must be a whole number from 0 to {max}")]
    Range {
        /// The field.
        field: String,
        /// The number given.
        value: String,
        /// The largest allowed.
        max: u32,
    },
    /// There is no such field.
    #[error("{field} is not a field that is known here")]
    Unknown {
        /// The field.
        field: String,
    },
    /// A field is given twice.
    #[error("{field} is given twice")]
    Twice {
        /// The field.
        field: String,
    },
    /// A field that is needed is not there.
    #[error("{field} is missing")]
    Missing {
        /// The field.
        field: String,
    },
    /// A text is empty that must not be.
    #[error("{field} is empty")]
    Blank {
        /// The field.
        field: String,
    },
    /// The address is refused.
    #[error("{field} is refused")]
    Address {
        /// The field.
        field: String,
        /// What is wrong with it, with its text.
        #[source]
        source: EndpointError,
    },
    /// The address has a scheme that no client here speaks.
    #[error("{field} has the scheme {scheme:?}, only \"http\" is spoken")]
    Scheme {
        /// The field.
        field: String,
        /// The scheme.
        scheme: String,
    },
    /// Two endpoints have the same key.
    #[error("{field} repeats the key {key}")]
    Repeated {
        /// The second endpoint.
        field: String,
        /// The key of both.
        key: EndpointKey,
    },
    /// A zone stands without its region, or a region or zone is not among the `localities` of the file.
    #[error("{field} is {value:?}, which is no known locality")]
    UnknownLocality {
        /// The field.
        field: String,
        /// The region or zone.
        value: String,
    },
    /// There is no endpoint.
    #[error("endpoints is empty, at least one is needed")]
    Empty,
}

/// The line and the column, from 1, of the byte at this offset.
pub(super) fn position(bytes: &[u8], at: usize) -> (usize, usize) {
    let before = &bytes[..at.min(bytes.len())];
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let start = before.iter().rposition(|byte| *byte == b'\n');
    let start = start.map_or(0, |newline| newline + 1);
    let column = String::from_utf8_lossy(&before[start..]).chars().count() + 1;
    (line, column)
}
