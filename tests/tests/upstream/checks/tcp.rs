use ha_testbed::redis::Redis;
use tokio::net::TcpListener;

use super::*;

#[tokio::test]
async fn tcp_checks_open_a_connection_and_look_for_bytes() {
    let pong = || {
        play(|mut stream| async move {
            let mut asked = [0; 4];
            if stream.read_exact(&mut asked).await.is_ok() && &asked == b"ping" {
                let _ = stream.write_all(b"oh, pong").await;
            }
            let _ = stream.read_to_end(&mut Vec::new()).await;
        })
    };
    let connect = || patient(Tcp::connect());
    let no_pong = "the answer does not contain \"pong\"";
    for (server, check, state, reason) in [
        (silent(), connect(), State::Passing, "Passed"),
        (
            pong(),
            connect().send("ping").expect("pong"),
            State::Passing,
            "Passed",
        ),
        (
            says("220 hello"),
            connect().send("\r\n\r\n").expect("220"),
            State::Passing,
            "Passed",
        ),
        (
            says("no"),
            connect().send("\r\n\r\n").expect("pong"),
            State::Failing,
            no_pong,
        ),
        (
            never_ends("", "no pun, no pin", Duration::ZERO),
            connect().send("\r\n\r\n").expect("pong"),
            State::Failing,
            "the answer has more than 65536 bytes",
        ),
        (
            pong(),
            Tcp::connect().interval(SHORT).expect("pong"),
            State::Failing,
            "the check was not over within 300ms",
        ),
    ] {
        let found = verdict(server, check).await;
        assert_eq!(found, (state, reason.to_owned()));
    }
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_is_a_connect_failure() {
    let addr = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let url = format!("http://{addr}");
    let check = patient(Tcp::connect()).start(Start::FirstPass);
    let found = Watched::start(&url, check).next().await;
    assert_eq!(found, (State::Failing, format!("no connection to {addr}")));
}

#[tokio::test]
async fn a_frozen_server_is_failing_after_fall_although_its_kernel_still_accepts() {
    let redis = Redis::single().start().await.unwrap();
    let node = &redis.nodes[0];
    let url = format!("http://{}", node.addr());
    let often = |check: Check<Tcp>| check.interval(SHORT).transition_interval(DRIP);
    let mut asks = Watched::start(&url, often(Tcp::connect().send("PING\r\n").expect("+PONG")));
    let mut merely_connects = Watched::start(&url, often(Tcp::connect()));
    let passed = (State::Passing, "Passed".to_owned());
    assert_eq!(asks.next().await, passed);
    assert_eq!(merely_connects.next().await, passed);
    node.freeze().unwrap();
    let late = "the check was not over within 300ms";
    assert_eq!(asks.next().await, (State::Failing, late.to_owned()));
    assert!(
        merely_connects.events.try_recv().is_err(),
        "the naive check sees nothing"
    );
    node.thaw().unwrap();
    assert_eq!(asks.next().await, passed);
}
