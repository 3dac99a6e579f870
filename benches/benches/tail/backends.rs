//! Three servers that sleep and answer 64 bytes, on a thread of their own.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::thread::Thread;

static ANSWER: [u8; 64] = [b'.'; 64];

/// One server. It works on nothing, so that a slow one takes no processor time from the others.
#[derive(Debug)]
struct Backend {
    delay_us: AtomicU64,
    served: AtomicU64,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Backends {
    each: Vec<Arc<Backend>>,
    addresses: Vec<SocketAddr>,
    _thread: Thread,
}

impl Backends {
    pub(crate) fn start(count: usize, delay: Duration) -> std::io::Result<Self> {
        let mut each = Vec::new();
        let mut addresses = Vec::new();
        let mut listeners = Vec::new();
        for _ in 0..count {
            let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            listener.set_nonblocking(true)?;
            addresses.push(listener.local_addr()?);
            let backend = Arc::new(Backend {
                delay_us: AtomicU64::new(micros(delay)),
                served: AtomicU64::new(0),
            });
            listeners.push((listener, backend.clone()));
            each.push(backend);
        }
        let thread = Thread::start("backends", async move {
            let mut accepting = JoinSet::new();
            for (listener, backend) in listeners {
                accepting.spawn(accept(TcpListener::from_std(listener)?, backend));
            }
            Ok(accepting)
        })?;
        Ok(Self {
            each,
            addresses,
            _thread: thread,
        })
    }

    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub(crate) fn set_delay(&self, index: usize, delay: Duration) {
        self.each[index]
            .delay_us
            .store(micros(delay), Ordering::Relaxed);
    }

    /// How many requests each has answered so far.
    pub(crate) fn served(&self) -> Vec<u64> {
        self.each
            .iter()
            .map(|backend| backend.served.load(Ordering::Relaxed))
            .collect()
    }
}

fn micros(delay: Duration) -> u64 {
    u64::try_from(delay.as_micros()).unwrap_or(u64::MAX)
}

async fn accept(listener: TcpListener, backend: Arc<Backend>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let _ = stream.set_nodelay(true);
        let backend = backend.clone();
        connections.spawn(async move {
            let answer = service_fn(move |_: Request<hyper::body::Incoming>| {
                let backend = backend.clone();
                async move {
                    let delay = backend.delay_us.load(Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_micros(delay)).await;
                    backend.served.fetch_add(1, Ordering::Relaxed);
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(&ANSWER))))
                }
            });
            // A connection that breaks shows up at the client.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}
