//! The journal on disk: a directory of segments, written by one thread.
//!
//! Each segment is a file of [records](super::record). The last one is written, and synced once for all records that wait at the
//! time. What PostgreSQL has been told is forgotten segment by segment. A segment with damage in it is put aside under another
//! name, never deleted.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::fs::{FlockOperation, flock};
use tokio::sync::{Notify, mpsc, oneshot};

use super::record::{Entry, Records, encode};

/// Records that wait to be written at a time.
const QUEUE: usize = 1024;
const LOCK: &str = "lock";
const SUFFIX: &str = "journal";

/// Why a journal cannot be opened or written. Nothing was acknowledged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// Another process, or another store of this one, has it.
    #[error("journal {dir:?} is in use")]
    InUse {
        /// Its directory.
        dir: PathBuf,
    },
    /// Fewer bytes than one session may need.
    #[error("a journal of {max_bytes} bytes is smaller than {least}")]
    TooSmall {
        /// What was given.
        max_bytes: u64,
        /// The least.
        least: u64,
    },
    /// It holds as much as it may.
    #[error("the journal has {bytes} of {max_bytes} bytes, {wanted} more do not fit")]
    Full {
        /// What it holds.
        bytes: u64,
        /// The limit.
        max_bytes: u64,
        /// What was to be written.
        wanted: u64,
    },
    /// The file system refused.
    #[error("journal {dir:?} cannot be used")]
    Io {
        /// Its directory.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A sync failed before: what the file system has kept is not known, so that nothing is written until the process starts anew.
    #[error("the journal failed before and is not written any more")]
    Broken,
}

/// How a [`Journal`] is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct JournalStatus {
    /// Records that PostgreSQL has not been told yet.
    pub pending: usize,
    /// Bytes of all segments.
    pub bytes: u64,
    /// Records that PostgreSQL has taken since it was opened.
    pub replayed: u64,
    /// Records since it was opened whose session had ended, or been changed anew, elsewhere.
    pub dropped: u64,
    /// Places that were skipped when it was opened.
    pub damaged: u64,
}

/// A bounded journal in a directory of this machine, for [`Level::DurableOrJournal`](crate::Level::DurableOrJournal).
///
/// One process has it at a time. Dropping the last clone writes what waits and lets go of it.
#[derive(Clone)]
pub struct Journal {
    handle: Arc<Handle>,
}

struct Handle {
    sender: Option<mpsc::Sender<Request>>,
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
}

/// A record that PostgreSQL has to be told.
#[derive(Debug, Clone)]
pub(crate) struct Pending {
    pub(crate) entry: Entry,
    /// Its place among all that were pending.
    number: u64,
    segment: u64,
}

#[derive(Default)]
struct State {
    pending: VecDeque<Pending>,
    /// How many were ever pending.
    count: u64,
    /// Bytes of each segment.
    segments: BTreeMap<u64, u64>,
    damaged_segments: BTreeSet<u64>,
    reserved: u64,
    status: JournalStatus,
}

struct Shared {
    dir: PathBuf,
    max_bytes: u64,
    id: u64,
    state: Mutex<State>,
    /// Something waits for PostgreSQL.
    added: Notify,
    /// Held for as long as the journal is open.
    _lock: File,
}

enum Request {
    Append {
        entry: Entry,
        bytes: Vec<u8>,
        reply: oneshot::Sender<Result<(), JournalError>>,
    },
    /// Everything was told: begin a new segment.
    Roll,
}

/// Room for a record.
pub(crate) struct Room {
    shared: Arc<Shared>,
    bytes: u64,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shared.state().reserved -= self.bytes;
    }
}

