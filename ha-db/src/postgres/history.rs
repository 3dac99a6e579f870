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
    /// The log was cut before the position.
    Lost(Lsn),
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
    match history
        .filter(|history| history.timeline >= timeline)
        .and_then(|history| history.switch_of(need.timeline))
    {
        Some(switch) if need.lsn > switch => Cover::Lost(switch),
        Some(_) => Cover::Yes,
        None => Cover::Unprovable,
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
            (at(1, 101), at(3, 300), Cover::Lost(Lsn(100))),
            (at(2, 150), at(3, 140), Cover::NotYet),
            (at(2, 201), at(3, 900), Cover::Lost(Lsn(200))),
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
    fn without_the_history_an_older_position_is_unprovable_not_covered() {
        assert_eq!(covers(at(1, 1), at(2, 900), None), Cover::Unprovable);
    }
}
