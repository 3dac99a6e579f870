use std::time::Duration;

use proptest::prelude::*;

use super::super::*;
use super::{MS, start};

fn queue(capacity: u32) -> Queue<u32> {
    Queue::new(QueueConfig {
        capacity,
        ..QueueConfig::default()
    })
    .unwrap()
}

fn nobody(cause: Cause, value: u32) {
    panic!("{value} was refused: {cause:?}");
}

#[test]
fn who_is_more_important_goes_first_and_within_a_priority_who_came_first() {
    let now = start();
    let mut queue = queue(10);
    for (i, priority) in [
        Priority::Sheddable,
        Priority::Default,
        Priority::Critical,
        Priority::Default,
        Priority::Critical,
    ]
    .into_iter()
    .enumerate()
    {
        queue.push(priority, None, now, i as u32).unwrap();
    }
    assert_eq!(queue.first_priority(), Some(Priority::Critical));
    let order: Vec<_> = std::iter::from_fn(|| queue.pop(now, nobody)).collect();
    assert_eq!(order, [2, 4, 1, 3, 0]);
    assert!(queue.is_empty() && queue.first_priority().is_none());
}

#[test]
fn a_full_queue_lets_the_newest_of_the_lowest_go_for_a_higher_one_and_refuses_equals() {
    let now = start();
    let mut queue = queue(3);
    queue.push(Priority::Sheddable, None, now, 1).unwrap();
    queue.push(Priority::Sheddable, None, now, 2).unwrap();
    queue.push(Priority::Default, None, now, 3).unwrap();
    let refused = queue.push(Priority::Sheddable, None, now, 4);
    assert_eq!(refused, Err((Cause::Full, 4)));
    for (priority, value, gone) in [
        (Priority::Critical, 5, 2),
        (Priority::Default, 6, 1),
        (Priority::Critical, 7, 6),
    ] {
        let pushed = queue.push(priority, None, now, value).unwrap();
        assert_eq!(pushed.displaced, Some(gone));
        assert_eq!(queue.len(), 3);
    }
    queue.push(Priority::Critical, None, now, 8).unwrap();
    let refused = queue.push(Priority::Critical, None, now, 9);
    assert_eq!(refused, Err((Cause::Full, 9)));
}

#[test]
fn who_goes_away_is_gone_and_the_others_keep_their_order() {
    let now = start();
    let mut queue = queue(10);
    let tickets: Vec<_> = (0..4)
        .map(|i| queue.push(Priority::Default, None, now, i).unwrap().ticket)
        .collect();
    assert_eq!(queue.remove(tickets[1]), Some(1));
    assert_eq!(queue.remove(tickets[1]), None);
    assert_eq!(queue.pop(now, nobody), Some(0));
    assert_eq!(queue.remove(tickets[0]), None);
    assert_eq!(queue.pop(now, nobody), Some(2));
    assert_eq!(queue.len(), 1);
}

#[test]
fn a_deadline_ends_the_wait_and_one_that_has_passed_does_not_begin_it() {
    let now = start();
    let mut queue = queue(10);
    let late = queue.push(Priority::Default, Some(now), now, 1);
    assert_eq!(late, Err((Cause::Deadline, 1)));
    let soon = queue
        .push(Priority::Default, Some(now + 3 * MS), now, 2)
        .unwrap();
    assert_eq!(soon.ticket.until(), now + 3 * MS);
    let far = queue
        .push(Priority::Default, Some(now + 3_600_000 * MS), now, 3)
        .unwrap();
    assert_eq!(far.ticket.until(), now + 100 * MS);
    let mut refused = Vec::new();
    let next = queue.pop(now + 3 * MS, |cause, value| refused.push((cause, value)));
    assert_eq!(next, Some(3));
    assert_eq!(refused, [(Cause::Deadline, 2)]);
}

/// One comes and one goes each millisecond, after a head start of so many.
fn steady(queue: &mut Queue<u32>, head_start: u32, steps: u32) -> (Vec<u32>, Vec<(Cause, u32)>) {
    let begin = start();
    let (mut served, mut refused) = (Vec::new(), Vec::new());
    (0..head_start).for_each(|i| drop(queue.push(Priority::Default, None, begin, i)));
    for i in 0..steps {
        let now = begin + MS * i;
        let _ = queue.push(Priority::Default, None, now, head_start + i);
        served.extend(queue.pop(now, |cause, value| refused.push((cause, value))));
    }
    (served, refused)
}

