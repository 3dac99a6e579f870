use bytes::Bytes;
use ha_core::config::ConfigError;
use ha_core::endpoint::Endpoint;
use ha_core::health::Finding;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::connection::open;
use super::probe::{Answer, Ask, Probe};
use super::reading::Reading;
use super::{Check, Failure};

const ANSWER_LIMIT: usize = 64 * 1024;

/// A check by a TCP connection: passes when it opens, and when what comes contains the expected bytes, if any are.
///
/// A connection that merely opens says little: the kernel of a frozen process still accepts. Where the protocol has a question, ask
/// it:
///
/// ```
/// use ha_tower::health::Tcp;
///
/// let redis = Tcp::connect().send("PING\r\n").expect("+PONG");
/// ```
#[derive(Debug, Clone, Default)]
pub struct Tcp {
    send: Option<Bytes>,
    expect: Option<Bytes>,
}

impl Tcp {
    /// Passes when a connection opens.
    pub fn connect() -> Check<Self> {
        Check::new(Self::default())
    }

    async fn exchange(&self, endpoint: &Endpoint) -> Result<Finding, Failure> {
        let mut stream = open(&endpoint.address).await?;
        if let Some(send) = &self.send {
            stream.write_all(send).await.map_err(Failure::exchange)?;
        }
        let Some(expect) = &self.expect else {
            return Ok(Finding::Pass);
        };
        let mut reading = Reading::new(Some(expect), ANSWER_LIMIT);
        let mut buffer = [0; 4096];
        loop {
            let read = stream.read(&mut buffer).await.map_err(Failure::exchange)?;
            if read == 0 {
                return reading.end().map(Finding::from);
            }
            if reading.feed(&buffer[..read])? {
                return Ok(Finding::Pass);
            }
        }
    }
}

impl Check<Tcp> {
    /// Bytes to send when the connection is open. Default none.
    pub fn send(mut self, bytes: impl Into<Bytes>) -> Self {
        self.probe.send = Some(bytes.into());
        self
    }

    /// Bytes that must come within the first 64 KiB. Default none.
    pub fn expect(mut self, bytes: impl Into<Bytes>) -> Self {
        self.probe.expect = Some(bytes.into());
        self
    }
}

impl Ask for Tcp {
    fn validate(&self) -> Result<(), ConfigError> {
        let refused = |field| {
            Err(ConfigError::new(
                field,
                "empty",
                "must have at least one byte",
            ))
        };
        if self.send.as_ref().is_some_and(Bytes::is_empty) {
            return refused("health.send");
        }
        match &self.expect {
            Some(expect) if expect.is_empty() => refused("health.expect"),
            Some(expect) if expect.len() > ANSWER_LIMIT => Err(ConfigError::new(
                "health.expect",
                format_args!("{} bytes", expect.len()),
                "must not be longer than the 64 KiB that are read",
            )),
            _ => Ok(()),
        }
    }

    fn ask(&self, endpoint: Endpoint) -> Answer<'_> {
        Box::pin(async move { self.exchange(&endpoint).await })
    }
}

impl Probe for Tcp {}
