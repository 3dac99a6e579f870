use std::convert::Infallible;
use std::time::Duration;

use ::metrics::set_default_local_recorder;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use tower::{Layer, ServiceExt, service_fn};

use crate::recorded::Recorded;
use crate::timeout::{DeadlineLayer, TimeoutLayer};

type Body = Empty<Bytes>;

#[tokio::test(start_paused = true)]
async fn what_is_late_refused_malformed_or_clamped_is_counted_by_side() {
    let kept = Recorded::default();
    let _guard = set_default_local_recorder(&kept);
    let slow = service_fn(|_: Request<Body>| async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok::<_, Infallible>(Response::new(Body::new()))
    });
    let server = DeadlineLayer::server().layer(slow);
    for told in ["10", "0", "0", "soon", "soon", "soon", "30001"] {
        let request = Request::get("/").header("x-ha-timeout-ms", told);
        let request = request.body(Body::new()).unwrap();
        server.oneshot(request).await.unwrap();
    }
    let client = TimeoutLayer::deadline(Duration::from_millis(10)).layer(slow);
    client.oneshot(Request::new(Body::new())).await.unwrap();
    let counted = [
        ("ha_deadline_clamped_total{side=server}", 1),
        ("ha_deadline_expired_total{side=client}", 1),
        ("ha_deadline_expired_total{side=server}", 1),
        ("ha_deadline_malformed_total{side=server}", 3),
        ("ha_deadline_refused_total{side=server}", 2),
    ];
    assert_eq!(kept.counters(), counted.map(|(name, n)| (name.into(), n)));
}
