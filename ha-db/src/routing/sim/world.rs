//! A store that exists only here: servers with one log that is cut and continued at promotions. It knows what is true; the rules
//! see no more of it than a probe would.

use std::fmt::Write as _;

use crate::routing::history::History;
use crate::routing::lsn::Lsn;
use crate::routing::topology::Sighting;

/// A place in a log: the branch, by its number here, and how far on it. Timelines may be given twice; branches are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) branch: usize,
    pub(super) lsn: u64,
}

/// What was written between two promotions.
#[derive(Debug)]
pub(super) struct Branch {
    pub(super) timeline: u32,
    /// Where it left which other branch.
    parent: Option<Place>,
    /// The commits on it: where they end, and the time on the writer's clock.
    commits: Vec<(u64, i64)>,
    pub(super) end: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Server {
    pub(super) up: bool,
    pub(super) frozen: bool,
    /// Whether the router reaches it, and whether the other servers do.
    pub(super) linked: bool,
    pub(super) peered: bool,
    pub(super) standby: bool,
    pub(super) paused: bool,
    pub(super) branch: usize,
    pub(super) received: u64,
    pub(super) replayed: u64,
    pub(super) upstream: usize,
    pub(super) started: i64,
    /// Milliseconds that its clock is ahead.
    pub(super) skew: i64,
}

impl Server {
    pub(super) fn answers(&self) -> bool {
        self.up && self.linked && !self.frozen
    }
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) branches: Vec<Branch>,
    pub(super) servers: Vec<Server>,
    lives: i64,
}

const BEGIN: u64 = 1000;

impl World {
    pub(super) fn new(servers: usize) -> Self {
        let server = |number: usize| Server {
            up: true,
            frozen: false,
            linked: true,
            peered: true,
            standby: number > 0,
            paused: false,
            branch: 0,
            received: BEGIN,
            replayed: BEGIN,
            upstream: 0,
            started: number as i64,
            skew: 0,
        };
        Self {
            branches: vec![Branch {
                timeline: 1,
                parent: None,
                commits: Vec::new(),
                end: BEGIN,
            }],
            servers: (0..servers).map(server).collect(),
            lives: servers as i64,
        }
    }

    pub(super) fn timeline_of(&self, server: usize) -> u32 {
        self.branches[self.servers[server].branch].timeline
    }

    /// What a server shows: everything up to here.
    pub(super) fn head(&self, server: usize) -> Place {
        let server = &self.servers[server];
        Place {
            branch: server.branch,
            lsn: server.replayed,
        }
    }

    /// Whether the log up to `head` has what ends at `place`.
    pub(super) fn has(&self, head: Place, place: Place) -> bool {
        let mut head = head;
        loop {
            if head.branch == place.branch {
                return place.lsn <= head.lsn;
            }
            let Some(parent) = self.branches[head.branch].parent else {
                return false;
            };
            head = Place {
                branch: parent.branch,
                lsn: parent.lsn.min(head.lsn),
            };
        }
    }

    /// Whether `branch`, however far it goes, has what ends at `place`.
    pub(super) fn kept(&self, branch: usize, place: Place) -> bool {
        let lsn = u64::MAX;
        self.has(Place { branch, lsn }, place)
    }

    /// The branches on the way to this one, itself first.
    pub(super) fn way(&self, branch: usize) -> impl Iterator<Item = usize> {
        let parent = |branch: &usize| Some(self.branches[*branch].parent?.branch);
        std::iter::successors(Some(branch), parent)
    }

    /// The branch on the way to `branch` on which the log goes on after `lsn`.
    fn branch_after(&self, branch: usize, lsn: u64) -> usize {
        let mut on = branch;
        while let Some(parent) = self.branches[on].parent.filter(|parent| lsn < parent.lsn) {
            on = parent.branch;
        }
        on
    }

    /// Commits on a primary.
    pub(super) fn write(&mut self, index: usize, bytes: u64, time: i64) -> Place {
        let server = &mut self.servers[index];
        let branch = &mut self.branches[server.branch];
        branch.end += bytes;
        branch.commits.push((branch.end, time + server.skew));
        (server.received, server.replayed) = (branch.end, branch.end);
        Place {
            branch: server.branch,
            lsn: branch.end,
        }
    }

    /// When the last commit that a server shows was made, by the clock of who made it.
    pub(super) fn last_commit(&self, index: usize) -> Option<i64> {
        let head = self.head(index);
        let on = self.branch_after(head.branch, head.lsn.saturating_sub(1));
        let commits = &self.branches[on].commits;
        let count = commits.partition_point(|(lsn, _)| *lsn <= head.lsn);
        count.checked_sub(1).map(|last| commits[last].1)
    }

