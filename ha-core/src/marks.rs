//! Something has changed, and whoever comes next looks at it: a mark that costs its readers one relaxed read.
//!
//! Many threads mark, many threads ask before each thing they do, and looking is dear: one look serves all marks that came
//! before it, and nobody waits for the look of another. A look may also name a time at which the next one is due although
//! nothing is marked, because time alone changes something then.
//!
//! Guaranteed: what was written before [`mark`](Marks::mark) is seen by a look that begins later, or the mark stays. After
//! [`look_surely`](Marks::look_surely) everything is seen that this thread knew to be marked. Not guaranteed: that [`look`](Marks::look) looks
//! at all while another thread does.
//!
//! ```
//! use std::time::Instant;
//! use ha_core::marks::Marks;
//!
//! let marks = Marks::new(Instant::now());
//! assert!(!marks.look(Instant::now, |_| None), "there is nothing to look at");
//! marks.mark();
//! assert!(marks.look(Instant::now, |_| None));
//! assert!(!marks.look(Instant::now, |_| None), "that was seen");
//! ```

use std::sync::{PoisonError, TryLockError};
use std::time::Instant;

use crate::sync::{AtomicU32, AtomicU64, Mutex, Ordering};

/// Nothing has changed.
const CLEAN: u32 = 0;
/// There is something to look at.
const MARKED: u32 = 1;
/// Nothing has changed, but at `look_again` the time alone changes something.
const TIMED: u32 = 2;

/// See the [module](self). Shared by reference.
#[derive(Debug)]
pub struct Marks {
    word: AtomicU32,
    // Nanoseconds since the epoch.
    look_again: AtomicU64,
    epoch: Instant,
    looking: Mutex<()>,
}

impl Marks {
    /// Nothing is marked.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            word: AtomicU32::new(CLEAN),
            look_again: AtomicU64::new(0),
            epoch: now,
            looking: Mutex::new(()),
        }
    }

    /// Something has changed: what was written before this call is seen by the next look.
    pub fn mark(&self) {
        // No plain store: it would take the mark of another thread away from whoever acquires, with what was written before that.
        self.word.swap(MARKED, Ordering::Release);
    }

    /// Whether something is marked that no look has begun to see.
    #[must_use]
    pub fn is_marked(&self) -> bool {
        self.word.load(Ordering::Relaxed) == MARKED
    }

    /// Looks if something is marked or due, unless another thread is looking: who comes second goes by what is known. Whether it
    /// looked. `look` says when to look again although nothing is marked.
    #[inline]
    pub fn look(
        &self,
        now: impl FnOnce() -> Instant,
        look: impl FnOnce(Instant) -> Option<Instant>,
    ) -> bool {
        // Reading alone keeps the line shared between cores.
        let word = self.word.load(Ordering::Relaxed);
        word != CLEAN && self.look_now(word, now(), look)
    }

    #[cold]
    fn look_now(
        &self,
        word: u32,
        now: Instant,
        look: impl FnOnce(Instant) -> Option<Instant>,
    ) -> bool {
        if word == TIMED && self.nanos(now) < self.look_again.load(Ordering::Relaxed) {
            return false;
        }
        let _looking = match self.looking.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        self.look_locked(now, look);
        true
    }

    /// Like [`look`](Self::look), but waits for a look that is under way: after it, all is known that was marked before.
    pub fn look_surely(&self, now: Instant, look: impl FnOnce(Instant) -> Option<Instant>) {
        let _looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_marked() {
            self.look_locked(now, look);
        }
    }

    fn look_locked(&self, now: Instant, look: impl FnOnce(Instant) -> Option<Instant>) {
        // Acquires what was written before the mark that it takes away; a later mark stays.
        self.word.swap(CLEAN, Ordering::Acquire);
        if let Some(at) = look(now) {
            self.look_again.store(self.nanos(at), Ordering::Relaxed);
            let (from, to) = (CLEAN, TIMED);
            // Marked meanwhile is more.
            let _ = self
                .word
                .compare_exchange(from, to, Ordering::Release, Ordering::Relaxed);
        }
    }

    fn nanos(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.epoch);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(all(test, not(ha_loom)))]
