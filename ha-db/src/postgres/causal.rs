//! What one client has done so far, shared by everything that serves one of its requests.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::lsn::{Lsn, Position};
pub(crate) use super::role::Served;
use super::token::{Known, Token};
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
    /// Of what is unsettled, and the timeline of its writes.
    system_id: u64,
    timeline: u32,
    /// Grows when something was done whose position will never be known.
    doubts: u64,
    last_read: Option<Served>,
    /// Where all unsettled reads ran, if that is one node.
    reads_on: Option<Served>,
    unit: Option<Arc<Shared>>,
}

/// A context at one moment.
#[derive(Debug, Default)]
pub(crate) struct Glance {
    pub(crate) token: Option<Token>,
    pub(crate) last_read: Option<Served>,
    /// Works inside a unit, or has writes whose positions are still asked for.
    pub(crate) busy: bool,
    /// Has reads whose positions are still asked for, and where they ran, if that is one node.
    reading: Option<Option<Served>>,
}

impl Glance {
    /// Whether a read elsewhere than on `served` could still turn out to have seen more.
    pub(crate) fn has_reads_elsewhere(&self, served: Served) -> bool {
        self.reading.is_some_and(|on| on != Some(served))
    }
}

impl Causal {
    /// All of it that a read looks at, under one lock.
    pub(crate) fn glance(&self) -> Glance {
        let state = self.state();
        Glance {
            token: state.token,
            last_read: state.last_read,
            busy: state.unit.is_some() || state.writes > 0,
            reading: (state.reads > 0).then_some(state.reads_on),
        }
    }

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
        state.doubts += u64::from(token.known() != Known::All);
        state.join(token);
    }

    /// Waits until everything that was given back is accounted for, and returns the token for the client.
    ///
    /// A connection's last position is asked for after it was dropped. When the answer to a write's does not come within
    /// 500 ms, or the connection broke, the token says "primary only" instead of claiming less than was done; a later
    /// use of the primary makes it exact again. A read counts as the primary's position then, and without a primary as what
    /// the node was last known to show.
    ///
    /// # Cancel safety
    /// Nothing is lost: call it again.
    pub async fn settle(&self) -> Option<Token> {
        self.quiet(|state| state.writes == 0 && state.reads == 0)
            .await;
        let state = self.state();
        if state.writes == 0 {
            return state.token;
        }
        let unknown = Token::at(
            state.system_id,
            begun_on(state.timeline),
            Position::default(),
        );
        let token = state.token.map_or(unknown, |token| token.join(unknown));
        Some(token.with_known(Known::Part))
    }

    /// Waits for given-back writes only, and returns whether all are accounted for.
    pub(crate) async fn settle_writes(&self) -> bool {
        self.quiet(|state| state.writes == 0).await
    }

    async fn quiet(&self, done: impl Fn(&State) -> bool) -> bool {
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
        done(&self.state()) || tokio::time::timeout(SETTLE_LIMIT, waiting).await.is_ok()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is a single assignment, so a panic elsewhere leaves nothing half done.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn replace(&self, token: Token) {
        self.state().token = Some(token);
    }

    pub(crate) fn set_last_read(&self, served: Served) {
        self.state().last_read = Some(served);
    }

    pub(crate) fn unit(&self) -> Option<Arc<Shared>> {
        self.state().unit.clone()
    }

    /// Has everything work inside `unit`, unless there is one already.
    pub(crate) fn enter(&self, unit: &Arc<Shared>) -> bool {
        let mut state = self.state();
        let free = state.unit.is_none();
        if free {
            state.unit = Some(Arc::clone(unit));
        }
        free
    }

    /// Ends what [`Causal::enter`] has begun with this unit, and with no other.
    pub(crate) fn leave(&self, unit: &Arc<Shared>) {
        // A unit that ends with this says so to the context, so it must not be locked.
        let ended = {
            let mut state = self.state();
            state.unit.take_if(|own| Arc::ptr_eq(own, unit))
        };
        drop(ended);
    }

    /// Announces that something was done on `timeline` whose position is not known yet, at least `floor`. `lost` is what is still
    /// known if it never will be: [`Known::All`] for a read, which `floor` then stands for.
    pub(crate) fn unsettled(
        &self,
        system_id: u64,
        timeline: u32,
        lost: Known,
        floor: Position,
        on: Option<Served>,
    ) -> Unsettled {
        let mut state = self.state();
        state.system_id = system_id;
        state.join(Token::at(system_id, Position::default(), floor));
        if lost == Known::All {
            if state.reads == 0 {
                state.reads_on = on;
            } else if state.reads_on != on {
                state.reads_on = None;
            }
            state.reads += 1;
        } else {
            state.writes += 1;
            state.timeline = state.timeline.max(timeline);
        }
        Unsettled {
            causal: self.clone(),
            system_id,
            timeline,
            write: lost != Known::All,
            doubts: state.doubts,
            lost,
            position: None,
        }
    }
}

/// Before everything that was written on a timeline.
const fn begun_on(timeline: u32) -> Position {
    Position {
        timeline,
        lsn: Lsn(0),
    }
}

