//! A user: signs in, adds notes, lists them, and notices when something is not as it was promised.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ha_testbed::load::{Call, Outcome};
use ha_testbed::oracle::Violation;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::browser::{Answer, Ask, Browser, NoAnswer};
use super::ledger::{Entry, Ledger, Op, Trouble};

/// How long a page goes on trying to get a write through, under one key.
pub(crate) const WRITE_PATIENCE: Duration = Duration::from_secs(30);
/// Wait before the second attempt; doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

#[derive(Debug, Deserialize)]
struct Note {
    text: String,
}

#[derive(Debug, Deserialize)]
struct Added {
    id: i64,
}

#[derive(Debug, Deserialize)]
struct Whoami {
    user: String,
    mark: Option<u64>,
    last_note: Option<i64>,
}

/// What an account has been promised.
#[derive(Debug)]
struct Account {
    name: String,
    mark: u64,
    /// The highest mark that was acknowledged.
    marked: Option<u64>,
    /// The highest id of a note that was acknowledged.
    last_note: Option<i64>,
}

/// How a write that is tried again and again ended.
enum Written {
    /// 2xx.
    Done(Answer),
    /// The user is not signed in, says the app.
    LoggedOut(String),
    /// Neither within the time.
    Failed(String),
}

/// One user of the drill.
pub(crate) struct User {
    number: usize,
    browser: Browser,
    ledger: Arc<Ledger>,
    rng: fastrand::Rng,
    account: Option<Account>,
    /// Raised by the drill: users with an odd number then sign in as somebody new.
    generation: Arc<AtomicU64>,
    seen_generation: u64,
    accounts: u64,
    notes: u64,
}

impl User {
    pub(crate) fn new(
        number: usize,
        browser: Browser,
        ledger: Arc<Ledger>,
        seed: u64,
        generation: Arc<AtomicU64>,
    ) -> Self {
        let rng = fastrand::Rng::with_seed(seed.wrapping_add(number as u64));
        Self {
            number,
            browser,
            ledger,
            rng,
            account: None,
            generation,
            seen_generation: 0,
            accounts: 0,
            notes: 0,
        }
    }

    async fn step(&mut self) -> bool {
        let generation = self.generation.load(Ordering::Relaxed);
        if generation != self.seen_generation {
            self.seen_generation = generation;
            if self.number % 2 == 1 {
                self.account = None;
                self.browser.forget();
            }
        }
        let Some(account) = self.account.take() else {
            self.accounts += 1;
            let name = format!("user-{}-{}", self.number, self.accounts);
            return self.sign_in(name).await;
        };
        self.account = Some(account);
        match self.rng.u8(0..100) {
            0..35 => self.add().await && self.list().await,
            35..42 => self.add_without_key().await,
            42..60 => self.mark().await && self.whoami().await,
            60..80 => self.whoami().await,
            _ => self.list().await,
        }
    }

    async fn sign_in(&mut self, name: String) -> bool {
        let op = self.ledger.begin(self.number, Instant::now());
        let mut entry = Entry::default();
        let ask = Ask::new(Method::POST, "/sign-in", json!({ "user": name })).key(self.fresh_key());
        match self.write(&ask, op, &mut entry).await {
            Written::Done(_) => {
                self.account = Some(Account {
                    name,
                    mark: 0,
                    marked: None,
                    last_note: None,
                });
            }
            Written::LoggedOut(reason) | Written::Failed(reason) => {
                entry.trouble(Trouble::FailedWrite, format!("sign in of {name}: {reason}"));
            }
        }
        self.finish(op, entry)
    }

    async fn add(&mut self) -> bool {
        let op = self.ledger.begin(self.number, Instant::now());
        let mut entry = Entry::default();
        let (name, text) = self.next_note();
        let ask = Ask::new(Method::POST, "/notes", json!({ "text": text })).key(self.fresh_key());
        self.ledger.invoke(op, &name, &text);
        match self.write(&ask, op, &mut entry).await {
            Written::Done(answer) => self.added(&text, &answer, &mut entry),
            Written::LoggedOut(reason) => self.logged_out(&mut entry, reason),
            Written::Failed(reason) => {
                entry.trouble(Trouble::FailedWrite, format!("note `{text}`: {reason}"));
            }
        }
        self.finish(op, entry)
    }

