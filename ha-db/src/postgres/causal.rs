//! What one client has done so far, shared by everything that serves one of its requests.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::lsn::Position;
use super::token::Token;
use super::unit::Shared;

/// How long [`Causal::settle`] waits for positions that are still being asked for. A position is one round trip to a
/// server that has just answered; what takes longer is not coming.
const SETTLE_LIMIT: Duration = Duration::from_millis(500);

/// The causal context of one client: its [`Token`], growing with everything that is read and written through it.
///
/// Clones share one context. A layer puts it into the request's extensions, handlers use it through
/// [`Db`](super::Db), and the layer sends [`Causal::settle`]'s token back with the response.
#[derive(Clone, Default)]
pub struct Causal(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    token: Option<Token>,
    writes: usize,
    reads: usize,
    last_read: Option<Served>,
    unit: Option<Arc<Shared>>,
}

/// A node, in the life in which it served something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Served {
    pub(crate) node: usize,
    pub(crate) generation: u64,
}

impl Causal {
    /// A context that starts from what the client presented.
    #[must_use]
    pub fn new(token: Option<Token>) -> Self {
        let causal = Self::default();
        causal.state().token = token;
        causal
    }

    /// What is known right now. Connections that were given back a moment ago may not be in it yet:
    /// [`Causal::settle`] waits for them.
    #[must_use]
    pub fn token(&self) -> Option<Token> {
        self.state().token
    }

    /// Joins `token` into the context.
    pub fn advance(&self, token: Token) {
        let mut state = self.state();
        state.token = Some(state.token.map_or(token, |known| known.join(token)));
    }

    /// Waits until everything that was given back is accounted for, and returns the token for the client.
    ///
    /// A connection's last position is asked for after it was dropped. When the answer does not come within 500 ms,
    /// or the connection broke, the token says "primary only" instead of claiming less than was done.
    ///
    /// # Cancel safety
    /// Nothing is lost: call it again.
    pub async fn settle(&self) -> Option<Token> {
        self.quiet(|state| state.writes == 0 && state.reads == 0)
            .await;
        self.token()
    }

    /// Waits for given-back writes only.
    pub(crate) async fn settle_writes(&self) {
        self.quiet(|state| state.writes == 0).await;
    }

    async fn quiet(&self, done: impl Fn(&State) -> bool) {
        let waiting = async {
            loop {
                let changed = self.0.changed.notified();
                tokio::pin!(changed);
                // Registered before the check, or a notification between the two would be missed.
                changed.as_mut().enable();
                if done(&self.state()) {
                    return;
                }
                changed.await;
            }
        };
        if done(&self.state()) {
            return;
        }
        if tokio::time::timeout(SETTLE_LIMIT, waiting).await.is_err() {
            let mut state = self.state();
            state.token = state.token.map(|token| token.with_primary_only(true));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is a single assignment, so a panic elsewhere leaves nothing half done.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn replace(&self, token: Token) {
        self.state().token = Some(token);
    }

    pub(crate) fn last_read(&self) -> Option<Served> {
        self.state().last_read
    }

    /// Whether a read elsewhere than on `served` could still turn out to have seen more.
    pub(crate) fn has_unsettled_reads(&self) -> bool {
        self.state().reads > 0
    }

    pub(crate) fn set_last_read(&self, served: Served) {
        self.state().last_read = Some(served);
    }

    pub(crate) fn unit(&self) -> Option<Arc<Shared>> {
        self.state().unit.clone()
    }

    pub(crate) fn set_unit(&self, unit: Option<Arc<Shared>>) {
        self.state().unit = unit;
    }

    /// Announces that something was done whose position is not known yet.
    pub(crate) fn unsettled(&self, system_id: u64, write: bool) -> Unsettled {
        let mut state = self.state();
        if write {
            state.writes += 1;
        } else {
            state.reads += 1;
        }
        Unsettled {
            causal: self.clone(),
            system_id,
            write,
            position: None,
        }
    }
}

impl fmt::Debug for Causal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("Causal")
            .field("token", &state.token)
            .field("unsettled", &(state.writes + state.reads))
            .field("unit", &state.unit.is_some())
            .finish()
    }
}

/// Something was done and its position is being asked for. Dropped without one, the context becomes "primary only".
#[derive(Debug)]
pub(crate) struct Unsettled {
    causal: Causal,
    system_id: u64,
    write: bool,
    position: Option<Token>,
}

impl Unsettled {
    /// The position is known.
    pub(crate) fn at(mut self, written: Position, seen: Position) {
        self.position = Some(Token::at(self.system_id, written, seen));
    }

    /// Nothing needs to be remembered.
    pub(crate) fn nothing(mut self) {
        self.position = Some(Token::at(
            self.system_id,
            Position::default(),
            Position::default(),
        ));
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        let unknown = || {
            Token::at(self.system_id, Position::default(), Position::default())
                .with_primary_only(true)
        };
        let newer = self.position.take().unwrap_or_else(unknown);
        {
            let mut state = self.causal.state();
            state.token = Some(state.token.map_or(newer, |known| known.join(newer)));
            if self.write {
                state.writes -= 1;
            } else {
                state.reads -= 1;
            }
        }
        self.causal.0.changed.notify_waiters();
    }
}
