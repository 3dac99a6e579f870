use std::fs::{self, Metadata};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::stream::{self, Stream};
use ha_core::endpoint::Endpoint;
use tokio::task::JoinHandle;

use super::{FileError, Format};
use crate::discover::Error;

/// No list of endpoints is larger.
const LARGEST: u64 = 16 * 1024 * 1024;
/// A local disk answers in milliseconds; this is for one that does not answer at all.
const SLOWEST: Duration = Duration::from_secs(10);
/// Clocks of file systems may be as coarse as two seconds: a file changed more recently may change again and look the same.
const COARSEST: Duration = Duration::from_secs(3);

/// What tells one version of a file from another without reading it.
#[derive(Debug, Clone, PartialEq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    #[cfg(unix)]
    place: (u64, u64, i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        #[cfg(unix)]
        use std::os::unix::fs::MetadataExt as _;
        Self {
            modified: metadata.modified().ok(),
            length: metadata.len(),
            // The change time moves even when a copy keeps the time of modification.
            #[cfg(unix)]
            place: (
                metadata.dev(),
                metadata.ino(),
                metadata.ctime(),
                metadata.ctime_nsec(),
            ),
        }
    }

    /// Whether any later change would show.
    fn is_telling(&self) -> bool {
        let age = self.modified.map(|modified| modified.elapsed());
        matches!(age, Some(Ok(age)) if age > COARSEST)
    }
}

/// What one look at the file showed.
#[derive(Debug)]
enum Look {
    Same,
    /// The stamp is there when it is sure to change with the next version.
    Bytes(Option<Stamp>, Vec<u8>),
}

/// Why there are no bytes.
#[derive(Debug)]
pub(super) enum Fault {
    Io(io::Error),
    TooLarge,
    Slow,
}

impl Fault {
    pub(super) fn into_error(self, path: &Path) -> FileError {
        let path = path.to_owned();
        match self {
            Self::Io(source) => FileError::Read { path, source },
            Self::TooLarge => FileError::TooLarge {
                path,
                limit: LARGEST,
            },
            Self::Slow => FileError::Slow {
                path,
                limit: SLOWEST,
            },
        }
    }
}

/// Reads the file unless it looks as it did before.
fn look(path: &Path, before: Option<&Stamp>) -> Result<Look, Fault> {
    let stamp = Stamp::of(&fs::metadata(path).map_err(Fault::Io)?);
    if before == Some(&stamp) {
        return Ok(Look::Same);
    }
    let bytes = read(path)?;
    let stamp = stamp.is_telling().then_some(stamp);
    Ok(Look::Bytes(stamp, bytes))
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(Fault::Io)?;
    let mut limited = file.take(LARGEST + 1);
    limited.read_to_end(&mut bytes).map_err(Fault::Io)?;
    if bytes.len() as u64 > LARGEST {
        return Err(Fault::TooLarge);
    }
    Ok(bytes)
}

pub(super) fn follow(
    path: PathBuf,
    format: Format,
    interval: Duration,
    taken: Option<Vec<u8>>,
) -> impl Stream<Item = Result<Vec<Endpoint>, Error>> + Send {
    let watch = Watch {
        path: path.into(),
        format,
        interval,
        stamp: None,
        reading: None,
        settled: Settled {
            taken: taken.map(State::Bytes),
            seen: None,
        },
    };
    stream::unfold(watch, |mut watch| async move {
        let item = watch.next().await;
        Some((item.map_err(Error::File), watch))
    })
}

struct Watch {
    path: Arc<Path>,
    format: Format,
    interval: Duration,
    stamp: Option<Stamp>,
    // One that is stuck is waited for, and not joined by a second.
    reading: Option<JoinHandle<Result<Look, Fault>>>,
    settled: Settled,
}

impl Watch {
    async fn next(&mut self) -> Result<Vec<Endpoint>, FileError> {
        loop {
            tokio::time::sleep(self.interval).await;
            match self.look().await {
                Ok(Look::Same) => {}
                Ok(Look::Bytes(stamp, bytes)) => {
                    let is_news = self.settled.take(State::Bytes(bytes));
                    // Bytes that were seen only once must be seen again.
                    self.stamp = stamp.filter(|_| self.settled.seen.is_none());
                    if let (true, Some(State::Bytes(bytes))) = (is_news, &self.settled.taken) {
                        return self.format.endpoints(&self.path, bytes);
                    }
                }
                Err(fault) => {
                    self.stamp = None;
                    if self.settled.take(State::of(&fault)) {
                        return Err(fault.into_error(&self.path));
                    }
                }
            }
        }
    }

    async fn look(&mut self) -> Result<Look, Fault> {
        let reading = self.reading.get_or_insert_with(|| {
            let (path, stamp) = (self.path.clone(), self.stamp.clone());
            tokio::task::spawn_blocking(move || look(&path, stamp.as_ref()))
        });
        match tokio::time::timeout(SLOWEST, reading).await {
            Err(_) => Err(Fault::Slow),
            Ok(look) => {
                self.reading = None;
                look.unwrap_or_else(|stopped| Err(Fault::Io(io::Error::other(stopped))))
            }
        }
    }
}

/// What is known about the file, as far as it matters whether that is news.
#[derive(Debug, PartialEq)]
enum State {
    Bytes(Vec<u8>),
    Unreadable(io::ErrorKind),
    TooLarge,
    Slow,
}

impl State {
    fn of(fault: &Fault) -> Self {
        match fault {
            Fault::Io(error) => Self::Unreadable(error.kind()),
            Fault::TooLarge => Self::TooLarge,
            Fault::Slow => Self::Slow,
        }
    }
}

/// Takes what was seen twice in a row, once.
#[derive(Debug)]
struct Settled {
    taken: Option<State>,
    seen: Option<State>,
}

impl Settled {
    fn take(&mut self, state: State) -> bool {
        if self.taken.as_ref() == Some(&state) {
            self.seen = None;
            return false;
        }
        if self.seen.as_ref() == Some(&state) {
            self.taken = self.seen.take();
            return true;
        }
        self.seen = Some(state);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> State {
        State::Bytes(text.into())
    }

    #[test]
    fn a_version_counts_once_it_was_seen_twice_in_a_row() {
        let mut settled = Settled {
            taken: Some(bytes("a")),
            seen: None,
        };
        let gone = || State::Unreadable(io::ErrorKind::NotFound);
        for (state, news) in [
            (bytes("a"), false),
            (bytes("a and h"), false),
            (bytes("a and half"), false),
            (bytes("a and half"), true),
            (bytes("a and half"), false),
            // An editor that deletes before it writes.
            (gone(), false),
            (bytes("a and half"), false),
            (gone(), false),
            (gone(), true),
            (gone(), false),
            (bytes("a and half"), false),
            (bytes("a and half"), true),
        ] {
            let shape = format!("{state:?}");
            assert_eq!(settled.take(state), news, "{shape}");
        }
    }
}
