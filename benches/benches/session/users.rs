//! Users that are signed in and go on while things break, and the judgement of what they were told.
//!
//! Each user is a browser with two tabs, one that writes and one that reads, at two app servers that share nothing but the store. Each
//! write puts one value under a name of its own, so that at the end every acknowledged one is either there or lost. A user
//! whose cookie is taken away, or who is shown a session that knows nobody, was signed out, and signs in again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use http::StatusCode;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::Outcome;
use crate::app::{Jar, Reply, send};

/// How long a browser waits for an answer. A store that answers later has not answered.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the values of a user are asked for at the end.
const JUDGING: Duration = Duration::from_secs(30);
/// Reads ask for so many of the last values: older ones are judged at the end.
const WINDOW: u64 = 64;
/// Values of different users differ.
const VALUES: u64 = 1_000_000;

/// How many users, and how long each tab rests after an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) users: u64,
    pub(crate) rest: Duration,
}

/// One contender's two app servers.
#[derive(Debug, Clone)]
pub(crate) struct Apps {
    pub(crate) writer: Router,
    pub(crate) reader: Router,
}

/// A time without a good answer. One that the measurement ended is only a lower bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stall {
    pub(crate) length: Duration,
    pub(crate) open: bool,
}

/// What all users together were told, and what was true.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) users: u64,
    pub(crate) requests: u64,
    /// Not answered as asked, by status; without one, not within the patience.
    pub(crate) failures: BTreeMap<Option<u16>, u64>,
    pub(crate) acknowledged: u64,
    /// Acknowledged, and not in what the user sees at the end.
    pub(crate) lost: u64,
    /// Reads that did not show what was acknowledged before, and is there at the end.
    pub(crate) stale: u64,
    /// Reads that did not show what an earlier one had shown before it was acknowledged, and is there at the end.
    pub(crate) went_back: u64,
    /// Users that were signed out at least once.
    pub(crate) signed_out: u64,
    /// Users whose values could not be asked for at the end.
    pub(crate) unjudged: u64,
    /// Each request after the fault, whatever its answer.
    pub(crate) took: Vec<Duration>,
    /// The longest of each user's tabs.
    pub(crate) write_stalls: Vec<Stall>,
    pub(crate) read_stalls: Vec<Stall>,
}

#[derive(Debug, Default)]
struct User {
    /// Goes up with every sign-in: what an answer says belongs to the session that asked.
    life: u64,
    jar: Jar,
    signed_out: bool,
    next: u64,
    acknowledged: Vec<u64>,
    /// What was acknowledged in this life, and what else was shown.
    told: BTreeSet<u64>,
    shown: BTreeSet<u64>,
    /// Of each read, what it should have shown because of either.
    missed: Vec<[Vec<u64>; 2]>,
    wrote: Vec<Instant>,
    read: Vec<Instant>,
    requests: u64,
    failures: BTreeMap<Option<u16>, u64>,
    last_failure: Option<String>,
    /// When each request began, and what it took.
    took: Vec<(Instant, Duration)>,
    wrong: Option<String>,
}

struct Shared {
    apps: Apps,
    pace: Pace,
    users: Vec<Mutex<User>>,
    /// Whether it is over.
    over: watch::Sender<bool>,
}

/// A load that runs until it is finished or dropped.
pub(crate) struct Load {
    pub(crate) who: &'static str,
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

impl std::fmt::Debug for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Load").field("who", &self.who).finish()
    }
}

impl Load {
    pub(crate) fn start(who: &'static str, apps: Apps, pace: Pace) -> Self {
        let users = (0..pace.users).map(|_| Mutex::default()).collect();
        let shared = Arc::new(Shared {
            apps,
            pace,
            users,
            over: watch::Sender::new(false),
        });
        let mut tasks = JoinSet::new();
        for user in 0..pace.users {
            tasks.spawn(Arc::clone(&shared).work(user));
        }
        Self { who, shared, tasks }
    }