impl State {
    fn add(&mut self, entry: Entry, segment: u64) {
        let number = self.count;
        self.count += 1;
        self.pending.push_back(Pending {
            entry,
            number,
            segment,
        });
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn io(&self, source: io::Error) -> JournalError {
        let dir = self.dir.clone();
        JournalError::Io { dir, source }
    }

    fn path(&self, segment: u64) -> PathBuf {
        self.dir.join(format!("{segment:016}.{SUFFIX}"))
    }

    /// Forgets segments that nothing is pending of, except `current`.
    fn tidy(&self, current: u64) {
        let done: Vec<(u64, bool)> = {
            let state = self.state();
            let first = state.pending.front().map_or(current, |first| first.segment);
            let done = state.segments.keys().filter(|segment| **segment < first);
            done.map(|segment| (*segment, state.damaged_segments.contains(segment)))
                .collect()
        };
        for (segment, damaged) in done {
            let path = self.path(segment);
            let gone = if damaged {
                fs::rename(&path, path.with_extension("damaged"))
            } else {
                fs::remove_file(&path)
            };
            if let Err(error) = gone {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "journal segment not removed");
            }
            self.state().segments.remove(&segment);
        }
    }
}

impl Journal {
    /// The most bytes by default, 64 MiB: some hundred thousand changes of a few values.
    pub const DEFAULT_MAX_BYTES: u64 = 64 << 20;
    /// The fewest bytes that are accepted, 1 MiB.
    pub const MIN_BYTES: u64 = 1 << 20;

    /// Opens the journal in `dir`, which is made where it is not there, with [`DEFAULT_MAX_BYTES`](Self::DEFAULT_MAX_BYTES). Reads what
    /// it holds; what is damaged is reported in the log and put aside.
    ///
    /// It reads and writes files: call it at start-up.
    ///
    /// # Errors
    /// [`JournalError::InUse`] while another process has it, [`JournalError::Io`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, JournalError> {
        Self::open_with(dir, Self::DEFAULT_MAX_BYTES)
    }

    /// As [`open`](Self::open), with at most `max_bytes` of records; more are refused.
    ///
    /// # Errors
    /// As [`open`](Self::open), and [`JournalError::TooSmall`].
    pub fn open_with(dir: impl AsRef<Path>, max_bytes: u64) -> Result<Self, JournalError> {
        let least = Self::MIN_BYTES;
        if max_bytes < least {
            return Err(JournalError::TooSmall { max_bytes, least });
        }
        let dir = dir.as_ref().to_owned();
        let opened = open(&dir, max_bytes).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => JournalError::InUse { dir: dir.clone() },
            _ => JournalError::Io {
                dir: dir.clone(),
                source: error,
            },
        });
        let (shared, segment) = opened?;
        let shared = Arc::new(shared);
        let (sender, requests) = mpsc::channel(QUEUE);
        let writer = Writer {
            shared: Arc::clone(&shared),
            segment,
            broken: false,
        };
        let thread = std::thread::Builder::new()
            .name("ha-session-journal".to_owned())
            .spawn(move || writer.run(requests));
        let thread = thread.map_err(|error| shared.io(error))?;
        let handle = Handle {
            sender: Some(sender),
            thread: Some(thread),
            shared,
        };
        Ok(Self {
            handle: Arc::new(handle),
        })
    }

    /// How it is doing.
    #[must_use]
    pub fn status(&self) -> JournalStatus {
        let state = self.handle.shared.state();
        JournalStatus {
            pending: state.pending.len(),
            bytes: state.segments.values().sum(),
            ..state.status
        }
    }

    /// Tells this journal's marks in Redis from those of others.
    pub(crate) fn id(&self) -> u64 {
        self.handle.shared.id
    }

    /// Sets room aside for a record, before anything is done that the record is to tell of.
    pub(crate) fn reserve(&self, bytes: usize) -> Result<Room, JournalError> {
        let shared = &self.handle.shared;
        let wanted = u64::try_from(bytes).unwrap_or(u64::MAX);
        let mut state = shared.state();
        let held = state.segments.values().sum::<u64>() + state.reserved;
        if held.saturating_add(wanted) > shared.max_bytes {
            return Err(JournalError::Full {
                bytes: held,
                max_bytes: shared.max_bytes,
                wanted,
            });
        }
        state.reserved += wanted;
        drop(state);
        Ok(Room {
            shared: Arc::clone(shared),
            bytes: wanted,
        })
    }

    /// Writes a record and syncs it, with whatever else waits to be written.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the record is written or not.
    pub(crate) async fn append(&self, entry: Entry, room: Room) -> Result<(), JournalError> {
        let Some(bytes) = encode(&entry) else {
            return Err(JournalError::Broken);
        };
        let (reply, done) = oneshot::channel();
        let request = Request::Append {
            entry,
            bytes,
            reply,
        };
        let sender = self.handle.sender.as_ref().ok_or(JournalError::Broken)?;
        sender
            .send(request)
            .await
            .map_err(|_| JournalError::Broken)?;
        let result = done.await.unwrap_or(Err(JournalError::Broken));
        drop(room);
        result
    }

    /// What PostgreSQL has to be told next; waits for it.
    pub(crate) async fn next(&self) -> Pending {
        loop {
            let added = self.handle.shared.added.notified();
            if let Some(first) = self.handle.shared.state().pending.front() {
                return first.clone();
            }
            added.await;
        }
    }

    /// This one, the first of what is pending, is done: PostgreSQL has taken it, or it does not hold any more. One that somebody else
    /// has done already is left alone.
    pub(crate) fn done(&self, pending: &Pending, taken: bool) {
        let shared = &self.handle.shared;
        let (was, now, current) = {
            let mut state = shared.state();
            let first = state.pending.front().map(|first| first.number);
            if first != Some(pending.number) {
                return;
            }
            let was = state.pending.pop_front().map(|first| first.segment);
            if taken {
                state.status.replayed += 1;
            } else {
                state.status.dropped += 1;
            }
            let now = state.pending.front().map(|first| first.segment);
            let current = state.segments.keys().next_back().copied().unwrap_or(0);
            (was, now, current)
        };
        if now.is_none() {
            if let Some(sender) = &self.handle.sender {
                // A full queue has records in it, after which this comes again.
                drop(sender.try_send(Request::Roll));
            }
        } else if was != now {
            shared.tidy(current);
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the journal's thread panicked");
        }
    }
}

