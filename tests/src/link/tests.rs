use super::*;
use std::io::ErrorKind;
use tokio::time::timeout;

/// Far more than loopback needs; only a broken link makes a test wait this long.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long "nothing arrives" is watched for.
const NOTHING: Duration = Duration::from_millis(150);

/// Answers every byte with the same byte.
async fn echo() -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            connections.spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
                let _ = to.shutdown().await;
            });
        }
    });
    (addr, tasks)
}

async fn say(stream: &mut TcpStream, word: &[u8]) -> io::Result<()> {
    stream.write_all(word).await?;
    let mut answer = vec![0; word.len()];
    timeout(DEADLINE, stream.read_exact(&mut answer)).await??;
    assert_eq!(answer, word);
    Ok(())
}

#[tokio::test]
async fn bytes_pass_both_ways_and_so_does_the_end() {
    let (server, _tasks) = echo().await;
    let link = Link::to(server).await.unwrap();
    let mut stream = TcpStream::connect(link.addr()).await.unwrap();
    let sent: Vec<u8> = (0..1_000_000_u32).map(|i| i as u8).collect();
    let (mut from, mut to) = stream.split();
    let mut got = Vec::new();
    let (written, read) = tokio::join!(
        async {
            to.write_all(&sent).await?;
            to.shutdown().await
        },
        timeout(DEADLINE, from.read_to_end(&mut got)),
    );
    written.unwrap();
    read.unwrap().unwrap();
    assert!(
        got == sent,
        "{} bytes of {} came back",
        got.len(),
        sent.len()
    );
}

#[tokio::test]
async fn a_cut_resets_what_is_open_refuses_what_is_new_and_ends_with_restore() {
    let (server, _tasks) = echo().await;
    let link = Link::to(server).await.unwrap();
    let mut stream = TcpStream::connect(link.addr()).await.unwrap();
    say(&mut stream, b"before").await.unwrap();

    link.cut().await.unwrap();
    let broken = timeout(DEADLINE, stream.read(&mut [0; 8])).await.unwrap();
    assert_eq!(broken.unwrap_err().kind(), ErrorKind::ConnectionReset);
    let refused = TcpStream::connect(link.addr()).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    link.cut().await.unwrap();

    link.restore().await.unwrap();
    let mut stream = TcpStream::connect(link.addr()).await.unwrap();
    say(&mut stream, b"after").await.unwrap();
}

#[tokio::test]
async fn silence_keeps_connections_open_and_what_was_held_back_arrives() {
    let (server, _tasks) = echo().await;
    let link = Link::to(server).await.unwrap();
    let mut old = TcpStream::connect(link.addr()).await.unwrap();
    say(&mut old, b"before").await.unwrap();

    link.silence().await.unwrap();
    let mut new = TcpStream::connect(link.addr()).await.unwrap();
    old.write_all(b"held").await.unwrap();
    new.write_all(b"held").await.unwrap();
    let mut answer = [0; 4];
    for stream in [&mut old, &mut new] {
        assert!(
            timeout(NOTHING, stream.read_exact(&mut answer))
                .await
                .is_err(),
            "a byte passed"
        );
    }

    link.restore().await.unwrap();
    for stream in [&mut old, &mut new] {
        timeout(DEADLINE, stream.read_exact(&mut answer))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(&answer, b"held");
    }
}

#[tokio::test]
async fn a_silent_link_can_be_cut_and_a_cut_one_silenced() {
    let (server, _tasks) = echo().await;
    let link = Link::to(server).await.unwrap();
    link.silence().await.unwrap();
    let mut stream = TcpStream::connect(link.addr()).await.unwrap();
    link.cut().await.unwrap();
    let broken = timeout(DEADLINE, stream.read(&mut [0; 8])).await.unwrap();
    assert_eq!(broken.unwrap_err().kind(), ErrorKind::ConnectionReset);

    link.silence().await.unwrap();
    let mut stream = TcpStream::connect(link.addr()).await.unwrap();
    stream.write_all(b"held").await.unwrap();
    assert!(
        timeout(NOTHING, stream.read(&mut [0; 8])).await.is_err(),
        "a byte passed"
    );
}

