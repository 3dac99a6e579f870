use std::sync::LazyLock;

use ha_core::sign::{Key, KeyRing};
use ha_db::causal::CausalLayer;
use ha_db::idempotency::IdempotencyLayer;
use ha_db::postgres::Router;
use ha_session::{MemoryStore, Session, SessionLayer};
use http::Request;
use tokio::runtime::{Builder, Handle, Runtime};

use super::both_are_counted;
use crate::laws::{Case, Shared, get};
use crate::subject::{Bed, Body, settle};

/// Where a router to nowhere looks for its nodes: beside the tests, whose time stands still.
static BESIDE: LazyLock<Runtime> = LazyLock::new(|| {
    let mut runtime = Builder::new_multi_thread();
    runtime.worker_threads(1).enable_all().build().unwrap()
});

/// A router whose only node refuses every connection.
pub(crate) fn router_to_nowhere() -> Router {
    let _beside = BESIDE.enter();
    let nowhere = "host=127.0.0.1 port=1 dbname=app user=app";
    Router::builder().node("nowhere", nowhere).build().unwrap()
}

fn keys() -> KeyRing {
    KeyRing::from(Key::from_bytes(&[7; 32]).unwrap())
}

/// Every request brings a token that is garbled.
pub(crate) fn causal() -> Case {
    fn garbled() -> Request<Body> {
        let mut request = get();
        let headers = request.headers_mut();
        headers.insert("x-ha-causal", "garbled".parse().unwrap());
        request
    }
    Case {
        request: garbled,
        shared: Some(|shared| Box::pin(both_are_counted(shared))),
        ..Case::new(|probe| {
            let layer = CausalLayer::header(keys());
            let counter = layer.clone();
            Bed::layer(probe, layer).counter(move || usize::try_from(counter.refused()).unwrap())
        })
    }
}

/// Requests without a key; a keyed one only where it says so, because it wants a database.
pub(crate) fn idempotency() -> Case {
    fn keyed() -> Request<Body> {
        let mut request = get();
        *request.method_mut() = http::Method::POST;
        let headers = request.headers_mut();
        headers.insert("idempotency-key", "\"k\"".parse().unwrap());
        request
    }
    /// The first keyed request starts the layer's only task.
    async fn one_task(mut shared: Shared<'_>) -> Result<bool, String> {
        let tasks = || Handle::current().metrics().num_alive_tasks();
        let none = tasks();
        let _ = shared.a.exchange(keyed()).await?;
        settle().await;
        let one = tasks();
        let _ = shared.b.exchange(keyed()).await?;
        settle().await;
        if one != none + 1 {
            return Err(format!("{none} tasks became {one}"));
        }
        Ok(tasks() == one)
    }
    Case {
        shared: Some(|shared| Box::pin(one_task(shared))),
        ..Case::new(|probe| Bed::layer(probe, IdempotencyLayer::new(router_to_nowhere())))
    }
}

/// The handler changes the session, so that every answer waits for a commit.
pub(crate) fn session() -> Case {
    Case {
        shared: Some(|shared| Box::pin(both_are_counted(shared))),
        ..Case::new(|probe| {
            probe.visit(|extensions| {
                let session = extensions.get::<Session>().unwrap();
                session.insert("visits", 1_u32).unwrap();
            });
            let store = MemoryStore::new();
            let counter = store.clone();
            Bed::layer(probe, SessionLayer::new(store, keys())).counter(move || counter.len())
        })
    }
}