#[test]
fn a_burst_is_absorbed_and_a_standing_queue_is_cut() {
    let mut calm = queue(100);
    let (served, refused) = steady(&mut calm, 4, 1_000);
    assert_eq!(
        (served.len(), refused.len()),
        (1_000, 0),
        "a wait of 4 ms is good"
    );

    let mut standing = queue(100);
    let (_, refused) = steady(&mut standing, 50, 1_000);
    assert!(refused.iter().all(|(cause, _)| *cause == Cause::Delay));
    assert!(standing.len() <= 11, "{}", standing.len());
    // The first interval is a burst as far as anybody can tell.
    assert!(refused.len() >= 39, "{}", refused.len());
}

#[test]
fn a_standing_queue_serves_the_newest_first_if_that_is_chosen() {
    let config = QueueConfig {
        order: Order::AdaptiveLifo,
        ..QueueConfig::default()
    };
    let mut lifo = Queue::new(config).unwrap();
    let (served, _) = steady(&mut lifo, 50, 300);
    assert_eq!(&served[..3], [0, 1, 2], "a burst goes in order");
    let newest = 50 + 299;
    assert_eq!(served.last(), Some(&newest));
}

#[test]
fn after_a_pause_a_queue_does_not_stand() {
    let mut queue = queue(100);
    steady(&mut queue, 50, 500);
    while queue.pop(start(), |_, _| {}).is_some() {}
    let later = start() + Duration::from_secs(60);
    queue.push(Priority::Default, None, later, 1).unwrap();
    assert_eq!(queue.pop(later + 60 * MS, nobody), Some(1));
}

#[test]
fn numbers_that_make_no_sense_are_refused_by_name_and_value() {
    let good = QueueConfig::default();
    for (config, field, value) in [
        (
            QueueConfig {
                capacity: 0,
                ..good
            },
            "queue.capacity",
            "0",
        ),
        (
            QueueConfig {
                capacity: 1_000_001,
                ..good
            },
            "queue.capacity",
            "1000001",
        ),
        (
            QueueConfig {
                target: Duration::ZERO,
                ..good
            },
            "queue.target",
            "0ns",
        ),
        (
            QueueConfig {
                interval: 5 * MS,
                ..good
            },
            "queue.interval",
            "5ms",
        ),
        (
            QueueConfig {
                interval: 86_401_000 * MS,
                ..good
            },
            "queue.interval",
            "86401s",
        ),
        (
            QueueConfig {
                target: Duration::MAX,
                ..good
            },
            "queue.interval",
            "100ms",
        ),
    ] {
        let error = Queue::<()>::new(config).unwrap_err();
        assert_eq!((error.field(), error.value()), (field, value));
    }
}

proptest! {
    /// Beside a list that is searched from the front.
    #[test]
    fn nobody_is_lost_doubled_or_overtaken(
        capacity in 1u32..8,
        steps in prop::collection::vec((0u8..5, 0usize..3), 0..200),
    ) {
        let now = start();
        let mut queue = queue(capacity);
        let mut model: Vec<(Priority, Ticket, u32)> = Vec::new();
        for (i, (step, class)) in steps.into_iter().enumerate() {
            let (i, priority) = (i as u32, Priority::ALL[class]);
            match step {
                0..=2 => match queue.push(priority, None, now, i) {
                    Ok(pushed) => {
                        if let Some(gone) = pushed.displaced {
                            let at = model.iter().position(|entry| entry.2 == gone).unwrap();
                            let (lowest, _, _) = model.remove(at);
                            prop_assert!(lowest > priority);
                            prop_assert!(model.iter().all(|entry| entry.0 <= lowest));
                        }
                        model.push((priority, pushed.ticket, i));
                    }
                    Err((cause, value)) => {
                        prop_assert_eq!((cause, value), (Cause::Full, i));
                        prop_assert_eq!(model.len(), capacity as usize);
                        prop_assert!(model.iter().all(|entry| entry.0 <= priority));
                    }
                },
                3 => {
                    let first = model.iter().map(|entry| entry.0).min();
                    let at = model.iter().position(|entry| Some(entry.0) == first);
                    let expected = at.map(|at| model.remove(at).2);
                    prop_assert_eq!(queue.pop(now, nobody), expected);
                }
                _ if !model.is_empty() => {
                    let (_, ticket, value) = model.remove(i as usize % model.len());
                    prop_assert_eq!(queue.remove(ticket), Some(value));
                }
                _ => {}
            }
            prop_assert_eq!(queue.len(), model.len());
            prop_assert!(queue.len() <= capacity as usize);
        }
    }
}
