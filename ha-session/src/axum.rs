//! The extractor, and errors as answers.

use std::convert::Infallible;

use axum::body::Body;
use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::response::{IntoResponse, Response};
use http::request::Parts;

use crate::error::SessionError;
use crate::middleware::{Problem, SessionLayerBuilder};
use crate::session::Session;

/// The request did not pass a [`SessionLayer`](crate::SessionLayer). Answers 500.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the route has no session layer")]
#[non_exhaustive]
pub struct MissingLayer;

impl IntoResponse for MissingLayer {
    fn into_response(self) -> Response {
        Problem::missing_layer().into_response().map(Body::from)
    }
}

impl<S: Sync> FromRequestParts<S> for Session {
    type Rejection = MissingLayer;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        parts.extensions.get().cloned().ok_or(MissingLayer)
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for Session {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        Ok(parts.extensions.get().cloned())
    }
}

/// A problem document: 503 with `Retry-After` when trying again may help, 409 when the session ended or changed under
/// the request, 413 for a limit, 500 for a value that cannot be used.
impl IntoResponse for SessionError {
    fn into_response(self) -> Response {
        Problem::of(&self, SessionLayerBuilder::DEFAULT_RETRY_AFTER)
            .into_response()
            .map(Body::from)
    }
}
