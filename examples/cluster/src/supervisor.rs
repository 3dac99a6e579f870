//! `up`: starts the cluster, answers commands and takes everything down again, however it is told to.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use ha_testbed::process::leftover;
use tokio::sync::{Notify, watch};

use crate::chain;
use crate::cluster::{self, Cluster, Options};
use crate::control::{self, Answer, Request};
use crate::signals::Signals;
use crate::state::{self, Lock, Place, State};

/// How long leftovers of a crashed run get to die.
const LEFTOVERS: Duration = Duration::from_secs(15);

/// Why the cluster did not come up, or did not go down cleanly.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another supervisor holds the directory.
    #[error(
        "a cluster is already running in {dir}; see it with `cargo cluster status`, end it with `cargo cluster down`\n\n{what}"
    )]
    AlreadyRunning {
        /// Where.
        dir: String,
        /// What runs, as a table.
        what: String,
    },
    /// A process of a crashed run does not go away.
    #[error("processes of an earlier run in {dir} do not end: {}", pids(pids_left))]
    Leftovers {
        /// Where.
        dir: String,
        /// Which.
        pids_left: Vec<u32>,
    },
    /// The directory could not be used.
    #[error(transparent)]
    State(#[from] state::Error),
    /// The control socket could not be made.
    #[error("cannot listen for commands at {path}")]
    Control {
        /// Where.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// A part did not start.
    #[error(transparent)]
    Cluster(#[from] cluster::Error),
    /// Signals cannot be waited for.
    #[error("cannot wait for signals")]
    Signals(#[source] io::Error),
}

fn pids(pids: &[u32]) -> String {
    pids.iter()
        .map(u32::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

/// Starts the cluster and runs until Ctrl-C, SIGTERM, SIGHUP or `down`.
///
/// # Errors
/// See [`Error`]; nothing is left running then.
pub async fn up(place: &Place, options: Options) -> Result<(), Error> {
    // First of all, so that no Ctrl-C after this line can leave anything behind.
    let mut signals = Signals::new().map_err(Error::Signals)?;
    let Some(lock) = place.lock()? else {
        return Err(already_running(place).await);
    };
    if let Some(ended) = clean_up(place, &lock)? {
        say(&format!(
            "an earlier run did not end properly; cleaned up after it ({ended} processes ended)"
        ));
    }
    let result = run(place, options, &mut signals).await;
    let cleared = clean_up(place, &lock);
    result?;
    cleared?;
    say("everything is stopped");
    Ok(())
}

async fn run(place: &Place, options: Options, signals: &mut Signals) -> Result<(), Error> {
    let control = place.control();
    let server = control::Server::bind(&control).map_err(|source| Error::Control {
        path: control.display().to_string(),
        source,
    })?;
    // Before anything starts, so that a crash in the middle of it is found.
    place.write(&State {
        supervisor: std::process::id(),
        control: control.clone(),
        dirs: place.dirs(),
        url: String::new(),
        parts: Vec::new(),
    })?;

    let down = Arc::new(Notify::new());
    let (gone, all_gone) = watch::channel(false);
    let (ready, cluster) = watch::channel(None::<Arc<Cluster>>);
    let handle = {
        let down = Arc::clone(&down);
        move |request| {
            let (down, cluster, mut all_gone) = (
                Arc::clone(&down),
                cluster.borrow().clone(),
                all_gone.clone(),
            );
            async move {
                if request == Request::Down {
                    down.notify_one();
                    let _ = all_gone.wait_for(|gone| *gone).await;
                    return Answer::Done {
                        message: "everything is stopped".into(),
                    };
                }
                match cluster {
                    Some(cluster) => answer(&cluster, request).await,
                    None => Answer::Failed {
                        message: "the cluster is still starting".into(),
                    },
                }
            }
        }
    };
    let serving = server.run(handle);
    tokio::pin!(serving);

    let work = async {
        let cluster = tokio::select! {
            cluster = Cluster::launch(options, &say) => Arc::new(cluster?),
            () = signals.any() => return Ok(None),
            () = down.notified() => return Ok(None),
        };
        place.write(&cluster.state(place, &control))?;
        ready.send_replace(Some(Arc::clone(&cluster)));
        let greet_and_wait = async {
            say(&cluster.welcome().await);
            std::future::pending().await
        };
        tokio::select! {
            () = signals.any() => {}
            () = down.notified() => {}
            () = greet_and_wait => {}
        }
        say("\nstopping");
        ready.send_replace(None);
        Ok(Some(cluster))
    };
    // Commands are answered until the last part is gone, so that `down` can wait for that.
    let stop = async {
        let outcome: Result<_, Error> = work.await;
        let outcome = match outcome {
            Ok(Some(cluster)) => cluster.shutdown().await.map_err(Error::from),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        gone.send_replace(true);
        outcome
    };
    let outcome = tokio::select! {
        outcome = stop => outcome,
        () = &mut serving => Ok(()),
    };
    // What waits for the news that all is gone gets a moment to pass it on.
    let _ = tokio::time::timeout(Duration::from_millis(200), serving).await;
    outcome
}

async fn answer(cluster: &Cluster, request: Request) -> Answer {
    let (done, result) = match request {
        Request::Status => return Answer::Status(cluster.status().await),
        Request::Kill { name } => (format!("{name} is killed"), cluster.kill(&name).await),
        Request::Stop { name } => (format!("{name} is frozen"), cluster.stop(&name).await),
        Request::Start { name } => (format!("{name} runs"), cluster.start(&name).await),
        Request::Down => (String::new(), Ok(())),
    };
    match result {
        Ok(()) => Answer::Done { message: done },
        Err(error) if error.is_refusal() => Answer::Refused {
            message: chain(&error),
        },
        Err(error) => Answer::Failed {
            message: chain(&error),
        },
    }
}

/// Ends what a crashed run left and removes its files. `None`: there was nothing.
///
/// # Errors
/// When processes do not end or files cannot be removed.
pub fn clean_up(place: &Place, lock: &Lock) -> Result<Option<usize>, Error> {
    let dirs = place.dirs();
    let left = leftover::find(&dirs).len();
    if place.read().is_none() && left == 0 && !place.has_remains() {
        return Ok(None);
    }
    let ended = leftover::end(&dirs, LEFTOVERS).map_err(|pids_left| Error::Leftovers {
        dir: place.dir().display().to_string(),
        pids_left,
    })?;
    place.clear(lock)?;
    Ok(Some(ended))
}

async fn already_running(place: &Place) -> Error {
    let what = match control::ask(&place.control(), &Request::Status).await {
        Ok(Answer::Status(status)) => status.to_string(),
        Ok(Answer::Failed { message } | Answer::Refused { message }) => message,
        Ok(_) => String::new(),
        Err(error) => chain(&error),
    };
    Error::AlreadyRunning {
        dir: place.dir().display().to_string(),
        what,
    }
}

/// Prints, and does not mind when nobody reads any more: a closed pipe must not end the supervisor half-way.
pub fn say(text: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}
