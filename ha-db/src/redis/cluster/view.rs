//! Who has which slot, by the newest word of all nodes that answered. No clock, no socket, no task.

use super::keys::SLOTS;
use crate::redis::follow;

/// What a node says about one node, itself or another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    /// Its id, the same whatever address it is reached at.
    pub(crate) id: String,
    pub(crate) address: String,
    /// It speaks of itself.
    pub(crate) myself: bool,
    pub(crate) master: bool,
    pub(crate) failed: bool,
    /// Version of the claim on its slots; a failover and a finished migration raise it.
    pub(crate) epoch: u64,
    /// First and last of each range.
    pub(crate) slots: Vec<(u16, u16)>,
}

/// Reads the reply to `CLUSTER NODES`. `asked` is the host that was asked, for a node that does not know its own address.
pub(crate) fn parse(text: &str, asked: &str) -> Vec<Node> {
    text.lines()
        .filter_map(|line| parse_line(line, asked))
        .collect()
}

fn parse_line(line: &str, asked: &str) -> Option<Node> {
    let words: Vec<&str> = line.split(' ').collect();
    let [id, address, flags, _, _, _, epoch, _, slots @ ..] = words.as_slice() else {
        return None;
    };
    let flags: Vec<&str> = flags.split(',').collect();
    if flags.contains(&"noaddr") || flags.contains(&"handshake") {
        return None;
    }
    // ip:port@bus,hostname with the last two by version and by setting; the ip of a node that never met another is empty.
    let (ip, port) = address.split(['@', ',']).next()?.rsplit_once(':')?;
    let name = address.split(',').nth(1).unwrap_or_default();
    let name = name
        .split('=')
        .next()
        .filter(|_| !name.contains('='))
        .unwrap_or_default();
    let host = [name, ip, asked]
        .into_iter()
        .find(|host| !host.is_empty())?;
    let range = |text: &&str| {
        // [slot->-node] and [slot-<-node] are migrations under way.
        if text.starts_with('[') {
            return None;
        }
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        let (from, to) = (from.parse().ok()?, to.parse().ok()?);
        (from <= to && to < SLOTS).then_some((from, to))
    };
    Some(Node {
        id: (*id).to_owned(),
        myself: flags.contains(&"myself"),
        address: follow::address(host, port.parse().ok().filter(|port| *port != 0)?),
        master: flags.contains(&"master"),
        failed: flags.contains(&"fail"),
        epoch: epoch.parse().ok()?,
        slots: slots.iter().filter_map(range).collect(),
    })
}

/// Who has which slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    /// Epoch and owner, by number among `nodes`, of each slot.
    slots: Vec<Option<(u64, u16)>>,
    /// Every node that any slot or answer names.
    pub(crate) nodes: Vec<Known>,
}

/// A node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) address: String,
    /// Somebody calls it a master, and nobody a failed one.
    pub(crate) master: bool,
    /// How many slots it has.
    pub(crate) slots: usize,
}

impl Default for View {
    fn default() -> Self {
        Self {
            slots: vec![None; usize::from(SLOTS)],
            nodes: Vec::new(),
        }
    }
}

impl View {
    /// The number of the owner among `nodes`.
    pub(crate) fn owner(&self, slot: u16) -> Option<usize> {
        let (_, owner) = (*self.slots.get(usize::from(slot))?)?;
        Some(usize::from(owner))
    }

    /// Whether every slot has an owner.
    pub(crate) fn is_complete(&self) -> bool {
        self.slots.iter().all(Option::is_some)
    }

    /// Highest epoch of any claim.
    pub(crate) fn epoch(&self) -> u64 {
        self.slots
            .iter()
            .flatten()
            .map(|(epoch, _)| *epoch)
            .max()
            .unwrap_or(0)
    }

