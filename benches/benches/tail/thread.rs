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
    /// Starts the thread, and returns when `set_up` has run in it. What that gave back owns the tasks that go on, and is held until the
    /// thread is dropped.
    pub(crate) fn start<F, T>(name: &str, set_up: F) -> io::Result<Self>
    where
        F: Future<Output = io::Result<T>> + Send + 'static,
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
                    let _held = match set_up.await {
                        Ok(held) => held,
                        Err(error) => return drop(started.send(Err(error))),
                    };
                    let _ = started.send(Ok(()));
                    let _ = stopped.await;
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
