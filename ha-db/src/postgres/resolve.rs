//! What became of a commit that was not answered.
//!
//! `txid_status` tells it of a transaction number, but numbers can be given out twice: a standby that is promoted, and a server
//! that restarts after a crash, go on from the highest number in their log, which may end before our transaction's first record.
//! Then the number's next bearer would answer for ours. So a resolvable transaction remembers, besides its number, a position of
//! the log that follows a record under this number. A log that still contains this position has seen the number, and gives it to
//! nobody else; one that was cut before it does not contain the commit either.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::error::SqlState;

use super::deadline::after;
use super::history::{Cover, History, survives};
use super::lsn::{Lsn, Position};
use super::pool::{Life, field, first_row};
use super::{Error, Router};

/// Between two looks at a commit that still runs, and at a history that is not known yet.
const AGAIN: Duration = Duration::from_millis(20);

/// A transaction whose commit was not answered. [`Router::resolve`] finds out what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InDoubt {
    system_id: u64,
    node: usize,
    life: Life,
    xid: u64,
    mark: Position,
}

/// What became of a commit without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// It is applied, on the primary of now.
    Committed,
    /// It is not, and never will be: rolled back, or cut off by a failover. Doing it again is safe.
    NotCommitted,
    /// It cannot be told. The history of the timelines cannot be read (grant `EXECUTE` on `pg_read_file(text, bigint, bigint,
    /// boolean)`), the server has restarted after a crash and may have given the number to another transaction, or the
    /// transaction is so old that the server has forgotten it.
    Unprovable,
}

/// What `txid_status` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Committed,
    Aborted,
    InProgress,
    Forgotten,
    /// The number has not been given out yet.
    Future,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judgement {
    Is(Outcome),
    /// It has not ended yet.
    Wait,
    /// A history would help.
    Unread,
}

/// Whether a log contains the first record of the transaction.
fn contains(
    mark: Position,
    timeline: u32,
    same_life: bool,
    history: Option<&History>,
) -> Option<bool> {
    if timeline == mark.timeline {
        return same_life.then_some(true);
    }
    match survives(mark, timeline, history) {
        Cover::Yes | Cover::NotYet => Some(true),
        Cover::Lost(_) => Some(false),
        Cover::Unprovable => None,
    }
}

fn judge(contained: Option<bool>, may_run: bool, status: Status, history_read: bool) -> Judgement {
    use Judgement::{Is, Unread, Wait};
    use Outcome::{Committed, NotCommitted, Unprovable};
    match (contained, status) {
        (Some(false), _) => Is(NotCommitted),
        (Some(true), Status::Committed) => Is(Committed),
        // Whoever bears this number, it is not a committed transaction, so ours is not.
        (_, Status::Aborted | Status::Future) => Is(NotCommitted),
        (_, Status::InProgress) if may_run => Wait,
        // No transaction outlives its server, so this is another's number by now.
        (_, Status::InProgress) => Is(NotCommitted),
        (Some(true), Status::Forgotten) => Is(Unprovable),
        (None, Status::Committed | Status::Forgotten) if !history_read => Unread,
        (None, Status::Committed | Status::Forgotten) => Is(Unprovable),
    }
}

impl InDoubt {
    pub(crate) fn new(system_id: u64, node: usize, life: Life, xid: u64, mark: Position) -> Self {
        Self {
            system_id,
            node,
            life,
            xid,
            mark,
        }
    }

    /// The transaction's number, as `txid_current()` gave it.
    #[must_use]
    pub fn xid(&self) -> u64 {
        self.xid
    }

    /// A position of the log that belongs to the transaction.
    #[must_use]
    pub fn position(&self) -> Position {
        self.mark
    }
}

