//! Timelines: what a promotion kept of the log before it, and what it cut off.

use super::lsn::{Lsn, Position};

/// The contents of a `.history` file: where each earlier timeline was left on the way to this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct History {
    pub(crate) timeline: u32,
    switches: Vec<(u32, Lsn)>,
}

/// Whether a node shows everything up to a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cover {
    Yes,
    NotYet,
    /// The log was cut before the position; this is the end of what was kept.
    Lost(Position),
    /// The history between the two timelines is not known.
    Unprovable,
}

impl History {
    /// Reads the file's text. Lines that are not `timeline<TAB>lsn<TAB>reason` are comments, as in the server.
    pub(crate) fn parse(timeline: u32, text: &str) -> Self {
        let switches = text
            .lines()
            .filter_map(|line| {
                let mut fields = line.split_whitespace();
                Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
            })
            .collect();
        Self { timeline, switches }
    }

    /// Where the way to this timeline left `timeline`.
    pub(crate) fn switch_of(&self, timeline: u32) -> Option<Lsn> {
        self.switches
            .iter()
            .find(|(left, _)| *left == timeline)
            .map(|(_, lsn)| *lsn)
    }

    /// The end of what was kept of the timelines before `timeline`.
    fn last_before(&self, timeline: u32) -> Position {
        let before = self.switches.iter().filter(|(left, _)| *left < timeline);
        let last = before.max_by_key(|(left, _)| *left);
        last.map_or_else(Position::default, |(timeline, lsn)| Position {
            timeline: *timeline,
            lsn: *lsn,
        })
    }
}

/// Whether a node that has replayed `at` shows `need`. `history` is that of the newest timeline.
pub(crate) fn covers(need: Position, at: Position, history: Option<&History>) -> Cover {
    let reached = |yes| if yes { Cover::Yes } else { Cover::NotYet };
    if need == Position::default() {
        return Cover::Yes;
    }
    match need.timeline.cmp(&at.timeline) {
        std::cmp::Ordering::Equal => reached(at.lsn >= need.lsn),
        std::cmp::Ordering::Greater => Cover::NotYet,
        std::cmp::Ordering::Less => match survives(need, at.timeline, history) {
            Cover::Yes => reached(at.lsn >= need.lsn),
            other => other,
        },
    }
}

/// Whether `need` is still part of the log of `timeline`, however far anybody has replayed it.
pub(crate) fn survives(need: Position, timeline: u32, history: Option<&History>) -> Cover {
    if need.timeline >= timeline || need == Position::default() {
        return Cover::Yes;
    }
    let knows = |history: &&History| {
        history.timeline == timeline
            || (history.timeline > timeline && history.switch_of(timeline).is_some())
    };
    let Some(history) = history.filter(knows) else {
        return Cover::Unprovable;
    };
    match history.switch_of(need.timeline) {
        Some(lsn) if need.lsn > lsn => Cover::Lost(Position {
            timeline: need.timeline,
            lsn,
        }),
        Some(_) => Cover::Yes,
        // A history names all on the way: this one was left as a whole.
        None => Cover::Lost(history.last_before(need.timeline)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(timeline: u32, lsn: u64) -> Position {
        Position {
            timeline,
            lsn: Lsn(lsn),
        }
    }

    #[test]
    fn a_position_past_the_cut_is_lost_however_far_the_node_is() {
        let text = "1\t0/64\tno recovery target specified\n\n2\t0/C8\tagain\n";
        let history = History::parse(3, text);
        let cases = [
            (at(3, 300), at(3, 300), Cover::Yes),
            (at(3, 301), at(3, 300), Cover::NotYet),
            (at(1, 100), at(3, 300), Cover::Yes),
            (at(1, 101), at(3, 300), Cover::Lost(at(1, 100))),
            (at(2, 150), at(3, 140), Cover::NotYet),
            (at(2, 201), at(3, 900), Cover::Lost(at(2, 200))),
            (at(4, 1), at(3, 900), Cover::NotYet),
            (at(0, 0), at(3, 0), Cover::Yes),
        ];
        for (need, node, expected) in cases {
            assert_eq!(
                covers(need, node, Some(&history)),
                expected,
                "{need} on {node}"
            );
        }
        // What comparing positions alone would say about the lost one.
        assert!(at(3, 300).lsn >= at(1, 101).lsn);
    }

    #[test]
    fn a_timeline_that_was_left_as_a_whole_is_lost_to_where_the_two_parted() {
        let history = History::parse(4, "1\t0/64\tx\n3\t0/C8\tx\n");
        let left = at(2, 120);
        assert_eq!(
            covers(left, at(4, 900), Some(&history)),
            Cover::Lost(at(1, 100))
        );
        // Nor does it tell where the one that was left had parted from others.
        assert_eq!(
            covers(at(1, 50), at(2, 120), Some(&history)),
            Cover::Unprovable
        );
    }

    #[test]
    fn without_the_history_an_older_position_is_unprovable_not_covered() {
        assert_eq!(covers(at(1, 1), at(2, 900), None), Cover::Unprovable);
    }
}
