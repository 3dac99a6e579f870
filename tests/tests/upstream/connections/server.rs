//! An HTTP/1.1 server that counts its connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

#[derive(Debug, Default)]
pub(crate) struct Seen {
    accepted: AtomicUsize,
    open: AtomicUsize,
    most: AtomicUsize,
    requests: AtomicUsize,
}

impl Seen {
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// The most connections that were open at once.
    pub(crate) fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// Answers `/` with the number of the connection, `/hold` when the gate opens, and `/half` by halves around it.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    pub(crate) seen: Arc<Seen>,
    gate: watch::Sender<bool>,
    // Ends with the server.
    _accepting: JoinSet<()>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let seen = Arc::<Seen>::default();
        let (gate, watching) = watch::channel(false);
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, seen.clone(), watching));
        Self {
            addr,
            seen,
            gate,
            _accepting: accepting,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Lets those that are held go, from now on.
    pub(crate) fn open_gate(&self) {
        self.gate.send_replace(true);
    }

    pub(crate) fn close_gate(&self) {
        self.gate.send_replace(false);
    }
}

async fn accept(listener: TcpListener, seen: Arc<Seen>, gate: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let number = seen.accepted.fetch_add(1, Ordering::SeqCst) + 1;
        let open = seen.open.fetch_add(1, Ordering::SeqCst) + 1;
        seen.most.fetch_max(open, Ordering::SeqCst);
        let (seen, gate) = (seen.clone(), gate.clone());
        connections.spawn(async move {
            // Ends when the client closes or resets the connection.
            let _ = serve(stream, number, &seen, gate).await;
            seen.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

async fn serve(
    mut stream: TcpStream,
    number: usize,
    seen: &Seen,
    mut gate: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let mut read = Vec::new();
    loop {
        while !read.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut read).await? == 0 {
                return Ok(());
            }
        }
        seen.requests.fetch_add(1, Ordering::SeqCst);
        let head = String::from_utf8_lossy(&std::mem::take(&mut read)).into_owned();
        match head.split(' ').nth(1) {
            Some("/half") => {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nha")
                    .await?;
                hold(&mut stream, &mut gate).await?;
                stream.write_all(b"lf").await?;
                continue;
            }
            Some("/hold") => hold(&mut stream, &mut gate).await?,
            _ => {}
        }
        let body = number.to_string();
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(answer.as_bytes()).await?;
    }
}

async fn hold(stream: &mut TcpStream, gate: &mut watch::Receiver<bool>) -> std::io::Result<()> {
    let mut byte = [0];
    tokio::select! {
        _ = gate.wait_for(|open| *open) => Ok(()),
        _ = stream.read(&mut byte) => Err(std::io::ErrorKind::ConnectionAborted.into()),
    }
}
