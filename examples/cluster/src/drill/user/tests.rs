use super::*;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use super::super::ledger::Closed;

/// How the service under the users behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Habit {
    Good,
    /// Applies every write, answers every third with 503, and honours keys.
    AnswersGetLost,
    /// The same, without honouring keys.
    AppliesAgain,
    /// Acknowledges every third note without storing it.
    Forgets,
    /// Lists all but the newest note.
    ListsLate,
    /// Lists a note that nobody wrote.
    Invents,
    /// Says who is signed in with the mark of before.
    SessionLags,
    /// Knows nobody in every third request.
    LogsOut,
    /// Takes everybody for nobody.
    MistakesUsers,
    FailsReads,
    RefusesWrites,
}

#[derive(Default)]
struct Store {
    notes: Vec<(String, String)>,
    keys: HashMap<String, usize>,
    sessions: HashMap<String, (u64, Option<usize>)>,
    requests: usize,
}

#[derive(Clone)]
struct Service(Habit, Arc<Mutex<Store>>);

impl Service {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.1.lock().unwrap()
    }

    fn third(&self) -> bool {
        let mut store = self.store();
        store.requests += 1;
        store.requests.is_multiple_of(3)
    }

    fn user(&self, headers: &HeaderMap) -> Option<String> {
        if self.0 == Habit::LogsOut && self.third() {
            return None;
        }
        let cookie = headers.get("cookie")?.to_str().ok()?;
        Some(cookie.strip_prefix("id=")?.to_owned())
    }
}

async fn sign_in(State(service): State<Service>, Json(body): Json<Value>) -> Response {
    let user = body["user"].as_str().unwrap().to_owned();
    let cookie = [("set-cookie", format!("id={user}"))];
    service.store().sessions.insert(user, (0, None));
    (cookie, Json(json!({}))).into_response()
}

async fn add(State(service): State<Service>, headers: HeaderMap, body: Json<Value>) -> Response {
    let Some(user) = service.user(&headers) else {
        return StatusCode::UNAUTHORIZED.into_response();
    };
    if service.0 == Habit::RefusesWrites {
        return StatusCode::UNPROCESSABLE_ENTITY.into_response();
    }
    let third = service.third();
    let mut store = service.store();
    let key = headers
        .get("idempotency-key")
        .map(|key| key.to_str().unwrap().to_owned());
    let known = key.as_ref().and_then(|key| store.keys.get(key).copied());
    let id = match known.filter(|_| service.0 != Habit::AppliesAgain) {
        Some(id) => id,
        None => {
            let note = (user.clone(), body["text"].as_str().unwrap().to_owned());
            if !(third && service.0 == Habit::Forgets) {
                store.notes.push(note);
            }
            let id = store.notes.len();
            store.keys.extend(key.map(|key| (key, id)));
            id
        }
    };
    if let Some((_, last)) = store.sessions.get_mut(&user) {
        *last = Some(id);
    }
    if third && matches!(service.0, Habit::AnswersGetLost | Habit::AppliesAgain) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    (StatusCode::CREATED, Json(json!({ "id": id }))).into_response()
}

async fn list(State(service): State<Service>, headers: HeaderMap) -> Response {
    let Some(user) = service.user(&headers) else {
        return StatusCode::UNAUTHORIZED.into_response();
    };
    if service.0 == Habit::FailsReads {
        return StatusCode::BAD_GATEWAY.into_response();
    }
    let store = service.store();
    let own = store.notes.iter().filter(|(owner, _)| *owner == user);
    let mut notes: Vec<_> = own
        .map(|(_, text)| json!({ "id": 1, "text": text }))
        .collect();
    match service.0 {
        Habit::ListsLate => drop(notes.pop()),
        Habit::Invents => notes.push(json!({ "id": 1, "text": "from nowhere" })),
        _ => {}
    }
    Json(notes).into_response()
}

