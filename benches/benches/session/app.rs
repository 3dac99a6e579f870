//! One app, behind either session layer, and a browser for it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{FromRequestParts, Path};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use ha_session::{Expiry, Key, SessionError, SessionLayer, Store};
use http::header::{COOKIE, SET_COOKIE};
use http::{Request, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tower::ServiceExt as _;
use tower_sessions_014 as theirs;

use crate::Outcome;

/// What a session holds beside what the routes change: some kilobytes, as one that is used does.
const FILLED: usize = 8;
const FILLING: usize = 256;
/// The most bytes of an answer.
const ANSWER: usize = 1 << 20;

/// What handlers do with a session, whichever layer it comes from.
pub(crate) trait Handle: FromRequestParts<()> + Send + Sync + 'static {
    type Error: IntoResponse + Send;

    fn value<T: DeserializeOwned + Send>(
        &self,
        name: &str,
    ) -> impl Future<Output = Result<Option<T>, Self::Error>> + Send;

    fn set<T: Serialize + Send + Sync>(
        &self,
        name: &str,
        value: T,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    fn renew(&self) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

impl Handle for ha_session::Session {
    type Error = SessionError;

    async fn value<T: DeserializeOwned + Send>(
        &self,
        name: &str,
    ) -> Result<Option<T>, Self::Error> {
        self.get(name).await
    }

    async fn set<T: Serialize + Send + Sync>(
        &self,
        name: &str,
        value: T,
    ) -> Result<(), Self::Error> {
        self.insert(name, value)
    }

    async fn renew(&self) -> Result<(), Self::Error> {
        self.rotate();
        Ok(())
    }
}

/// What tower-sessions' handles fail with: its error is no answer by itself.
#[derive(Debug)]
pub(crate) struct Failed(theirs::session::Error);

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        (status, self.0.to_string()).into_response()
    }
}

impl Handle for theirs::Session {
    type Error = Failed;

    async fn value<T: DeserializeOwned + Send>(
        &self,
        name: &str,
    ) -> Result<Option<T>, Self::Error> {
        self.get(name).await.map_err(Failed)
    }

    async fn set<T: Serialize + Send + Sync>(
        &self,
        name: &str,
        value: T,
    ) -> Result<(), Self::Error> {
        self.insert(name, value).await.map_err(Failed)
    }

    async fn renew(&self) -> Result<(), Self::Error> {
        self.cycle_id().await.map_err(Failed)
    }
}

/// Why a handler did nothing.
enum Refused<E> {
    /// The session knows nobody.
    SignedOut,
    Session(E),
}

impl<E: IntoResponse> IntoResponse for Refused<E> {
    fn into_response(self) -> Response {
        match self {
            Self::SignedOut => StatusCode::UNAUTHORIZED.into_response(),
            Self::Session(error) => error.into_response(),
        }
    }
}

type Answer<T, H> = Result<T, <H as Handle>::Error>;
type Guarded<T, H> = Result<T, Refused<<H as Handle>::Error>>;

async fn fill<H: Handle>(session: H) -> Answer<(), H> {
    for n in 0..FILLED {
        session
            .set(&format!("filling{n}"), "x".repeat(FILLING))
            .await?;
    }
    session.set("count", 0_u64).await
}

async fn read<H: Handle>(session: H) -> Answer<String, H> {
    let count: Option<u64> = session.value("count").await?;
    Ok(count.unwrap_or_default().to_string())
}

async fn modify<H: Handle>(session: H) -> Answer<(), H> {
    let count: Option<u64> = session.value("count").await?;
    session.set("count", count.unwrap_or_default() + 1).await
}

async fn write<H: Handle>(session: H) -> Answer<(), H> {
    session.set("seen", fastrand::u64(..)).await
}

async fn rotate<H: Handle>(session: H) -> Answer<(), H> {
    let count: Option<u64> = session.value("count").await?;
    session.set("count", count.unwrap_or_default() + 1).await?;
    session.renew().await
}

async fn sign_in<H: Handle>(session: H, Path(user): Path<u64>) -> Answer<(), H> {
    session.set("user", user).await
}

/// Puts one value, for who is signed in.
async fn put<H: Handle>(session: H, Path((key, value)): Path<(u64, u64)>) -> Guarded<(), H> {
    let user: Option<u64> = session.value("user").await.map_err(Refused::Session)?;
    if user.is_none() {
        return Err(Refused::SignedOut);
    }
    let put = session.set(&name(key), value).await;
    put.map_err(Refused::Session)
}

/// Whose session it is, and which of the values from `from` to `to` it holds.
async fn held<H: Handle>(session: H, Path((from, to)): Path<(u64, u64)>) -> Guarded<String, H> {
    let user: Option<u64> = session.value("user").await.map_err(Refused::Session)?;
    let Some(user) = user else {
        return Err(Refused::SignedOut);
    };
    let mut text = user.to_string();
    for key in from..to {
        let value: Option<u64> = session.value(&name(key)).await.map_err(Refused::Session)?;
        if let Some(value) = value {
            text.push_str(&format!(" {key}={value}"));
        }
    }
    Ok(text)
}

fn name(key: u64) -> String {
    format!("w{key}")
}

