//! Where a connection stands.

use super::lsn::{Lsn, Position};
use super::pool::{field, first_row};
use super::view::NodeView;

/// Where a connection stands, and whether it was given back inside a transaction: then its clocks differ.
///
/// A commit is acknowledged when a synchronous standby has confirmed it, while the primary's own flush position may
/// already cover what others have written and nobody has confirmed; so the two are told apart.
///
/// It is asked after every use of a connection, so it names functions and not the views over them, which take three times as
/// long to plan.
pub(crate) const STAND: &str = "SELECT (now() <> statement_timestamp())::int, \
    CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END, \
    CASE WHEN pg_is_in_recovery() THEN (SELECT received_tli FROM pg_stat_get_wal_receiver()) END, \
    CASE WHEN NOT pg_is_in_recovery() THEN ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END, \
    CASE WHEN NOT pg_is_in_recovery() AND current_setting('synchronous_standby_names') <> '' THEN \
        (SELECT string_agg(sync_state || ' ' || flush_lsn, ',') FROM pg_stat_get_wal_senders() \
         WHERE sync_state IN ('sync', 'quorum')) END, \
    CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn() END, \
    current_setting('synchronous_commit'), current_setting('synchronous_standby_names')";

/// An answer to [`STAND`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stand {
    pub(crate) in_transaction: bool,
    pub(crate) position: Position,
    confirmed: Option<Confirmed>,
    /// Of a primary only.
    inserted: Option<Lsn>,
    /// Whether a commit waits for this server's own disk, and for a standby's.
    local: bool,
    remote: bool,
}

impl Stand {
    pub(crate) fn read(
        answer: &[tokio_postgres::SimpleQueryMessage],
        known_timeline: Option<u32>,
    ) -> Option<Self> {
        let row = first_row(answer)?;
        let timeline = field(row, 2).or_else(|| field(row, 3)).or(known_timeline)?;
        Some(Self {
            in_transaction: field::<u8>(row, 0)? == 1,
            position: Position {
                timeline,
                lsn: field(row, 1)?,
            },
            confirmed: row
                .get(4)
                .zip(row.get(7))
                .and_then(|(standbys, names)| Confirmed::read(standbys, names)),
            inserted: field(row, 5),
            local: row.get(6) != Some("off"),
            remote: matches!(row.get(6), Some("on" | "remote_apply")),
        })
    }

    /// What a transaction commits under `synchronous_commit = setting` waits for less, or more, than the session's.
    pub(crate) fn under(mut self, setting: &str) -> Self {
        self.local = setting != "off";
        self.remote = matches!(setting, "on" | "remote_apply");
        self
    }

    /// As [`Stand::read`], with what is known of the node where it does not name its timeline.
    pub(crate) fn read_on(
        answer: &[tokio_postgres::SimpleQueryMessage],
        node: &NodeView,
    ) -> Option<Self> {
        let lsn = field(first_row(answer)?, 1)?;
        Self::read(answer, node.timeline_at(lsn))
    }

    pub(crate) fn of_primary(&self) -> bool {
        self.inserted.is_some()
    }

    /// A position that covers what was visible here. On a primary with a synchronous standby a commit shows only when it
    /// is confirmed; what is flushed may go further, and a failover cut it off.
    pub(crate) fn visible(&self) -> Position {
        let Position { timeline, lsn } = self.position;
        // Too far costs a wait, too near shows the client less than it has seen.
        let lsn = self.confirmed.map_or(lsn, |confirmed| confirmed.farthest);
        Position { timeline, lsn }
    }

