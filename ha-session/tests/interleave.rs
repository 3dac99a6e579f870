//! Requests at the same time, in every order that their conversations with the store can have: small scenarios, run once for each
//! order, and with a crash at each point where asked for. A store that reads and writes back is run through the same as the
//! control.
#![allow(clippy::unwrap_used)]
#![cfg(feature = "axum")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::routing::get;
use ha_session::{
    Change, Commit, Expiry, Gone, Key, Load, MemoryStore, Outcome, Principal, Record, Session,
    SessionError, SessionInfo, SessionKey, SessionLayer, Store, StoreError, Value, Version,
};
use http::header::{COOKIE, SET_COOKIE};
use http::{Request, StatusCode};
use tower::ServiceExt;

/// Gives the others a turn.
async fn turn() {
    let mut waited = false;
    poll_fn(|_| {
        if std::mem::replace(&mut waited, true) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

/// A store whose every step comes after a turn of the others, and whose every answer too.
#[derive(Clone)]
struct Stepwise<S> {
    store: S,
    keys: Arc<Mutex<BTreeSet<SessionKey>>>,
}

impl<S: Store> Store for Stepwise<S> {
    async fn load(&self, key: SessionKey, floor: Version) -> Load {
        turn().await;
        self.store.load(key, floor).await
    }

    async fn commit(&self, commit: Commit) -> Result<Outcome, StoreError> {
        turn().await;
        self.keys.lock().unwrap().insert(commit.key_after());
        let outcome = self.store.commit(commit).await;
        turn().await;
        outcome
    }

    async fn destroy(&self, key: SessionKey) -> Result<(), StoreError> {
        turn().await;
        let done = self.store.destroy(key).await;
        turn().await;
        done
    }

    async fn touch(&self, key: SessionKey, expiry: Expiry) -> Result<(), StoreError> {
        self.store.touch(key, expiry).await
    }

    async fn list(&self, principal: Principal) -> Result<Vec<SessionInfo>, StoreError> {
        turn().await;
        self.store.list(principal).await
    }

    async fn revoke(&self, principal: Principal, key: SessionKey) -> Result<bool, StoreError> {
        turn().await;
        self.store.revoke(principal, key).await
    }

    async fn revoke_all(
        &self,
        principal: Principal,
        keep: Option<SessionKey>,
    ) -> Result<u64, StoreError> {
        turn().await;
        let epoch = self.store.revoke_all(principal, keep).await;
        turn().await;
        epoch
    }
}

/// The control: reads a blob, changes it and writes it back; a rotation copies.
#[derive(Clone, Default)]
struct Blobs(Arc<Mutex<HashMap<SessionKey, BTreeMap<String, Value>>>>);

impl Store for Blobs {
    async fn load(&self, key: SessionKey, _: Version) -> Load {
        let hour = Duration::from_secs(3600);
        match self.0.lock().unwrap().get(&key) {
            Some(blob) => Load::Found(Record::new(Version::ZERO, blob.clone(), hour, hour)),
            None => Load::Gone(Gone::MISSING),
        }
    }

    async fn commit(&self, commit: Commit) -> Result<Outcome, StoreError> {
        let blob = self.0.lock().unwrap().get(&commit.key).cloned();
        let mut blob = blob.unwrap_or_default();
        turn().await;
        for (name, change) in commit.patch.iter() {
            match change {
                Change::Set(bytes) => {
                    let version = Version::ZERO;
                    let bytes = bytes.clone();
                    blob.insert(name.to_owned(), Value { version, bytes });
                }
                Change::Remove => drop(blob.remove(name)),
            }
        }
        let mut blobs = self.0.lock().unwrap();
        blobs.insert(commit.key, blob.clone());
        blobs.insert(commit.key_after(), blob.clone());
        let hour = Duration::from_secs(3600);
        Ok(Outcome::Committed(Record::new(
            Version::ZERO,
            blob,
            hour,
            hour,
        )))
    }

    async fn destroy(&self, key: SessionKey) -> Result<(), StoreError> {
        self.0.lock().unwrap().remove(&key);
        Ok(())
    }

    async fn touch(&self, _: SessionKey, _: Expiry) -> Result<(), StoreError> {
        Ok(())
    }
}

fn routes() -> Router {
    type Answer = Result<String, SessionError>;
    let set = async |session: Session, Path(name): Path<String>| -> Answer {
        session.insert(&name, "1")?;
        Ok("set".into())
    };
    let look = async |session: Session, Path(name): Path<String>| -> Answer {
        Ok(session
            .get(&name)
            .await?
            .unwrap_or_else(|| "nothing".into()))
    };
    let login = async |session: Session| -> Answer {
        session.set_principal("ann")?;
        session.insert("user", "ann")?;
        Ok("in".into())
    };
    let rotate = async |session: Session| -> Answer {
        session.rotate();
        session.insert("rotated", "1")?;
        Ok("rotated".into())
    };
    let everywhere = async |session: Session| -> Answer {
        session.revoke_all_of("ann").await?;
        Ok("out".into())
    };
    let out = async |session: Session| session.destroy();
    Router::new()
        .route("/set/{name}", get(set))
        .route("/get/{name}", get(look))
        .route("/login", get(login))
        .route("/rotate", get(rotate))
        .route("/everywhere", get(everywhere))
        .route("/out", get(out))
}

/// The app on a store of its own, and one cookie.
struct App<S> {
    stepwise: Stepwise<S>,
    router: Router,
    cookie: Option<String>,
}

/// How a request was answered, and the cookie after it.
#[derive(Debug, Clone)]
struct Answer {
    status: StatusCode,
    text: String,
    cookie: Option<String>,
}

impl<S: Store + Clone> App<S> {
    fn new(store: S) -> Self {
        let stepwise = Stepwise {
            store,
            keys: Arc::default(),
        };
        let keys = Key::from_bytes(&[7; 32]).unwrap();
        Self {
            router: routes().layer(SessionLayer::new(stepwise.clone(), keys)),
            stepwise,
            cookie: None,
        }
    }

    fn send(&self, path: &str, cookie: Option<String>) -> impl Future<Output = Answer> + 'static {
        let mut request = Request::get(path);
        if let Some(cookie) = &cookie {
            request = request.header(COOKIE, format!("__Host-id={cookie}"));
        }
        let request = request.body(Body::empty()).unwrap();
        let answer = self.router.clone().oneshot(request);
        async move {
            let answer = answer.await.unwrap();
            let set = answer.headers().get_all(SET_COOKIE).iter();
            let set = set.map(|set| set.to_str().unwrap().split(';').next().unwrap());
            let set = set.filter_map(|pair| pair.strip_prefix("__Host-id="));
            let set = set.map(str::to_owned).next();
            let cookie = set.or(cookie).filter(|cookie| !cookie.is_empty());
            let status = answer.status();
            let body = axum::body::to_bytes(answer.into_body(), 1 << 16).await;
            Answer {
                status,
                text: String::from_utf8(body.unwrap().to_vec()).unwrap(),
                cookie,
            }
        }
    }

    /// Sends a request that nothing else runs beside.
    async fn alone(&self, path: &str, cookie: Option<String>) -> Answer {
        let mut request = Box::pin(self.send(path, cookie));
        poll_fn(|cx| match request.as_mut().poll(cx) {
            Poll::Ready(answer) => Poll::Ready(answer),
            Poll::Pending => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        })
        .await
    }

    /// The keys that were ever committed and can be used now.
    async fn usable(&self) -> usize {
        let keys = self.stepwise.keys.lock().unwrap().clone();
        let mut usable = 0;
        for key in keys {
            let load = self.stepwise.store.load(key, Version::ZERO).await;
            usable += usize::from(matches!(load, Load::Found(record) if !record.superseded));
        }
        usable
    }
}

type Pending = Pin<Box<dyn Future<Output = Answer>>>;

/// Runs the requests in the order that `choices` says and notes how many choices there were at each step. A choice beyond the
/// requests under way crashes one of them.
fn run(
    mut requests: Vec<Option<Pending>>,
    crashes: bool,
    choices: &mut Vec<(usize, usize)>,
) -> Vec<Option<Answer>> {
    let mut answers: Vec<Option<Answer>> = requests.iter().map(|_| None).collect();
    let mut crashed = false;
    for step in 0.. {
        let open: Vec<_> = (0..requests.len())
            .filter(|n| requests[*n].is_some())
            .collect();
        if open.is_empty() {
            break;
        }
        let options = open.len() * if crashes && !crashed { 2 } else { 1 };
        if choices.len() <= step {
            choices.push((0, options));
        }
        let choice = choices[step].0;
        let chosen = open[choice % open.len()];
        if choice >= open.len() {
            requests[chosen] = None;
            crashed = true;
            continue;
        }
        let mut cx = Context::from_waker(Waker::noop());
        let request = requests[chosen].as_mut().unwrap();
        if let Poll::Ready(answer) = request.as_mut().poll(&mut cx) {
            answers[chosen] = Some(answer);
            requests[chosen] = None;
        }
        assert!(step < 200, "a request that never ends");
    }
    answers
}

/// Runs `scenario` once for each order, and says how many there were and how often `check` was not content.
fn every_order<S: Store + Clone>(
    store: impl Fn() -> S,
    before: &[&str],
    paths: &[&str],
    crashes: bool,
    check: impl AsyncFn(&App<S>, &[Option<Answer>]) -> bool,
) -> (usize, usize) {
    let mut choices: Vec<(usize, usize)> = Vec::new();
    let (mut orders, mut wrong) = (0, 0);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    loop {
        let fine = runtime.block_on(tokio::task::coop::unconstrained(async {
            let mut app = App::new(store());
            for path in before {
                app.cookie = app.alone(path, app.cookie.clone()).await.cookie;
            }
            let requests = paths
                .iter()
                .map(|path| Some(Box::pin(app.send(path, app.cookie.clone())) as Pending));
            let answers = run(requests.collect(), crashes, &mut choices);
            check(&app, &answers).await
        }));
        orders += 1;
        wrong += usize::from(!fine);
        // The next order: the last choice that has another option takes it.
        while choices
            .last()
            .is_some_and(|(choice, options)| choice + 1 == *options)
        {
            choices.pop();
        }
        match choices.last_mut() {
            Some((choice, _)) => *choice += 1,
            None => return (orders, wrong),
        }
    }
}

fn ok(answer: &Option<Answer>) -> bool {
    answer
        .as_ref()
        .is_some_and(|answer| answer.status == StatusCode::OK)
}

async fn merged<S: Store + Clone>(app: &App<S>, answers: &[Option<Answer>]) -> bool {
    let mut all = true;
    for (answer, name) in answers.iter().zip(["a", "b", "c"]) {
        let look = app.alone(&format!("/get/{name}"), app.cookie.clone()).await;
        all &= !ok(answer) || look.text == "1";
    }
    all && answers.iter().all(ok)
}

#[test]
fn changes_of_different_names_merge_in_every_order() {
    let paths = ["/set/a", "/set/b", "/set/c"];
    let before = ["/set/user"];
    let (orders, wrong) = every_order(MemoryStore::new, &before, &paths, false, merged);
    assert!(orders > 1000, "{orders}");
    assert_eq!(wrong, 0, "of {orders}");
    let (_, wrong) = every_order(Blobs::default, &before, &paths[..2], false, merged);
    assert!(wrong > 0, "the control");
}

async fn gone<S: Store + Clone>(app: &App<S>, answers: &[Option<Answer>]) -> bool {
    let mut all = ok(answers.last().unwrap());
    for name in ["user", "a", "b"] {
        let look = app.alone(&format!("/get/{name}"), app.cookie.clone()).await;
        all &= look.text == "nothing";
    }
    // A change is refused, or was made before the end.
    all && answers
        .iter()
        .flatten()
        .all(|answer| answer.status == StatusCode::OK || answer.status == StatusCode::CONFLICT)
}

#[test]
fn what_is_signed_out_stays_gone_in_every_order() {
    let paths = ["/set/a", "/set/b", "/out"];
    let before = ["/set/user"];
    let (orders, wrong) = every_order(MemoryStore::new, &before, &paths, false, gone);
    assert!(orders > 1000, "{orders}");
    assert_eq!(wrong, 0, "of {orders}");
    let (_, wrong) = every_order(Blobs::default, &before, &["/set/a", "/out"], false, gone);
    assert!(wrong > 0, "the control");
}

/// The sign-out was acknowledged, and nothing can be used: not the id that it came with, nor what a rotation or a sign-in made of it.
async fn none_usable<S: Store + Clone>(app: &App<S>, answers: &[Option<Answer>]) -> bool {
    ok(answers.last().unwrap()) && app.usable().await == 0
}

/// Time stands still here, so that no sign-in can prove that it began after the end, and start another session.
#[test]
fn a_sign_out_beside_a_rotation_or_a_sign_in_leaves_nothing_in_every_order() {
    for other in ["/rotate", "/login"] {
        let pair = [other, "/out"];
        let before = ["/set/cart"];
        let (orders, wrong) = every_order(MemoryStore::new, &before, &pair, false, none_usable);
        assert!(orders > 5, "{other}: {orders}");
        assert_eq!(wrong, 0, "{other}: of {orders}");
    }
    let pair = ["/rotate", "/out"];
    let (_, wrong) = every_order(Blobs::default, &["/set/cart"], &pair, false, none_usable);
    assert!(wrong > 0, "the control");
}

async fn one_usable<S: Store + Clone>(app: &App<S>, _: &[Option<Answer>]) -> bool {
    let old = app.alone("/get/rotated", app.cookie.clone()).await;
    app.usable().await == 1 && old.text == "nothing"
}

#[test]
fn after_rotations_and_a_crash_anywhere_exactly_one_id_is_usable() {
    let before = ["/set/cart"];
    let all = ["/rotate", "/rotate", "/set/a"];
    let (orders, wrong) = every_order(MemoryStore::new, &before, &all, false, one_usable);
    assert!(orders > 1000, "{orders}");
    assert_eq!(wrong, 0, "of {orders}");
    for pair in [&all[..2], &all[1..]] {
        let (orders, wrong) = every_order(MemoryStore::new, &before, pair, true, one_usable);
        assert!(orders > 50, "{orders}");
        assert_eq!(wrong, 0, "of {orders}");
    }
    let (_, wrong) = every_order(Blobs::default, &before, &all[..2], true, one_usable);
    assert!(wrong > 0, "the control");
}

async fn none_of_ann<S: Store + Clone>(app: &App<S>, answers: &[Option<Answer>]) -> bool {
    let mut none = ok(answers.last().unwrap());
    for answer in answers[..answers.len() - 1].iter().flatten() {
        // Time stands still here: a sign-in that ends after the revocation cannot prove that it began after it.
        let look = app.alone("/get/user", answer.cookie.clone()).await;
        none &= look.text == "nothing";
    }
    none
}

#[test]
fn no_sign_in_slips_past_a_revocation_in_any_order_or_crash() {
    let pair = ["/login", "/everywhere"];
    let (orders, wrong) = every_order(MemoryStore::new, &[], &pair, false, none_of_ann);
    assert!(orders > 5, "{orders}");
    assert_eq!(wrong, 0, "of {orders}");
    // From a session that was there before, in another slot, and with a crash of one of the two.
    let crashed = async |app: &App<MemoryStore>, answers: &[Option<Answer>]| {
        !ok(&answers[1]) || none_of_ann(app, answers).await
    };
    let (orders, wrong) = every_order(MemoryStore::new, &["/set/cart"], &pair, true, crashed);
    assert_eq!(wrong, 0, "of {orders}");
    let naive = || OneByOne(MemoryStore::new());
    let (_, wrong) = every_order(naive, &[], &pair, false, none_of_ann);
    assert!(wrong > 0, "the control");
}

/// The control: revokes by going through the list.
#[derive(Clone)]
struct OneByOne(MemoryStore);

impl Store for OneByOne {
    async fn load(&self, key: SessionKey, floor: Version) -> Load {
        self.0.load(key, floor).await
    }

    async fn commit(&self, commit: Commit) -> Result<Outcome, StoreError> {
        self.0.commit(commit).await
    }

    async fn destroy(&self, key: SessionKey) -> Result<(), StoreError> {
        self.0.destroy(key).await
    }

    async fn touch(&self, key: SessionKey, expiry: Expiry) -> Result<(), StoreError> {
        self.0.touch(key, expiry).await
    }

    async fn list(&self, principal: Principal) -> Result<Vec<SessionInfo>, StoreError> {
        self.0.list(principal).await
    }

    async fn revoke_all(
        &self,
        principal: Principal,
        _: Option<SessionKey>,
    ) -> Result<u64, StoreError> {
        for info in self.0.list(principal.clone()).await? {
            turn().await;
            self.0.revoke(principal.clone(), info.key).await?;
        }
        Ok(0)
    }
}
