use std::fs::{self, Metadata};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use futures_util::stream::{self, Stream};
use ha_core::endpoint::Endpoint;
use tokio::sync::oneshot;

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

/// Looks at the file, and reads it unless it looks as it did before.
fn look(path: &Path, before: Option<&Stamp>) -> Result<Look, Fault> {
    let stamp = stat(path)?;
    if before == Some(&stamp) {
        return Ok(Look::Same);
    }
    let bytes = read(path)?;
    let stamp = stamp.is_telling().then_some(stamp);
    Ok(Look::Bytes(stamp, bytes))
}

fn stat(path: &Path) -> Result<Stamp, Fault> {
    let metadata = fs::metadata(path).map_err(Fault::Io)?;
    // Opening a pipe waits for its writer.
    if !metadata.is_file() {
        let problem = io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file");
        return Err(Fault::Io(problem));
    }
    Ok(Stamp::of(&metadata))
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, Fault> {
    stat(path)?;
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(Fault::Io)?;
    let mut limited = file.take(LARGEST + 1);
    limited.read_to_end(&mut bytes).map_err(Fault::Io)?;
    if bytes.len() as u64 > LARGEST {
        return Err(Fault::TooLarge);
    }
    Ok(bytes)
}

/// Looks on a thread of its own: one that is stuck in the kernel must not hold up the end of the runtime, as one of the runtime's
/// blocking threads would.
fn look_aside(path: Arc<Path>, before: Option<Stamp>) -> io::Result<Looking> {
    let (sender, looking) = oneshot::channel();
    thread::Builder::new()
        .name("discover-file".to_owned())
        .spawn(move || {
            // Nobody waits for it when the upstream is gone.
            let _ = sender.send(look(&path, before.as_ref()));
        })?;
    Ok(looking)
}

type Looking = oneshot::Receiver<Result<Look, Fault>>;

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
        looking: None,
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
    looking: Option<Looking>,
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
        let mut looking = match self.looking.take() {
            Some(stuck) => stuck,
            None => look_aside(self.path.clone(), self.stamp.clone()).map_err(Fault::Io)?,
        };
        match tokio::time::timeout(SLOWEST, &mut looking).await {
            Ok(look) => look.unwrap_or_else(|lost| Err(Fault::Io(io::Error::other(lost)))),
            Err(_) => {
                self.looking = Some(looking);
                Err(Fault::Slow)
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
    #[test]
    fn a_file_cut_between_two_entries_is_a_good_short_one_and_is_not_taken_while_it_grows() {
        let entry = |host| format!("[[endpoints]]\naddress = \"http://{host}\"\n");
        let text = entry("a") + &entry("b");
        let path = Path::new("a.toml");
        let mut settled = Settled {
            taken: None,
            seen: None,
        };
        let mut good_and_short = 0;
        for written in 0..text.len() {
            let bytes = &text.as_bytes()[..written];
            assert!(!settled.take(State::Bytes(bytes.to_vec())));
            // Who takes what can be read at any one moment takes this.
            let taken = Format::Toml.endpoints(path, bytes);
            good_and_short += usize::from(taken.is_ok_and(|set| set.len() == 1));
        }
        assert!(good_and_short > 0);
        assert!(!settled.take(bytes(&text)));
        assert!(settled.take(bytes(&text)));
    }
}
