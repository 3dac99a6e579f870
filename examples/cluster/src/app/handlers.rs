//! Signing in and notes.

use std::time::Duration;

use axum::extract::{FromRequest, Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Form, Json};
use ha_db::postgres::{Consistency, Db};
use ha_session::Session;
use http::{HeaderName, HeaderValue, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::App;
use super::answer::Failure;

/// The header that says which database node served.
pub(super) const NODE: HeaderName = HeaderName::from_static("x-ha-db-node");

/// How long one statement may take; far above what these take, far below what the edge waits.
const STATEMENT: Duration = Duration::from_millis(800);

/// How often a read is tried, each time on whatever node is the best then: a node may die under a read.
const READS: usize = 3;

const MAX_USER: usize = 64;
const MAX_TEXT: usize = 10_000;

const USER: &str = "user";
const MARK: &str = "mark";
const LAST_NOTE: &str = "last_note";

/// A body as JSON or as a form, by its content type.
pub(super) struct Input<T>(T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Input<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let form = request
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|value| {
                value
                    .as_bytes()
                    .starts_with(b"application/x-www-form-urlencoded")
            });
        let read = if form {
            let read = Form::from_request(request, state).await;
            read.map(|Form(value)| value)
                .map_err(|e| (e.status(), e.body_text()))
        } else {
            let read = Json::from_request(request, state).await;
            read.map(|Json(value)| value)
                .map_err(|e| (e.status(), e.body_text()))
        };
        read.map(Self)
            .map_err(|(status, detail)| Failure::Body { status, detail })
    }
}

#[derive(Deserialize)]
pub(super) struct SignIn {
    user: String,
}

/// Signs in under any name; there is no password because there is nothing to protect.
///
/// May be sent twice: the second time signs the same user in again. So it needs no stored answer, which also could not
/// replay the cookie that matters here.
pub(super) async fn sign_in(
    session: Session,
    Input(SignIn { user }): Input<SignIn>,
) -> Result<Response, Failure> {
    if user.is_empty() || user.chars().count() > MAX_USER || user.chars().any(char::is_control) {
        return Err(Failure::Bad(format!(
            "user has to be 1 to {MAX_USER} characters, none of them control characters"
        )));
    }
    let before: Option<String> = session.get(USER).await?;
    if before.is_some_and(|before| before != user) {
        // Nothing of the last user's may show to the next one.
        session.remove(MARK);
        session.remove(LAST_NOTE);
    }
    session.insert(USER, &user)?;
    // Whoever knew the id from before does not know the one that is signed in.
    session.rotate();
    Ok(Json(serde_json::json!({ "user": user })).into_response())
}

pub(super) async fn sign_out(session: Session) -> StatusCode {
    session.destroy();
    StatusCode::NO_CONTENT
}

#[derive(Serialize)]
struct WhoAmI {
    user: String,
    mark: Option<i64>,
    last_note: Option<i64>,
}

/// Who is signed in.
async fn signed_in(session: &Session) -> Result<String, Failure> {
    session.get(USER).await?.ok_or(Failure::SignedOut)
}

pub(super) async fn who_am_i(session: Session) -> Result<Response, Failure> {
    let user = signed_in(&session).await?;
    let (mark, last_note) = (session.get(MARK).await?, session.get(LAST_NOTE).await?);
    Ok(Json(WhoAmI {
        user,
        mark,
        last_note,
    })
    .into_response())
}

#[derive(Deserialize)]
pub(super) struct Mark {
    mark: i64,
}

/// Remembers a number in the session: a write that touches nothing else.
pub(super) async fn set_mark(
    session: Session,
    Input(Mark { mark }): Input<Mark>,
) -> Result<Response, Failure> {
    signed_in(&session).await?;
    session.insert(MARK, mark)?;
    Ok(Json(serde_json::json!({ "mark": mark })).into_response())
}

/// Who is signed in, put into the request by [`require_user`].
#[derive(Debug, Clone)]
pub(super) struct User(pub(super) String);

