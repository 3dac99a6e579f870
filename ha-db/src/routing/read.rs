//! Which node a read goes to, and in which order others are tried.

use std::time::{Duration, Instant};

use super::role::{Role, Served};
use super::view::View;

/// More nodes than this are refused: a choice keeps what it has tried in the bits of one word, so that it allocates nothing.
pub(crate) const MAX_NODES: usize = 64;

/// Some of the nodes, by their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct NodeSet(u64);

impl NodeSet {
    pub(crate) const EMPTY: Self = Self(0);

    #[must_use]
    pub(crate) const fn with(self, index: usize) -> Self {
        Self(self.0 | 1 << index)
    }

    pub(crate) const fn contains(self, index: usize) -> bool {
        self.0 & 1 << index != 0
    }
}

/// What a choice asks of a node at the moment of choosing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Busy {
    /// The last attempt to connect has failed. It has no connections in use, and would draw all reads.
    pub(crate) refusing: bool,
    /// Connections that are lent.
    pub(crate) in_use: usize,
}

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Consistency {
    /// Any state of the past, from a replica within `max_lag` if there is one.
    Eventual,
    /// At most this far behind the primary. Less than a probe interval can only be met by the primary. While there is no primary,
    /// replicas serve until the bound has passed since they were last known to have everything.
    Bounded(Duration),
    /// Everything that this client has written, and nothing older than it has seen.
    #[default]
    ReadYourWrites,
    /// The primary.
    Strong,
}

/// How much of what a client did lies at a known position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Known {
    All,
    /// A commit whose answer never came does not. It was promised to nobody, so the primary is preferred, not required.
    Acknowledged,
    /// An acknowledged write does not: only the primary is known to show it.
    Part,
}

/// Where a read may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// On a replica, else on the primary.
    Replica,
    /// On the primary, and on a replica if that fails.
    PrimaryFirst,
    PrimaryOnly,
}

impl Way {
    pub(crate) fn of(consistency: Consistency, known: Known, view: &View) -> Self {
        match (consistency, known) {
            (Consistency::Strong, _) | (Consistency::ReadYourWrites, Known::Part) => {
                Self::PrimaryOnly
            }
            (Consistency::ReadYourWrites, Known::Acknowledged) if view.primary.is_ok() => {
                Self::PrimaryFirst
            }
            _ => Self::Replica,
        }
    }
}

/// The replicas that are fresh enough for a read, best first: the one that this client has just read from, then those nearby, then
/// those with the fewest connections in use; those that refuse connections at the end.
#[derive(Debug)]
pub(crate) struct Order<'a> {
    view: &'a View,
    consistency: Consistency,
    sticky: Option<Served>,
    turn: usize,
    tried: NodeSet,
}

impl<'a> Order<'a> {
    /// `turn` breaks ties: a number that grows with every read.
    pub(crate) fn new(
        view: &'a View,
        consistency: Consistency,
        sticky: Option<Served>,
        turn: usize,
    ) -> Self {
        Self {
            view,
            consistency,
            sticky,
            turn,
            tried: NodeSet::EMPTY,
        }
    }

    /// Leaves these out.
    pub(crate) fn without(mut self, avoided: NodeSet) -> Self {
        self.tried = NodeSet(self.tried.0 | avoided.0);
        self
    }

    /// The next best one that was not returned before.
    pub(crate) fn next(&mut self, now: Instant, busy: impl Fn(usize) -> Busy) -> Option<usize> {
        let left = |index: &usize| !self.tried.contains(*index) && self.may_serve(*index, now);
        let all = || (0..self.view.nodes.len()).filter(left);
        let count = all().count();
        let (_, best) = all().enumerate().min_by_key(|(place, index)| {
            let node = &self.view.nodes[*index];
            let here = Served {
                node: *index,
                generation: node.generation,
            };
            let turn = place.wrapping_add(self.turn) % count;
            let Busy { refusing, in_use } = busy(*index);
            (
                refusing,
                self.sticky != Some(here),
                !node.near,
                in_use,
                turn,
            )
        })?;
        self.tried = self.tried.with(best);
        Some(best)
    }

    /// How many to wait for when none of them is known to have what is needed: with a primary to go to, more than one only
    /// takes time.
    pub(crate) fn waits(&self) -> usize {
        if self.view.primary.is_ok() {
            1
        } else {
            usize::MAX
        }
    }

