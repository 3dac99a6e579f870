//! How the commands talk to the supervisor: one JSON line there, one back, over a unix socket that only its owner can
//! open.
//!
//! Lines are bounded, connections are counted and every step has a deadline, so that a client that hangs or babbles
//! costs the supervisor nothing.

use std::fs;
use std::future::Future;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader,
};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::status::Status;

/// Longest line of a request, in bytes.
pub const MAX_REQUEST: u64 = 4 * 1024;

/// Longest line of an answer, in bytes.
pub const MAX_ANSWER: u64 = 256 * 1024;

/// How long one side waits for the other to send or take a line that is ready.
const LINE_DEADLINE: Duration = Duration::from_secs(5);

/// How long a command may take: a server that is started again has to catch up first.
pub const COMMAND_DEADLINE: Duration = Duration::from_secs(60);

/// Clients served at once; more wait in the socket's own backlog.
const MAX_CLIENTS: usize = 16;

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Request {
    /// What every part is doing.
    Status,
    /// SIGKILL.
    Kill {
        /// Which part.
        name: String,
    },
    /// SIGSTOP.
    Stop {
        /// Which part.
        name: String,
    },
    /// Start what was killed, continue what was stopped.
    Start {
        /// Which part.
        name: String,
    },
    /// End the cluster.
    Down,
}

/// What the supervisor answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Answer {
    /// To [`Request::Status`].
    Status(Status),
    /// It is done.
    Done {
        /// What was done, for people.
        message: String,
    },
    /// The request makes no sense: a name that does not exist, a part that is already dead.
    Refused {
        /// Why, for people.
        message: String,
    },
    /// It was tried and did not work.
    Failed {
        /// Why, for people.
        message: String,
    },
}

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nobody listens there.
    #[error("no supervisor answers at {}", path.display())]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the supervisor's connection broke")]
    Io(#[from] io::Error),
    /// The other side took too long.
    #[error("no answer from the supervisor within {0:?}")]
    Timeout(Duration),
    /// The line is too long or not what was expected.
    #[error("the line cannot be understood")]
    Malformed(#[source] serde_json::Error),
    /// The line is longer than allowed, or the other side hung up in the middle of it.
    #[error("the line is cut off or longer than {0} bytes")]
    Cut(u64),
}

/// Asks the supervisor.
///
/// # Errors
/// See [`Error`].
pub async fn ask(path: &Path, request: &Request) -> Result<Answer, Error> {
    let mut stream = timeout(LINE_DEADLINE, UnixStream::connect(path))
        .await
        .map_err(|_| Error::Timeout(LINE_DEADLINE))?
        .map_err(|source| Error::NotRunning {
            path: path.to_owned(),
            source,
        })?;
    write_line(&mut stream, request).await?;
    let wait = COMMAND_DEADLINE + LINE_DEADLINE;
    timeout(wait, read_line(&mut stream, MAX_ANSWER))
        .await
        .map_err(|_| Error::Timeout(wait))?
}

/// The supervisor's end. Removes its socket when dropped.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Server {
    /// Listens at `path`, which must not exist, for this user alone.
    ///
    /// # Errors
    /// What the system says about the path.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let listener = UnixListener::bind(path)?;
        let server = Self {
            listener,
            path: path.to_owned(),
        };
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(server)
    }

    /// Answers until dropped.
    ///
    /// # Cancel safety
    /// Dropping the future drops the connections; what `handle` had begun is dropped at its next await.
    pub async fn run<H, F>(&self, handle: H)
    where
        H: Fn(Request) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Answer> + Send + 'static,
    {
        let room = Arc::new(Semaphore::new(MAX_CLIENTS));
        let mut clients = JoinSet::new();
        loop {
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
                return;
            };
            while clients.try_join_next().is_some() {}
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let handle = handle.clone();
                    clients.spawn(async move {
                        // A client that went away or sent garbage has been told what could be told.
                        let _ = serve(stream, handle).await;
                        drop(permit);
                    });
                }
                // Out of file descriptors, most likely: trying again at once would spin.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

async fn serve<H, F>(mut stream: UnixStream, handle: H) -> Result<(), Error>
where
    H: Fn(Request) -> F,
    F: Future<Output = Answer>,
{
    let request = match timeout(LINE_DEADLINE, read_line(&mut stream, MAX_REQUEST)).await {
        Ok(Ok(request)) => request,
        Ok(Err(error @ (Error::Malformed(_) | Error::Cut(_)))) => {
            let message = error.to_string();
            return write_line(&mut stream, &Answer::Refused { message }).await;
        }
        Ok(Err(error)) => return Err(error),
        Err(_) => return Err(Error::Timeout(LINE_DEADLINE)),
    };
    let answer = timeout(COMMAND_DEADLINE, handle(request))
        .await
        .unwrap_or_else(|_| Answer::Failed {
            message: format!("it took longer than {COMMAND_DEADLINE:?}"),
        });
    write_line(&mut stream, &answer).await
}

async fn read_line<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    max: u64,
) -> Result<T, Error> {
    let mut line = Vec::new();
    BufReader::new(stream.take(max))
        .read_until(b'\n', &mut line)
        .await?;
    if line.last() != Some(&b'\n') {
        return Err(Error::Cut(max));
    }
    serde_json::from_slice(&line).map_err(Error::Malformed)
}

async fn write_line(stream: &mut UnixStream, value: &impl Serialize) -> Result<(), Error> {
    let mut line = serde_json::to_vec(value).map_err(Error::Malformed)?;
    line.push(b'\n');
    timeout(LINE_DEADLINE, stream.write_all(&line))
        .await
        .map_err(|_| Error::Timeout(LINE_DEADLINE))?
        .map_err(Error::Io)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo(request: Request) -> Answer {
        Answer::Done {
            message: format!("{request:?}"),
        }
    }

    fn server() -> (tempfile::TempDir, PathBuf, tokio::task::JoinHandle<()>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let server = Server::bind(&path).unwrap();
        let task = tokio::spawn(async move { server.run(echo).await });
        (dir, path, task)
    }

    #[tokio::test]
    async fn a_request_is_answered_and_the_socket_goes_with_its_server() {
        let (_dir, path, task) = server();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let answer = ask(
            &path,
            &Request::Kill {
                name: "app-1".into(),
            },
        )
        .await
        .unwrap();
        assert!(matches!(answer, Answer::Done { message } if message.contains("app-1")));
        task.abort();
        let _ = task.await;
        assert!(!path.exists());
        assert!(matches!(
            ask(&path, &Request::Status).await,
            Err(Error::NotRunning { .. })
        ));
    }

    #[tokio::test]
    async fn garbage_and_endless_lines_are_refused_and_others_are_served() {
        let (_dir, path, task) = server();
        let garbage = [
            b"hello\n".to_vec(),
            b"{\"do\":\"explode\"}\n".to_vec(),
            b"{\"do\":\"kill\"}\n".to_vec(),
            vec![b'x'; 10_000],
            vec![0xff, b'\n'],
        ];
        for bytes in garbage {
            let mut stream = UnixStream::connect(&path).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
            let answer: Result<Answer, Error> = read_line(&mut stream, MAX_ANSWER).await;
            assert!(matches!(answer, Ok(Answer::Refused { .. })), "{answer:?}");
        }
        // One that connects and says nothing does not keep the next one waiting.
        let _silent = UnixStream::connect(&path).await.unwrap();
        assert!(ask(&path, &Request::Status).await.is_ok());
        task.abort();
    }
}
