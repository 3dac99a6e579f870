//! Users who write all the time, and remember what was acknowledged.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ha_session::Store;
use http::StatusCode;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::support::{Client, eventually};

/// A session is bounded, and so is what the writers write.
const MOST_WRITES: u32 = 3000;

/// Users who write one name after another until told to stop.
pub(crate) struct Writers {
    stop: watch::Sender<bool>,
    acknowledged: Vec<Arc<Mutex<Vec<u32>>>>,
    tasks: JoinSet<(Client, Arc<Mutex<Vec<u32>>>)>,
}

impl Writers {
    pub(crate) async fn start(store: &(impl Store + Clone), users: usize) -> Self {
        let stop = watch::Sender::new(false);
        let mut acknowledged = Vec::new();
        let mut tasks = JoinSet::new();
        for user in 0..users {
            let mut client = Client::new(store.clone());
            client.patient(&format!("/sign-in/user-{user}")).await;
            let (stop, done) = (stop.subscribe(), Arc::<Mutex<Vec<u32>>>::default());
            acknowledged.push(Arc::clone(&done));
            tasks.spawn(async move {
                for n in 0..MOST_WRITES {
                    if *stop.borrow() {
                        break;
                    }
                    let (status, _) = client.send(&format!("/set/{n}/x")).await;
                    if status == StatusCode::OK {
                        done.lock().unwrap().push(n);
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                (client, done)
            });
        }
        Self {
            stop,
            acknowledged,
            tasks,
        }
    }

    /// Waits until each user has had some more writes acknowledged.
    pub(crate) async fn progress(&self) {
        let count = |done: &Arc<Mutex<Vec<u32>>>| done.lock().unwrap().len();
        let before: Vec<_> = self.acknowledged.iter().map(count).collect();
        eventually("writes go on", async || {
            let now = self.acknowledged.iter().map(count);
            now.zip(&before).all(|(now, before)| now >= before + 5)
        })
        .await;
    }

    /// How many acknowledged writes are missing, and how many users are signed out.
    pub(crate) async fn lost_and_signed_out(self) -> (usize, usize) {
        self.stop.send_replace(true);
        let (mut lost, mut out) = (0, 0);
        for (mut client, done) in self.tasks.join_all().await {
            if !client.patient("/get/user").await.starts_with("user-") {
                out += 1;
            }
            let held = client.patient(&format!("/held/{MOST_WRITES}")).await;
            let held: HashSet<u32> = held.split(',').filter_map(|n| n.parse().ok()).collect();
            let done = done.lock().unwrap();
            lost += done.iter().filter(|n| !held.contains(n)).count();
        }
        (lost, out)
    }
}