async fn whoami(State(service): State<Service>, headers: HeaderMap) -> Response {
    let Some(user) = service.user(&headers) else {
        return StatusCode::UNAUTHORIZED.into_response();
    };
    let (mark, last) = service.store().sessions[&user];
    let mark = if service.0 == Habit::SessionLags {
        mark.saturating_sub(1)
    } else {
        mark
    };
    let user = if service.0 == Habit::MistakesUsers {
        "nobody".to_owned()
    } else {
        user
    };
    Json(json!({ "user": user, "mark": mark, "last_note": last })).into_response()
}

async fn mark(State(service): State<Service>, headers: HeaderMap, body: Json<Value>) -> Response {
    let Some(user) = service.user(&headers) else {
        return StatusCode::UNAUTHORIZED.into_response();
    };
    service.store().sessions.get_mut(&user).unwrap().0 = body["mark"].as_u64().unwrap();
    Json(json!({})).into_response()
}

/// Lets one user live on such a service; the book at the end.
async fn live(habit: Habit) -> Closed {
    let service = Service(habit, Arc::default());
    let app = Router::new()
        .route("/sign-in", post(sign_in))
        .route("/notes", post(add).get(list))
        .route("/whoami", get(whoami))
        .route("/mark", put(mark))
        .with_state(service.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    let _owner = Owner(server.abort_handle());

    let ledger = Arc::new(Ledger::default());
    ledger.begin_phase("p", Instant::now());
    let browser = Browser::new(vec![address], 0);
    let mut user = User::new(0, browser, Arc::clone(&ledger), 1, Arc::default());
    for _ in 0..60 {
        user.step().await;
    }
    ledger.end(Instant::now());
    let truth = service
        .store()
        .notes
        .iter()
        .map(|(_, text)| text.clone())
        .collect();
    ledger.settle(truth)
}

struct Owner(AbortHandle);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The kinds of trouble in the book, sorted.
fn troubles(closed: &Closed) -> Vec<Trouble> {
    let mut troubles: Vec<_> = closed.phases[0].troubles.keys().copied().collect();
    troubles.sort();
    troubles
}

#[tokio::test]
async fn users_of_a_service_that_behaves_have_nothing_to_complain_about() {
    let closed = live(Habit::Good).await;
    assert_eq!(troubles(&closed), []);
    assert!(closed.verdict.is_clean(), "{:?}", closed.verdict.violations);
    let tally = &closed.phases[0];
    assert!(
        tally.requests >= 60 && tally.acknowledged >= 20 && tally.retried == 0,
        "{tally:?}"
    );
}

#[tokio::test]
async fn users_get_a_keyed_write_through_lost_answers_and_it_is_there_once() {
    let closed = live(Habit::AnswersGetLost).await;
    // Those without a key are not sent again, and it is not known what became of them.
    assert_eq!(troubles(&closed), [Trouble::Unknown]);
    assert!(closed.verdict.is_clean(), "{:?}", closed.verdict.violations);
    assert!(closed.verdict.unknown_applied > 0 && closed.phases[0].retried > 0);
}

#[tokio::test]
async fn users_notice_each_way_in_which_a_service_can_fail_them() {
    use Trouble::{FailedRead, FailedWrite, LoggedOut, Phantom, Stale};
    for (habit, expected) in [
        (Habit::Forgets, &[Stale][..]),
        (Habit::ListsLate, &[Stale]),
        (Habit::Invents, &[Phantom]),
        (Habit::SessionLags, &[Stale]),
        (Habit::LogsOut, &[LoggedOut]),
        (Habit::MistakesUsers, &[LoggedOut]),
        (Habit::FailsReads, &[FailedRead]),
    ] {
        let closed = live(habit).await;
        assert_eq!(
            troubles(&closed),
            expected,
            "{habit:?}: {:?}",
            closed.phases[0].examples
        );
    }
    let refused = live(Habit::RefusesWrites).await;
    assert!(
        troubles(&refused).contains(&FailedWrite),
        "{:?}",
        refused.phases[0].examples
    );
}

#[tokio::test]
async fn what_is_stored_wrongly_is_in_the_verdict() {
    assert!(live(Habit::Forgets).await.verdict.lost() > 0);
    assert!(live(Habit::AppliesAgain).await.verdict.duplicated() > 0);
}
