//! Discovery by DNS against a real name server on loopback whose answers the test decides.

use std::collections::{BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::app::{App, names};
use crate::events::{Told, upstream};
use crate::wait::eventually;
use ha_tower::discover::{self, Dns, Error, Event, LookupError};
use ha_tower::upstream::Upstream;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::proto::op::{Metadata, ResponseCode};
use hickory_server::proto::rr::rdata::{A, SRV};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::net::{TcpListener, UdpSocket};

/// What is said about one name and type. What nothing is said about has no records.
#[derive(Clone)]
enum Answer {
    Records(u32, Vec<RData>),
    Code(ResponseCode),
    Silence,
}

#[derive(Clone, Default)]
struct Zone {
    answers: Arc<Mutex<HashMap<(String, RecordType), Answer>>>,
    asked: Arc<Mutex<Vec<(String, RecordType, Instant)>>>,
}

#[async_trait::async_trait]
impl RequestHandler for Zone {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut to: R,
    ) -> ResponseInfo {
        let query = request.request_info().unwrap().query;
        let (name, kind) = (query.name().to_string(), query.query_type());
        let asked = (name.clone(), kind, Instant::now());
        self.asked.lock().unwrap().push(asked);
        let answer = self.answers.lock().unwrap().get(&(name, kind)).cloned();
        let mut head = Metadata::response_from_request(&request.metadata);
        head.authoritative = true;
        let records = match answer {
            None => Vec::new(),
            Some(Answer::Silence) => std::future::pending().await,
            Some(Answer::Code(code)) => {
                head.response_code = code;
                Vec::new()
            }
            Some(Answer::Records(ttl, data)) => data
                .into_iter()
                .map(|data| Record::from_rdata(query.name().into(), ttl, data))
                .collect(),
        };
        let response = MessageResponseBuilder::from_message_request(request);
        let none = || std::iter::empty::<&Record>();
        let response = response.build(head, records.iter(), none(), none(), none());
        to.send_response(response).await.unwrap()
    }
}

/// A running name server. It ends when this is dropped.
struct NameServer {
    addr: SocketAddr,
    zone: Zone,
    _server: Server<Zone>,
}

impl NameServer {
    async fn start() -> Self {
        let zone = Zone::default();
        let mut server = Server::new(zone.clone());
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let addr = udp.local_addr().unwrap();
            if let Ok(tcp) = TcpListener::bind(addr).await {
                break (udp, tcp);
            }
        };
        let addr = udp.local_addr().unwrap();
        server.register_socket(udp);
        server.register_listener(tcp, Duration::from_secs(5), 16);
        Self {
            addr,
            zone,
            _server: server,
        }
    }

    fn say(&self, name: &str, kind: RecordType, answer: Answer) {
        let mut answers = self.zone.answers.lock().unwrap();
        answers.insert((format!("{name}."), kind), answer);
    }

    fn addresses(&self, name: &str, ttl: u32, addresses: &[Ipv4Addr]) {
        let data = addresses.iter().map(|ip| RData::A(A(*ip))).collect();
        self.say(name, RecordType::A, Answer::Records(ttl, data));
    }

    fn services(&self, name: &str, records: &[(u16, u16, u16, &str)]) {
        let data = records.iter().map(|(priority, weight, port, target)| {
            let target = Name::from_ascii(target).unwrap();
            RData::SRV(SRV::new(*priority, *weight, *port, target))
        });
        self.say(name, RecordType::SRV, Answer::Records(1, data.collect()));
    }

    fn asked(&self, kind: RecordType) -> Vec<Instant> {
        let asked = self.zone.asked.lock().unwrap();
        let of_kind = asked.iter().filter(|(_, asked, _)| *asked == kind);
        of_kind.map(|(.., at)| *at).collect()
    }

    fn follow(&self, dns: Dns) -> Dns {
        dns.nameserver(self.addr)
            .refresh_between(Duration::from_millis(50), Duration::from_secs(300))
            .unwrap()
            .timeout(Duration::from_millis(500))
            .unwrap()
    }
}

