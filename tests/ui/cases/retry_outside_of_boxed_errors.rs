use bytes::Bytes;
use ha_tower::retry::RetryLayer;
use http::{Request, Response};
use http_body_util::Full;
use tower::{BoxError, Layer, Service, service_fn};

/// As a server or another layer would take it.
fn serve<R>(_: impl Service<R>) {}

fn main() {
    let client = service_fn(|_| async { Ok::<_, BoxError>(Response::new(Full::<Bytes>::default())) });
    // Whether it was sent can be read from an error and not from a box: `map_err(Boxed::from)` makes one of it.
    serve::<Request<Full<Bytes>>>(RetryLayer::http().layer(client));
}
