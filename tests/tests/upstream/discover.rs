//! Sources of endpoints other than DNS, on real sockets and real files.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::app::{App, call, names};
use crate::events::{Told, upstream};
use crate::wait::eventually;
use futures_util::stream::{self, Stream};
use ha_core::endpoint::{Endpoint, EndpointError, Weight};
use ha_testbed::ports::Reservation;
use ha_tower::discover::gossip::{self, Node};
use ha_tower::discover::{self, Event};
use ha_tower::upstream::{Connections, Upstream};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tower::discover::Change;

/// The event, and an error with everything behind it.
fn words(event: &Event) -> String {
    let Event::Failed { error, kept } = event else {
        return format!("{event:?}");
    };
    let mut text = format!("{kept} kept: {error}");
    let mut inner = std::error::Error::source(error);
    while let Some(error) = inner {
        text = format!("{text}: {error}");
        inner = error.source();
    }
    text
}

fn keys(upstream: &Upstream) -> Vec<String> {
    let endpoints = upstream.endpoints();
    endpoints.iter().map(|e| e.key.to_string()).collect()
}

fn endpoints(urls: &[&str]) -> Vec<Endpoint> {
    urls.iter().map(|url| url.parse().unwrap()).collect()
}

/// A stream of what is sent.
fn sent<T: Send + 'static>() -> (mpsc::UnboundedSender<T>, impl Stream<Item = T> + Send) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let stream = stream::unfold(receiver, |mut receiver| async move {
        let item = receiver.recv().await?;
        Some((item, receiver))
    });
    (sender, stream)
}

#[tokio::test]
async fn a_stream_of_sets_is_followed_and_what_is_no_good_leaves_the_last_good_set() {
    let (sender, sets) = sent::<Result<Vec<Endpoint>, std::io::Error>>();
    let told = Told::default();
    let upstream = upstream(told.listen(discover::stream(sets), words));
    assert_eq!(keys(&upstream), [""; 0]);
    sender
        .send(Ok(endpoints(&["http://a", "http://b"])))
        .unwrap();
    eventually("the set is there", || keys(&upstream) == ["a:80", "b:80"]).await;

    let bad: [(_, &str); 4] = [
        (
            Ok(Vec::new()),
            "2 kept: the set of endpoints is refused: endpoints is empty",
        ),
        (
            Ok(endpoints(&["http://c", "http://c:80"])),
            "endpoints[1] repeats c:80",
        ),
        (Ok(endpoints(&["ftp://c:21"])), "the scheme \"ftp\""),
        (
            Err(std::io::Error::other("registry is gone")),
            "registry is gone",
        ),
    ];
    for (set, words) in bad {
        sender.send(set).unwrap();
        told.hear(words).await;
        assert_eq!(keys(&upstream), ["a:80", "b:80"], "{words}");
    }
    let mut changed = endpoints(&["http://b", "http://c"]);
    changed[0].weight = Weight::ZERO;
    sender.send(Ok(changed)).unwrap();
    eventually("the set is another", || keys(&upstream) == ["b:80", "c:80"]).await;
    told.hear("added: [EndpointKey(\"c:80\")], removed: [EndpointKey(\"a:80\")], changed: [EndpointKey(\"b:80\")], total: 2")
        .await;

    drop(sender);
    told.hear("Ended { kept: 2 }").await;
    assert_eq!(keys(&upstream), ["b:80", "c:80"]);
}

#[tokio::test]
async fn weight_0_for_all_is_the_way_to_take_every_endpoint_out() {
    let app = App::start("one").await;
    let (sender, sets) = sent::<Vec<Endpoint>>();
    let upstream = upstream(discover::stream(sets));
    let endpoint: Endpoint = app.url().parse().unwrap();
    sender.send(vec![endpoint.clone()]).unwrap();
    eventually("it is there", || upstream.endpoints().len() == 1).await;
    assert_eq!(names(&upstream, 3).await["one"], 3);
    sender
        .send(vec![endpoint.with_weight(Weight::ZERO)])
        .unwrap();
    eventually("it has no weight", || upstream.endpoints()[0].weight == 0).await;
    assert_eq!(names(&upstream, 3).await["unavailable"], 3);
}

#[tokio::test]
async fn a_stream_that_panics_or_never_pauses_costs_neither_the_set_nor_the_thread() {
    let told = Told::default();
    let good = stream::iter([endpoints(&["http://a"])]);
    let panics = stream::once(async { panic!("a bug in a source") });
    let source = discover::stream(futures_util::StreamExt::chain(good, panics));
    let source = source.on_event(|_| panic!("a bug in a listener"));
    let upstream_of_panic = upstream(told.listen(source, words));
    told.hear("1 kept: the source of endpoints panicked").await;
    assert_eq!(keys(&upstream_of_panic), ["a:80"]);

    // On a runtime with one thread: if it never paused, nothing after it would run.
    let endless = stream::repeat_with(|| endpoints(&["http://a"]));
    let upstream_of_endless = upstream(discover::stream(endless));
    let failing = stream::repeat_with(|| Err::<Vec<Endpoint>, _>("never works"));
    let _upstream_of_failing = upstream(discover::stream(failing));
    eventually("it is there", || keys(&upstream_of_endless) == ["a:80"]).await;
}