impl State {
    fn join(&mut self, token: Token) {
        self.token = Some(self.token.map_or(token, |known| known.join(token)));
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

/// Something was done and its position is being asked for. Dropped without one, it never will be known.
#[derive(Debug)]
pub(crate) struct Unsettled {
    causal: Causal,
    system_id: u64,
    timeline: u32,
    write: bool,
    /// Those of the context when the position was about to be asked for.
    doubts: u64,
    lost: Known,
    position: Option<(Token, bool)>,
}

impl Unsettled {
    /// The position is known. One of the primary covers everything that was done before it was asked for.
    pub(crate) fn at(mut self, written: Position, seen: Position, primary: bool) {
        self.position = Some((Token::at(self.system_id, written, seen), primary));
    }

    /// A write ended somewhere past `written`; this much is known of it.
    pub(crate) fn past(mut self, written: Position, known: Known) {
        self.lost = known;
        let at_least = Token::at(self.system_id, written, Position::default());
        self.causal.state().join(at_least);
    }

    pub(crate) fn is_read(&self) -> bool {
        !self.write
    }

    /// Whether it was done on this timeline.
    pub(crate) fn is_of(&self, timeline: u32) -> bool {
        self.timeline == timeline
    }

    /// Nothing needs to be remembered.
    pub(crate) fn nothing(mut self) {
        self.lost = Known::All;
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        {
            let mut state = self.causal.state();
            match self.position.take() {
                Some((token, primary)) => {
                    state.join(token);
                    if primary && state.doubts == self.doubts {
                        state.token = state.token.map(|token| token.with_known(Known::All));
                    }
                }
                None if self.lost == Known::All => {}
                None => {
                    state.doubts += 1;
                    // One that was acknowledged is on this timeline, wherever that is.
                    let written = match self.lost {
                        Known::Part => begun_on(self.timeline),
                        Known::All | Known::Acknowledged => Position::default(),
                    };
                    let token = Token::at(self.system_id, written, Position::default());
                    state.join(token.with_known(self.lost));
                }
            }
            if self.write {
                state.writes -= 1;
            } else {
                state.reads -= 1;
            }
        }
        self.causal.0.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(lsn: u64) -> Position {
        Position {
            timeline: 1,
            lsn: Lsn(lsn),
        }
    }

    const ZERO: Position = Position {
        timeline: 0,
        lsn: Lsn(0),
    };

    fn known(causal: &Causal) -> Known {
        causal.token().unwrap().known()
    }

    #[test]
    fn a_read_that_cannot_be_placed_leaves_the_token_exact_and_a_write_does_not() {
        let causal = Causal::default();
        drop(causal.unsettled(7, 1, Known::All, at(10), None));
        assert_eq!(causal.token(), Some(Token::at(7, ZERO, at(10))));
        drop(causal.unsettled(7, 1, Known::Acknowledged, ZERO, None));
        assert_eq!(known(&causal), Known::Acknowledged);
        drop(causal.unsettled(7, 1, Known::Part, ZERO, None));
        assert!(causal.token().unwrap().is_primary_only());
    }

    #[test]
    fn a_position_of_the_primary_settles_only_what_was_done_before_it_was_asked_for() {
        let causal = Causal::default();
        let asked_before = causal.unsettled(7, 1, Known::All, ZERO, None);
        drop(causal.unsettled(7, 1, Known::Part, ZERO, None));
        asked_before.at(ZERO, at(20), true);
        assert_eq!(known(&causal), Known::Part);
        causal
            .unsettled(7, 1, Known::All, ZERO, None)
            .at(ZERO, at(30), false);
        assert_eq!(known(&causal), Known::Part, "a replica covers nothing");
        causal
            .unsettled(7, 1, Known::All, ZERO, None)
            .at(ZERO, at(30), true);
        assert_eq!(known(&causal), Known::All);
    }

    #[test]
    fn an_acknowledged_write_without_a_position_leaves_its_timeline_and_one_that_was_not_leaves_none()
     {
        let causal = Causal::default();
        drop(causal.unsettled(7, 3, Known::Acknowledged, ZERO, None));
        assert_eq!(causal.token().unwrap().written(), ZERO);
        drop(causal.unsettled(7, 3, Known::Part, ZERO, None));
        assert_eq!(causal.token().unwrap().written(), begun_on(3));
        let causal = Causal::default();
        let unsettled = causal.unsettled(7, 1, Known::Part, ZERO, None);
        assert!(unsettled.is_of(1) && !unsettled.is_of(2) && !unsettled.is_read());
        unsettled.past(at(50), Known::Acknowledged);
        let token = causal.token().unwrap();
        assert_eq!(
            (token.written(), token.known()),
            (at(50), Known::Acknowledged)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_without_an_answer_makes_the_clients_token_primary_only_until_it_comes() {
        let causal = Causal::default();
        let pending = causal.unsettled(7, 1, Known::Part, ZERO, None);
        assert!(causal.settle().await.unwrap().is_primary_only());
        pending.at(at(40), at(40), true);
        let settled = causal.settle().await.unwrap();
        assert_eq!((settled.known(), settled.lsn()), (Known::All, Lsn(40)));
        // A read that stays open does not.
        let _reading = causal.unsettled(7, 1, Known::All, ZERO, None);
        assert_eq!(causal.settle().await.unwrap().known(), Known::All);
    }

    #[test]
    fn only_reads_of_one_node_alone_need_not_be_settled_before_the_next_read_of_it() {
        let on = |node| Served {
            node,
            generation: 0,
        };
        let causal = Causal::default();
        assert!(!causal.glance().has_reads_elsewhere(on(1)));
        let one = causal.unsettled(7, 1, Known::All, ZERO, Some(on(1)));
        assert!(!causal.glance().has_reads_elsewhere(on(1)));
        assert!(causal.glance().has_reads_elsewhere(on(2)));
        let two = causal.unsettled(7, 1, Known::All, ZERO, Some(on(2)));
        drop(one);
        assert!(causal.glance().has_reads_elsewhere(on(1)));
        drop(two);
        assert!(!causal.glance().has_reads_elsewhere(on(1)));
    }
}
