//! Notifications across the loss of the primary. Beside it a bare listener, which hears nothing and says nothing.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use ha_db::notify::{Event, Missed, Subscription};
use ha_db::postgres::Router;
use ha_testbed::postgres::{Cluster, Postgres};
use tokio_postgres::{AsyncMessage, NoTls};

const DEADLINE: Duration = Duration::from_secs(60);

async fn router(cluster: &Cluster) -> Router {
    let mut builder = Router::builder();
    for (i, node) in cluster.nodes.iter().enumerate() {
        builder = builder.node(format!("n{i}"), node.conninfo());
    }
    let router = builder.build().unwrap();
    router.wait_primary(DEADLINE).await.unwrap();
    router
}

async fn next(events: &mut Subscription) -> Event {
    let next = tokio::time::timeout(DEADLINE, events.next()).await;
    next.expect("an event").expect("never ends")
}

async fn notify(cluster: &Cluster, node: usize, payload: &str) {
    let client = cluster.nodes[node].client().await.unwrap();
    let sql = format!("NOTIFY \"Prices\", '{payload}'");
    client.batch_execute(&sql).await.unwrap();
}

fn heard(payload: &str) -> Event {
    Event::Notification {
        channel: "Prices".into(),
        payload: payload.into(),
    }
}

/// What a bare connection hears, and whether it ended.
async fn bare(cluster: &Cluster) -> tokio::sync::mpsc::UnboundedReceiver<String> {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    let conninfo = cluster.nodes[0].conninfo();
    let (client, mut connection) = tokio_postgres::connect(&conninfo, NoTls).await.unwrap();
    tokio::spawn(async move {
        let _client = client;
        while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notification(note) = message {
                let _ = sender.send(note.payload().to_owned());
            }
        }
    });
    receiver
}

#[tokio::test]
async fn a_failover_is_announced_and_what_comes_after_it_is_heard() {
    let cluster = Postgres::primary().replicas(1).start().await.unwrap();
    let router = router(&cluster).await;
    let mut events = Subscription::builder(&router)
        .channel("Prices")
        .build()
        .unwrap();
    assert_eq!(
        next(&mut events).await,
        Event::MayHaveMissed(Missed::Started)
    );
    notify(&cluster, 0, "one").await;
    assert_eq!(next(&mut events).await, heard("one"));
    cluster.nodes[0].kill().await.unwrap();
    assert_eq!(next(&mut events).await, Event::Interrupted);
    cluster.promote(1).await.unwrap();
    assert_eq!(
        next(&mut events).await,
        Event::MayHaveMissed(Missed::Reconnected)
    );
    // Nothing that is committed after that event is missed.
    for n in 0..20 {
        notify(&cluster, 1, &n.to_string()).await;
    }
    for n in 0..20 {
        assert_eq!(next(&mut events).await, heard(&n.to_string()));
    }
}

#[tokio::test]
async fn a_frozen_primary_is_noticed_and_a_bare_listener_notices_nothing() {
    let cluster = Postgres::primary().replicas(1).start().await.unwrap();
    let router = router(&cluster).await;
    let mut events = Subscription::builder(&router)
        .channel("Prices")
        .check_interval(Duration::from_millis(200))
        .build()
        .unwrap();
    assert_eq!(
        next(&mut events).await,
        Event::MayHaveMissed(Missed::Started)
    );
    let mut control = bare(&cluster).await;
    cluster.nodes[0].freeze().unwrap();
    assert_eq!(next(&mut events).await, Event::Interrupted);
    cluster.promote(1).await.unwrap();
    assert_eq!(
        next(&mut events).await,
        Event::MayHaveMissed(Missed::Reconnected)
    );
    notify(&cluster, 1, "after").await;
    assert_eq!(next(&mut events).await, heard("after"));
    assert!(
        matches!(
            control.try_recv(),
            Err(tokio::sync::mpsc::error::TryRecvError::Empty)
        ),
        "control: still believes that it listens"
    );
    cluster.nodes[0].thaw().unwrap();
}

#[tokio::test]
async fn a_reader_that_is_too_slow_is_told_how_much_it_missed() {
    let cluster = Postgres::primary().start().await.unwrap();
    let router = router(&cluster).await;
    let mut events = Subscription::builder(&router)
        .channel("Prices")
        .capacity(4)
        .build()
        .unwrap();
    assert_eq!(
        next(&mut events).await,
        Event::MayHaveMissed(Missed::Started)
    );
    let client = cluster.nodes[0].client().await.unwrap();
    for n in 0..100 {
        let sql = format!("NOTIFY \"Prices\", '{n}'");
        client.batch_execute(&sql).await.unwrap();
    }
    let mut count = 0_u64;
    let mut dropped = 0;
    while count + dropped < 100 {
        match next(&mut events).await {
            Event::MayHaveMissed(Missed::Overflow { dropped: more }) => dropped += more,
            event if dropped == 0 => {
                assert_eq!(event, heard(&count.to_string()), "in order, before the gap");
                count += 1;
            }
            Event::Notification { .. } => count += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(
        dropped > 0 && count >= 4,
        "{count} heard, {dropped} dropped"
    );
    notify(&cluster, 0, "last").await;
    assert_eq!(next(&mut events).await, heard("last"));
}

#[tokio::test]
async fn dropped_it_leaves_no_connection_and_bad_settings_are_refused() {
    let cluster = Postgres::primary().start().await.unwrap();
    let router = router(&cluster).await;
    let client = cluster.nodes[0].client().await.unwrap();
    let listeners = async || -> i64 {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' OR query = 'SELECT pg_is_in_recovery()'";
        client.query_one(sql, &[]).await.unwrap().get(0)
    };
    let mut events = Subscription::builder(&router)
        .channel("a")
        .channel("b\"c")
        .build()
        .unwrap();
    assert_eq!(
        next(&mut events).await,
        Event::MayHaveMissed(Missed::Started)
    );
    assert_eq!(listeners().await, 1);
    client
        .batch_execute("NOTIFY \"b\"\"c\", 'x'")
        .await
        .unwrap();
    assert!(
        matches!(next(&mut events).await, Event::Notification { channel, .. } if channel == "b\"c")
    );
    drop(events);
    let end = Instant::now() + DEADLINE;
    while listeners().await > 0 {
        assert!(Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for (builder, part) in [
        (Subscription::builder(&router), "channel is not set"),
        (
            Subscription::builder(&router).channel(""),
            "channel is \"\"",
        ),
        (
            Subscription::builder(&router).channel("x".repeat(64)),
            "channel is \"xxx",
        ),
        (
            Subscription::builder(&router).channel("x").capacity(0),
            "capacity is 0",
        ),
        (
            Subscription::builder(&router)
                .channel("x")
                .check_interval(Duration::ZERO),
            "check_interval is 0ns",
        ),
    ] {
        let error = builder.build().unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}