impl Router {
    /// What became of a transaction whose commit was not answered ([`Error::in_doubt`]), also after a failover.
    ///
    /// Waits for a primary up to `write_wait`, and for a commit that is still under way up to `commit_timeout`. A COMMIT that
    /// waits for a synchronous standby is still under way.
    ///
    /// # Errors
    /// [`Error::NoPrimary`], [`Error::Pool`], [`Error::NotSent`], [`Error::Query`]: nothing was found out; ask again.
    /// [`Error::Timeout`] when the transaction has not ended.
    ///
    /// # Cancel safety
    /// It changes nothing.
    pub async fn resolve(&self, doubt: &InDoubt) -> Result<Outcome, Error> {
        let limit = self.core.settings.commit_timeout;
        let end = after(limit);
        loop {
            let looked = self.look(doubt).await;
            let late = tokio::time::Instant::now() >= end;
            let judgement = match looked {
                // What ended the connection of the commit may have ended this one, and nobody had noticed yet.
                Err(error) if !late && error.is_disconnected() => {
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
                looked => looked?,
            };
            match judgement {
                Judgement::Is(outcome) => return Ok(outcome),
                Judgement::Unread if late => return Ok(Outcome::Unprovable),
                Judgement::Wait if late => {
                    return Err(Error::Timeout {
                        what: "the end of a transaction in doubt",
                        limit,
                    });
                }
                Judgement::Unread | Judgement::Wait => tokio::time::sleep(AGAIN).await,
            }
        }
    }

    async fn look(&self, doubt: &InDoubt) -> Result<Judgement, Error> {
        const TIMELINE: &str =
            "SELECT ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int";
        let core = &self.core;
        let chosen = core.primary(false, doubt.mark.timeline, None).await?;
        let Some(chosen) = chosen else {
            return Ok(Judgement::Wait);
        };
        let life = chosen.object.life;
        let lease = chosen.lend(core, None, false);
        let limit = core.settings.connect_timeout;
        let asking = async {
            let client = lease.client();
            let timeline = client.simple_query(TIMELINE).await?;
            let timeline = first_row(&timeline).and_then(|row| field(row, 0));
            let asked = format!("SELECT txid_status({})", doubt.xid);
            Ok::<_, tokio_postgres::Error>((timeline, client.simple_query(&asked).await))
        };
        let Ok(answer) = timeout(limit, asking).await else {
            return Err(Error::Timeout {
                what: "asking for a transaction in doubt",
                limit,
            });
        };
        let (timeline, status) = answer?;
        let timeline: Option<u32> = timeline;
        let status = match status {
            Ok(rows) => match first_row(&rows).and_then(|row| row.get(0)) {
                Some("committed") => Status::Committed,
                Some("aborted") => Status::Aborted,
                Some(_) => Status::InProgress,
                None => Status::Forgotten,
            },
            Err(error) if error.code() == Some(&SqlState::INVALID_PARAMETER_VALUE) => {
                Status::Future
            }
            Err(error) => return Err(error.into()),
        };
        let view = core.view.load_full();
        let Some(timeline) = timeline.filter(|_| view.system_id == Some(doubt.system_id)) else {
            return Ok(Judgement::Is(Outcome::Unprovable));
        };
        // Without the right to see it (`pg_monitor`), the checkpointer vouches for nothing.
        // By its life and not by its name: it may have two, or another one here.
        let may_run = life.started == doubt.life.started;
        let same_life = may_run && life == doubt.life && life.checkpointer != 0;
        let history = view.history.as_deref();
        let mut contained = contains(doubt.mark, timeline, same_life, history);
        // A crash of the old primary before it was replaced may have cut its log, and filled the place with something else.
        let restarted = view.nodes.get(doubt.node).is_some_and(|node| {
            node.timeline == Some(doubt.mark.timeline)
                && node.started.is_some_and(|at| at != doubt.life.started)
        });
        if contained == Some(true) && !same_life && restarted {
            contained = None;
        }
        let history_read = timeline == doubt.mark.timeline || history.is_some();
        Ok(judge(contained, may_run, status, history_read))
    }
}

/// Reads what [`TransactionOptions::begin`](super::TransactionOptions::begin) asked for.
pub(crate) fn begun(row: &tokio_postgres::SimpleQueryRow) -> Option<(u64, Position)> {
    let lsn: Lsn = field(row, 2)?;
    let timeline = field(row, 3)?;
    Some((field(row, 1)?, Position { timeline, lsn }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_committed_number_counts_only_where_the_log_has_seen_it_as_ours() {
        use Judgement::{Is, Unread, Wait};
        use Outcome::{Committed, NotCommitted, Unprovable};
        for (contained, may_run, status, history_read, expected) in [
            (Some(true), true, Status::Committed, true, Is(Committed)),
            (Some(true), false, Status::Committed, true, Is(Committed)),
            (Some(true), true, Status::Aborted, true, Is(NotCommitted)),
            (Some(true), true, Status::InProgress, true, Wait),
            // What runs there is somebody else's: our server is gone.
            (
                Some(true),
                false,
                Status::InProgress,
                true,
                Is(NotCommitted),
            ),
            (Some(true), true, Status::Forgotten, true, Is(Unprovable)),
            // The number was given out again after the cut.
            (
                Some(false),
                false,
                Status::Committed,
                true,
                Is(NotCommitted),
            ),
            (Some(false), false, Status::Future, true, Is(NotCommitted)),
            // After a crash in place nobody knows whose number that is, but an aborted one is nobody's commit.
            (None, false, Status::Committed, true, Is(Unprovable)),
            (None, true, Status::InProgress, true, Wait),
            (None, false, Status::Aborted, true, Is(NotCommitted)),
            (None, false, Status::Future, true, Is(NotCommitted)),
            (None, false, Status::Committed, false, Unread),
        ] {
            let judged = judge(contained, may_run, status, history_read);
            assert_eq!(
                judged, expected,
                "{contained:?} {may_run} {status:?} {history_read}"
            );
        }
    }

    #[test]
    fn a_log_contains_the_mark_up_to_the_cut_and_on_its_own_timeline_within_one_life() {
        let mark = |lsn| Position {
            timeline: 1,
            lsn: Lsn(lsn),
        };
        let history = History::parse(2, "1\t0/100\tno recovery target specified\n");
        let history = Some(&history);
        assert_eq!(contains(mark(0x80), 1, true, None), Some(true));
        assert_eq!(contains(mark(0x80), 1, false, None), None);
        assert_eq!(contains(mark(0x100), 2, false, history), Some(true));
        assert_eq!(contains(mark(0x101), 2, false, history), Some(false));
        assert_eq!(contains(mark(0x80), 2, false, None), None);
    }
}
