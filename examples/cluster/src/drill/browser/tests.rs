use super::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

/// What a server does with a request, by how many it has had.
#[derive(Debug, Clone, Copy)]
enum Reply {
    /// Answers and keeps the connection.
    Whole(&'static str),
    /// Reads the request and closes.
    Nothing,
    /// Answers less than it announces, and closes.
    Truncated,
}

struct Server {
    address: SocketAddr,
    /// Requests it has read.
    had: Arc<AtomicUsize>,
    /// The head of the last one.
    last: Arc<std::sync::Mutex<String>>,
    task: AbortHandle,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

const OK: Reply = Reply::Whole("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");

/// Answers the n-th request with the n-th reply, all later ones with the last.
async fn server(replies: &'static [Reply]) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (had, last) = (
        Arc::<AtomicUsize>::default(),
        Arc::<std::sync::Mutex<String>>::default(),
    );
    let (count, heard) = (Arc::clone(&had), Arc::clone(&last));
    let task = tokio::spawn(async move {
        loop {
            let Ok((mut stream, _)) = listener.accept().await else {
                return;
            };
            let mut request = Vec::new();
            let mut chunk = [0; 4096];
            // One connection at a time: the browser has no more.
            while let Ok(read @ 1..) = stream.read(&mut chunk).await {
                request.extend_from_slice(&chunk[..read]);
                let text = String::from_utf8_lossy(&request).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else {
                    continue;
                };
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: "));
                if body.len() < length.map_or(0, |length| length.parse().unwrap()) {
                    continue;
                }
                *heard.lock().unwrap() = head.to_owned();
                request.clear();
                let number = count.fetch_add(1, Ordering::SeqCst);
                match replies[number.min(replies.len() - 1)] {
                    Reply::Whole(text) => stream.write_all(text.as_bytes()).await.unwrap(),
                    Reply::Nothing => break,
                    Reply::Truncated => {
                        let text = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok";
                        stream.write_all(text).await.unwrap();
                        break;
                    }
                }
            }
        }
    });
    Server {
        address,
        had,
        last,
        task: task.abort_handle(),
    }
}

impl Server {
    fn had(&self) -> usize {
        self.had.load(Ordering::SeqCst)
    }
}

/// An address where nobody listens: the bound socket keeps it from others.
fn nobody() -> (SocketAddr, tokio::net::TcpSocket) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    (socket.local_addr().unwrap(), socket)
}

fn post() -> Ask {
    Ask::new(Method::POST, "/notes", serde_json::json!({ "text": "x" }))
}

#[tokio::test]
async fn the_next_address_is_taken_when_one_refuses_and_kept_to_afterwards() {
    let ((dead, _socket), alive) = (nobody(), server(&[OK]).await);
    let mut browser = Browser::new(vec![dead, alive.address], 0);
    for again in [1, 0] {
        let answer = browser.send(&Ask::get("/")).await.unwrap();
        assert_eq!((answer.status, answer.again), (StatusCode::OK, again));
    }
    drop(browser);
    // Even a request that must not be repeated: nothing of it was sent.
    let mut browser = Browser::new(vec![dead, alive.address], 0);
    assert_eq!(browser.send(&post()).await.unwrap().again, 1);
}

#[tokio::test]
async fn a_broken_answer_is_asked_for_again_elsewhere_only_when_that_is_safe() {
    for (ask, safe) in [
        (Ask::get("/"), true),
        (Ask::new(Method::PUT, "/mark", serde_json::json!({})), true),
        (post().key("k".to_owned()), true),
        (post(), false),
    ] {
        for reply in [&[Reply::Nothing], &[Reply::Truncated]] {
            let (broken, alive) = (server(reply).await, server(&[OK]).await);
            let mut browser = Browser::new(vec![broken.address, alive.address], 0);
            let sent = browser.send(&ask).await;
            assert_eq!(
                (broken.had(), alive.had()),
                (1, usize::from(safe)),
                "{ask:?} {reply:?}"
            );
            match sent {
                Ok(answer) => assert!(safe && answer.again == 1),
                Err(failed) => assert!(!safe && !failed.unsent && failed.again == 0),
            }
        }
    }
}

#[tokio::test]
async fn a_status_is_an_answer_whatever_it_says() {
    let unavailable = &[Reply::Whole("HTTP/1.1 503 x\r\ncontent-length: 0\r\n\r\n")];
    let (first, second) = (server(unavailable).await, server(&[OK]).await);
    let mut browser = Browser::new(vec![first.address, second.address], 0);
    let answer = browser.send(&Ask::get("/")).await.unwrap();
    assert_eq!(
        (answer.status.as_u16(), answer.again, second.had()),
        (503, 0, 0)
    );
}

#[tokio::test]
async fn a_kept_connection_that_died_costs_a_reconnect_and_not_the_address() {
    let server = server(&[OK, Reply::Nothing, OK]).await;
    let mut browser = Browser::new(vec![server.address], 0);
    assert_eq!(browser.send(&Ask::get("/")).await.unwrap().again, 0);
    assert_eq!(browser.send(&Ask::get("/")).await.unwrap().again, 1);
}

#[tokio::test]
async fn one_pass_over_the_addresses_and_no_more() {
    let (one, two) = (
        server(&[Reply::Nothing]).await,
        server(&[Reply::Nothing]).await,
    );
    let mut browser = Browser::new(vec![one.address, two.address], 1);
    let failed = browser.send(&Ask::get("/")).await.unwrap_err();
    assert_eq!(
        (one.had(), two.had(), failed.again, failed.unsent),
        (1, 1, 1, false)
    );

    let ((dead, _socket), (gone, _other)) = (nobody(), nobody());
    let failed = Browser::new(vec![dead, gone], 0)
        .send(&post())
        .await
        .unwrap_err();
    assert!(failed.unsent);
}

#[tokio::test]
async fn cookies_are_kept_replaced_ended_and_forgotten() {
    let server = server(&[
        Reply::Whole("HTTP/1.1 200 OK\r\nset-cookie: id=1; Path=/; HttpOnly\r\nset-cookie: causal=a=b\r\ncontent-length: 0\r\n\r\n"),
        Reply::Whole("HTTP/1.1 200 OK\r\nset-cookie: id=2; Path=/\r\ncontent-length: 0\r\n\r\n"),
        Reply::Whole("HTTP/1.1 200 OK\r\nset-cookie: id=; Max-Age=0\r\ncontent-length: 0\r\n\r\n"),
        OK,
    ])
    .await;
    let mut browser = Browser::new(vec![server.address], 0);
    for sent in [
        None,
        Some("causal=a=b; id=1"),
        Some("causal=a=b; id=2"),
        Some("causal=a=b"),
    ] {
        browser.send(&Ask::get("/")).await.unwrap();
        let head = server.last.lock().unwrap().clone();
        let cookie = head.lines().find_map(|line| line.strip_prefix("cookie: "));
        assert_eq!(cookie, sent, "{head}");
    }
    browser.forget();
    browser.send(&Ask::get("/")).await.unwrap();
    assert!(!server.last.lock().unwrap().contains("cookie:"));
}
