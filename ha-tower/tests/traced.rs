//! What is told through `tracing`, under the documented names.
#![cfg(feature = "tracing")]
#![allow(clippy::unwrap_used)]

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use ha_tower::{discover, upstream::Upstream};
use http::Request;
use http_body_util::Empty;
use tower::ServiceExt as _;
use tracing::instrument::WithSubscriber as _;
use tracing_subscriber::fmt::format::FmtSpan;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What stands in the log after one request that nobody answers.
async fn logged(level: tracing::Level) -> String {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_span_events(FmtSpan::CLOSE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    async {
        let upstream = Upstream::builder("shop")
            // Port 1 is nobody's.
            .discover(discover::fixed(["http://127.0.0.1:1"]).unwrap())
            .build()
            .unwrap();
        let request = Request::get("/").body(Empty::<Bytes>::new()).unwrap();
        assert!(upstream.oneshot(request).await.unwrap_err().is_connect());
    }
    .with_subscriber(subscriber)
    .await;
    let bytes = log.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn each_attempt_is_a_debug_span_that_names_the_upstream_and_the_endpoint() {
    let text = logged(tracing::Level::DEBUG).await;
    let span = r#"attempt{upstream="shop" endpoint=127.0.0.1:1}"#;
    assert!(text.contains(span), "{text}");
    let text = logged(tracing::Level::INFO).await;
    assert!(!text.contains("attempt{"), "{text}");
}