    /// A write as an old form sends it: once, and who knows.
    async fn add_without_key(&mut self) -> bool {
        let op = self.ledger.begin(self.number, Instant::now());
        let mut entry = Entry::default();
        let (name, text) = self.next_note();
        let ask = Ask::new(Method::POST, "/notes", json!({ "text": text }));
        self.ledger.invoke(op, &name, &text);
        match self.send(&ask).await {
            Ok(answer) => {
                entry.retried += answer.again;
                if answer.status.is_success() {
                    self.added(&text, &answer, &mut entry);
                } else if answer.status == StatusCode::UNAUTHORIZED {
                    self.ledger.refuse(&text);
                    self.logged_out(&mut entry, describe(&answer));
                } else {
                    entry.trouble(
                        Trouble::Unknown,
                        format!("note `{text}`: {}", describe(&answer)),
                    );
                }
            }
            Err(NoAnswer {
                reason,
                unsent,
                again,
            }) => {
                entry.retried += again;
                if unsent {
                    self.ledger.refuse(&text);
                }
                entry.trouble(Trouble::Unknown, format!("note `{text}`: {reason}"));
            }
        }
        self.finish(op, entry)
    }

    async fn mark(&mut self) -> bool {
        let op = self.ledger.begin(self.number, Instant::now());
        let mut entry = Entry::default();
        let Some(account) = &mut self.account else {
            return self.finish(op, entry);
        };
        account.mark += 1;
        let mark = account.mark;
        let ask = Ask::new(Method::PUT, "/mark", json!({ "mark": mark }));
        match self.write(&ask, op, &mut entry).await {
            Written::Done(_) => {
                entry.acknowledged = true;
                if let Some(account) = &mut self.account {
                    account.marked = Some(mark);
                }
            }
            Written::LoggedOut(reason) => self.logged_out(&mut entry, reason),
            Written::Failed(reason) => {
                entry.trouble(Trouble::FailedWrite, format!("mark {mark}: {reason}"));
            }
        }
        self.finish(op, entry)
    }

    async fn whoami(&mut self) -> bool {
        let op = self.ledger.begin(self.number, Instant::now());
        let mut entry = Entry::default();
        let read = self.read::<Whoami>("/whoami", &mut entry).await;
        if let (Some((who, from)), Some(account)) = (read, &self.account) {
            let Account {
                name,
                marked,
                last_note,
                ..
            } = account;
            if who.user != *name {
                let wrong = format!("{name} is taken for {} {from}", who.user);
                entry.trouble(Trouble::LoggedOut, wrong);
            } else if who.mark < *marked || who.last_note < *last_note {
                let stale = format!(
                    "session of {name} has mark {:?} of {marked:?}, \
                     last note {:?} of {last_note:?} {from}",
                    who.mark, who.last_note
                );
                entry.trouble(Trouble::Stale, stale);
            }
        }
        self.finish(op, entry)
    }

    async fn list(&mut self) -> bool {
        let op = self.ledger.begin(self.number, Instant::now());
        let mut entry = Entry::default();
        if let Some((notes, from)) = self.read::<Vec<Note>>("/notes", &mut entry).await {
            let name = self
                .account
                .as_ref()
                .map_or("", |account| account.name.as_str());
            let keys: Vec<_> = notes.into_iter().map(|note| note.text).collect();
            for violation in self.ledger.listed(name, op, Instant::now(), &keys) {
                let trouble = match violation {
                    Violation::Stale { .. } => Trouble::Stale,
                    Violation::Phantom { .. } => Trouble::Phantom,
                    // Counted once for each key, with the verdict.
                    _ => continue,
                };
                entry.trouble(trouble, format!("{violation} {from}"));
            }
        }
        self.finish(op, entry)
    }

    /// One pass over the addresses: people do not press reload in a loop.
    async fn read<T: for<'a> Deserialize<'a>>(
        &mut self,
        path: &'static str,
        entry: &mut Entry,
    ) -> Option<(T, String)> {
        let answer = match self.send(&Ask::get(path)).await {
            Ok(answer) => answer,
            Err(NoAnswer { reason, again, .. }) => {
                entry.retried += again;
                entry.trouble(Trouble::FailedRead, format!("GET {path}: {reason}"));
                return None;
            }
        };
        entry.retried += answer.again;
        if answer.status == StatusCode::UNAUTHORIZED {
            self.logged_out(entry, describe(&answer));
            return None;
        }
        let from = served_by(&answer);
        if answer.status != StatusCode::OK {
            entry.trouble(
                Trouble::FailedRead,
                format!("GET {path}: {}", describe(&answer)),
            );
            return None;
        }
        match serde_json::from_slice(&answer.body) {
            Ok(value) => Some((value, from)),
            Err(error) => {
                entry.trouble(Trouble::FailedRead, format!("GET {path}: {error} {from}"));
                None
            }
        }
    }

