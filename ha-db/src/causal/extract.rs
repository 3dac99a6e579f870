use axum::extract::{FromRef, FromRequestParts};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use http::request::Parts;

use crate::postgres::{Causal, Db, Router};
use crate::problem_document;

/// The [`Db`] extractor ran without a [`CausalLayer`](super::CausalLayer) around the route. Serving the request anyway would
/// silently give up read-your-writes, so it is answered with `500` and a text that names the layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the Db extractor needs CausalLayer around this route")]
pub struct MissingCausalLayer;

impl IntoResponse for MissingCausalLayer {
    fn into_response(self) -> Response {
        tracing::error!("{self}");
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        let body = problem_document::body(status, &self.to_string());
        (status, [(CONTENT_TYPE, problem_document::CONTENT)], body).into_response()
    }
}

/// Takes the [`Router`] from the state and this client's [`Causal`] from the
/// [`CausalLayer`](super::CausalLayer).
impl<S> FromRequestParts<S> for Db
where
    Router: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = MissingCausalLayer;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let causal = parts
            .extensions
            .get::<Causal>()
            .ok_or(MissingCausalLayer)?
            .clone();
        Ok(Router::from_ref(state).db(causal))
    }
}
