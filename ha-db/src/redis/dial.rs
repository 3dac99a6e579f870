//! Making one link: each step with a deadline of ours, each failure with its address.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::{AsyncStream, MultiplexedConnection, PubSub};
use ::redis::{AsyncConnectionConfig, ErrorKind, RedisConnectionInfo, RedisError, ServerErrorKind};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::config::{Encryption, Login};
use super::error::{ConfigError, Failure, Step};
use super::url::{DEFAULT_PORT, split_address};

/// Opens links.
#[derive(Clone)]
pub(crate) struct Dialer {
    #[cfg(feature = "tls")]
    tls: Option<tokio_rustls::TlsConnector>,
    /// Of each step.
    pub(crate) limit: Duration,
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer")
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

/// A link that several commands share, and the task that moves its bytes.
#[derive(Clone)]
pub(crate) struct Link {
    pub(crate) commands: MultiplexedConnection,
    _driver: Arc<Driver>,
}

struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Dialer {
    pub(crate) fn new(encryption: Encryption, limit: Duration) -> Result<Self, ConfigError> {
        match encryption {
            Encryption::Plain => Ok(Self {
                #[cfg(feature = "tls")]
                tls: None,
                limit,
            }),
            #[cfg(feature = "tls")]
            Encryption::Tls(tls) => {
                let tls = match tls {
                    Some(tls) => tls,
                    None => crate::tls::Tls::builder().build()?,
                };
                Ok(Self {
                    tls: Some(Arc::clone(tls.config()).into()),
                    limit,
                })
            }
        }
    }

    /// A link for commands, logged in.
    pub(crate) async fn link(
        &self,
        address: &str,
        login: &Login,
        db: i64,
    ) -> Result<Link, Failure> {
        let stream = self.stream(address).await?;
        // Every command has a deadline of its own.
        let settings = AsyncConnectionConfig::new().set_response_timeout(None);
        let info = info(login, db);
        let greeting = MultiplexedConnection::new_with_config(&info, stream, settings);
        let (commands, driver) = self.greet(address, login, greeting).await?;
        let driver = Driver(tokio::spawn(driver).abort_handle());
        Ok(Link {
            commands,
            _driver: Arc::new(driver),
        })
    }

    /// A link for announcements, logged in.
    pub(crate) async fn announcements(
        &self,
        address: &str,
        login: &Login,
    ) -> Result<PubSub, Failure> {
        let stream = self.stream(address).await?;
        let info = info(login, 0);
        self.greet(address, login, PubSub::new(&info, stream)).await
    }

    async fn greet<T>(
        &self,
        address: &str,
        login: &Login,
        greeting: impl Future<Output = Result<T, RedisError>>,
    ) -> Result<T, Failure> {
        let greeted = self.step(address, Step::Login, greeting).await?;
        greeted.map_err(|error| match refused(address, login, error) {
            Failure::Link { address, source } => Failure::Greeting { address, source },
            other => other,
        })
    }

    /// A question, for as long as a step may take.
    pub(crate) async fn within<T>(
        &self,
        address: &str,
        question: impl Future<Output = T>,
    ) -> Result<T, Failure> {
        self.step(address, Step::Question, question).await
    }

    async fn step<T>(
        &self,
        address: &str,
        step: Step,
        doing: impl Future<Output = T>,
    ) -> Result<T, Failure> {
        timeout(self.limit, doing)
            .await
            .map_err(|_| Failure::TimedOut {
                address: address.to_owned(),
                step,
                limit: self.limit,
            })
    }

    async fn stream(
        &self,
        address: &str,
    ) -> Result<std::pin::Pin<Box<dyn AsyncStream + Send + Sync>>, Failure> {
        let failed = |source| Failure::Connect {
            address: address.to_owned(),
            source,
        };
        let (host, port) = split_address(address, DEFAULT_PORT)
            .ok_or_else(|| failed(std::io::ErrorKind::InvalidInput.into()))?;
        let connecting = TcpStream::connect((host.as_str(), port));
        let stream = self.step(address, Step::Connect, connecting).await?;
        let stream = stream.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            let failed = |source| Failure::Tls {
                address: address.to_owned(),
                source,
            };
            let name = rustls::pki_types::ServerName::try_from(host)
                .map_err(|error| failed(std::io::Error::other(error)))?;
            let stream = self
                .step(address, Step::Tls, tls.connect(name, stream))
                .await?
                .map_err(failed)?;
            return Ok(Box::pin(stream));
        }
        Ok(Box::pin(stream))
    }
}

/// What it means that a server refused something that the connection itself needs.
pub(crate) fn refused(address: &str, login: &Login, source: RedisError) -> Failure {
    let address = address.to_owned();
    let user = login.user.clone().unwrap_or_else(|| "default".to_owned());
    let no_auth = matches!(source.code(), Some("NOAUTH" | "WRONGPASS"));
    match source.kind() {
        ErrorKind::AuthenticationFailed => Failure::Login {
            address,
            user,
            source,
        },
        _ if no_auth => Failure::Login {
            address,
            user,
            source,
        },
        ErrorKind::Server(ServerErrorKind::NoPerm) => Failure::NotAllowed {
            address,
            user,
            source,
        },
        _ => Failure::Link { address, source },
    }
}

fn info(login: &Login, db: i64) -> RedisConnectionInfo {
    let mut settings = RedisConnectionInfo::default().set_db(db);
    if let Some(user) = &login.user {
        settings = settings.set_username(user);
    }
    if let Some(password) = &login.password {
        settings = settings.set_password(password);
    }
    settings
}