    /// A position that covers what this session has committed, after `start` if that is known.
    pub(crate) fn written(&self, start: Option<Lsn>) -> Position {
        let Position { timeline, lsn } = self.position;
        let lsn = if !self.local {
            self.inserted.unwrap_or(lsn)
        } else if self.remote {
            // What was let through past the start of a commit covers that commit. A commit without a known start must not lie past it.
            let covering = self.confirmed.and_then(|confirmed| match start {
                Some(start) => confirmed.released.filter(|released| *released > start),
                None => Some(confirmed.farthest),
            });
            covering.unwrap_or(lsn)
        } else {
            lsn
        };
        Position { timeline, lsn }
    }
}

/// What synchronous standbys have on their disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Confirmed {
    /// The farthest one.
    farthest: Lsn,
    /// Enough of them for commits up to here to be let through.
    released: Option<Lsn>,
}

impl Confirmed {
    /// Reads `sync 0/70,sync 0/80` and the setting `synchronous_standby_names`.
    fn read(standbys: &str, names: &str) -> Option<Self> {
        let parse = |text: &str| {
            let (state, lsn) = text.split_once(' ')?;
            Some((state == "quorum", lsn.parse::<Lsn>().ok()?))
        };
        let mut all: Vec<_> = standbys.split(',').filter_map(parse).collect();
        all.sort_unstable_by_key(|(_, lsn)| std::cmp::Reverse(*lsn));
        let farthest = all.first()?.1;
        // Of a priority list all that are synchronous have to confirm, of a quorum so many as it says.
        let needed = if all.iter().all(|(quorum, _)| *quorum) {
            of_quorum(names)?
        } else {
            all.len()
        };
        Some(Self {
            farthest,
            released: all.get(needed.checked_sub(1)?).map(|(_, lsn)| *lsn),
        })
    }
}

/// How many standbys `ANY 2 (a, b, c)` asks for.
fn of_quorum(names: &str) -> Option<usize> {
    let mut words = names
        .split([' ', '\t', '('])
        .filter(|word| !word.is_empty());
    let any = words.next()?.eq_ignore_ascii_case("any");
    any.then(|| words.next()?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_let_through_by_as_many_standbys_as_the_setting_asks_for() {
        let read = |standbys, names| {
            let confirmed = Confirmed::read(standbys, names)?;
            Some((confirmed.farthest.0, confirmed.released?.0))
        };
        let two = "sync 0/70,sync 0/80";
        assert_eq!(read(two, "FIRST 2 (a, b)"), Some((0x80, 0x70)));
        assert_eq!(read("sync 0/80", "a"), Some((0x80, 0x80)));
        let three = "quorum 0/70,quorum 0/90,quorum 0/80";
        assert_eq!(read(three, "ANY 1 (*)"), Some((0x90, 0x90)));
        assert_eq!(read(three, "any 2(a, b, c)"), Some((0x90, 0x80)));
        assert_eq!(read(three, "ANY 4 (a, b, c, d)"), None);
        assert_eq!(Confirmed::read("", "ANY 1 (*)"), None);
        assert_eq!(Confirmed::read("sync ?", "a"), None);
    }

    #[test]
    fn others_commits_that_only_the_farthest_standby_has_are_no_part_of_ones_own() {
        let stand = Stand {
            in_transaction: false,
            position: Position {
                timeline: 1,
                lsn: Lsn(0x95),
            },
            confirmed: Confirmed::read("sync 0/70,sync 0/90", "FIRST 2 (a, b)"),
            inserted: Some(Lsn(0x99)),
            local: true,
            remote: true,
        };
        assert_eq!(stand.written(Some(Lsn(0x60))).lsn, Lsn(0x70));
        // The set has changed: the commit was let through by others.
        assert_eq!(stand.written(Some(Lsn(0x70))).lsn, Lsn(0x95));
        assert_eq!(stand.written(None).lsn, Lsn(0x90));
        assert_eq!(stand.visible().lsn, Lsn(0x90));
        assert_eq!(stand.under("local").written(Some(Lsn(0x60))).lsn, Lsn(0x95));
        assert_eq!(stand.under("off").written(Some(Lsn(0x60))).lsn, Lsn(0x99));
    }
}
