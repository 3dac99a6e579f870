//! Notifications across the loss of the primary. Beside it a bare listener, which hears nothing and says nothing.
#![allow(clippy::unwrap_used)]

#[path = "polls/mod.rs"]
mod polls;

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use ha_db::notify::{Event, Missed, Subscription};
use ha_db::postgres::Router;
use ha_testbed::postgres::{Cluster, Postgres};
use tokio_postgres::{AsyncMessage, NoTls};

use crate::polls::{MOST_POLLS, cut_after};

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
                .capacity(usize::MAX),
            "must be from 1 to 1,000,000",
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

/// A wait that is given up takes nothing with it: what it would have delivered is delivered by the next one, in order.
#[tokio::test]
async fn a_wait_that_is_cut_loses_no_event() {
    let cluster = Postgres::primary().start().await.unwrap();
    let router = router(&cluster).await;
    let mut events = Subscription::builder(&router)
        .channel("Prices")
        .build()
        .unwrap();
    let first = Event::MayHaveMissed(Missed::Started);
    assert_eq!(next(&mut events).await, first);
    let client = cluster.nodes[0].client().await.unwrap();
    let (mut cut, mut sent, mut received) = (0, 0, 0);
    for turn in 0..MOST_POLLS {
        if sent < 60 {
            let sql = format!("NOTIFY \"Prices\", '{sent}'");
            client.batch_execute(&sql).await.unwrap();
            sent += 1;
        }
        let waited = tokio::time::timeout(DEADLINE, cut_after(turn % 3, events.next()));
        let event = match waited.await.expect("an event") {
            Some(event) => event.expect("never ends"),
            None => {
                cut += 1;
                if sent < 60 {
                    continue;
                }
                next(&mut events).await
            }
        };
        assert_eq!(event, heard(&received.to_string()));
        received += 1;
        if received == 60 {
            assert!(cut > 10, "{cut}");
            return;
        }
    }
    panic!("{received} of 60 were heard");
}

/// A reader that is behind when the primary is lost must not take the end of its own overflow for the moment to trust again.
#[tokio::test]
async fn who_overflows_while_nothing_is_heard_is_told_that_nothing_is() {
    let cluster = Postgres::primary().replicas(1).start().await.unwrap();
    let router = router(&cluster).await;
    let mut events = Subscription::builder(&router)
        .channel("Prices")
        .capacity(2)
        .build()
        .unwrap();
    assert_eq!(
        next(&mut events).await,
        Event::MayHaveMissed(Missed::Started)
    );
    for n in 0..10 {
        notify(&cluster, 0, &n.to_string()).await;
    }
    cluster.nodes[0].kill().await.unwrap();
    let end = Instant::now() + DEADLINE;
    while router.status().primary.is_some() {
        assert!(Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The reader begins to read while there is no primary.
    let mut trusts = true;
    let silence = Duration::from_secs(3);
    while let Ok(event) = tokio::time::timeout(silence, events.next()).await {
        trusts = event.unwrap() != Event::Interrupted;
    }
    assert!(!trusts, "the last word is that nothing is heard");
    cluster.promote(1).await.unwrap();
    assert!(matches!(
        next(&mut events).await,
        Event::MayHaveMissed(Missed::Overflow { .. } | Missed::Reconnected)
    ));
    notify(&cluster, 1, "after").await;
    assert_eq!(next(&mut events).await, heard("after"));
}