/// Clones of one journal are equal.
impl PartialEq for Journal {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.handle, &other.handle)
    }
}

impl Eq for Journal {}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal")
            .field("dir", &self.handle.shared.dir)
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

fn open(dir: &Path, max_bytes: u64) -> io::Result<(Shared, Segment)> {
    fs::create_dir_all(dir)?;
    let mut lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(dir.join(LOCK))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    let id = read_id(&mut lock)?;
    let mut state = State::default();
    let mut names = Vec::new();
    for found in fs::read_dir(dir)? {
        let name = found?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".journal"));
        names.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    names.sort_unstable();
    for number in names {
        read_segment(dir, number, &mut state)?;
    }
    let last = state.segments.keys().next_back().copied().unwrap_or(0);
    let segment = Segment::create(dir, last + 1)?;
    state.segments.insert(last + 1, 0);
    let shared = Shared {
        dir: dir.to_owned(),
        max_bytes,
        id,
        state: Mutex::new(state),
        added: Notify::new(),
        _lock: lock,
    };
    shared.tidy(last + 1);
    Ok((shared, segment))
}

/// The number that tells this journal from others, drawn when it is first opened.
fn read_id(lock: &mut File) -> io::Result<u64> {
    let mut text = String::new();
    lock.read_to_string(&mut text)?;
    if let Ok(id) = u64::from_str_radix(text.trim(), 16) {
        return Ok(id);
    }
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    let id = u64::from_be_bytes(bytes);
    lock.set_len(0)?;
    lock.seek(SeekFrom::Start(0))?;
    writeln!(lock, "{id:016x}")?;
    lock.sync_all()?;
    Ok(id)
}