fn words(event: &Event) -> String {
    match event {
        Event::Updated(change) => format!("updated to {}", change.total),
        Event::Failed { error, kept } => format!("{} with {kept} kept", reason(error)),
        Event::Recovered { .. } => "recovered".to_owned(),
        other => format!("{other:?}"),
    }
}

async fn hear_again(told: &Told, words: &str) {
    told.0.lock().unwrap().clear();
    told.hear(words).await;
}

fn reason(error: &Error) -> &'static str {
    match error {
        Error::Dns(error) if error.is_no_such_name() => "no such name",
        Error::Dns(error) if error.is_timeout() => "timeout",
        Error::Dns(LookupError::Empty { .. }) => "empty",
        Error::Dns(LookupError::Failed { .. }) => "failed",
        _ => "other",
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

async fn ready(upstream: &Upstream) {
    tokio::time::timeout(Duration::from_secs(20), upstream.ready())
        .await
        .unwrap();
}

const ONE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const TWO: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Everything a name server may say when it has nothing good to say.
fn bad_answers() -> [(Answer, &'static str); 4] {
    [
        (Answer::Records(1, Vec::new()), "empty"),
        (Answer::Code(ResponseCode::NXDomain), "no such name"),
        (Answer::Code(ResponseCode::ServFail), "failed"),
        (Answer::Silence, "timeout"),
    ]
}

#[tokio::test]
async fn every_address_of_a_name_is_an_endpoint_and_changes_are_followed() {
    let (one, _two) = two_apps().await;
    let server = NameServer::start().await;
    server.addresses("apps.test", 1, &[ONE]);
    let dns = discover::dns(format!("apps.test:{}", one.addr().port())).unwrap();
    let upstream = upstream(server.follow(dns));
    ready(&upstream).await;
    assert_eq!(names(&upstream, 10).await["one"], 10);

    server.addresses("apps.test", 1, &[ONE, TWO]);
    eventually("there are two", || upstream.endpoints().len() == 2).await;
    let tally = names(&upstream, 10).await;
    assert_eq!((tally["one"], tally["two"]), (5, 5));

    server.addresses("apps.test", 1, &[TWO]);
    eventually("there is one", || upstream.endpoints().len() == 1).await;
    assert_eq!(names(&upstream, 10).await["two"], 10);
}

#[tokio::test]
async fn the_last_good_set_stays_whatever_bad_answer_dns_gives_and_each_is_told() {
    let app = App::start("one").await;
    for (answer, reason) in bad_answers() {
        let server = NameServer::start().await;
        server.addresses("apps.test", 0, &[ONE]);
        let told = Told::default();
        let dns = discover::dns(format!("apps.test:{}", app.addr().port())).unwrap();
        let upstream = upstream(told.listen(server.follow(dns), words));
        ready(&upstream).await;
        for kind in [RecordType::A, RecordType::AAAA] {
            server.say("apps.test", kind, answer.clone());
        }
        hear_again(&told, &format!("{reason} with 1 kept")).await;
        assert_eq!(names(&upstream, 10).await["one"], 10, "{reason}");

        server.addresses("apps.test", 0, &[ONE]);
        server.say(
            "apps.test",
            RecordType::AAAA,
            Answer::Records(0, Vec::new()),
        );
        hear_again(&told, "recovered").await;
    }
}

#[tokio::test]
async fn a_resolver_that_replaces_its_set_on_every_answer_is_empty_after_each_of_them() {
    for (answer, reason) in bad_answers() {
        let server = NameServer::start().await;
        server.addresses("apps.test", 0, &[ONE]);
        let mut naive = Naive::new(server.addr);
        naive.refresh().await;
        assert_eq!(naive.set.len(), 1);
        for kind in [RecordType::A, RecordType::AAAA] {
            server.say("apps.test", kind, answer.clone());
        }
        naive.refresh().await;
        assert_eq!(naive.set.len(), 0, "{reason}");
    }
}

/// Takes each answer for the truth.
struct Naive {
    resolver: TokioResolver,
    set: Vec<std::net::IpAddr>,
}

impl Naive {
    fn new(server: SocketAddr) -> Self {
        let mut udp = ConnectionConfig::udp();
        udp.port = server.port();
        let server = NameServerConfig::new(server.ip(), true, vec![udp]);
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        let mut builder =
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        builder.options_mut().cache_size = 0;
        builder.options_mut().timeout = Duration::from_millis(200);
        Self {
            resolver: builder.build().unwrap(),
            set: Vec::new(),
        }
    }

    async fn refresh(&mut self) {
        let found = self.resolver.lookup_ip("apps.test.").await;
        self.set = found.map_or_else(|_| Vec::new(), |found| found.iter().collect());
    }
}

#[tokio::test]
async fn a_start_without_dns_heals_when_dns_is_back() {
    let app = App::start("one").await;
    let server = NameServer::start().await;
    server.say(
        "apps.test",
        RecordType::A,
        Answer::Code(ResponseCode::ServFail),
    );
    let told = Told::default();
    let dns = discover::dns(format!("apps.test:{}", app.addr().port())).unwrap();
    let upstream = upstream(told.listen(server.follow(dns), words));
    hear_again(&told, "failed with 0 kept").await;
    assert_eq!(names(&upstream, 1).await["unavailable"], 1);
    server.addresses("apps.test", 1, &[ONE]);
    ready(&upstream).await;
    assert_eq!(names(&upstream, 10).await["one"], 10);
}

#[tokio::test]
async fn a_server_that_fails_for_ipv6_alone_is_no_failure() {
    let app = App::start("one").await;
    let server = NameServer::start().await;
    server.addresses("apps.test", 0, &[ONE]);
    server.say(
        "apps.test",
        RecordType::AAAA,
        Answer::Code(ResponseCode::ServFail),
    );
    let told = Told::default();
    let dns = discover::dns(format!("apps.test:{}", app.addr().port())).unwrap();
    let upstream = upstream(told.listen(server.follow(dns), words));
    ready(&upstream).await;
    server.addresses("apps.test", 0, &[TWO]);
    eventually("the other one is there", || {
        upstream.endpoints()[0].address.contains("127.0.0.2")
    })
    .await;
    assert_eq!(told.all(), ["updated to 1", "updated to 1"]);
}

#[tokio::test]
async fn a_ttl_is_waited_for_and_one_of_0_is_no_flood() {
    for (ttl, shortest, least) in [(0, 300, 290), (2, 50, 1_900)] {
        let server = NameServer::start().await;
        server.addresses("apps.test", ttl, &[ONE]);
        let dns = discover::dns("apps.test:80").unwrap();
        let shortest = Duration::from_millis(shortest);
        let dns = server.follow(dns);
        let dns = dns.refresh_between(shortest, Duration::from_secs(300));
        let _upstream = upstream(dns.unwrap());
        eventually("it was asked three times", || {
            server.asked(RecordType::A).len() >= 3
        })
        .await;
        for pair in server.asked(RecordType::A).windows(2) {
            let gap = pair[1].duration_since(pair[0]);
            assert!(gap >= Duration::from_millis(least), "ttl {ttl}: {gap:?}");
        }
    }
}

#[tokio::test]
async fn srv_records_bring_ports_and_weights_and_weight_0_gets_nothing() {
    let apps = [
        App::start("heavy").await,
        App::start("light").await,
        App::start("drained").await,
    ];
    let [heavy, light, drained] = apps.each_ref().map(|app| app.addr().port());
    let server = NameServer::start().await;
    server.addresses("a.test", 1, &[ONE]);
    let name = "_http._tcp.apps.test";
    server.services(
        name,
        &[
            (10, 30, heavy, "a.test."),
            (10, 10, light, "a.test."),
            (10, 0, drained, "a.test."),
        ],
    );
    let upstream = upstream(server.follow(discover::srv(name).unwrap()));
    ready(&upstream).await;
    let tally = names(&upstream, 40).await;
    assert_eq!((tally["heavy"], tally["light"]), (30, 10));
    assert_eq!(tally.get("drained"), None);
}

#[tokio::test]
async fn of_two_srv_priorities_the_lower_number_takes_everything_until_it_is_gone() {
    let apps = [App::start("standby").await, App::start("first").await];
    let [standby, first] = apps.each_ref().map(|app| app.addr().port());
    let server = NameServer::start().await;
    server.addresses("a.test", 1, &[ONE]);
    let name = "_http._tcp.apps.test";
    let both = [(2, 1, standby, "a.test."), (1, 1, first, "a.test.")];
    server.services(name, &both);
    let upstream = upstream(server.follow(discover::srv(name).unwrap()));
    ready(&upstream).await;
    let priorities: BTreeSet<_> = upstream.endpoints().iter().map(|e| e.priority).collect();
    assert_eq!(priorities, [1, 2].into());
    assert_eq!(names(&upstream, 40).await, [("first".into(), 40)].into());

    // At the same priority both take their turn.
    let equal = both.map(|(_, weight, port, target)| (1, weight, port, target));
    server.services(name, &equal);
    eventually("the priorities are equal", || {
        upstream.endpoints().iter().all(|e| e.priority == 1)
    })
    .await;
    let tally = names(&upstream, 40).await;
    assert_eq!((tally["first"], tally["standby"]), (20, 20));
}

#[tokio::test]
async fn a_target_that_cannot_be_looked_up_keeps_its_addresses_while_the_others_change() {
    let (one, two) = two_apps().await;
    let server = NameServer::start().await;
    let name = "_http._tcp.apps.test";
    let (first, second) = (one.addr().port(), two.addr().port());
    server.services(name, &[(1, 1, first, "a.test."), (1, 1, second, "b.test.")]);
    server.addresses("a.test", 0, &[ONE]);
    server.addresses("b.test", 0, &[TWO]);
    let told = Told::default();
    let upstream = upstream(told.listen(server.follow(discover::srv(name).unwrap()), words));
    eventually("both are there", || upstream.endpoints().len() == 2).await;

    server.say(
        "a.test",
        RecordType::A,
        Answer::Code(ResponseCode::ServFail),
    );
    hear_again(&told, "failed with 2 kept").await;
    server.addresses("b.test", 0, &[Ipv4Addr::new(127, 0, 0, 3)]);
    let addresses = || {
        let endpoints = upstream.endpoints();
        endpoints
            .iter()
            .map(|e| e.address.clone())
            .collect::<Vec<_>>()
    };
    eventually("the other target has moved", || {
        addresses().contains(&format!("http://127.0.0.3:{second}"))
    })
    .await;
    assert!(addresses().contains(&format!("http://127.0.0.1:{first}")));
}

#[tokio::test]
async fn srv_records_that_fail_or_say_that_there_is_no_service_leave_the_set() {
    let app = App::start("one").await;
    let name = "_http._tcp.apps.test";
    let root = SRV::new(0, 0, 0, Name::root());
    let none = Answer::Records(1, vec![RData::SRV(root)]);
    let bad = bad_answers().into_iter().chain([(none, "empty")]);
    for (answer, reason) in bad {
        let server = NameServer::start().await;
        server.addresses("a.test", 1, &[ONE]);
        server.services(name, &[(1, 1, app.addr().port(), "a.test.")]);
        let told = Told::default();
        let upstream = upstream(told.listen(server.follow(discover::srv(name).unwrap()), words));
        ready(&upstream).await;
        server.say(name, RecordType::SRV, answer);
        hear_again(&told, &format!("{reason} with 1 kept")).await;
        assert_eq!(names(&upstream, 10).await["one"], 10, "{reason}");
    }
}

#[tokio::test]
async fn asking_ends_with_the_last_clone_of_the_upstream() {
    let server = NameServer::start().await;
    server.addresses("apps.test", 0, &[ONE]);
    let told = Told::default();
    let dns = discover::dns("apps.test:80").unwrap();
    let upstream = upstream(told.listen(server.follow(dns), words));
    let clone = upstream.clone();
    drop(upstream);
    ready(&clone).await;
    let before = server.asked(RecordType::A).len();
    eventually("a clone is enough", || {
        server.asked(RecordType::A).len() > before
    })
    .await;
    drop(clone);
    // The listener belongs to the task.
    eventually("the task is gone", || Arc::strong_count(&told.0) == 1).await;
}
