//! What logs and metrics show, and what they must not.

use std::io::Write;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ha_session::{Degraded, Session, SessionLayer};
use sha2::{Digest as _, Sha256};
use tracing::instrument::WithSubscriber as _;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::support::{Client, Probe, assert_unavailable, keys, routes};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn logs_name_a_session_by_a_keyed_hash_that_leads_nowhere() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_span_events(FmtSpan::FULL)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let (cookies, named) = async {
        let store = Probe::default();
        let name = async |session: Session| session.log_id().unwrap_or_default();
        let debug = async |session: Session| tracing::info!(?session, "shown");
        let routes = routes()
            .route("/name", get(name))
            .route("/debug", get(debug));
        let layer = SessionLayer::builder(store.clone(), keys(1))
            .degraded(Degraded::showing(["other"]))
            .build()
            .unwrap();
        let mut client = Client::with(routes, layer);
        client.text("/set/user/ann").await;
        client.text("/debug").await;
        let old = client.clone();
        client.text("/sign-in/ann").await;
        store.down.store(true, Ordering::SeqCst);
        client.ticket = None;
        assert_unavailable(client.send("/get/user").await).await;
        assert_unavailable(client.send("/set/user/bob").await).await;
        assert_unavailable(client.send("/sign-out").await).await;
        let name = client.text("/name").await;
        ([old.cookie.unwrap(), client.cookie.unwrap()], name)
    }
    .with_subscriber(subscriber)
    .await;

    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains("session state unknown"), "{text}");
    assert!(
        text.contains(&format!("session={named:?}")) || text.contains(&named),
        "{text}"
    );
    for cookie in cookies {
        let bytes = URL_SAFE_NO_PAD.decode(&cookie).unwrap();
        let id = &bytes[1..27];
        for secret in [
            cookie.clone(),
            hex(id),
            hex(&id[2..]),
            URL_SAFE_NO_PAD.encode(id),
            hex(&Sha256::digest(id)),
        ] {
            assert!(!text.contains(&secret), "{secret} in {text}");
        }
    }
}

#[cfg(feature = "metrics")]
mod counted {
    use std::collections::BTreeMap;
    use std::sync::atomic::AtomicU64;

    use metrics::{
        Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    };

    use super::*;

    #[derive(Default)]
    struct Recorded {
        counters: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
        histograms: Mutex<Vec<String>>,
    }

    fn name(key: &Key) -> String {
        let labels = key.labels();
        let mut labels: Vec<_> = labels
            .map(|label| format!("{}={}", label.key(), label.value()))
            .collect();
        labels.sort();
        format!("{}{{{}}}", key.name(), labels.join(","))
    }

    impl Recorder for Recorded {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            let mut counters = self.counters.lock().unwrap();
            Counter::from_arc(Arc::clone(counters.entry(name(key)).or_default()))
        }

        fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::noop()
        }

        fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
            self.histograms.lock().unwrap().push(name(key));
            Histogram::noop()
        }
    }

    #[test]
    fn every_answer_of_the_store_is_counted_by_outcome() {
        let recorded = Recorded::default();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        metrics::with_local_recorder(&recorded, || {
            runtime.block_on(async {
                let store = Probe::default();
                let layer = SessionLayer::builder(store.clone(), keys(1))
                    .degraded(Degraded::showing(["user"]))
                    .build()
                    .unwrap();
                let mut client = Client::with(routes(), layer);
                client.text("/set/user/ann").await;
                client.text("/get/user").await;
                store.down.store(true, Ordering::SeqCst);
                client.text("/get/user").await;
                assert_unavailable(client.send("/set/user/bob").await).await;
                store.down.store(false, Ordering::SeqCst);
                client.text("/sign-out").await;
            });
        });
        let counters = recorded.counters.lock().unwrap();
        let counters: Vec<_> = counters
            .iter()
            .map(|(name, n)| (name.as_str(), n.load(Ordering::SeqCst)))
            .collect();
        assert_eq!(
            counters,
            [
                ("ha_session_degraded_total{}", 1),
                ("ha_session_refused_total{status=503}", 1),
                (
                    "ha_session_store_total{operation=commit,outcome=committed}",
                    1
                ),
                (
                    "ha_session_store_total{operation=commit,outcome=unknown}",
                    1
                ),
                ("ha_session_store_total{operation=destroy,outcome=done}", 1),
                ("ha_session_store_total{operation=load,outcome=found}", 1),
                ("ha_session_store_total{operation=load,outcome=unknown}", 1),
            ]
        );
        let histograms = recorded.histograms.lock().unwrap();
        assert!(histograms.contains(&"ha_session_store_seconds{operation=load}".to_owned()));
    }
}
