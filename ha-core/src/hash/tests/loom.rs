use super::*;
use crate::endpoint::Weight;
use ::loom::sync::Arc;
use ::loom::thread;

#[derive(Default)]
struct Bed {
    total: Count,
    counts: [Count; 2],
}

impl Bed {
    /// Caps of one each, for a total of one and of two.
    fn bound() -> Bound {
        Bound::new(1.0, [Weight::ONE; 2]).unwrap()
    }

    fn take(&self) -> Result<usize, Refused> {
        Self::bound().take(&self.total, 0..2, |i, cap| {
            match self.counts[i].try_take(cap) {
                true => Attempt::Taken,
                false => Attempt::Full,
            }
        })
    }

    fn release(&self, i: usize) {
        self.counts[i].release();
        self.total.release();
    }
}

#[test]
fn two_requests_for_the_same_endpoint_at_once_find_a_place_each() {
    ::loom::model(|| {
        let bed = Arc::new(Bed::default());
        let other = {
            let bed = bed.clone();
            thread::spawn(move || bed.take())
        };
        let mut taken = [bed.take().unwrap(), other.join().unwrap().unwrap()];
        taken.sort_unstable();
        assert_eq!(taken, [0, 1]);
    });
}

#[test]
fn no_count_is_above_its_cap_while_another_thread_takes_and_releases() {
    ::loom::model(|| {
        let bed = Arc::new(Bed::default());
        let other = {
            let bed = bed.clone();
            thread::spawn(move || {
                for _ in 0..2 {
                    if let Ok(i) = bed.take() {
                        bed.release(i);
                    }
                }
            })
        };
        let mine = bed.take();
        assert!(bed.counts.iter().all(|count| count.get() <= 1));
        other.join().unwrap();
        if let Ok(i) = mine {
            bed.release(i);
        }
        assert!(
            bed.counts
                .iter()
                .chain([&bed.total])
                .all(|count| count.get() == 0)
        );
    });
}

#[test]
#[should_panic(expected = "above the cap")]
fn the_negative_control_that_looks_before_it_takes_gets_above_the_cap() {
    ::loom::model(|| {
        let count = Arc::new(Count::default());
        let naive = |count: &Count| {
            if count.get() < 1 {
                count.take();
            }
        };
        let other = {
            let count = count.clone();
            thread::spawn(move || naive(&count))
        };
        naive(&count);
        other.join().unwrap();
        assert!(count.get() <= 1, "above the cap");
    });
}