type Sent = Result<Change<u32, &'static str>, &'static str>;

#[tokio::test]
async fn any_discover_of_tower_is_followed() {
    let (sender, changes) = sent::<Sent>();
    let told = Told::default();
    let make = |key: &u32, url: &'static str| {
        Ok::<_, EndpointError>(url.parse::<Endpoint>()?.with_key(format!("app-{key}")))
    };
    let upstream = upstream(told.listen(discover::tower(Box::pin(changes), make), words));
    sender.send(Ok(Change::Insert(1, "http://a"))).unwrap();
    sender.send(Ok(Change::Insert(2, "http://b"))).unwrap();
    eventually("both are there", || keys(&upstream) == ["app-1", "app-2"]).await;

    sender.send(Ok(Change::Insert(2, "no address"))).unwrap();
    told.hear("\"no address\"").await;
    sender.send(Err("lost its server")).unwrap();
    told.hear("lost its server").await;
    assert_eq!(keys(&upstream), ["app-1", "app-2"]);

    sender.send(Ok(Change::Remove(1))).unwrap();
    eventually("one is gone", || keys(&upstream) == ["app-2"]).await;
    sender.send(Ok(Change::Remove(2))).unwrap();
    told.hear("1 kept: the set of endpoints is refused: endpoints is empty")
        .await;
    assert_eq!(keys(&upstream), ["app-2"]);
    sender.send(Ok(Change::Insert(3, "http://c"))).unwrap();
    eventually("another is there", || keys(&upstream) == ["app-3"]).await;
}

#[tokio::test]
async fn a_replacement_by_tower_does_not_pass_through_an_empty_set() {
    let changes = [
        Change::Insert(1, "http://a"),
        Change::Remove(1),
        Change::Insert(2, "http://b"),
    ];
    let changes = stream::iter(changes.map(Ok::<_, Infallible>));
    let told = Told::default();
    let make = |_: &u32, url: &'static str| url.parse::<Endpoint>();
    let upstream = upstream(told.listen(discover::tower(changes, make), words));
    told.hear("Ended { kept: 1 }").await;
    assert_eq!(keys(&upstream), ["b:80"]);
    assert!(told.all()[0].contains("total: 1"));
}

/// A directory of its own, gone with the value.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("ha-discover-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        // Nothing depends on it.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const FAST: Duration = Duration::from_millis(20);

fn toml(hosts: &[&str]) -> String {
    let entry = |host: &&str| format!("[[endpoints]]\naddress = \"http://{host}\"\n");
    hosts.iter().map(entry).collect()
}

fn follow_file(path: &Path, told: &Told) -> Upstream {
    let file = discover::file(path).unwrap().interval(FAST).unwrap();
    upstream(told.listen(file, words))
}

#[tokio::test]
async fn a_file_is_followed_when_it_is_written_replaced_or_reached_by_another_link() {
    let dir = Dir::new("followed");
    let (path, told) = (dir.path("apps.toml"), Told::default());
    std::fs::write(&path, toml(&["a"])).unwrap();
    let upstream = follow_file(&path, &told);
    assert_eq!(keys(&upstream), ["a:80"], "the set is there at once");

    std::fs::write(&path, toml(&["a", "b"])).unwrap();
    eventually("it was written", || keys(&upstream).len() == 2).await;

    let beside = dir.path("new");
    std::fs::write(&beside, toml(&["c"])).unwrap();
    std::fs::rename(&beside, &path).unwrap();
    eventually("it was replaced", || keys(&upstream) == ["c:80"]).await;

    // As Kubernetes changes a ConfigMap: the file is a link through a link to a directory, and that one is swapped.
    for version in ["v1", "v2"] {
        std::fs::create_dir(dir.path(version)).unwrap();
        std::fs::write(dir.path(version).join("apps.toml"), toml(&[version])).unwrap();
    }
    std::os::unix::fs::symlink("v1", dir.path("current")).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("current/apps.toml", &path).unwrap();
    eventually("it is a link", || keys(&upstream) == ["v1:80"]).await;
    std::os::unix::fs::symlink("v2", dir.path("next")).unwrap();
    std::fs::rename(dir.path("next"), dir.path("current")).unwrap();
    eventually("the link was swapped", || keys(&upstream) == ["v2:80"]).await;
}

