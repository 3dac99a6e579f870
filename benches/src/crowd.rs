use std::io;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};

/// Many callers at once: a runtime of so many threads, and so many tasks that share the calls.
#[derive(Debug)]
pub struct Crowd {
    runtime: Runtime,
    threads: usize,
    tasks: u64,
}

impl Crowd {
    /// The crowds that balancers are measured with: 1 and 2 threads, 1 and 64 tasks.
    ///
    /// # Errors
    /// When the threads cannot be started.
    pub fn all() -> io::Result<Vec<Self>> {
        [(1, 1), (1, 64), (2, 1), (2, 64)]
            .into_iter()
            .map(|(threads, tasks)| Self::new(threads, tasks))
            .collect()
    }

    fn new(threads: usize, tasks: u64) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .build()?;
        Ok(Self {
            runtime,
            threads,
            tasks,
        })
    }

    /// The name of the case in which this crowd calls a balancer of this policy.
    #[must_use]
    pub fn case(&self, policy: &str, endpoints: usize) -> String {
        let Self { threads, tasks, .. } = self;
        format!("{policy}_{endpoints}_threads_{threads}_tasks_{tasks}")
    }

    /// The runtime, for what has to be started in one.
    #[must_use]
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// How long it takes until `calls` calls are done.
    ///
    /// # Panics
    /// When a call does.
    pub fn time<F, Fut>(&self, calls: u64, call: F) -> Duration
    where
        F: Fn() -> Fut + Clone + Send + 'static,
        Fut: Future<Output = ()> + Send,
    {
        let started = Instant::now();
        let tasks: Vec<_> = (0..self.tasks)
            .map(|task| {
                let call = call.clone();
                let share = (calls + task) / self.tasks;
                self.runtime.spawn(async move {
                    for _ in 0..share {
                        call().await;
                    }
                })
            })
            .collect();
        self.runtime.block_on(async {
            for task in tasks {
                if let Err(error) = task.await {
                    std::panic::resume_unwind(error.into_panic());
                }
            }
        });
        started.elapsed()
    }
}