fn routes<H: Handle>() -> Router {
    Router::new()
        .route("/untouched", get(async || "plain"))
        .route("/fill", get(fill::<H>))
        .route("/read", get(read::<H>))
        .route("/modify", get(modify::<H>))
        .route("/write", get(write::<H>))
        .route("/rotate", get(rotate::<H>))
        .route("/sign-in/{user}", get(sign_in::<H>))
        .route("/put/{key}/{value}", get(put::<H>))
        .route("/held/{from}/{to}", get(held::<H>))
}

/// The app with our layer, its cookie by default, with another idle limit where one is given.
pub(crate) fn ours(store: impl Store, idle: Option<Duration>) -> Outcome<Router> {
    let layer = SessionLayer::builder(store, Key::from_bytes(&[1; 32])?);
    let layer = match idle {
        Some(idle) => layer.expiry(Expiry::new(idle, Expiry::DEFAULT_ABSOLUTE)?),
        None => layer,
    };
    Ok(routes::<ha_session::Session>().layer(layer.build()?))
}

/// The app with tower-sessions' layer: sessions end after the same idle time as ours. It extends a session only where it saves it, on
/// every request that uses it if it is told to.
pub(crate) fn theirs(store: impl theirs::SessionStore + Clone, always_save: bool) -> Router {
    let idle = time::Duration::seconds(Expiry::DEFAULT_IDLE.as_secs().cast_signed());
    let layer = theirs::SessionManagerLayer::new(store)
        .with_expiry(theirs::Expiry::OnInactivity(idle))
        .with_always_save(always_save);
    routes::<theirs::Session>().layer(layer)
}

/// The cookies of a browser.
#[derive(Debug, Clone, Default)]
pub(crate) struct Jar(BTreeMap<String, String>);

impl Jar {
    fn header(&self) -> Option<String> {
        let pairs = self.0.iter().map(|(name, value)| format!("{name}={value}"));
        (!self.0.is_empty()).then(|| pairs.collect::<Vec<_>>().join("; "))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn take(&mut self, cookies: Vec<SetCookie>) {
        for SetCookie { name, value } in cookies {
            match value {
                Some(value) => self.0.insert(name, value),
                None => self.0.remove(&name),
            };
        }
    }
}

/// What an answer does to one cookie: without a value, it takes it away.
#[derive(Debug, Clone)]
pub(crate) struct SetCookie {
    name: String,
    value: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) cookies: Vec<SetCookie>,
    pub(crate) text: String,
}

impl Reply {
    /// Whether it takes the session away.
    pub(crate) fn signs_out(&self) -> bool {
        self.cookies.iter().any(|cookie| cookie.value.is_none())
    }
}

/// One request with these cookies.
pub(crate) async fn send(app: &Router, jar: &Jar, path: &str) -> Outcome<Reply> {
    let mut request = Request::get(path);
    if let Some(cookies) = jar.header() {
        request = request.header(COOKIE, cookies);
    }
    let answer = app.clone().oneshot(request.body(Body::empty())?).await?;
    let status = answer.status();
    let cookies = answer.headers().get_all(SET_COOKIE).iter();
    let cookies = cookies.map(|header| set_cookie(header.to_str()?));
    let cookies = cookies.collect::<Outcome<_>>()?;
    let body = to_bytes(answer.into_body(), ANSWER).await?;
    let text = String::from_utf8(body.to_vec())?;
    Ok(Reply {
        status,
        cookies,
        text,
    })
}

fn set_cookie(header: &str) -> Outcome<SetCookie> {
    let pair = header.split(';').next().unwrap_or_default();
    let pair = pair.split_once('=');
    let (name, value) = pair.ok_or_else(|| format!("{header:?} is no cookie"))?;
    Ok(SetCookie {
        name: name.to_owned(),
        value: (!value.is_empty()).then(|| value.to_owned()),
    })
}

/// A browser at one app that must be answered well.
#[derive(Clone)]
pub(crate) struct Browser {
    app: Router,
    jar: Jar,
    /// Answers that set a cookie.
    pub(crate) cookies_set: u64,
}

impl fmt::Debug for Browser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Browser").finish_non_exhaustive()
    }
}

impl Browser {
    /// One with a session of some kilobytes.
    pub(crate) async fn filled(app: &Router) -> Outcome<Self> {
        let mut browser = Self {
            app: app.clone(),
            jar: Jar::default(),
            cookies_set: 0,
        };
        browser.get("fill").await?;
        if browser.jar.is_empty() {
            return Err("a filled session has no cookie".into());
        }
        Ok(browser)
    }

    /// The same browser at another app on the same store.
    pub(crate) fn at(self, app: &Router) -> Self {
        Self {
            app: app.clone(),
            ..self
        }
    }

    pub(crate) async fn get(&mut self, route: &str) -> Outcome<String> {
        let path = format!("/{route}");
        let reply = send(&self.app, &self.jar, &path).await?;
        if reply.status != StatusCode::OK {
            let (status, text) = (reply.status, reply.text);
            return Err(format!("{path} is answered {status}: {text}").into());
        }
        if reply.signs_out() {
            return Err(format!("{path} took the cookie away").into());
        }
        self.cookies_set += u64::from(!reply.cookies.is_empty());
        self.jar.take(reply.cookies);
        Ok(reply.text)
    }
}