mod tests {
    use std::time::Duration;

    use super::*;

    const SEC: Duration = Duration::from_secs(1);

    #[test]
    fn a_time_that_was_named_is_waited_for_and_a_mark_is_not() {
        let now = Instant::now();
        let marks = Marks::new(now);
        marks.mark();
        assert!(marks.look(|| now, |at| Some(at + SEC)));
        assert!(!marks.is_marked());
        assert!(!marks.look(|| now + SEC / 2, |_| None));
        assert!(marks.look(|| now + SEC, |at| Some(at + SEC)));
        marks.mark();
        assert!(marks.look(|| now + SEC, |_| None));
        assert!(!marks.look(|| now + 9 * SEC, |_| None), "none was named");
    }

    #[test]
    fn who_comes_while_another_looks_goes_on_and_what_is_marked_meanwhile_stays() {
        let now = Instant::now();
        let marks = Marks::new(now);
        marks.mark();
        let looked = marks.look(
            || now,
            |_| {
                marks.mark();
                assert!(!marks.look(|| now, |_| None));
                Some(now + SEC)
            },
        );
        assert!(looked && marks.is_marked());
    }

    #[test]
    fn a_look_that_panicked_does_not_end_all_looking() {
        let now = Instant::now();
        let marks = Marks::new(now);
        marks.mark();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            marks.look(|| now, |_| panic!("a bug"))
        }));
        assert!(panicked.is_err());
        marks.mark();
        assert!(marks.look(|| now, |_| None));
        marks.mark();
        marks.look_surely(now, |_| None);
        assert!(!marks.is_marked());
    }
}

/// `RUSTFLAGS="--cfg ha_loom" cargo test -p ha-core --release --lib marks::loom`
#[cfg(all(test, ha_loom))]
mod loom {
    use std::time::Duration;

    use ::loom::sync::Arc;
    use ::loom::thread;

    use super::*;

    /// Marks, something that is marked, and what was last seen of it.
    struct Bed {
        marks: Marks,
        changed: AtomicU32,
        seen: AtomicU32,
    }

    impl Bed {
        fn new(now: Instant) -> Arc<Self> {
            Arc::new(Self {
                marks: Marks::new(now),
                changed: AtomicU32::new(0),
                seen: AtomicU32::new(0),
            })
        }

        fn change(&self) {
            self.changed.store(1, Ordering::Relaxed);
            self.marks.mark();
        }

        fn see(&self, next: Option<Instant>) -> Option<Instant> {
            let changed = self.changed.load(Ordering::Relaxed);
            self.seen.store(changed, Ordering::Relaxed);
            next
        }
    }

    #[test]
    fn what_is_marked_is_seen_by_the_look_beside_it_or_stays_marked() {
        let now = Instant::now();
        for next in [None, Some(now + Duration::from_secs(1))] {
            ::loom::model(move || {
                let bed = Bed::new(now);
                // Marked already, so that there is something to look at.
                bed.marks.mark();
                let other = {
                    let bed = bed.clone();
                    thread::spawn(move || bed.change())
                };
                bed.marks.look(|| now, |_| bed.see(next));
                other.join().unwrap();
                assert!(bed.seen.load(Ordering::Relaxed) == 1 || bed.marks.is_marked());
            });
        }
    }

    #[test]
    fn a_sure_look_has_seen_what_its_thread_has_marked_also_when_another_took_the_mark() {
        let now = Instant::now();
        ::loom::model(move || {
            let bed = Bed::new(now);
            let other = {
                let bed = bed.clone();
                thread::spawn(move || {
                    bed.marks.look(|| now, |_| bed.see(None));
                })
            };
            bed.change();
            bed.marks.look_surely(now, |_| bed.see(None));
            assert_eq!(bed.seen.load(Ordering::Relaxed), 1);
            other.join().unwrap();
        });
    }
}
