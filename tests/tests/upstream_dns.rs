//! Discovery by DNS against a name server on loopback whose answers the test decides.
#![allow(clippy::unwrap_used)]

mod upstream_app;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ha_tower::balance::RoundRobin;
use ha_tower::discover;
use ha_tower::upstream::Upstream;
use tokio::net::UdpSocket;
use upstream_app::{App, eventually, names};

#[derive(Clone)]
enum Answer {
    Addresses(Vec<Ipv4Addr>),
    NoSuchName,
    ServerFailure,
}

struct NameServer {
    addr: SocketAddr,
    answer: Arc<Mutex<Answer>>,
    asked: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl NameServer {
    async fn start(answer: Answer) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = socket.local_addr().unwrap();
        let answer = Arc::new(Mutex::new(answer));
        let asked = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(serve(socket, answer.clone(), asked.clone()));
        Self {
            addr,
            answer,
            asked,
            task,
        }
    }

    fn say(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    /// Until it was asked again after now, so that the last answer has been used.
    async fn asked_again(&self) {
        let before = self.asked.load(Ordering::Relaxed);
        eventually("the name is asked again", || {
            self.asked.load(Ordering::Relaxed) >= before + 2
        })
        .await;
    }
}

async fn serve(socket: UdpSocket, answer: Arc<Mutex<Answer>>, asked: Arc<AtomicU64>) {
    let mut query = [0; 512];
    while let Ok((len, from)) = socket.recv_from(&mut query).await {
        let answer = answer.lock().unwrap().clone();
        // RFC 1035 §4.1: twelve bytes of header, then the name as labels, type and class.
        let mut end = 12;
        while query[end] != 0 {
            end += usize::from(query[end]) + 1;
        }
        let question = &query[12..end + 5];
        let wants_v4 = query[end + 1..end + 3] == [0, 1];
        asked.fetch_add(u64::from(wants_v4), Ordering::Relaxed);
        let (code, addresses) = match answer {
            Answer::ServerFailure => (2, Vec::new()),
            Answer::NoSuchName => (3, Vec::new()),
            Answer::Addresses(addresses) => (0, if wants_v4 { addresses } else { Vec::new() }),
        };
        let mut reply = query[..2].to_vec();
        reply.extend([
            0x81,
            0x80 | code,
            0,
            1,
            0,
            addresses.len() as u8,
            0,
            0,
            0,
            0,
        ]);
        reply.extend(question);
        for address in addresses {
            // The name by reference, A, IN, a TTL of one second, four bytes.
            reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
            reply.extend(address.octets());
        }
        assert!(len > 12);
        socket.send_to(&reply, from).await.unwrap();
    }
}

/// Two apps on two addresses and one port, as behind one name.
async fn two_apps() -> (App, App) {
    loop {
        let one = App::start("one").await;
        let addr = SocketAddr::from(([127, 0, 0, 2], one.addr().port()));
        if let Ok(two) = App::start_at("two", addr).await {
            return (one, two);
        }
    }
}

fn upstream(server: &NameServer, port: u16) -> Upstream {
    let dns = discover::dns(format!("apps.test:{port}")).unwrap();
    Upstream::builder("apps")
        .discover(dns.nameserver(server.addr))
        .balance(RoundRobin)
        .build()
        .unwrap()
}

const ONE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const TWO: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

#[tokio::test]
async fn every_address_of_a_name_is_an_endpoint_and_changes_are_followed() {
    let (one, _two) = two_apps().await;
    let server = NameServer::start(Answer::Addresses(vec![ONE])).await;
    let upstream = upstream(&server, one.addr().port());
    tokio::time::timeout(Duration::from_secs(20), upstream.ready())
        .await
        .unwrap();
    assert_eq!(names(&upstream, 10).await["one"], 10);

    server.say(Answer::Addresses(vec![ONE, TWO]));
    eventually("there are two", || upstream.endpoints().len() == 2).await;
    let tally = names(&upstream, 10).await;
    assert_eq!((tally["one"], tally["two"]), (5, 5));

    server.say(Answer::Addresses(vec![TWO]));
    eventually("there is one", || upstream.endpoints().len() == 1).await;
    assert_eq!(names(&upstream, 10).await["two"], 10);
}

#[tokio::test]
async fn the_last_good_set_stays_while_dns_fails_or_answers_nothing() {
    let app = App::start("one").await;
    let server = NameServer::start(Answer::Addresses(vec![ONE])).await;
    let upstream = upstream(&server, app.addr().port());
    tokio::time::timeout(Duration::from_secs(20), upstream.ready())
        .await
        .unwrap();
    for answer in [
        Answer::Addresses(Vec::new()),
        Answer::NoSuchName,
        Answer::ServerFailure,
    ] {
        server.say(answer);
        server.asked_again().await;
        assert_eq!(names(&upstream, 10).await["one"], 10);
    }
}

#[tokio::test]
async fn a_start_without_dns_heals_when_dns_is_back() {
    let app = App::start("one").await;
    let server = NameServer::start(Answer::ServerFailure).await;
    let upstream = upstream(&server, app.addr().port());
    server.asked_again().await;
    assert_eq!(names(&upstream, 1).await["unavailable"], 1);
    server.say(Answer::Addresses(vec![ONE]));
    tokio::time::timeout(Duration::from_secs(20), upstream.ready())
        .await
        .unwrap();
    assert_eq!(names(&upstream, 10).await["one"], 10);
}
