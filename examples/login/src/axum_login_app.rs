//! axum-login 0.18 on a store of this workspace: its sessions merge, end for good, and survive what the store survives.

use std::convert::Infallible;

use axum::Router;
use axum::extract::Form;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum_login::tower_sessions::{Expiry, SessionManagerLayer};
use axum_login::{AuthManagerLayerBuilder, AuthSession, AuthUser, AuthnBackend, UserId};
use ha_session::Store;
use ha_session::adapter::TowerSessions;
use serde::Deserialize;

/// One user with a made-up password.
#[derive(Debug, Clone)]
pub(crate) struct Backend;

/// Who signed in.
#[derive(Debug, Clone)]
pub(crate) struct User(String);

impl AuthUser for User {
    type Id = String;

    fn id(&self) -> String {
        self.0.clone()
    }

    /// Changes with the password, so that axum-login ends sessions of the old one.
    fn session_auth_hash(&self) -> &[u8] {
        b"secret"
    }
}

/// What the form sends.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Credentials {
    name: String,
    password: String,
}

impl AuthnBackend for Backend {
    type User = User;
    type Credentials = Credentials;
    type Error = Infallible;

    async fn authenticate(&self, credentials: Credentials) -> Result<Option<User>, Infallible> {
        let right = credentials.name == "ann" && credentials.password == "secret";
        Ok(right.then_some(User(credentials.name)))
    }

    async fn get_user(&self, id: &UserId<Self>) -> Result<Option<User>, Infallible> {
        Ok(Some(User(id.clone())))
    }
}

type Auth = AuthSession<Backend>;

async fn login(mut auth: Auth, Form(credentials): Form<Credentials>) -> StatusCode {
    let Ok(Some(user)) = auth.authenticate(credentials).await else {
        return StatusCode::UNAUTHORIZED;
    };
    match auth.login(&user).await {
        Ok(()) => StatusCode::NO_CONTENT,
        // The store cannot say. That is no reason to call the user a stranger.
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

async fn logout(mut auth: Auth) -> StatusCode {
    match auth.logout().await {
        Ok(_) => StatusCode::NO_CONTENT,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

async fn who(auth: Auth) -> impl IntoResponse {
    match auth.user {
        Some(user) => (StatusCode::OK, user.0),
        None => (StatusCode::UNAUTHORIZED, String::new()),
    }
}

/// The app, on any store.
pub fn axum_login_app(store: impl Store + Clone) -> Router {
    let half_an_hour = std::time::Duration::from_secs(1800);
    let idle = half_an_hour.try_into().unwrap_or_default();
    let sessions = SessionManagerLayer::new(TowerSessions::new(store))
        .with_name("__Host-id")
        .with_expiry(Expiry::OnInactivity(idle));
    Router::new()
        .route("/", get(who))
        .route("/login", post(login))
        .route("/logout", post(logout))
        .layer(AuthManagerLayerBuilder::new(Backend, sessions).build())
}
