//! A TCP link between a client and a server that a test can cut, silence and slow down.
//!
//! Put a [`Link`] in front of a server and give its [`Link::addr`] to the client:
//!
//! ```no_run
//! # async fn example(server: std::net::SocketAddr) -> std::io::Result<()> {
//! use ha_testbed::link::Link;
//! use std::time::Duration;
//!
//! let link = Link::to(server).await?;
//! // … the client connects to link.addr() …
//! link.delay(Duration::from_millis(20));  // each way
//! link.cut().await?;                      // connections reset, new ones refused
//! link.restore().await?;
//! link.silence().await?;                  // connections stay open and carry nothing, new ones hang
//! link.restore().await?;                  // what was held back arrives
//! link.silence_to_client().await?;        // the server hears and is not heard
//! link.restore().await?;
//! # Ok(()) }
//! ```
//!
//! The ways to break a link are what the kinds of failure look like from outside:
//!
//! | | connections that exist | new connections | what it stands for |
//! |---|---|---|---|
//! | [`Link::cut`] | are reset at once | are refused at once | the process died; a firewall that rejects |
//! | [`Link::refuse`] | go on | are refused at once | a server out of connections; a firewall that rejects what is new |
//! | [`Link::silence`] | stay open, no byte moves | are accepted by the kernel and hang | a frozen machine, a pulled cable, a firewall that drops |
//! | [`Link::silence_to_server`], [`Link::silence_to_client`] | stay open, bytes move the other way only | hang | a route or a firewall that is broken in one direction |
//!
//! What a link cannot show: lost or reordered packets (TCP would hide them), and connect attempts that get no answer to
//! their SYN, because the kernel completes handshakes for a listening socket by itself.
//!
//! Everything runs in tasks that the link owns: dropping it resets every connection and frees the port.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// How long the link itself waits for the server to accept; on loopback this is never reached.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Chunks of at most [`CHUNK`] bytes that may be under way in one direction (4 MiB): enough that a delay does not become
/// a limit of the throughput, and still a bound.
const IN_FLIGHT: usize = 256;
const CHUNK: usize = 16 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Mode {
    #[default]
    Open,
    Refusing,
    Cut,
    /// No byte moves towards these.
    Silent {
        to_server: bool,
        to_client: bool,
    },
}

impl Mode {
    fn carries(self, direction: Direction) -> bool {
        match (self, direction) {
            (Self::Open | Self::Refusing, _) => true,
            (Self::Cut, _) => false,
            (Self::Silent { to_server, .. }, Direction::ToServer) => !to_server,
            (Self::Silent { to_client, .. }, Direction::ToClient) => !to_client,
        }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    mode: Mode,
    to_server: Duration,
    to_client: Duration,
}

#[derive(Debug, Clone, Copy)]
enum Direction {
    ToServer,
    ToClient,
}

struct Change {
    mode: Mode,
    done: oneshot::Sender<io::Result<()>>,
}

/// A proxy for one TCP address. See the [module](self).
#[derive(Debug)]
pub struct Link {
    addr: SocketAddr,
    target: SocketAddr,
    state: watch::Sender<State>,
    changes: mpsc::Sender<Change>,
    owner: JoinHandle<()>,
}

impl Link {
    /// Opens a link to `target` on a free port of the same loopback address family. The server need not be there yet.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn to(target: SocketAddr) -> io::Result<Self> {
        let local: SocketAddr = match target {
            SocketAddr::V4(_) => ([127, 0, 0, 1], 0).into(),
            SocketAddr::V6(_) => ([0, 0, 0, 0, 0, 0, 0, 1], 0).into(),
        };
        let listener = bind(local)?.listen(1024)?;
        let addr = listener.local_addr()?;
        let (state, watching) = watch::channel(State::default());
        let (changes, orders) = mpsc::channel(1);
        let owner = Owner {
            addr,
            target,
            state: state.clone(),
            watching,
        };
        let owner = tokio::spawn(owner.run(listener, orders));
        Ok(Self {
            addr,
            target,
            state,
            changes,
            owner,
        })
    }

    /// Where clients connect to.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where the link leads.
    pub fn target(&self) -> SocketAddr {
        self.target
    }

    /// Resets every connection and refuses new ones until [`Link::restore`]. Done when it returns.
    ///
    /// # Errors
    /// When the port could not be kept while nothing listens on it.
    ///
    /// # Cancel safety
    /// Dropping the future may leave the link cut or not.
    pub async fn cut(&self) -> io::Result<()> {
        self.change(Mode::Cut).await
    }

