//! The whole flow of signing in and out, as `docs/session-security.md` describes it.
//!
//! The names and passwords are made up and in the clear. An app has a table of users and a password hash such as Argon2 here;
//! neither is what this example is about.

mod axum_login_app;
pub mod forgery;

pub use self::axum_login_app::axum_login_app;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Form, Path, State};
use axum::http::{HeaderMap, StatusCode, header::USER_AGENT};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use ha_session::{ConfigError, Expiry, Key, Session, SessionError, SessionLayer, Store};
use serde::Deserialize;

/// How long a password that was typed in counts for what is sensitive.
const FRESH: Duration = Duration::from_secs(300);

/// Names and passwords.
#[derive(Debug, Clone, Default)]
pub struct Users(Arc<Mutex<BTreeMap<String, String>>>);

impl Users {
    /// One user.
    #[must_use]
    pub fn of(name: &str, password: &str) -> Self {
        let users = Self::default();
        users.set(name, password);
        users
    }

    fn set(&self, name: &str, password: &str) {
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        users.insert(name.to_owned(), password.to_owned());
    }

    fn check(&self, name: &str, password: &str) -> bool {
        let users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        users.get(name).is_some_and(|right| right == password)
    }
}

/// The app, on any store.
///
/// # Errors
/// [`ConfigError`] for settings that do not go together.
pub fn app(store: impl Store, key: Key, users: Users) -> Result<Router, ConfigError> {
    let half_an_hour = Duration::from_secs(1800);
    let sessions = SessionLayer::builder(store, key)
        .expiry(Expiry::new(half_an_hour, 24 * half_an_hour)?)
        .build()?;
    Ok(Router::new()
        .route("/", get(who))
        .route("/login", post(login))
        .route("/logout", post(logout))
        .route("/logout-everywhere", post(logout_everywhere))
        .route("/password", post(change_password))
        .route("/devices", get(devices))
        .route("/devices/{id}/end", post(end_device))
        .layer(sessions)
        .layer(middleware::from_fn(forgery::refuse_other_sites))
        .with_state(users))
}

/// An answer, or why there is none.
type Answer = Result<Response, SessionError>;

async fn who(session: Session) -> Answer {
    Ok(match session.principal().await? {
        Some(name) => name.as_str().to_owned().into_response(),
        None => StatusCode::UNAUTHORIZED.into_response(),
    })
}

#[derive(Debug, Deserialize)]
struct Credentials {
    name: String,
    password: String,
}

async fn login(
    State(users): State<Users>,
    session: Session,
    headers: HeaderMap,
    Form(credentials): Form<Credentials>,
) -> Answer {
    if !users.check(&credentials.name, &credentials.password) {
        return Ok(StatusCode::UNAUTHORIZED.into_response());
    }
    let device = headers
        .get(USER_AGENT)
        .and_then(|agent| agent.to_str().ok());
    // The id that the browser came with, which somebody may have planted, gains nothing: this gives the session a new one.
    session.set_principal_on(&credentials.name, device.unwrap_or("unknown"))?;
    session.insert("typed_at", now())?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Carried out whatever else goes wrong.
async fn logout(session: Session) -> StatusCode {
    session.destroy();
    StatusCode::NO_CONTENT
}

async fn logout_everywhere(session: Session) -> Answer {
    session.revoke_all().await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Debug, Deserialize)]
struct NewPassword {
    old: String,
    new: String,
}

async fn change_password(
    State(users): State<Users>,
    session: Session,
    Form(password): Form<NewPassword>,
) -> Answer {
    let Some(principal) = session.principal().await? else {
        return Ok(StatusCode::UNAUTHORIZED.into_response());
    };
    let name = principal.as_str().to_owned();
    // Whoever found the browser open does not know it.
    if !users.check(&name, &password.old) {
        return Ok(StatusCode::FORBIDDEN.into_response());
    }
    // Whoever stole a cookie is out before anything else is done: if this fails, the same request can be sent again.
    session.revoke_others().await?;
    users.set(&name, &password.new);
    // And whoever has signed in since, with the old password. Here the user stays in, under a new id.
    session.revoke_others().await?;
    session.rotate();
    session.insert("typed_at", now())?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn devices(session: Session) -> Answer {
    if session.principal().await?.is_none() {
        return Ok(StatusCode::UNAUTHORIZED.into_response());
    }
    let own = session.id();
    let list = session.sessions().await?;
    let list: Vec<_> = list
        .into_iter()
        .map(|info| {
            let id = info.id();
            let here = own.as_deref() == Some(&*id);
            (id, info.device.unwrap_or_default(), here)
        })
        .collect();
    Ok(Json(list).into_response())
}

/// Ends one session, if the password was typed in a short while ago.
async fn end_device(session: Session, Path(id): Path<String>) -> Answer {
    let typed_at: u64 = session.get("typed_at").await?.unwrap_or(0);
    if now().saturating_sub(typed_at) > FRESH.as_secs() {
        return Ok(StatusCode::FORBIDDEN.into_response());
    }
    let status = match session.revoke(&id).await? {
        true => StatusCode::NO_CONTENT,
        false => StatusCode::NOT_FOUND,
    };
    Ok(status.into_response())
}

fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}