/// Lets only those pass who are signed in, and says who they are to what is behind.
pub(super) async fn require_user(
    session: Session,
    mut request: Request,
    next: Next,
) -> Result<Response, Failure> {
    let user = signed_in(&session).await?;
    request.extensions_mut().insert(User(user));
    Ok(next.run(request).await)
}

/// Remembers the newest note in the session.
///
/// This sits outside of the idempotency layer and looks at the answer, not at the request: when a client sends the same
/// note again because the session could not be written the first time, the handler does not run a second time, but the
/// stored answer comes by here again.
pub(super) async fn remember_newest(
    session: Session,
    request: Request,
    next: Next,
) -> Result<Response, Failure> {
    let response = next.run(request).await;
    if response.status() != StatusCode::CREATED {
        return Ok(response);
    }
    let id = response.headers().get(header::LOCATION).and_then(note_id);
    if let Some(id) = id
        && session
            .get(LAST_NOTE)
            .await?
            .is_none_or(|last: i64| last < id)
    {
        session.insert(LAST_NOTE, id)?;
    }
    Ok(response)
}

fn note_id(location: &HeaderValue) -> Option<i64> {
    location
        .to_str()
        .ok()?
        .strip_prefix("/notes/")?
        .parse()
        .ok()
}

#[derive(Deserialize)]
pub(super) struct NewNote {
    text: String,
}

#[derive(Serialize)]
struct Note {
    id: i64,
    text: String,
}

pub(super) async fn add(
    Extension(User(user)): Extension<User>,
    db: Db,
    Input(NewNote { text }): Input<NewNote>,
) -> Result<Response, Failure> {
    if text.is_empty() || text.chars().count() > MAX_TEXT || text.contains('\0') {
        return Err(Failure::Bad(format!(
            "text has to be 1 to {MAX_TEXT} characters, without NUL"
        )));
    }
    let tx = db.transaction().await?;
    let node = node_header(tx.node());
    let insert = async {
        let statement = "insert into notes (owner, text) values ($1, $2) returning id";
        tx.query_one(statement, &[&user, &text]).await
    };
    let row = timeout(STATEMENT, insert).await.map_err(Failure::slow)??;
    let id: i64 = row.try_get(0)?;
    tx.commit().await?;
    let location = [(header::LOCATION, format!("/notes/{id}"))];
    Ok((StatusCode::CREATED, location, node, Json(Note { id, text })).into_response())
}

pub(super) async fn list(
    State(app): State<App>,
    Extension(User(user)): Extension<User>,
    db: Db,
) -> Result<Response, Failure> {
    let mut consistency = app.consistency();
    let mut tried = 0;
    loop {
        tried += 1;
        match read_notes(&db, consistency, &user).await {
            // This user has written nothing, so any replica would do, even one that is about to get the tables.
            Err(Failure::Behind(_)) if tried < READS => consistency = Consistency::Strong,
            // Reading changes nothing, so whatever went wrong on the way, it can be done again.
            Err(Failure::Unavailable(error)) if tried < READS => {
                tracing::info!(error = %crate::chain(&*error), "reading again");
            }
            done => return done,
        }
    }
}

async fn read_notes(db: &Db, consistency: Consistency, user: &str) -> Result<Response, Failure> {
    let conn = db.read_with(consistency).await?;
    let query = async {
        let statement = "select id, text from notes where owner = $1 order by id";
        conn.query(statement, &[&user]).await
    };
    let rows = timeout(STATEMENT, query).await.map_err(Failure::slow)??;
    let notes = rows
        .iter()
        .map(|row| {
            Ok(Note {
                id: row.try_get(0)?,
                text: row.try_get(1)?,
            })
        })
        .collect::<Result<Vec<_>, tokio_postgres::Error>>()?;
    Ok((node_header(conn.node()), Json(notes)).into_response())
}

fn node_header(node: &str) -> [(HeaderName, HeaderValue); 1] {
    let value =
        HeaderValue::from_str(node).unwrap_or_else(|_| HeaderValue::from_static("unprintable"));
    [(NODE, value)]
}
