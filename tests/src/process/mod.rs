//! Processes that can be killed, frozen, thawed and started again, and the bed that owns them.
//!
//! A [`Bed`] is a directory and a watcher. A [`Process`] runs in a directory of its own inside the bed's, writes its
//! output to a log file there, and is started in a process group of its own, so that Ctrl-C reaches the owner alone.
//!
//! # What belongs to a process
//!
//! Servers start helpers, and some leave their process group on purpose (PostgreSQL's backends do). Everything
//! that the bed started and whose working directory lies inside a process's directory belongs to it; where there is no
//! `/proc`, everything it is an ancestor of does. [`Process::kill`] and [`Process::freeze`] act on all of it, and on
//! nothing else: a shell of yours that works there is let be. What the bed started has the variable `HA_TESTBED_DIR` in
//! its environment or writes to the process's log.
//!
//! # How nothing is left behind
//!
//! With each bed a small `sh` is started in a group of its own that reads from a pipe only the owner holds. When the
//! owner ends, in whatever way, the kernel closes the pipe; the watcher then kills what belongs to the bed and removes
//! the directory. Dropping the bed does the same at once.

mod bed;
mod child;
pub mod leftover;
mod mark;
mod tree;

pub use bed::Bed;
pub(crate) use child::run;
pub use child::{Process, Spec};

#[cfg(test)]
mod tests;
