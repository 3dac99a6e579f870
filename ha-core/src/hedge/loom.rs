//! Run by `cargo xtask ci`.

use ::loom::sync::Arc;
use ::loom::thread;

use super::window::Window;
use super::*;

const MS: Duration = Duration::from_millis(1);

fn window(samples: usize, minimum_samples: u32, now: Instant) -> Arc<Window> {
    let percentile = Percentile {
        percentile: 99.0,
        minimum_samples,
        ..Percentile::default()
    };
    Arc::new(Window::new(&percentile, samples, now))
}

#[test]
fn no_sample_of_two_threads_is_lost() {
    let now = Instant::now();
    ::loom::model(move || {
        let window = window(2, 2, now);
        let other = {
            let window = window.clone();
            thread::spawn(move || window.record(MS * 3, now))
        };
        window.record(MS * 5, now);
        other.join().unwrap();
        assert_eq!(window.percentile(now + MS * 100), Some(MS * 5));
    });
}

#[test]
fn a_look_beside_a_record_sees_what_was_or_what_is() {
    let now = Instant::now();
    ::loom::model(move || {
        let window = window(2, 1, now);
        window.record(MS * 3, now);
        let other = {
            let window = window.clone();
            thread::spawn(move || window.percentile(now + MS * 100))
        };
        window.record(MS * 5, now);
        let mine = window.percentile(now + MS * 100);
        let seen = [None, Some(MS * 3), Some(MS * 5)];
        assert!(seen.contains(&mine) && seen.contains(&other.join().unwrap()));
        assert_eq!(window.percentile(now + MS * 200), Some(MS * 5));
    });
}