    /// Tries until there is success, the patience ends or the app says that trying is no use.
    async fn write(&mut self, ask: &Ask, op: Op, entry: &mut Entry) -> Written {
        let mut wait = FIRST_WAIT;
        loop {
            let (failure, told) = match self.send(ask).await {
                Ok(answer) => {
                    entry.retried += answer.again;
                    let reason = describe(&answer);
                    match answer.status {
                        status if status.is_success() => return Written::Done(answer),
                        StatusCode::UNAUTHORIZED => return Written::LoggedOut(reason),
                        // The first attempt may still be under way.
                        StatusCode::CONFLICT | StatusCode::TOO_MANY_REQUESTS => {}
                        status if status.is_server_error() => {}
                        _ => return Written::Failed(reason),
                    }
                    (reason, retry_after(&answer))
                }
                Err(NoAnswer { reason, again, .. }) => {
                    entry.retried += again;
                    (reason, None)
                }
            };
            let pause = wait
                .mul_f64(0.5 + self.rng.f64() / 2.0)
                .max(told.unwrap_or_default());
            wait = (wait * 2).min(LONGEST_WAIT);
            if op.start.elapsed() + pause > WRITE_PATIENCE {
                return Written::Failed(format!("{failure}, after {:.1?}", op.start.elapsed()));
            }
            tokio::time::sleep(pause).await;
            entry.retried += 1;
        }
    }

    async fn send(&mut self, ask: &Ask) -> Result<Answer, NoAnswer> {
        let answer = self.browser.send(ask).await?;
        if let Some(app) = answer
            .headers
            .get("x-ha-app")
            .and_then(|app| app.to_str().ok())
        {
            self.ledger.served(app, Instant::now());
        }
        Ok(answer)
    }

    fn added(&mut self, text: &str, answer: &Answer, entry: &mut Entry) {
        self.ledger.acknowledge(text, Instant::now());
        entry.acknowledged = true;
        let id = serde_json::from_slice(&answer.body)
            .ok()
            .map(|Added { id }| id);
        if let (Some(account), Some(id)) = (&mut self.account, id) {
            account.last_note = account.last_note.max(Some(id));
        }
    }

    fn logged_out(&mut self, entry: &mut Entry, reason: String) {
        let name = self
            .account
            .take()
            .map(|account| account.name)
            .unwrap_or_default();
        entry.trouble(Trouble::LoggedOut, format!("{name}: {reason}"));
    }

    fn next_note(&mut self) -> (String, String) {
        self.notes += 1;
        let name = self
            .account
            .as_ref()
            .map(|account| account.name.clone())
            .unwrap_or_default();
        let text = format!("{name}-note-{}", self.notes);
        (name, text)
    }

    fn fresh_key(&mut self) -> String {
        format!("{:016x}{:016x}", self.rng.u64(..), self.rng.u64(..))
    }

    /// Whether the operation ended without trouble.
    fn finish(&mut self, op: Op, entry: Entry) -> bool {
        let well = entry.troubles.is_empty();
        self.ledger.finish(op, entry, Instant::now());
        well
    }
}

impl Call for User {
    async fn call(&mut self) -> Outcome {
        if self.step().await {
            Outcome::Ok
        } else {
            Outcome::Failed
        }
    }
}

/// Who served, as the app's and the edge's headers say.
fn served_by(answer: &Answer) -> String {
    let header = |name| {
        answer
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let parts = ["x-ha-edge", "x-ha-app", "x-ha-db-node"]
        .into_iter()
        .filter_map(header);
    format!("({})", parts.collect::<Vec<_>>().join(" > "))
}

fn describe(answer: &Answer) -> String {
    let text = String::from_utf8_lossy(&answer.body);
    let text: String = text.trim().chars().take(200).collect();
    format!("{} {text} {}", answer.status.as_u16(), served_by(answer))
}

/// Only the form in seconds: nothing here sends the other.
fn retry_after(answer: &Answer) -> Option<Duration> {
    let seconds = answer
        .headers
        .get(http::header::RETRY_AFTER)?
        .to_str()
        .ok()?
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds).min(Duration::from_secs(5)))
}

#[cfg(test)]
mod tests;