fn read_segment(dir: &Path, number: u64, state: &mut State) -> io::Result<()> {
    let path = dir.join(format!("{number:016}.{SUFFIX}"));
    let bytes = fs::read(&path)?;
    for (end, record) in Records::of(&bytes) {
        match record {
            Ok(entry) => state.add(entry, number),
            Err(damage) => {
                tracing::warn!(
                    error = &damage as &dyn std::error::Error,
                    segment = number,
                    end,
                    "a part of the session journal is skipped"
                );
                state.damaged_segments.insert(number);
                state.status.damaged += 1;
            }
        }
    }
    state
        .segments
        .insert(number, u64::try_from(bytes.len()).unwrap_or(u64::MAX));
    Ok(())
}

/// The segment that is written.
struct Segment {
    number: u64,
    file: File,
    len: u64,
}

impl Segment {
    fn create(dir: &Path, number: u64) -> io::Result<Self> {
        let path = dir.join(format!("{number:016}.{SUFFIX}"));
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        file.sync_all()?;
        // The name of a file lasts once its directory is synced.
        File::open(dir)?.sync_all()?;
        Ok(Self {
            number,
            file,
            len: 0,
        })
    }
}

struct Writer {
    shared: Arc<Shared>,
    segment: Segment,
    broken: bool,
}

impl Writer {
    fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        while let Some(first) = requests.blocking_recv() {
            let mut batch = vec![first];
            while batch.len() < QUEUE
                && let Ok(next) = requests.try_recv()
            {
                batch.push(next);
            }
            self.batch(batch);
        }
    }

    fn batch(&mut self, batch: Vec<Request>) {
        let (mut entries, mut all, mut replies) = (Vec::new(), Vec::new(), Vec::new());
        let mut rolls = false;
        for request in batch {
            match request {
                Request::Append {
                    entry,
                    bytes,
                    reply,
                } => {
                    all.extend_from_slice(&bytes);
                    entries.push(entry);
                    replies.push(reply);
                }
                Request::Roll => rolls = true,
            }
        }
        if !entries.is_empty() {
            let written = self.write(&all);
            if written.is_ok() {
                let mut state = self.shared.state();
                let segment = self.segment.number;
                state.segments.insert(segment, self.segment.len);
                for entry in entries {
                    state.add(entry, segment);
                }
                drop(state);
                self.shared.added.notify_one();
            }
            let mut failure = written.err();
            for reply in replies {
                let result = match &mut failure {
                    None => Ok(()),
                    Some(error) => Err(match error {
                        JournalError::Io { dir, source } => JournalError::Io {
                            dir: dir.clone(),
                            source: source.kind().into(),
                        },
                        _ => JournalError::Broken,
                    }),
                };
                // Whoever asked may have gone away.
                drop(reply.send(result));
            }
        }
        let idle = self.shared.state().pending.is_empty();
        let eighth = self.shared.max_bytes / 8;
        if (rolls && idle && self.segment.len > 0) || self.segment.len >= eighth {
            self.roll();
        } else if rolls && idle {
            self.shared.tidy(self.segment.number);
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), JournalError> {
        if self.broken {
            return Err(JournalError::Broken);
        }
        let file = &mut self.segment.file;
        if let Err(error) = file.write_all(bytes) {
            // Nothing half-written stays; where that cannot be undone either, nothing is written after it.
            self.broken = file.set_len(self.segment.len).is_err();
            return Err(self.shared.io(error));
        }
        if let Err(error) = file.sync_data() {
            self.broken = true;
            return Err(self.shared.io(error));
        }
        self.segment.len += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(())
    }

    fn roll(&mut self) {
        if self.broken {
            return;
        }
        let next = self.segment.number + 1;
        match Segment::create(&self.shared.dir, next) {
            Ok(segment) => {
                self.segment = segment;
                self.shared.state().segments.insert(next, 0);
                self.shared.tidy(next);
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "journal segment not begun");
            }
        }
    }
}
