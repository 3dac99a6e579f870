//! What the app says when it cannot do what was asked.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use ha_db::postgres;
use ha_session::SessionError;
use ha_tower::problem::Problem;
use http::StatusCode;
use std::time::Duration;
use tokio::time::error::Elapsed;
use tokio_postgres::error::SqlState;

/// After this time trying again makes sense: a failover takes a few seconds, and the client has the same key to try with.
const RETRY_AFTER: Duration = Duration::from_secs(1);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a request was not served.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("sign in first")]
    SignedOut,
    #[error("{0}")]
    Bad(String),
    #[error("{detail}")]
    Body { status: StatusCode, detail: String },
    /// The replica is so far behind that it lacks the tables; another node has them.
    #[error("the database is still being set up; nothing was changed, try again")]
    Behind(#[source] BoxError),
    /// Nothing was changed; the same request may be sent again.
    #[error("a store cannot answer now; nothing was changed, try again")]
    Unavailable(#[source] BoxError),
    /// The write may or may not have happened.
    #[error("the database did not say whether the write happened; look before sending it again")]
    Unknown(#[source] BoxError),
    #[error("something is wrong with this server")]
    Internal(#[source] BoxError),
}

impl Failure {
    /// A statement that took too long; it is not committed.
    pub(super) fn slow(elapsed: Elapsed) -> Self {
        Self::Unavailable(elapsed.into())
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::SignedOut => StatusCode::UNAUTHORIZED,
            Self::Bad(_) => StatusCode::BAD_REQUEST,
            Self::Body { status, .. } => *status,
            Self::Unavailable(_) | Self::Behind(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unknown(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<postgres::Error> for Failure {
    fn from(error: postgres::Error) -> Self {
        match error {
            // What the driver says inside of a transaction, or while reading.
            postgres::Error::Query(error) => error.into(),
            error if error.is_unknown() => Self::Unknown(error.into()),
            error if error.is_unavailable() || error.is_retryable() => {
                Self::Unavailable(error.into())
            }
            error => Self::Internal(error.into()),
        }
    }
}

/// Statements fail before their transaction is committed, so nothing was changed.
impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        if error.code() == Some(&SqlState::UNDEFINED_TABLE) {
            return Self::Behind(error.into());
        }
        let node_went_away = match error.code() {
            // No answer from the server at all: the connection broke.
            None => {
                error.is_closed()
                    || std::error::Error::source(&error).is_some_and(|e| e.is::<std::io::Error>())
            }
            Some(code) => {
                let class = &code.code()[..2];
                // Connection, operator intervention (shutdown, recovery), serialisation.
                matches!(class, "08" | "57" | "40") || *code == SqlState::READ_ONLY_SQL_TRANSACTION
            }
        };
        if node_went_away {
            Self::Unavailable(error.into())
        } else {
            Self::Internal(error.into())
        }
    }
}

impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Self {
        if error.is_ended() {
            Self::SignedOut
        } else if error.is_retryable() {
            Self::Unavailable(error.into())
        } else {
            Self::Internal(error.into())
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = self.status();
        if status.is_server_error() {
            tracing::warn!(error = %crate::chain(&self), "request failed");
        }
        let mut problem = Problem::new(status).detail(self.to_string());
        if matches!(self, Self::Unavailable(_) | Self::Behind(_)) {
            problem = problem.retry_after(RETRY_AFTER);
        }
        problem.into_response::<Body>()
    }
}