#[tokio::test]
async fn a_file_that_is_no_good_leaves_the_last_good_set_and_is_told_by_its_place() {
    let dir = Dir::new("bad");
    let (path, told) = (dir.path("apps.toml"), Told::default());
    let good = toml(&["a", "b"]);
    std::fs::write(&path, &good).unwrap();
    let upstream = follow_file(&path, &told);
    let half = &good[..good.len() - 4];
    let bad = [
        (half.to_owned(), "apps.toml:4:"),
        (
            String::new(),
            "apps.toml:1:1 is refused: endpoints is missing",
        ),
        (
            toml(&["a", "a:80"]),
            "apps.toml:3:1 is refused: endpoints[1] repeats the key a:80",
        ),
        (
            format!("{good}weight = 1000001\n"),
            "apps.toml:5:10 is refused: endpoints[1].weight is 1000001",
        ),
        (
            format!("{good}wait = 1\n"),
            "apps.toml:5:1 is refused: endpoints[1].wait is not a field",
        ),
        (
            "endpoints = []".to_owned(),
            "apps.toml:1:13 is refused: endpoints is empty",
        ),
    ];
    for (text, words) in bad {
        std::fs::write(&path, text).unwrap();
        told.hear(words).await;
        assert_eq!(keys(&upstream), ["a:80", "b:80"], "{words}");
    }
    std::fs::remove_file(&path).unwrap();
    told.hear("apps.toml cannot be read").await;
    assert_eq!(keys(&upstream), ["a:80", "b:80"]);
    std::fs::write(&path, &good).unwrap();
    told.hear("Recovered").await;
}

#[tokio::test]
async fn json_is_followed_as_well_and_a_file_may_come_later_than_the_process() {
    let app = App::start("one").await;
    let dir = Dir::new("later");
    let (path, told) = (dir.path("apps.json"), Told::default());
    assert!(discover::file(&path).is_err());
    let file = discover::File::unread(&path).unwrap().interval(FAST);
    let upstream = upstream(told.listen(file.unwrap(), words));
    told.hear("0 kept: discovery by file failed").await;
    let text = format!("{{\"endpoints\": [{{\"address\": \"{}\"}}]}}", app.url());
    std::fs::write(&path, text).unwrap();
    eventually("it is there", || keys(&upstream).len() == 1).await;
    assert_eq!(names(&upstream, 3).await["one"], 3);
}

/// Answers one request when it is told to, and says when the client has closed the connection.
struct OneConnection {
    listener: TcpListener,
    open: Option<TcpStream>,
}

impl OneConnection {
    async fn start() -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let open = None;
        (Self { listener, open }, url)
    }

    /// The head of the next request, on the connection that is open, else on a new one.
    async fn request(&mut self) {
        if self.open.is_none() {
            self.open = Some(self.listener.accept().await.unwrap().0);
        }
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.open.as_mut().unwrap().read_u8().await.unwrap());
        }
    }

    async fn answer(&mut self) {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone";
        self.open.as_mut().unwrap().write_all(answer).await.unwrap();
    }

    async fn closed(&mut self) {
        let mut byte = [0];
        let read = self.open.as_mut().unwrap().read(&mut byte);
        let read = tokio::time::timeout(Duration::from_secs(20), read).await;
        assert_eq!(read.unwrap().unwrap(), 0);
    }
}

/// Connections that close for another reason than being idle.
fn never_idle() -> Connections {
    Connections::default().idle_timeout(Duration::from_secs(3600))
}

#[tokio::test]
async fn a_removed_endpoint_finishes_what_is_in_flight_gets_nothing_new_and_its_connections_close()
{
    let (mut old, old_url) = OneConnection::start().await;
    let new = App::start("new").await;
    let (sender, sets) = sent::<Vec<Endpoint>>();
    let upstream = Upstream::builder("apps")
        .discover(discover::stream(sets))
        .attempt_timeout(Duration::from_secs(20))
        .connections(never_idle())
        .build()
        .unwrap();
    sender.send(endpoints(&[&old_url])).unwrap();
    eventually("the old one is there", || keys(&upstream).len() == 1).await;

    let request = || {
        let upstream = upstream.clone();
        tokio::spawn(async move {
            let response = call(&upstream, "/").await.unwrap();
            response.into_body().collect().await.unwrap().to_bytes()
        })
    };
    // Two requests on one connection: as long as the endpoint is there, its connections stay open between them.
    let first = request();
    old.request().await;
    old.answer().await;
    assert_eq!(first.await.unwrap(), "done");
    let in_flight = request();
    old.request().await;

    sender.send(endpoints(&[&new.url()])).unwrap();
    eventually("only the new one is there", || {
        keys(&upstream) == [new.authority()]
    })
    .await;
    assert_eq!(names(&upstream, 10).await["new"], 10);
    old.answer().await;
    assert_eq!(in_flight.await.unwrap(), "done");
    old.closed().await;
}