    /// The view after these answers, one of each node that gave one, in whatever order.
    ///
    /// Of each slot the claim with the highest epoch holds, and never one below what is known: a node that was cut off or
    /// frozen still claims what it had. Only when a majority of the masters answers and none of them knows the newer epoch was the cluster
    /// made anew, and counting starts over.
    pub(crate) fn merge(&self, answers: &[Vec<Node>]) -> Self {
        if answers.is_empty() {
            return self.clone();
        }
        let named = || answers.iter().flatten();
        let before = self.nodes.iter().map(|known| known.address.as_str());
        let names = Names::of(named().map(|node| node.address.as_str()).chain(before));
        let mut slots = claims(answers, &names);
        if !self.is_majority(answers) {
            for (now, before) in slots.iter_mut().zip(&self.slots) {
                if is_behind(*now, *before) {
                    *now = before.and_then(|(epoch, owner)| {
                        let owner = &self.nodes.get(usize::from(owner))?.address;
                        Some((epoch, names.number(owner)?))
                    });
                }
            }
        }
        let mut counts = vec![0_usize; names.0.len()];
        for (_, owner) in slots.iter().flatten() {
            counts[usize::from(*owner)] += 1;
        }
        let mut nodes = Vec::new();
        let mut numbers = vec![0_u16; names.0.len()];
        for (at, address) in names.0.iter().enumerate() {
            let mut said = named().filter(|node| node.address == *address).peekable();
            // The owner of a slot is kept and waited for, whatever is said of it.
            if counts[at] == 0 && said.peek().is_none() {
                continue;
            }
            let (mut master, mut failed) = (false, false);
            for node in said {
                master |= node.master;
                failed |= node.failed;
            }
            // No cluster has that many: Redis itself stops at a thousand.
            numbers[at] = u16::try_from(nodes.len()).unwrap_or(u16::MAX);
            nodes.push(Known {
                address: (*address).to_owned(),
                master: counts[at] > 0 || (master && !failed),
                slots: counts[at],
            });
        }
        for (_, owner) in slots.iter_mut().flatten() {
            *owner = numbers[usize::from(*owner)];
        }
        Self { slots, nodes }
    }

    /// Whether these answers are older than what is known, of a slot at least. Then more of the masters have to be asked before that is believed.
    pub(crate) fn doubts(&self, answers: &[Vec<Node>]) -> bool {
        let named = answers.iter().flatten();
        let names = Names::of(named.map(|node| node.address.as_str()));
        let slots = claims(answers, &names);
        let mut pairs = slots.iter().zip(&self.slots);
        pairs.any(|(now, before)| is_behind(*now, *before))
    }

    /// Whether those who answered are most of the masters: each by its own word and once, at however many addresses it was asked.
    fn is_majority(&self, answers: &[Vec<Node>]) -> bool {
        let mut ids: Vec<&str> = answers
            .iter()
            .filter_map(|answer| answer.iter().find(|node| node.myself))
            .filter(|node| node.master)
            .map(|node| node.id.as_str())
            .collect();
        ids.sort_unstable();
        ids.dedup();
        let masters = self.nodes.iter().filter(|node| node.slots > 0).count();
        ids.len() * 2 > masters
    }
}

type Claim = Option<(u64, u16)>;

/// Of each slot the claim with the highest epoch; of two that are equal, which only an unfinished set-up has, the first by name.
fn claims(answers: &[Vec<Node>], names: &Names<'_>) -> Vec<Claim> {
    let mut slots: Vec<Claim> = vec![None; usize::from(SLOTS)];
    for node in answers.iter().flatten().filter(|node| node.master) {
        let Some(number) = names.number(&node.address) else {
            continue;
        };
        for (from, to) in &node.slots {
            for claim in &mut slots[usize::from(*from)..=usize::from(*to)] {
                let wins = |(epoch, owner)| (epoch, number) < (node.epoch, owner);
                if claim.is_none_or(wins) {
                    *claim = Some((node.epoch, number));
                }
            }
        }
    }
    slots
}

fn is_behind(now: Claim, before: Claim) -> bool {
    before.is_some_and(|(known, _)| now.is_none_or(|(epoch, _)| epoch < known))
}

/// Numbers addresses in their own order, so that a view does not depend on that of the answers.
struct Names<'a>(Vec<&'a str>);