    /// Keeps every connection open but moves no byte in either direction, and lets new ones hang, until
    /// [`Link::restore`] (what was held back then arrives) or [`Link::cut`].
    ///
    /// # Errors
    /// When the link was cut before and the port cannot be listened on again.
    ///
    /// # Cancel safety
    /// Dropping the future may leave the link silent or not.
    pub async fn silence(&self) -> io::Result<()> {
        self.hold(true, true).await
    }

    /// As [`Link::silence`] for what clients send; what the server sends still arrives.
    ///
    /// # Errors
    /// As for [`Link::silence`].
    ///
    /// # Cancel safety
    /// As for [`Link::silence`].
    pub async fn silence_to_server(&self) -> io::Result<()> {
        self.hold(true, false).await
    }

    /// As [`Link::silence`] for what the server sends; what clients send still arrives, and the server does it.
    ///
    /// # Errors
    /// As for [`Link::silence`].
    ///
    /// # Cancel safety
    /// As for [`Link::silence`].
    pub async fn silence_to_client(&self) -> io::Result<()> {
        self.hold(false, true).await
    }

    /// Refuses new connections and lets those that exist go on, until [`Link::restore`].
    ///
    /// # Errors
    /// When the port could not be kept while nothing listens on it.
    ///
    /// # Cancel safety
    /// Dropping the future may leave the link refusing or not.
    pub async fn refuse(&self) -> io::Result<()> {
        self.change(Mode::Refusing).await
    }

    /// Makes the link whole again. Connections that were reset stay reset. Delays stay.
    ///
    /// # Errors
    /// When the link was cut before and the port cannot be listened on again.
    ///
    /// # Cancel safety
    /// Dropping the future may leave the link restored or not.
    pub async fn restore(&self) -> io::Result<()> {
        self.change(Mode::Open).await
    }

    /// Delays every byte by `delay` in each direction, from now on; zero ends it.
    pub fn delay(&self, delay: Duration) {
        self.state
            .send_modify(|state| (state.to_server, state.to_client) = (delay, delay));
    }

    /// Delays what clients send.
    pub fn delay_to_server(&self, delay: Duration) {
        self.state.send_modify(|state| state.to_server = delay);
    }

    /// Delays what the server sends.
    pub fn delay_to_client(&self, delay: Duration) {
        self.state.send_modify(|state| state.to_client = delay);
    }

    async fn hold(&self, to_server: bool, to_client: bool) -> io::Result<()> {
        self.change(Mode::Silent {
            to_server,
            to_client,
        })
        .await
    }

    async fn change(&self, mode: Mode) -> io::Result<()> {
        let gone = || io::Error::other("the task of the link has ended");
        let (done, outcome) = oneshot::channel();
        self.changes
            .send(Change { mode, done })
            .await
            .map_err(|_| gone())?;
        outcome.await.map_err(|_| gone())?
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.owner.abort();
    }
}

/// What holds the port: a listener, or while the link is cut or refuses a socket that is bound and does not listen, so that
/// connects are refused and nobody else gets the port.
enum Port {
    Listening(TcpListener),
    /// Without a socket connects are refused as well, but the port may be taken by others.
    Refusing(Option<TcpSocket>),
}

struct Owner {
    addr: SocketAddr,
    target: SocketAddr,
    state: watch::Sender<State>,
    watching: watch::Receiver<State>,
}

