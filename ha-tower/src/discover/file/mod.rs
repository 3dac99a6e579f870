mod json;
mod problem;
mod read;
mod toml;
mod tree;
mod watch;

pub use problem::{FileError, Problem};

use std::path::{Path, PathBuf};
use std::time::Duration;

use ha_core::config::ConfigError;
use ha_core::endpoint::Endpoint;

use self::problem::position;
use super::Source;

/// A watched file of endpoints. Made by [`file`](fn@file) and [`File::unread`].
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    format: Format,
    interval: Duration,
    first: Option<(Vec<u8>, Vec<Endpoint>)>,
}

#[derive(Debug, Clone, Copy)]
enum Format {
    Toml,
    Json,
}

/// Follows a file of endpoints, TOML or JSON by its extension. It is read at once, and refused if it is no good; from then on
/// a version that is no good leaves the last good set in place.
///
/// ```
/// # let dir = std::env::temp_dir().join(format!("ha-tower-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&dir)?;
/// # let path = dir.join("catalog.toml");
/// use ha_tower::discover;
///
/// std::fs::write(&path, r#"
///     [localities]                       # optional; with it, a region or zone that is not listed is refused
///     eu-west = ["a", "b"]
///
///     [[endpoints]]
///     address = "http://10.0.0.1:3000"   # scheme, host and port
///     key = "catalog-1"                  # what its state belongs to; default host:port
///     weight = 3                         # 0 to 1000000, 0 means no picks; default 1
///     priority = 0                       # 0 to 255, lower is preferred; default 0
///     locality = { region = "eu-west", zone = "a" }
///     metadata = { version = "7" }       # texts
///
///     [[endpoints]]
///     address = "http://10.0.0.2:3000"
/// "#)?;
/// let source = discover::file(&path)?;
/// # drop(source);
///
/// // The same shape in JSON. What is wrong is told by file, line, column, field and value.
/// # let path = dir.join("catalog.json");
/// std::fs::write(&path, r#"{
///     "endpoints": [
///         { "address": "http://10.0.0.1:3000", "weight": 2000000 }
///     ]
/// }"#)?;
/// let error = discover::file(&path).unwrap_err();
/// assert!(error.to_string().ends_with("catalog.json:3:56 is refused"));
/// let inner = std::error::Error::source(&error).unwrap().to_string();
/// assert_eq!(inner, "endpoints[0].weight is 2000000, it must be a whole number from 0 to 1000000");
/// # std::fs::remove_dir_all(&dir)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # How it is watched
/// By looking, once a second by default, and not by notifications of the kernel: those are tied to an inode, and editors, deployment
/// tools and Kubernetes replace the file, or a symlink two directories above it; on network file systems and some bind mounts they
/// never come. A look is one `stat`; the file is read when that shows a change (or a change so recent that another could hide behind
/// it), and counts when its bytes differ.
///
/// A new version counts once **two looks in a row see the same bytes**, so that a file that is being written is not taken for a short
/// one. A writer that needs longer than that must write beside it and rename, which is the right way in any case.
///
/// Anything but a regular file, or one above 16 MiB, is refused. A look that takes ten seconds, as on a file system whose server is gone, is a
/// failure like any other, and no second one is started beside it.
///
/// # Errors
/// [`FileError`] when the extension is neither `toml` nor `json`, or the file cannot be read or is no good. It reads the file on
/// the calling thread.
pub fn file(path: impl AsRef<Path>) -> Result<File, FileError> {
    let mut file = File::unread(path)?;
    let bytes = watch::read(&file.path).map_err(|fault| fault.into_error(&file.path))?;
    let endpoints = file.format.endpoints(&file.path, &bytes)?;
    file.first = Some((bytes, endpoints));
    Ok(file)
}

impl File {
    /// The same without reading it now: there are no endpoints until the file is there and good. For a file that comes later
    /// than the process.
    ///
    /// # Errors
    /// [`FileError::Extension`].
    pub fn unread(path: impl AsRef<Path>) -> Result<Self, FileError> {
        let path = path.as_ref().to_owned();
        let format = match path.extension().and_then(|extension| extension.to_str()) {
            Some("toml") => Format::Toml,
            Some("json") => Format::Json,
            _ => return Err(FileError::Extension { path }),
        };
        Ok(Self {
            path,
            format,
            interval: Duration::from_secs(1),
            first: None,
        })
    }

    /// The time between two looks. Default 1 s: an operator who saves a file waits two seconds at most.
    ///
    /// # Errors
    /// [`FileError::Config`] when it is zero or longer than a day.
    pub fn interval(mut self, interval: Duration) -> Result<Self, FileError> {
        ConfigError::positive("interval", interval)
            .and_then(|()| ConfigError::at_most_a_day("interval", interval))
            .map_err(FileError::Config)?;
        self.interval = interval;
        Ok(self)
    }
}

impl From<File> for Source {
    fn from(file: File) -> Self {
        let (taken, first) = file.first.unzip();
        let later = Self::new(watch::follow(file.path, file.format, file.interval, taken));
        match first {
            Some(first) => later.starting_with(first),
            None => later,
        }
    }
}

impl Format {
    fn endpoints(self, path: &Path, bytes: &[u8]) -> Result<Vec<Endpoint>, FileError> {
        let refused = |(at, source): (usize, Problem)| {
            let (line, column) = position(bytes, at);
            FileError::Refused {
                path: path.to_owned(),
                line,
                column,
                source,
            }
        };
        let text = std::str::from_utf8(bytes)
            .map_err(|error| refused((error.valid_up_to(), Problem::NotUtf8)))?;
        let tree = match self {
            Self::Toml => toml::parse(text),
            Self::Json => json::parse(text),
        };
        tree.and_then(|tree| read::endpoints(&tree))
            .map_err(refused)
    }
}

#[cfg(test)]
mod tests;