impl<'a> Names<'a> {
    fn of(addresses: impl Iterator<Item = &'a str>) -> Self {
        let mut all: Vec<&str> = addresses.collect();
        all.sort_unstable();
        all.dedup();
        Self(all)
    }

    fn number(&self, address: &str) -> Option<u16> {
        let at = self.0.binary_search(&address).ok()?;
        u16::try_from(at).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NODES: &str = "\
aa 10.0.0.1:7000@17000 myself,master - 0 0 1 connected 0-99 200 [200->-bb]
bb 10.0.0.2:7000@17000,db-2 master - 0 0 2 connected 100-199
cc 10.0.0.3:7000@17000,,shard-id=x slave aa 0 0 1 connected
dd :0@0 master,noaddr - 0 0 9 disconnected 300
ee :7004@17004 master,fail - 0 0 3 connected
";

    #[test]
    fn the_reply_of_cluster_nodes_is_read_by_place() {
        let nodes = parse(NODES, "10.0.0.9");
        let addresses: Vec<&str> = nodes.iter().map(|node| node.address.as_str()).collect();
        assert_eq!(
            addresses,
            [
                "10.0.0.1:7000",
                "db-2:7000",
                "10.0.0.3:7000",
                "10.0.0.9:7004"
            ]
        );
        assert_eq!(nodes[0].slots, [(0, 99), (200, 200)]);
        assert!(nodes[0].master && !nodes[2].master && nodes[3].failed);
        assert_eq!(nodes[1].epoch, 2);
        for bad in [
            "",
            "aa",
            "aa b master - 0 0 1 connected",
            "aa h:1 master - 0 0 x connected",
        ] {
            assert!(parse(bad, "h").is_empty(), "{bad}");
        }
        let bad = "aa h:1 master - 0 0 1 connected 9-3 16384 0-16384 x";
        assert!(parse(bad, "h")[0].slots.is_empty());
    }

    fn claim(address: &str, epoch: u64, slots: &[(u16, u16)]) -> Node {
        Node {
            id: address.into(),
            address: address.into(),
            myself: false,
            master: true,
            failed: false,
            epoch,
            slots: slots.to_vec(),
        }
    }

    fn owner(view: &View, slot: u16) -> Option<&str> {
        view.owner(slot).map(|at| view.nodes[at].address.as_str())
    }

    fn three() -> Vec<Node> {
        vec![
            claim("a:1", 1, &[(0, 99)]),
            claim("b:1", 2, &[(100, 199)]),
            claim("c:1", 3, &[(200, 16_383)]),
        ]
    }

    /// What the node of that number says.
    fn said_by(myself: usize, mut nodes: Vec<Node>) -> Vec<Node> {
        nodes[myself].myself = true;
        nodes
    }

    #[test]
    fn the_newest_claim_holds_whoever_answers_first() {
        let old = three();
        let mut new = three();
        new[0] = claim("a2:1", 4, &[(0, 99)]);
        for answers in [[old.clone(), new.clone()], [new.clone(), old.clone()]] {
            let view = View::default().merge(&answers);
            assert_eq!(owner(&view, 5), Some("a2:1"));
            assert_eq!(owner(&view, 150), Some("b:1"));
            assert!(view.is_complete());
            assert_eq!(view.epoch(), 4);
            let gone = view.nodes.iter().find(|node| node.address == "a:1");
            assert_eq!(gone.map(|node| node.slots), Some(0));
        }
    }

    #[test]
    fn a_node_that_was_frozen_does_not_get_its_slots_back() {
        let mut new = three();
        new[0] = claim("a2:1", 4, &[(0, 99)]);
        let view = View::default().merge(&[new]);
        let stale = [said_by(0, three())];
        let now = view.merge(&stale);
        assert_eq!(owner(&now, 5), Some("a2:1"), "one of three is no majority");
        assert!(view.doubts(&stale), "more of them are to be asked");
        assert_eq!(view.merge(&[]), view, "no answer changes nothing");
        // Asked again at another address, beside what a replica says: still one master.
        let mut again = said_by(0, three());
        again[0].address = "a.example:1".into();
        let mut replica = three();
        replica.push(Node {
            master: false,
            ..claim("r:1", 1, &[])
        });
        let answers = [said_by(0, three()), again, said_by(3, replica)];
        assert_eq!(owner(&view.merge(&answers), 5), Some("a2:1"));
        let anew = [said_by(0, three()), said_by(1, three())];
        let anew = view.merge(&anew);
        assert_eq!(owner(&anew, 5), Some("a:1"), "a cluster that was made anew");
        assert!(!anew.doubts(&[three()]));
    }

    #[test]
    fn a_failed_owner_is_waited_for_and_a_failed_stranger_is_not() {
        let mut nodes = three();
        nodes[0].failed = true;
        nodes.push(claim("d:1", 0, &[]));
        nodes.push(claim("e:1", 0, &[]));
        nodes[4].failed = true;
        let view = View::default().merge(&[nodes]);
        let masters: Vec<&str> = view
            .nodes
            .iter()
            .filter(|node| node.master)
            .map(|node| node.address.as_str())
            .collect();
        assert_eq!(masters, ["a:1", "b:1", "c:1", "d:1"]);
    }

    proptest! {
        /// A view that differed with every look would be taken for news.
        #[test]
        fn the_order_of_the_answers_and_within_them_does_not_matter(
            claims in proptest::collection::vec((0_usize..5, 0_u64..4, 0_u16..8), 1..20),
            seed in any::<u64>(),
        ) {
            let mut answers: Vec<Vec<Node>> = claims.chunks(3).map(|chunk| {
                chunk.iter().map(|(owner, epoch, slot)| {
                    claim(&format!("n{owner}:1"), *epoch, &[(*slot, *slot)])
                }).collect()
            }).collect();
            let first = View::default().merge(&answers);
            let mut random = fastrand::Rng::with_seed(seed);
            random.shuffle(&mut answers);
            answers.iter_mut().for_each(|answer| random.shuffle(answer));
            prop_assert_eq!(&View::default().merge(&answers), &first);
            prop_assert_eq!(&first.merge(&answers), &first, "nothing is new");
        }

        #[test]
        fn no_reply_panics(text in "\\PC{0,80}") {
            let _ = View::default().merge(&[parse(&text, "h")]);
        }

        /// Each failover or migration raises the epoch of one slot's owner; each look hears from some nodes, some of which
        /// lag behind. What is known of a slot never goes back.
        #[test]
        fn a_minority_of_stale_nodes_never_takes_a_slot_back(
            steps in proptest::collection::vec((0_u16..4, 0_usize..6, 0_usize..3, any::<bool>()), 1..40),
        ) {
            let mut history = vec![(0..4_u16).map(|slot| (u64::from(slot) + 1, usize::from(slot))).collect::<Vec<_>>()];
            let answer = |claims: &[(u64, usize)]| -> Vec<Node> {
                claims.iter().enumerate().map(|(slot, (epoch, owner))| {
                    let slot = slot as u16;
                    claim(&format!("n{owner}:1"), *epoch, &[(slot, slot)])
                }).collect()
            };
            let mut view = View::default().merge(&[answer(&history[0])]);
            for (slot, to, lag, heard) in steps {
                let mut next = history[history.len() - 1].clone();
                let newest = next.iter().map(|(epoch, _)| *epoch).max().unwrap_or(0);
                next[usize::from(slot)] = (newest + 1, to);
                history.push(next);
                let before = view.clone();
                if heard {
                    let fresh = answer(&history[history.len() - 1]);
                    let stale = answer(&history[history.len().saturating_sub(1 + lag)]);
                    view = view.merge(&[stale, fresh]);
                    let (_, owner) = history[history.len() - 1][usize::from(slot)];
                    prop_assert_eq!(
                        view.owner(slot).map(|at| view.nodes[at].address.clone()),
                        Some(format!("n{owner}:1"))
                    );
                }
                for slot in 0..4_usize {
                    let epoch = |view: &View| view.slots[slot].map_or(0, |(epoch, _)| epoch);
                    prop_assert!(epoch(&view) >= epoch(&before));
                }
            }
        }
    }
}
