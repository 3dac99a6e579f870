use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request;
use http::response::Parts;
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
                Ok(Opened::First(run, request)) => first(&shared, inner, *run, *request).await,
            }
        }))
    }
}

enum Opened<B, R> {
    First(Box<Run>, Box<Request<B>>),
    Done(Response<ResponseBody<R>>),
}

/// Reads key and body, and claims the key.
async fn open<B, R>(
    shared: &Shared,
    parts: request::Parts,
    body: B,
) -> Result<Opened<B, R>, Refusal>
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

/// What a handler's answer comes to.
enum Handled<R> {
    /// To be stored.
    Final(Parts, Bytes),
    /// Not to be stored: nothing was done.
    Other(Response<R>),
    Refused(Refusal),
}

/// Calls the handler inside the run's transaction and stores its answer.
async fn first<S, B, R>(
    shared: &Shared,
    inner: S,
    run: Run,
    request: Request<B>,
) -> Result<Response<ResponseBody<R>>, S::Error>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body<Data = Bytes>,
    R::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    // The commit has a limit of its own: what became of one that is given up, nobody could say.
    let (parts, body) = match timeout(shared.hold, handle(shared, inner, request)).await {
        Ok(Ok(Handled::Final(parts, body))) => (parts, body),
        Ok(other) => {
            abandon(run).await;
            return other.map(|other| match other {
                Handled::Other(response) => response.map(ResponseBody::untouched),
                Handled::Refused(refusal) => refusal.respond(),
                Handled::Final(parts, body) => {
                    Response::from_parts(parts, ResponseBody::complete(body))
                }
            });
        }
        Err(_) => {
            // Whatever the handler was doing inside of it is rolled back.
            drop(run);
            let seconds = shared.hold.as_secs();
            return Ok(Refusal::SlowHandler { seconds }.respond());
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

/// Calls the handler, and reads its answer as far as it is to be stored.
async fn handle<S, B, R>(
    shared: &Shared,
    mut inner: S,
    request: Request<B>,
) -> Result<Handled<R>, S::Error>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body<Data = Bytes>,
    R::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let response = inner.call(request).await?;
    if !is_final(response.status()) {
        return Ok(Handled::Other(response));
    }
    let (parts, body) = response.into_parts();
    Ok(
        match Limited::new(body, shared.max_answer).collect().await {
            Ok(body) => Handled::Final(parts, body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Handled::Refused(Refusal::LongAnswer {
                limit: shared.max_answer,
            }),
            Err(_) => Handled::Refused(Refusal::Internal),
        },
    )
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

fn read_key(parts: &request::Parts) -> Result<Key, KeyError> {
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
