//! Users who change their session, look whether everything acknowledged is there, and complain.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::header::{COOKIE, SET_COOKIE};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::DEADLINE;

/// Names that one user writes at most.
const MOST: usize = 200;

pub(crate) struct Users {
    tasks: JoinSet<()>,
    steps: Vec<Arc<AtomicUsize>>,
    complaints: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
}

impl Users {
    pub(crate) fn start(port: u16, count: usize) -> Self {
        let mut users = Self {
            tasks: JoinSet::new(),
            steps: Vec::new(),
            complaints: Arc::default(),
            stop: Arc::default(),
        };
        for n in 0..count {
            let steps = Arc::new(AtomicUsize::new(0));
            users.steps.push(Arc::clone(&steps));
            let (complaints, stop) = (Arc::clone(&users.complaints), Arc::clone(&users.stop));
            users.tasks.spawn(async move {
                let mut user = User::new(port);
                for name in 0..MOST {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    if let Err(complaint) = user.step(name).await {
                        complaints
                            .lock()
                            .unwrap()
                            .push(format!("user {n}: {complaint}"));
                        // A session that is lost once would be complained about with every step.
                        steps.store(usize::MAX / 2, Ordering::SeqCst);
                        return;
                    }
                    steps.fetch_add(1, Ordering::SeqCst);
                }
                steps.store(usize::MAX / 2, Ordering::SeqCst);
            });
        }
        users
    }

    /// Waits until each has made so many more steps.
    pub(crate) async fn each_made(&self, more: usize) {
        let now = |steps: &Arc<AtomicUsize>| steps.load(Ordering::SeqCst);
        let goals: Vec<_> = self.steps.iter().map(|steps| now(steps) + more).collect();
        let end = Instant::now() + DEADLINE;
        let behind = || {
            let pairs = self.steps.iter().zip(&goals);
            pairs.filter(|(steps, goal)| now(steps) < **goal).count()
        };
        while behind() > 0 {
            let gave_up = self.complaints.lock().unwrap().len();
            if gave_up > 0 && gave_up >= behind() {
                return;
            }
            assert!(Instant::now() < end, "{} users are stuck", behind());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::SeqCst);
        self.tasks.join_all().await;
        let complaints = self.complaints.lock().unwrap();
        complaints.clone()
    }
}

struct User {
    client: Client<HttpConnector, Empty<Bytes>>,
    port: u16,
    cookie: Option<String>,
    /// How new a state it was told of.
    version: Option<String>,
}

impl User {
    fn new(port: u16) -> Self {
        Self {
            client: Client::builder(TokioExecutor::new()).build_http(),
            port,
            cookie: None,
            version: None,
        }
    }

    /// Writes one more name, and looks for all.
    async fn step(&mut self, name: usize) -> Result<(), String> {
        self.send(&format!("/add/{name}")).await?;
        let held = self.send(&format!("/held/{}", name + 1)).await?;
        let all: Vec<_> = (0..=name).map(|n| n.to_string()).collect();
        if held == all.join(",") {
            return Ok(());
        }
        Err(format!("wrote 0 to {name}, found {held:?}"))
    }

    async fn send(&mut self, path: &str) -> Result<String, String> {
        let mut request = Request::get(format!("http://127.0.0.1:{}{path}", self.port));
        for cookie in [&self.cookie, &self.version].into_iter().flatten() {
            request = request.header(COOKIE, cookie);
        }
        let request = request.body(Empty::new()).unwrap();
        let answer = tokio::time::timeout(DEADLINE, self.client.request(request)).await;
        let answer = answer
            .map_err(|_| format!("{path} hangs"))?
            .map_err(|error| format!("{path}: {error:?}"))?;
        for set in answer.headers().get_all(SET_COOKIE) {
            let pair = set.to_str().unwrap().split(';').next().unwrap();
            let held = Some(pair.to_owned());
            if pair.split('=').next().unwrap().ends_with("-v") {
                self.version = held;
            } else {
                self.cookie = held;
            }
        }
        let status = answer.status();
        let body = answer.into_body().collect().await;
        let body = body.map_err(|error| format!("{path}: {error}"))?.to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        if status == StatusCode::OK {
            return Ok(text);
        }
        Err(format!("{path} answered {status}: {text}"))
    }
}
