//! What each command does, and the exit status it ends with: 0 when done, 1 when something failed that was tried, 2 when what
//! was asked for makes no sense here.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ha_testbed::process::leftover;
use ha_testbed::setup::{self, Tool};

use crate::cli::{At, Cli, Command, LogsArgs, PartArgs, UpArgs};
use crate::cluster::Options;
use crate::control::{self, Answer, Request};
use crate::state::{Place, State};
use crate::supervisor::{self, say};
use crate::{app, chain, drill, edge, logs};

/// Bad input, or nothing there to act on.
const REFUSED: u8 = 2;

/// How long the supervisor may take to end after it said that all parts have.
const SUPERVISOR_END: Duration = Duration::from_secs(20);

/// What a command tells its caller when it is not done.
enum Stop {
    /// Exit status 2.
    Refused(String),
    /// Exit status 1.
    Failed(String),
}

/// Runs one command.
pub fn run(cli: Cli) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            return end(Err(Stop::Failed(format!(
                "cannot start the runtime: {error}"
            ))));
        }
    };
    let outcome = runtime.block_on(obey(cli.command));
    // What still runs on a blocking thread (a log that is followed) must not keep the process.
    runtime.shutdown_timeout(Duration::from_millis(100));
    end(outcome)
}

fn end(outcome: Result<ExitCode, Stop>) -> ExitCode {
    let (message, status) = match outcome {
        Ok(code) => return code,
        Err(Stop::Refused(message)) => (message, REFUSED),
        Err(Stop::Failed(message)) => (message, 1),
    };
    eprintln!("error: {message}");
    ExitCode::from(status)
}

async fn obey(command: Command) -> Result<ExitCode, Stop> {
    match command {
        Command::Up(args) => up(args).await,
        Command::Status(args) => status(args.json, &place(&args.at)?).await,
        Command::Kill(part) => act_on(part, |name| Request::Kill { name }).await,
        Command::Stop(part) => act_on(part, |name| Request::Stop { name }).await,
        Command::Start(part) => act_on(part, |name| Request::Start { name }).await,
        Command::Logs(args) => show_logs(args).await,
        Command::Down(at) => down(&place(&at)?).await,
        Command::Edge(args) => edge::run(args).await.map_err(|e| refused(&e)),
        Command::App(args) => app::run(args).await.map_err(|e| refused(&e)),
        Command::Drill(args) => {
            ensure_servers()?;
            return Ok(drill::run(args).await);
        }
    }
    .map(|()| ExitCode::SUCCESS)
}

fn refused(error: &dyn std::error::Error) -> Stop {
    Stop::Refused(chain(error))
}

fn place(at: &At) -> Result<Place, Stop> {
    Place::find(at.dir.as_deref()).map_err(|e| refused(&e))
}

fn ensure_servers() -> Result<(), Stop> {
    let wanted: Vec<_> = Tool::ALL
        .into_iter()
        .filter(|tool| !matches!(tool, Tool::HaProxy | Tool::PgBouncer))
        .collect();
    setup::ensure(&wanted).map_err(|e| refused(&e))
}

async fn up(args: UpArgs) -> Result<(), Stop> {
    let place = place(&args.at)?;
    ensure_servers()?;
    let options = Options::from_args(&args, &place);
    supervisor::up(&place, options)
        .await
        .map_err(|e| refused(&e))
}

/// What runs here, or a refusal that says how to start it.
fn running(place: &Place) -> Result<State, Stop> {
    let not_running = |why: &str| {
        Stop::Refused(format!(
            "no cluster is running in {}{why}; start one with `cargo cluster up`",
            place.dir().display()
        ))
    };
    if !place.exists() {
        return Err(not_running(""));
    }
    match place.lock() {
        Ok(None) => place.read().ok_or_else(|| not_running(" yet")),
        Ok(Some(_)) if place.read().is_some() => Err(not_running(
            " (the last one did not end properly; `cargo cluster down` cleans up after it)",
        )),
        Ok(Some(_)) => Err(not_running("")),
        Err(error) => Err(refused(&error)),
    }
}

async fn ask(request: &Request, place: &Place) -> Result<Answer, Stop> {
    let state = running(place)?;
    match control::ask(&state.control, request).await {
        Ok(Answer::Refused { message }) => Err(Stop::Refused(message)),
        Ok(Answer::Failed { message }) => Err(Stop::Failed(message)),
        Ok(answer) => Ok(answer),
        Err(error) => Err(Stop::Failed(chain(&error))),
    }
}

async fn act_on(part: PartArgs, request: impl FnOnce(String) -> Request) -> Result<(), Stop> {
    act(request(part.name), &place(&part.at)?).await
}

async fn act(request: Request, place: &Place) -> Result<(), Stop> {
    if let Answer::Done { message } = ask(&request, place).await? {
        say(&message);
    }
    Ok(())
}

async fn status(json: bool, place: &Place) -> Result<(), Stop> {
    if let Answer::Status(status) = ask(&Request::Status, place).await? {
        if json {
            let text =
                serde_json::to_string_pretty(&status).map_err(|e| Stop::Failed(e.to_string()))?;
            say(&text);
        } else {
            say(status.to_string().trim_end());
        }
    }
    Ok(())
}

async fn show_logs(args: LogsArgs) -> Result<(), Stop> {
    let LogsArgs {
        follow,
        lines,
        part: PartArgs { name, at },
    } = args;
    let place = place(&at)?;
    // The logs of a crashed run are worth reading too, so the supervisor need not be alive.
    let state = match place.read() {
        Some(state) => state,
        None => running(&place)?,
    };
    let Some(part) = state.parts.iter().find(|part| part.name == name) else {
        let known: Vec<&str> = state.parts.iter().map(|part| part.name.as_str()).collect();
        return Err(Stop::Refused(format!(
            "there is no part named `{name}`; the parts are {}",
            known.join(", ")
        )));
    };
    let files: &[PathBuf] = &part.logs;
    let mut out = io::stdout().lock();
    let shown = match logs::tail(files, lines, &mut out) {
        Ok(ends) if follow => {
            tokio::select! {
                ended = logs::follow(files, ends, &mut out) => ended,
                _ = tokio::signal::ctrl_c() => Ok(()),
            }
        }
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    };
    match shown {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Stop::Failed(format!(
            "cannot show the log of {name}: {error}"
        ))),
        _ => Ok(()),
    }
}

async fn down(place: &Place) -> Result<(), Stop> {
    if !place.exists() {
        say(&format!(
            "no cluster is running in {}",
            place.dir().display()
        ));
        return Ok(());
    }
    if let Some(lock) = place.lock().map_err(|e| refused(&e))? {
        match supervisor::clean_up(place, &lock).map_err(|e| Stop::Failed(chain(&e)))? {
            None => say(&format!(
                "no cluster is running in {}",
                place.dir().display()
            )),
            Some(ended) => say(&format!(
                "the supervisor was gone; cleaned up after it ({ended} processes ended)"
            )),
        }
        return Ok(());
    }
    let state = running(place)?;
    act(Request::Down, place).await?;
    let start = Instant::now();
    while leftover::is_alive(state.supervisor) && matches!(place.lock(), Ok(None)) {
        if start.elapsed() > SUPERVISOR_END {
            return Err(Stop::Failed(format!(
                "the supervisor (pid {}) does not end",
                state.supervisor
            )));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