    /// Returns when every user has written and read since now, or after `limit`; says which.
    pub(crate) async fn all_work(&self, limit: Duration) -> bool {
        let since = Instant::now();
        let works = |user: &Mutex<User>| {
            let user = user.lock().unwrap_or_else(PoisonError::into_inner);
            let last = |times: &[Instant]| times.last().is_some_and(|at| *at > since);
            last(&user.wrote) && last(&user.read)
        };
        while !self.shared.users.iter().all(works) {
            if since.elapsed() > limit {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        true
    }

    /// Why users do not work, in the words of an answer.
    pub(crate) fn last_failure(&self) -> String {
        let users = self.shared.users.iter();
        let failure = |user: &Mutex<User>| {
            let user = user.lock().unwrap_or_else(PoisonError::into_inner);
            user.last_failure.clone()
        };
        users
            .filter_map(failure)
            .next()
            .unwrap_or_else(|| "nothing failed".to_owned())
    }

    /// Ends the load, and judges it by what the users see now. The thing broke at `fault`.
    pub(crate) async fn finish(mut self, fault: Instant) -> Outcome<Report> {
        self.shared.over.send_replace(true);
        let ended = Instant::now();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        tokio::time::timeout(3 * PATIENCE, all).await?;
        let mut report = Report {
            users: self.shared.pace.users,
            ..Report::default()
        };
        let truths = (0..self.shared.pace.users).map(|user| self.shared.truth(user));
        let truths = futures_util::future::join_all(truths).await;
        for (user, truth) in (0..).zip(truths) {
            let user = self.shared.user(user);
            if let Some(wrong) = &user.wrong {
                return Err(format!("{}: {wrong}", self.who).into());
            }
            report.add(&user, truth, fault, ended);
        }
        Ok(report)
    }
}

impl Report {
    pub(crate) fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    fn add(&mut self, user: &User, truth: Option<Truth>, fault: Instant, ended: Instant) {
        self.requests += user.requests;
        for (status, count) in &user.failures {
            *self.failures.entry(*status).or_default() += count;
        }
        self.acknowledged += user.acknowledged.len() as u64;
        self.signed_out += u64::from(user.signed_out);
        match truth {
            Some(Truth { keys, signed_out }) => {
                self.signed_out += u64::from(signed_out && !user.signed_out);
                let lost = user.acknowledged.iter().filter(|key| !keys.contains(key));
                self.lost += lost.count() as u64;
                // What a read does not show because it is gone counts once, as lost.
                let is_there = |missed: &[u64]| missed.iter().any(|key| keys.contains(key));
                for [told, shown] in &user.missed {
                    let stale = is_there(told);
                    self.stale += u64::from(stale);
                    self.went_back += u64::from(!stale && is_there(shown));
                }
            }
            None => self.unjudged += 1,
        }
        let after = user.took.iter().filter(|(at, took)| *at + *took >= fault);
        self.took.extend(after.map(|(_, took)| *took));
        self.write_stalls.push(longest(&user.wrote, fault, ended));
        self.read_stalls.push(longest(&user.read, fault, ended));
    }
}

/// The longest time between two good answers of which the later is after `fault`.
fn longest(good: &[Instant], fault: Instant, ended: Instant) -> Stall {
    let pairs = good.windows(2).filter(|pair| pair[1] >= fault);
    let length = pairs.map(|pair| pair[1] - pair[0]).max();
    let last = good.last().copied().unwrap_or(fault);
    let rest = ended.saturating_duration_since(last);
    match length {
        Some(length) if length >= rest => Stall {
            length,
            open: false,
        },
        _ => Stall {
            length: rest,
            open: true,
        },
    }
}

/// What a user sees at the end.
struct Truth {
    keys: BTreeSet<u64>,
    signed_out: bool,
}

/// What one request of a user began with.
struct Asked {
    life: u64,
    jar: Jar,
    begun: Instant,
}

/// What became of it, as far as a browser can tell.
enum Told {
    Good(String),
    /// The session is not there any more, or knows nobody.
    SignedOut,
    Failed,
}

impl Shared {
    fn user(&self, user: u64) -> MutexGuard<'_, User> {
        let user = &self.users[user as usize];
        user.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Both tabs of one user, until it is over.
    async fn work(self: Arc<Self>, user: u64) {
        let mut over = self.over.subscribe();
        loop {
            // Both tabs end with the session, and one browser signs in for them.
            let signed_in = async {
                while !self.sign_in(user).await {
                    tokio::time::sleep(self.pace.rest).await;
                }
                tokio::join!(self.write_on(user), self.read_on(user));
            };
            tokio::select! {
                _ = over.wait_for(|over| *over) => return,
                () = signed_in => {}
            }
        }
    }

    /// Rests, and says whether this life goes on.
    async fn lives(&self, user: u64, life: u64) -> bool {
        tokio::time::sleep(self.pace.rest).await;
        self.user(user).life == life && !*self.over.borrow()
    }

    async fn write_on(&self, user: u64) {
        let life = self.user(user).life;
        while self.lives(user, life).await {
            let key = {
                let mut state = self.user(user);
                state.next += 1;
                state.next - 1
            };
            let path = format!("/put/{key}/{}", value(user, key));
            let (_, told) = self.ask(user, &self.apps.writer, &path).await;
            let mut state = self.user(user);
            if let Told::Good(_) = told {
                state.acknowledged.push(key);
                state.wrote.push(Instant::now());
                if state.life == life {
                    state.told.insert(key);
                }
            }
        }
    }

    async fn read_on(&self, user: u64) {
        let life = self.user(user).life;
        while self.lives(user, life).await {
            let (from, to, expected) = {
                let state = self.user(user);
                let from = state.next.saturating_sub(WINDOW);
                let expected = [&state.told, &state.shown]
                    .map(|keys| keys.range(from..).copied().collect::<Vec<u64>>());
                (from, state.next, expected)
            };
            let path = format!("/held/{from}/{to}");
            let (asked, told) = self.ask(user, &self.apps.reader, &path).await;
            let Told::Good(text) = told else { continue };
            let mut state = self.user(user);
            state.read.push(Instant::now());
            match held(user, &text) {
                Ok(keys) if state.life == asked.life => {
                    let missed = expected.map(|mut expected| {
                        expected.retain(|key| !keys.contains(key));
                        expected
                    });
                    if missed.iter().any(|missed| !missed.is_empty()) {
                        state.missed.push(missed);
                    }
                    state.shown.extend(keys);
                }
                Ok(_) => {}
                Err(wrong) => state.wrong = Some(wrong),
            }
        }
    }

    /// One request with the user's cookie, and what the answer does to the user.
    async fn ask(&self, user: u64, app: &Router, path: &str) -> (Asked, Told) {
        let asked = {
            let state = self.user(user);
            Asked {
                life: state.life,
                jar: state.jar.clone(),
                begun: Instant::now(),
            }
        };
        let sent = send(app, &asked.jar, path);
        let reply = tokio::time::timeout(PATIENCE, sent).await;
        let mut state = self.user(user);
        state.requests += 1;
        state.took.push((asked.begun, asked.begun.elapsed()));
        let reply = match reply {
            Ok(Ok(reply)) => Some(reply),
            Ok(Err(error)) => {
                state.wrong = Some(error.to_string());
                None
            }
            Err(_) => None,
        };
        let told = state.learn(asked.life, reply);
        (asked, told)
    }

    /// Whether the user is signed in now.
    async fn sign_in(&self, user: u64) -> bool {
        let path = format!("/sign-in/{user}");
        let nothing = Jar::default();
        let sent = send(&self.apps.writer, &nothing, &path);
        let reply = tokio::time::timeout(PATIENCE, sent).await;
        let mut state = self.user(user);
        match reply {
            Ok(Ok(reply)) if reply.status == StatusCode::OK && !reply.cookies.is_empty() => {
                state.life += 1;
                state.jar = Jar::default();
                state.jar.take(reply.cookies);
                state.told.clear();
                state.shown.clear();
                true
            }
            Ok(Ok(reply)) => {
                state.last_failure = Some(reply.text);
                false
            }
            _ => false,
        }
    }

    /// What a user sees, as soon as one of the apps can say.
    async fn truth(&self, user: u64) -> Option<Truth> {
        let (jar, next) = {
            let state = self.user(user);
            (state.jar.clone(), state.next)
        };
        let path = format!("/held/0/{next}");
        let end = Instant::now() + JUDGING;
        while Instant::now() < end {
            for app in [&self.apps.reader, &self.apps.writer] {
                let sent = send(app, &jar, &path);
                let Ok(Ok(reply)) = tokio::time::timeout(PATIENCE, sent).await else {
                    continue;
                };
                if reply.status == StatusCode::UNAUTHORIZED {
                    return Some(Truth {
                        keys: BTreeSet::new(),
                        signed_out: true,
                    });
                }
                if reply.status == StatusCode::OK {
                    match held(user, &reply.text) {
                        Ok(keys) => {
                            return Some(Truth {
                                keys,
                                signed_out: false,
                            });
                        }
                        Err(wrong) => self.user(user).wrong = Some(wrong),
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        None
    }
}

impl User {
    fn learn(&mut self, life: u64, reply: Option<Reply>) -> Told {
        let Some(reply) = reply else {
            *self.failures.entry(None).or_default() += 1;
            return Told::Failed;
        };
        if reply.signs_out() || reply.status == StatusCode::UNAUTHORIZED {
            // The other tab may have noticed already.
            if self.life == life {
                self.signed_out = true;
                self.life += 1;
                self.jar = Jar::default();
            }
            return Told::SignedOut;
        }
        if self.life == life {
            self.jar.take(reply.cookies);
        }
        if reply.status == StatusCode::OK {
            Told::Good(reply.text)
        } else {
            let status = Some(reply.status.as_u16());
            *self.failures.entry(status).or_default() += 1;
            self.last_failure = Some(reply.text);
            Told::Failed
        }
    }
}

fn value(user: u64, key: u64) -> u64 {
    user * VALUES + key
}

/// Which values an answer shows. Another user's, or a value that was never written, is not to be judged but to be found.
fn held(user: u64, text: &str) -> Result<BTreeSet<u64>, String> {
    let mut words = text.split(' ');
    let shown = words.next().unwrap_or_default();
    if shown != user.to_string() {
        return Err(format!("user {user} is shown the session of {shown:?}"));
    }
    words
        .map(|word| {
            let pair = word.split_once('=');
            let parsed = pair.and_then(|(key, held)| {
                Some((key.parse::<u64>().ok()?, held.parse::<u64>().ok()?))
            });
            match parsed {
                Some((key, held)) if held == value(user, key) => Ok(key),
                _ => Err(format!(
                    "user {user} is shown {word:?}, which was never written"
                )),
            }
        })
        .collect()
}
