use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ha_benches::at_once;
use tower::balance::p2c::Balance;
use tower::discover::ServiceList;
use tower::load::{CompleteOnResponse, PeakEwma, PendingRequests};
use tower::{BoxError, Service};

pub(crate) const NAME: &str = "tower";

pub(crate) type List<L> = Balance<ServiceList<Vec<L>>, ()>;

pub(crate) fn ewma<S: Copy + Service<()>>(n: usize, service: S) -> List<PeakEwma<S>>
where
    S::Error: Into<BoxError>,
{
    let each = |_| {
        let (rtt, decay_ns) = (Duration::from_millis(30), 1e10);
        PeakEwma::new(service, rtt, decay_ns, CompleteOnResponse::default())
    };
    Balance::new(ServiceList::new::<()>((0..n).map(each).collect()))
}

pub(crate) fn pending<S: Copy + Service<()>>(n: usize, service: S) -> List<PendingRequests<S>>
where
    S::Error: Into<BoxError>,
{
    let each = |_| PendingRequests::new(service, CompleteOnResponse::default());
    Balance::new(ServiceList::new::<()>((0..n).map(each).collect()))
}

/// Takes in what discovery has to say, and is then ready.
pub(crate) fn ready(balance: &mut impl Service<(), Error = BoxError>) {
    match balance.poll_ready(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(())) => {}
        _ => panic!("a service that does nothing is ready"),
    }
}

/// `poll_ready`, `call` and the response, in place.
pub(crate) fn call(balance: &mut impl Service<(), Error = BoxError>) {
    ready(balance);
    at_once(balance.call(())).unwrap();
}
