use std::convert::Infallible;

use bytes::Bytes;
use ha_tower::fallback::FallbackLayer;
use http::{Request, Response};
use http_body_util::Full;
use tower::{Layer, Service, service_fn};

async fn shop(_: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::default())
}

/// As a server or another layer would take it.
fn serve<R>(_: impl Service<R>) {}

fn main() {
    let failed = |result: Result<&Response<Full<Bytes>>, &Infallible>| {
        result.is_ok_and(|response| response.status() == 500)
    };
    let layer = FallbackLayer::answer(|_| async {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    })
    .when(failed)
    .build()
    .unwrap();
    // Not yes or no, but a reason or none.
    serve::<Request<Full<Bytes>>>(layer.layer(service_fn(shop)));
}