    fn may_serve(&self, index: usize, now: Instant) -> bool {
        let node = &self.view.nodes[index];
        // One of an older timeline may come to follow what was cut off before the next probe tells.
        let left = self.view.primary.is_ok() && node.timeline != Some(self.view.timeline);
        let fresh = match self.consistency {
            Consistency::Bounded(bound) => node
                .fresh_at
                .is_some_and(|at| now.saturating_duration_since(at) <= bound),
            // Without a primary nobody can tell the lag, and a proof is a proof.
            _ => !node.ejected || self.view.primary.is_err(),
        };
        node.role == Role::Replica && !left && fresh
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::routing::lsn::Lsn;
    use crate::routing::role::NoPrimary;
    use crate::routing::view::NodeView;

    fn replica() -> NodeView {
        NodeView {
            role: Role::Replica,
            reachable: true,
            near: true,
            generation: 0,
            cut: 0,
            timeline: Some(2),
            timeline_limit: Lsn(9),
            lsn: Some(Lsn(9)),
            started: Some(1),
            system_id: Some(7),
            cut_off: false,
            doubtful: false,
            same_as: None,
            proof: Arc::default(),
            ejected: false,
            lag: Some(Duration::ZERO),
            fresh_at: None,
        }
    }

    fn view(nodes: Vec<NodeView>) -> View {
        let primary = NodeView {
            role: Role::Primary,
            ..replica()
        };
        View {
            epoch: 1,
            system_id: Some(7),
            timeline: 2,
            history: None,
            tip: Lsn(9),
            primary: Ok(0),
            nodes: std::iter::once(primary).chain(nodes).collect(),
        }
    }

    const REFUSES: usize = usize::MAX;

    fn order(view: &View, sticky: Option<Served>, in_use: &[usize]) -> Vec<usize> {
        let now = Instant::now();
        let mut order = Order::new(view, Consistency::Eventual, sticky, 0);
        let busy = |index: usize| Busy {
            refusing: in_use[index] == REFUSES,
            in_use: in_use[index],
        };
        std::iter::from_fn(|| order.next(now, busy)).collect()
    }

    #[test]
    fn the_nearest_comes_first_then_the_least_busy_and_the_last_one_read_before_all() {
        let far = NodeView {
            near: false,
            ..replica()
        };
        let view = view(vec![far, replica(), replica(), replica()]);
        let busy = [0, 0, 5, 2, 9];
        assert_eq!(order(&view, None, &busy), [3, 2, 4, 1]);
        let last = |generation| {
            Some(Served {
                node: 1,
                generation,
            })
        };
        assert_eq!(order(&view, last(0), &busy), [1, 3, 2, 4]);
        assert_eq!(
            order(&view, last(1), &busy),
            [3, 2, 4, 1],
            "another life of it"
        );
    }

    #[test]
    fn one_that_refuses_connections_comes_last_although_nobody_uses_it() {
        let view = view(vec![replica(), replica()]);
        let sticky = Some(Served {
            node: 1,
            generation: 0,
        });
        assert_eq!(order(&view, sticky, &[0, REFUSES, 7]), [2, 1]);
        // The control: by its use alone it would come first.
        assert_eq!(order(&view, None, &[0, 0, 7]), [1, 2]);
    }

    #[test]
    fn equals_take_turns() {
        let view = view(vec![replica(), replica(), replica()]);
        let now = Instant::now();
        let mut counts = [0; 4];
        for turn in 0..400 {
            let mut order = Order::new(&view, Consistency::Eventual, None, turn);
            counts[order.next(now, |_| Busy::default()).unwrap()] += 1;
        }
        assert_eq!(counts[0], 0);
        assert!(counts[1..].iter().all(|count| *count >= 133), "{counts:?}");
    }

    #[test]
    fn a_standby_of_a_left_timeline_serves_only_while_there_is_no_primary() {
        let old = NodeView {
            timeline: Some(1),
            ..replica()
        };
        let mut view = view(vec![old, replica()]);
        assert_eq!(order(&view, None, &[0; 3]), [2]);
        view.primary = Err(NoPrimary::NotFound);
        assert_eq!(order(&view, None, &[0; 3]).len(), 2);
    }

    #[test]
    fn an_ejected_one_serves_nobody_while_there_is_a_primary_and_proofs_without_one() {
        let behind = NodeView {
            ejected: true,
            ..replica()
        };
        let mut view = view(vec![behind]);
        assert!(order(&view, None, &[0; 2]).is_empty());
        view.primary = Err(NoPrimary::NotFound);
        assert_eq!(order(&view, None, &[0; 2]), [1]);
    }

    #[test]
    fn a_bound_counts_from_when_the_replica_was_last_known_to_have_everything() {
        let start = Instant::now();
        let fresh = NodeView {
            fresh_at: Some(start),
            ejected: true,
            ..replica()
        };
        let view = view(vec![fresh, replica()]);
        let bound = Duration::from_millis(500);
        let choose = |after| {
            Order::new(&view, Consistency::Bounded(bound), None, 0)
                .next(start + after, |_| Busy::default())
        };
        assert_eq!(choose(bound), Some(1));
        assert_eq!(choose(bound + Duration::from_nanos(1)), None);
    }

    #[test]
    fn the_primary_is_required_only_for_what_nobody_else_is_known_to_show() {
        let mut view = view(vec![]);
        use Consistency::{Eventual, ReadYourWrites, Strong};
        let cases = [
            (Strong, Known::All, Way::PrimaryOnly),
            (ReadYourWrites, Known::All, Way::Replica),
            (ReadYourWrites, Known::Acknowledged, Way::PrimaryFirst),
            (ReadYourWrites, Known::Part, Way::PrimaryOnly),
            (Eventual, Known::Part, Way::Replica),
        ];
        for (consistency, known, way) in cases {
            assert_eq!(
                Way::of(consistency, known, &view),
                way,
                "{consistency:?} {known:?}"
            );
        }
        view.primary = Err(NoPrimary::NotFound);
        assert_eq!(
            Way::of(ReadYourWrites, Known::Acknowledged, &view),
            Way::Replica
        );
    }
}
