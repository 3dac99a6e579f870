use std::sync::{Arc, Mutex};
use std::time::Duration;

use tower::{Layer as _, Service as _, ServiceExt as _};
use tower_test::mock;

use super::*;
use crate::balance::{Any, Verdict};

mod calls;
mod classified;
mod events;
mod http_form;
mod per_endpoint;
mod readiness;

type Mock = mock::Mock<(), ()>;

const SEC: Duration = Duration::from_secs(1);

struct Bed {
    service: CircuitBreaker<Mock>,
    handle: Handle,
    inner: mock::Handle<(), ()>,
    told: Arc<Mutex<Vec<Event>>>,
}

impl Bed {
    fn new(config: Config) -> Self {
        let (mock, inner) = mock::pair();
        let told = Arc::new(Mutex::new(Vec::new()));
        let listener = told.clone();
        let layer = BreakerLayer::builder("bed")
            .config(config)
            .on_event(move |event| listener.lock().unwrap().push(*event))
            .build()
            .unwrap();
        Self {
            service: layer.layer(mock),
            handle: layer.handle(),
            inner,
            told,
        }
    }

    /// One call that the service answers after `wait`.
    async fn call(&mut self, wait: Duration, good: bool) -> Result<(), Error> {
        let call = tokio::spawn(self.service.clone().oneshot(()));
        let ((), respond) = self.inner.next_request().await.unwrap();
        tokio::time::advance(wait).await;
        if good {
            respond.send_response(());
        } else {
            respond.send_error("broken");
        }
        call.await.unwrap()
    }

    async fn fail(&mut self, times: usize) {
        for _ in 0..times {
            let error = self.call(Duration::ZERO, false).await.unwrap_err();
            assert!(!error.is_open());
        }
    }

    async fn refused(&self) -> Error {
        let error = self.service.clone().oneshot(()).await.unwrap_err();
        assert!(error.is_open(), "{error:?}");
        error
    }

    fn state(&self) -> State {
        self.handle.snapshot().state
    }

    fn told(&self) -> Vec<Event> {
        std::mem::take(&mut *self.told.lock().unwrap())
    }
}
