use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::time::timeout;
use tower_service::Service;

use super::answer;
use super::body::ResponseBody;
use super::error::Error;
use super::fingerprint::Fingerprint;
use super::future::ResponseFuture;
use super::key::{Key, KeyError};
use super::layer::{Shared, is_final};
use super::problem::Refusal;
use super::store::{Claim, Run};
use crate::postgres::Causal;

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Answers a request that carries a key once, and repeats that answer. See the [module](super).
#[derive(Clone)]
pub struct IdempotencyService<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S> IdempotencyService<S> {
    pub(super) fn new(inner: S, shared: Arc<Shared>) -> Self {
        Self { inner, shared }
    }
}

impl<S: fmt::Debug> fmt::Debug for IdempotencyService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyService")
            .field("inner", &self.inner)
            .field("shared", &self.shared)
            .finish()
    }
}

impl<S, B, R> Service<Request<B>> for IdempotencyService<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: Body<Data = Bytes> + From<Bytes> + Send + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, R, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if request.method().is_safe() || !request.headers().contains_key(KEY) {
            return ResponseFuture::untouched(self.inner.call(request));
        }
        self.shared.sweep();
        // The instance that was polled ready goes with the request; its successor has to become ready itself.
        let successor = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, successor);
        let shared = Arc::clone(&self.shared);
        ResponseFuture::keyed(Box::pin(async move {
            let (parts, body) = request.into_parts();
            match open(&shared, parts, body).await {
                Err(refusal) => Ok(refusal.respond()),
                Ok(Opened::Done(response)) => Ok(response),
                Ok(Opened::First(run, request)) => {
                    match timeout(shared.hold, first(&shared, inner, *run, *request)).await {
                        Ok(result) => result,
                        // The run went with its future, and its transaction with it.
                        Err(_) => Ok(Refusal::SlowHandler {
                            seconds: shared.hold.as_secs(),
                        }
                        .respond()),
                    }
                }
            }
        }))
    }
}

enum Opened<B, R> {
    First(Box<Run>, Box<Request<B>>),
    Done(Response<ResponseBody<R>>),
}

/// Reads key and body, and claims the key.
async fn open<B, R>(shared: &Shared, parts: Parts, body: B) -> Result<Opened<B, R>, Refusal>
where
    B: Body<Data = Bytes> + From<Bytes>,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let key = read_key(&parts)?;
    let causal = parts
        .extensions
        .get::<Causal>()
        .ok_or(Refusal::MissingCausalLayer)?
        .clone();
    let body = read_body(body, shared.max_body, shared.hold).await?;
    let content_type = parts.headers.get(CONTENT_TYPE);
    let target = parts
        .uri
        .path_and_query()
        .map_or("", |target| target.as_str());
    let fingerprint = Fingerprint::of([
        parts.method.as_str().as_bytes(),
        target.as_bytes(),
        content_type.map_or(b"".as_slice(), HeaderValue::as_bytes),
        &body,
    ]);
    let scope = shared.scope(&parts);
    let claim = shared
        .store
        .claim(&causal, &scope, &key, &fingerprint)
        .await;
    match claim.map_err(|error| refuse(&key, error))? {
        Claim::First(run) => {
            let request = Request::from_parts(parts, B::from(body));
            Ok(Opened::First(run, Box::new(request)))
        }
        Claim::Done(stored) => {
            let answer = answer::decode(stored).map_err(|error| refuse(&key, error))?;
            let mut response = Response::new(ResponseBody::complete(answer.body));
            *response.status_mut() = answer.status;
            *response.headers_mut() = answer.headers;
            response
                .headers_mut()
                .insert(REPLAYED, HeaderValue::from_static("true"));
            tracing::debug!(?key, "answer replayed");
            Ok(Opened::Done(response))
        }
    }
}

/// Calls the handler inside the run's transaction and stores its answer.
async fn first<S, B, R>(
    shared: &Shared,
    mut inner: S,
    run: Run,
    request: Request<B>,
) -> Result<Response<ResponseBody<R>>, S::Error>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body<Data = Bytes>,
    R::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let response = match inner.call(request).await {
        Ok(response) => response,
        Err(error) => {
            abandon(run).await;
            return Err(error);
        }
    };
    if !is_final(response.status()) {
        abandon(run).await;
        return Ok(response.map(ResponseBody::untouched));
    }
    let (parts, body) = response.into_parts();
    let body = match Limited::new(body, shared.max_answer).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            abandon(run).await;
            let refusal = if error.is::<LengthLimitError>() {
                Refusal::LongAnswer {
                    limit: shared.max_answer,
                }
            } else {
                Refusal::Internal
            };
            return Ok(refusal.respond());
        }
    };
    let outcome = answer::encode(parts.status, &parts.headers, &body);
    match run.finish(&outcome).await {
        Ok(()) => {}
        // A failed statement and an answer that says so agree: nothing was done, and there is nothing to store.
        Err(Error::RolledBack) if parts.status.is_client_error() => {}
        Err(error) => {
            tracing::debug!(error = &error as &dyn StdError, "answer not stored");
            return Ok(Refusal::from(error).respond());
        }
    }
    Ok(Response::from_parts(parts, ResponseBody::complete(body)))
}

async fn abandon(run: Run) {
    if let Err(error) = run.abandon().await {
        tracing::debug!(
            error = &error as &dyn StdError,
            "rollback failed, the connection is gone"
        );
    }
}

fn refuse(key: &Key, error: Error) -> Refusal {
    tracing::debug!(?key, error = &error as &dyn StdError, "key not claimed");
    error.into()
}

fn read_key(parts: &Parts) -> Result<Key, KeyError> {
    let mut values = parts.headers.get_all(KEY).iter();
    let (value, None) = (values.next(), values.next()) else {
        return Err(KeyError::Several);
    };
    let text = value.map(HeaderValue::to_str).transpose();
    Key::parse(text.map_err(|_| KeyError::Malformed)?.unwrap_or_default())
}

async fn read_body<B>(body: B, limit: usize, within: Duration) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let too_large = Refusal::TooLarge { limit };
    // What announces its length is refused before a byte is read.
    if usize::try_from(body.size_hint().lower()).map_or(true, |lower| lower > limit) {
        return Err(too_large);
    }
    match timeout(within, Limited::new(body, limit).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large),
        Ok(Err(_)) => Err(Refusal::Body),
        Err(_) => Err(Refusal::SlowBody {
            seconds: within.as_secs(),
        }),
    }
}