/// Loopback ports for nodes, held as long as this lives.
struct Ports(Reservation);

impl Ports {
    fn take() -> Self {
        Self(Reservation::take(4).unwrap())
    }

    fn addr(&self, index: usize) -> SocketAddr {
        ([127, 0, 0, 1], self.0.ports()[index]).into()
    }

    /// The first node is everybody's seed.
    fn node(&self, index: usize) -> gossip::Builder {
        Node::builder("shop", self.addr(index))
            .seeds([self.addr(0).to_string()])
            .interval(Duration::from_millis(50))
    }
}

#[tokio::test]
async fn edges_learn_the_apps_by_gossip_and_pick_a_draining_one_no_more() {
    let (ports, told) = (Ports::take(), Told::default());
    let (one, two) = (App::start("one").await, App::start("two").await);
    let edge = ports.node(0).join().await.unwrap();
    let upstream = upstream(told.listen(edge.source("catalog"), words));
    let announce = |index, app: &App| {
        let builder = ports
            .node(index)
            .announce("catalog", app.url().parse().unwrap());
        async move { builder.join().await.unwrap() }
    };
    let first = announce(1, &one).await;
    let _second = announce(2, &two).await;
    let stranger = Node::builder("another shop", ports.addr(3))
        .seeds([ports.addr(0).to_string()])
        .announce("catalog", "http://127.0.0.1:9".parse().unwrap());
    let stranger = stranger.join().await.unwrap();
    eventually("both are there", || upstream.endpoints().len() == 2).await;
    let tally = names(&upstream, 10).await;
    assert_eq!((tally["one"], tally["two"]), (5, 5));
    assert_eq!((edge.alive(), stranger.alive()), (3, 1));

    let heavier = one.url().parse::<Endpoint>().unwrap();
    let heavier = heavier.with_weight(Weight::new(4).unwrap());
    first.announce("catalog", heavier).await.unwrap();
    let weight = || {
        let endpoints = upstream.endpoints();
        let found = endpoints.iter().find(|e| e.key.as_str() == one.authority());
        found.map(|endpoint| endpoint.weight)
    };
    eventually("it is heavier", || weight() == Some(4)).await;

    first.drain().await;
    eventually("it has no weight", || weight() == Some(0)).await;
    assert_eq!(names(&upstream, 10).await["two"], 10);
    first.leave().await;
    eventually("it is gone", || upstream.endpoints().len() == 1).await;
}

#[tokio::test]
async fn a_node_that_dies_leaves_the_set_and_is_back_when_it_starts_again_but_the_last_one_stays() {
    let (ports, told) = (Ports::take(), Told::default());
    let edge = ports.node(0).join().await.unwrap();
    let upstream = upstream(told.listen(edge.source("catalog"), words));
    let app = |index: usize, url: &str| {
        let builder = ports.node(index).announce("catalog", url.parse().unwrap());
        async move { builder.join().await.unwrap() }
    };
    let first = app(1, "http://a").await;
    let second = app(2, "http://b").await;
    eventually("both are there", || keys(&upstream) == ["a:80", "b:80"]).await;

    drop(first);
    eventually("the dead one is gone", || keys(&upstream) == ["b:80"]).await;
    let first = app(1, "http://a2").await;
    eventually("it is back", || keys(&upstream) == ["a2:80", "b:80"]).await;

    drop(first);
    eventually("it is gone again", || keys(&upstream) == ["b:80"]).await;
    drop(second);
    told.hear("1 kept: the set of endpoints is refused: endpoints is empty")
        .await;
    assert_eq!(keys(&upstream), ["b:80"]);
}

#[tokio::test]
async fn a_node_lives_as_long_as_a_source_of_it_and_a_source_hears_when_it_leaves() {
    let (ports, told) = (Ports::take(), Told::default());
    let node = ports
        .node(0)
        .announce("catalog", "http://a".parse().unwrap());
    let node = node.join().await.unwrap();
    let upstream = upstream(told.listen(node.source("catalog"), words));
    let again = node.clone();
    drop(node);
    eventually("it hears itself", || keys(&upstream) == ["a:80"]).await;
    again.leave().await;
    told.hear("gossip has stopped").await;
    told.hear("Ended { kept: 1 }").await;
    // The port is free again.
    let node = ports.node(0).join().await.unwrap();
    let source = node.source("catalog");
    drop(node);
    let in_use = ports.node(0).join().await.unwrap_err();
    assert!(matches!(in_use, gossip::Error::Listen { .. }), "{in_use}");
    drop(source);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while let Err(error) = ports.node(0).join().await {
        assert!(tokio::time::Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