#[tokio::test]
async fn a_delay_holds_each_direction_by_itself() {
    let (server, _tasks) = echo().await;
    let link = Link::to(server).await.unwrap();
    let mut stream = TcpStream::connect(link.addr()).await.unwrap();
    say(&mut stream, b"x").await.unwrap();
    let delay = Duration::from_millis(80);
    for (each_way, expected) in [
        ((delay, Duration::ZERO), delay),
        ((Duration::ZERO, delay), delay),
        ((delay, delay), delay * 2),
    ] {
        link.delay_to_server(each_way.0);
        link.delay_to_client(each_way.1);
        let start = Instant::now();
        say(&mut stream, b"x").await.unwrap();
        assert!(
            start.elapsed() >= expected,
            "{each_way:?} took {:?}",
            start.elapsed()
        );
    }
    link.delay(Duration::ZERO);
    say(&mut stream, b"x").await.unwrap();
}

#[tokio::test]
async fn a_delay_does_not_limit_the_throughput_to_one_chunk_per_delay() {
    let (server, _tasks) = echo().await;
    let link = Link::to(server).await.unwrap();
    link.delay(Duration::from_millis(100));
    let mut stream = TcpStream::connect(link.addr()).await.unwrap();
    // 64 chunks: one per delay would take 6.4 s each way.
    let sent = vec![7; 64 * CHUNK];
    let (mut from, mut to) = stream.split();
    let mut got = vec![0; sent.len()];
    let (written, read) = tokio::join!(
        to.write_all(&sent),
        timeout(Duration::from_secs(5), from.read_exact(&mut got)),
    );
    written.unwrap();
    read.expect("the chunks were serialised").unwrap();
}

#[tokio::test]
async fn a_server_that_is_not_there_shows_as_a_reset_and_may_come_later() {
    let (server, tasks) = echo().await;
    drop(tasks);
    // The task is aborted, not joined: the port is free once connects are refused.
    let gone = async { while TcpStream::connect(server).await.is_ok() {} };
    timeout(DEADLINE, gone).await.unwrap();
    let link = Link::to(server).await.unwrap();
    let mut stream = TcpStream::connect(link.addr()).await.unwrap();
    let broken = timeout(DEADLINE, stream.read(&mut [0; 8])).await.unwrap();
    assert_eq!(broken.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn dropping_the_link_frees_the_port_and_ends_its_connections() {
    let (server, _tasks) = echo().await;
    let link = Link::to(server).await.unwrap();
    let addr = link.addr();
    let mut stream = TcpStream::connect(addr).await.unwrap();
    say(&mut stream, b"x").await.unwrap();
    drop(link);
    let ended = timeout(DEADLINE, stream.read(&mut [0; 8])).await.unwrap();
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    let free = async { while TcpStream::connect(addr).await.is_ok() {} };
    timeout(DEADLINE, free).await.unwrap();
}

/// Both ends of one connection through a link.
async fn ends() -> (Link, TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let link = Link::to(listener.local_addr().unwrap()).await.unwrap();
    let client = TcpStream::connect(link.addr()).await.unwrap();
    let (server, _) = timeout(DEADLINE, listener.accept()).await.unwrap().unwrap();
    (link, client, server)
}

async fn hears(stream: &mut TcpStream, limit: Duration) -> Option<u8> {
    let read = timeout(limit, stream.read_u8()).await.ok()?;
    Some(read.unwrap())
}

#[tokio::test]
async fn a_link_silenced_one_way_carries_the_other_way_and_keeps_what_it_held_back() {
    for to_server in [true, false] {
        let (link, mut client, mut server) = ends().await;
        let (held, free) = if to_server {
            link.silence_to_server().await.unwrap();
            (&mut client, &mut server)
        } else {
            link.silence_to_client().await.unwrap();
            (&mut server, &mut client)
        };
        held.write_u8(1).await.unwrap();
        free.write_u8(2).await.unwrap();
        assert_eq!(hears(held, DEADLINE).await, Some(2));
        assert_eq!(hears(free, NOTHING).await, None, "to server: {to_server}");
        link.restore().await.unwrap();
        assert_eq!(hears(free, DEADLINE).await, Some(1));
    }
}

#[tokio::test]
async fn a_link_that_refuses_keeps_what_is_open_and_takes_nothing_new() {
    let (server, _tasks) = echo().await;
    let link = Link::to(server).await.unwrap();
    let mut open = TcpStream::connect(link.addr()).await.unwrap();
    say(&mut open, b"before").await.unwrap();
    link.refuse().await.unwrap();
    say(&mut open, b"still").await.unwrap();
    let refused = TcpStream::connect(link.addr()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    link.restore().await.unwrap();
    let mut new = TcpStream::connect(link.addr()).await.unwrap();
    say(&mut new, b"again").await.unwrap();
    say(&mut open, b"too").await.unwrap();
}