impl Owner {
    async fn run(self, listener: TcpListener, mut orders: mpsc::Receiver<Change>) {
        let mut connections = JoinSet::new();
        let mut port = Port::Listening(listener);
        loop {
            let accepted = async {
                match &port {
                    Port::Listening(listener) => listener.accept().await,
                    Port::Refusing(_) => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                order = orders.recv() => {
                    let Some(Change { mode, done }) = order else { return };
                    self.state.send_modify(|state| state.mode = mode);
                    if mode == Mode::Cut {
                        // Each connection sees the mode, resets both ends and finishes.
                        while connections.join_next().await.is_some() {}
                    }
                    let changed;
                    (port, changed) = self.turn(port, mode);
                    let _ = done.send(changed);
                }
                accepted = accepted => match accepted {
                    Ok((client, _)) => {
                        connections.spawn(carry(client, self.target, self.watching.clone()));
                    }
                    // Out of descriptors, most likely: wait for one to come back instead of spinning.
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }

    fn turn(&self, port: Port, mode: Mode) -> (Port, io::Result<()>) {
        match (port, mode) {
            (Port::Listening(listener), Mode::Cut | Mode::Refusing) => {
                drop(listener);
                match bind_again(self.addr) {
                    Ok(socket) => (Port::Refusing(Some(socket)), Ok(())),
                    Err(error) => (Port::Refusing(None), Err(error)),
                }
            }
            (Port::Refusing(socket), Mode::Open | Mode::Silent { .. }) => {
                let socket = socket.map_or_else(|| bind_again(self.addr), Ok);
                match socket.and_then(|socket| socket.listen(1024)) {
                    Ok(listener) => (Port::Listening(listener), Ok(())),
                    Err(error) => (Port::Refusing(None), Err(error)),
                }
            }
            (port, _) => (port, Ok(())),
        }
    }
}

/// A process that is being started has what is open here until it runs its program, the listener that was just closed included.
fn bind_again(addr: SocketAddr) -> io::Result<TcpSocket> {
    for _ in 0..500 {
        match bind(addr) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                std::thread::sleep(Duration::from_millis(1));
            }
            bound => return bound,
        }
    }
    bind(addr)
}

fn bind(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if addr.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // The port must be ours again while connections of before are still in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    Ok(socket)
}

/// Carries one connection until both directions have ended, one of them fails, or the link is cut.
async fn carry(mut client: TcpStream, target: SocketAddr, state: watch::Receiver<State>) {
    let server = async {
        wait_open(&mut state.clone(), Direction::ToServer).await;
        tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(target)).await
    };
    let mut server = tokio::select! {
        server = server => match server {
            Ok(Ok(server)) => server,
            // A refusal can only be shown as a reset: the client's connect has succeeded already.
            _ => return reset(client),
        },
        () = wait_cut(state.clone()) => return reset(client),
    };
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let ended = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let both = async {
            tokio::try_join!(
                pump(from_client, to_server, state.clone(), Direction::ToServer),
                pump(from_server, to_client, state.clone(), Direction::ToClient),
            )
        };
        tokio::select! {
            ended = both => ended.is_ok(),
            () = wait_cut(state.clone()) => false,
        }
    };
    if !ended {
        reset(client);
        reset(server);
    }
}

/// Closes with a reset instead of an orderly end.
fn reset(stream: TcpStream) {
    let _ = rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
}

/// Moves bytes one way, each after the delay that was set when it came.
async fn pump(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    state: watch::Receiver<State>,
    direction: Direction,
) -> io::Result<()> {
    let (queue, mut queued) = mpsc::channel::<(Instant, Option<Bytes>)>(IN_FLIGHT);
    let mut reading = state.clone();
    let read = async move {
        let mut buffer = vec![0; CHUNK];
        loop {
            wait_open(&mut reading, direction).await;
            let read = from.read(&mut buffer).await?;
            let delay = {
                let state = reading.borrow();
                match direction {
                    Direction::ToServer => state.to_server,
                    Direction::ToClient => state.to_client,
                }
            };
            let chunk = (read > 0).then(|| Bytes::copy_from_slice(&buffer[..read]));
            let end = chunk.is_none();
            if queue.send((Instant::now() + delay, chunk)).await.is_err() || end {
                return io::Result::Ok(());
            }
        }
    };
    let mut writing = state;
    let write = async move {
        while let Some((release, chunk)) = queued.recv().await {
            tokio::time::sleep_until(release).await;
            wait_open(&mut writing, direction).await;
            match chunk {
                Some(chunk) => to.write_all(&chunk).await?,
                None => return to.shutdown().await,
            }
        }
        Ok(())
    };
    tokio::try_join!(read, write).map(|_| ())
}

/// Returns when the link carries bytes that way. Never, if its owner is gone: then the connection is about to be aborted.
async fn wait_open(state: &mut watch::Receiver<State>, direction: Direction) {
    if state
        .wait_for(|state| state.mode.carries(direction))
        .await
        .is_err()
    {
        std::future::pending().await
    }
}

async fn wait_cut(mut state: watch::Receiver<State>) {
    if state
        .wait_for(|state| state.mode == Mode::Cut)
        .await
        .is_err()
    {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests;
