use crate::sync::{AtomicU64, Ordering};

const BITS: u32 = 20;
const MASK: u64 = (1 << BITS) - 1;
const ONE_WAITS: u64 = 1 << BITS;

/// Counts what is under way against a limit. Lock-free: entering is one compare-and-swap, leaving one subtraction.
///
/// The limit, what is under way and how many wait are one word. So nobody overtakes those who wait, and no waiter is
/// forgotten: of one who leaves and one who begins to wait at the same time, the later one sees the other. In words of their own
/// each could miss the other.
#[derive(Debug)]
pub struct Places {
    // From the top: the limit, the waiting, those under way; 20 bits each.
    word: AtomicU64,
}

/// What a word says.
#[derive(Debug, Clone, Copy)]
struct Seen(u64);

impl Seen {
    const fn in_flight(self) -> u64 {
        self.0 & MASK
    }

    const fn waiting(self) -> u64 {
        self.0 >> BITS & MASK
    }

    const fn limit(self) -> u64 {
        self.0 >> (2 * BITS)
    }
}

impl Places {
    /// The highest limit there is.
    pub const MOST: u32 = MASK as u32;

    /// So many places, [`MOST`](Self::MOST) at most, all free.
    #[must_use]
    pub fn new(limit: u32) -> Self {
        Self {
            word: AtomicU64::new(u64::from(limit.min(Self::MOST)) << (2 * BITS)),
        }
    }

    /// Takes a place if one of the limit's, and of the first `cap`, is free and nobody waits; says how many are under way with
    /// this one.
    pub fn try_enter(&self, cap: u32) -> Option<u32> {
        self.enter(cap, |seen| seen.waiting() == 0)
    }

    /// Takes a place for one who waits.
    pub fn enter_for_waiter(&self, cap: u32) -> Option<u32> {
        self.enter(cap, |_| true)
    }

    fn enter(&self, cap: u32, may: impl Fn(Seen) -> bool) -> Option<u32> {
        // What a place protects is its own; acquiring pairs with the release of whoever had it before.
        let before = self
            .word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                let seen = Seen(word);
                let free = seen.in_flight() < seen.limit().min(u64::from(cap));
                (free && may(seen)).then_some(word + 1)
            })
            .ok()?;
        Some(Seen(before).in_flight() as u32 + 1)
    }

    /// Gives a place back; true when somebody waits, who has to be let in now. To be called once for each place taken.
    #[must_use = "who waits has to be let in"]
    pub fn leave(&self) -> bool {
        Seen(self.word.fetch_sub(1, Ordering::AcqRel)).waiting() > 0
    }

    /// One more waits, and tries [`enter_for_waiter`](Self::enter_for_waiter) after this. There may be [`MOST`](Self::MOST) at once.
    pub fn wait(&self) {
        self.word.fetch_add(ONE_WAITS, Ordering::AcqRel);
    }

    /// One waits no longer. To be called once for each [`wait`](Self::wait).
    pub fn stop_waiting(&self) {
        self.word.fetch_sub(ONE_WAITS, Ordering::AcqRel);
    }

    /// Another limit, [`MOST`](Self::MOST) at most; true when somebody waits, for whom there may be room now. What is under way goes on, even
    /// beyond it.
    pub fn set_limit(&self, limit: u32) -> bool {
        let limit = u64::from(limit.min(Self::MOST)) << (2 * BITS);
        let before = self
            .word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                Some(limit | word & (MASK << BITS | MASK))
            });
        Seen(before.unwrap_or_else(|word| word)).waiting() > 0
    }

    /// How many may be under way.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.seen().limit() as u32
    }

    /// How many are under way.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.seen().in_flight() as u32
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.seen().waiting() as u32
    }

    fn seen(&self) -> Seen {
        Seen(self.word.load(Ordering::Acquire))
    }
}
