//! A thread with a runtime of its own, so that each part of the measurement has one core's worth at most.

use std::future::Future;
use std::io;
use std::sync::mpsc;
use std::thread::JoinHandle;

use tokio::sync::oneshot;

/// Runs until it is dropped.
#[derive(Debug)]
pub(crate) struct Thread {
    stop: Option<oneshot::Sender<()>>,
    join: Option<JoinHandle<()>>,
}

impl Thread {
    /// Starts the thread, and returns when `set_up` has run in it. What `set_up` spawned goes on.
    pub(crate) fn start<F>(name: &str, set_up: F) -> io::Result<Self>
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let (stop, stopped) = oneshot::channel();
        let (started, ready) = mpsc::channel();
        let join = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                let runtime = match runtime {
                    Ok(runtime) => runtime,
                    Err(error) => return drop(started.send(Err(error))),
                };
                runtime.block_on(async {
                    let outcome = set_up.await;
                    let go_on = outcome.is_ok();
                    let _ = started.send(outcome);
                    if go_on {
                        let _ = stopped.await;
                    }
                });
            })?;
        let thread = Self {
            stop: Some(stop),
            join: Some(join),
        };
        ready
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("the thread ended while it started")))?;
        Ok(thread)
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(join) = self.join.take() {
            let _ = join.join();
        }
    }
}