    pub(super) fn streams(&self, index: usize) -> bool {
        let server = &self.servers[index];
        let from = &self.servers[server.upstream];
        let own = Place {
            branch: server.branch,
            lsn: server.received,
        };
        let theirs = Place {
            branch: from.branch,
            lsn: from.received,
        };
        let works = |server: &Server| server.up && !server.frozen && server.peered;
        server.standby
            && server.upstream != index
            && works(server)
            && works(from)
            && self.has(theirs, own)
    }

    /// Lets a standby receive and replay at most so many bytes.
    pub(super) fn replicate(&mut self, index: usize, receive: u64, replay: u64) {
        if self.streams(index) {
            let from = &self.servers[self.servers[index].upstream];
            let (branch, end) = (from.branch, from.received);
            let received = (self.servers[index].received + receive).min(end);
            self.servers[index].branch = self.branch_after(branch, received);
            self.servers[index].received = received;
        }
        let server = &mut self.servers[index];
        if server.standby && server.up && !server.frozen && !server.paused {
            server.replayed = (server.replayed + replay).min(server.received);
        }
    }

    /// What a probe is told.
    pub(super) fn sighting(&self, index: usize) -> Sighting {
        let server = &self.servers[index];
        let streams = self.streams(index);
        let timeline = self.timeline_of(index);
        let shown = self.branch_after(server.branch, server.replayed.saturating_sub(1));
        Sighting {
            system_id: 7,
            in_recovery: server.standby,
            timeline: (!server.standby || streams).then_some(timeline),
            timeline_floor: server.standby.then(|| self.branches[shown].timeline),
            lsn: Lsn(server.replayed),
            received: server.standby.then_some(Lsn(server.received)),
            receiving: streams,
            started: server.started,
            port: index as u16,
        }
    }

    /// What stands in a node's history file.
    pub(super) fn history(&self, index: usize) -> History {
        let mut text = String::new();
        let branch = self.servers[index].branch;
        for on in self.way(branch) {
            if let Some(Place { branch, lsn }) = self.branches[on].parent {
                let left = self.branches[branch].timeline;
                let _ = writeln!(text, "{left}\t{}\tsimulated", Lsn(lsn));
            }
        }
        History::parse(self.branches[branch].timeline, &text)
    }

    /// Makes a standby a primary. The new timeline's number is the next one after its own, which another may have taken as well, or
    /// after all others.
    pub(super) fn promote(&mut self, index: usize, unique: bool) {
        let own = self.timeline_of(index);
        let all = self.branches.iter().map(|branch| branch.timeline).max();
        let server = &mut self.servers[index];
        // It first shows all that it has received.
        server.replayed = server.received;
        let parent = Place {
            branch: server.branch,
            lsn: server.received,
        };
        server.branch = self.branches.len();
        (server.standby, server.paused) = (false, false);
        self.branches.push(Branch {
            timeline: 1 + if unique { all.unwrap_or(own) } else { own },
            parent: Some(parent),
            commits: Vec::new(),
            end: parent.lsn,
        });
        // A promotion writes, too.
        self.write(index, 8, 0);
    }

    /// Starts a server again, as what it was. A standby is behind what it had received, and a primary is not.
    pub(super) fn start(&mut self, index: usize, behind: u64) {
        self.lives += 1;
        let server = &mut self.servers[index];
        server.started = self.lives;
        (server.up, server.frozen, server.paused) = (true, false, false);
        let behind = if server.standby { behind } else { 0 };
        server.replayed = server.received.saturating_sub(behind).max(BEGIN);
    }

    /// Lets a server follow another one, rewound to where their logs part if that is needed.
    pub(super) fn follow(&mut self, index: usize, upstream: usize) {
        let from = &self.servers[upstream];
        let own = Place {
            branch: self.servers[index].branch,
            lsn: self.servers[index].received,
        };
        let theirs = Place {
            branch: from.branch,
            lsn: from.received,
        };
        let fits = self.servers[index].standby && self.has(theirs, own);
        self.servers[index].upstream = upstream;
        if !fits {
            let server = &mut self.servers[index];
            server.standby = true;
            server.branch = theirs.branch;
            // pg_rewind leaves it where the other one is.
            server.received = theirs.lsn;
            self.start(index, 0);
        }
    }
}
