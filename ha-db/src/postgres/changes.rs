//! What has changed from one snapshot to the next.

use std::sync::Arc;

use super::event::Event;
use super::role::Role;
use super::shared::Snapshot;

/// What somebody who watches has to be told.
pub(super) fn differences(old: &Snapshot, new: &Snapshot) -> Vec<Event> {
    let mut events = Vec::new();
    for (index, (member, seen)) in new.members.iter().zip(&new.view.nodes).enumerate() {
        let Some(member) = member else { continue };
        let node = || Arc::clone(&member.node.name);
        let before = old.members.get(index).and_then(Option::as_ref);
        let before = before
            .filter(|before| Arc::ptr_eq(before, member))
            .map(|_| &old.view.nodes[index]);
        let from = before.map_or(Role::Unreachable, |before| before.role);
        if from != seen.role {
            events.push(Event::RoleChanged {
                node: node(),
                from,
                to: seen.role,
            });
        }
        let was_ejected = before.is_some_and(|before| before.ejected);
        if seen.ejected && !was_ejected {
            let lag = seen.lag;
            events.push(Event::Ejected { node: node(), lag });
        } else if was_ejected && !seen.ejected {
            events.push(Event::Readmitted { node: node() });
        }
        let had = before.and(old.problems[index..].first()).cloned().flatten();
        match &new.problems[index] {
            // A position that moves on is no other problem.
            Some(problem)
                if had.as_ref().map(std::mem::discriminant)
                    != Some(std::mem::discriminant(problem)) =>
            {
                let problem = problem.clone();
                events.push(Event::ProblemFound {
                    node: node(),
                    problem,
                });
            }
            None if had.is_some() => events.push(Event::ProblemSolved { node: node() }),
            _ => {}
        }
    }
    match new.primary {
        Ok(index) if old.epoch != new.epoch || old.primary.is_err() => {
            events.push(Event::PrimaryChanged {
                epoch: new.epoch,
                timeline: new.timeline,
                node: new.name(index),
            });
        }
        Err(reason) if old.primary.is_ok() => events.push(Event::PrimaryLost { reason }),
        _ => {}
    }
    events
}
