//! One Redis or one Sentinel.

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use ::redis::{
    Client, Cmd, ConnectionAddr, FromRedisValue, IntoConnectionInfo as _, RedisConnectionInfo,
    RedisError, cmd,
};

use super::config::Ports;
use super::{Login, MASTER_NAME, STEP};
use crate::{
    StartError,
    error::chain,
    parts::{node_controls, write_configuration},
    process::{Bed, Process, Spec},
};

/// One Redis or one Sentinel.
#[derive(Debug)]
#[non_exhaustive]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its loopback port, the same after a restart.
    pub port: u16,
    /// The port that speaks TLS; none without [`Builder::tls`](super::Builder::tls).
    pub tls_port: Option<u16>,
    /// Its process.
    pub process: Process,
    pub(super) login: Option<Login>,
    pub(super) bus_port: Option<u16>,
}

impl Node {
    pub(super) fn spawn(
        bed: &Bed,
        program: &Path,
        name: String,
        ports: Ports,
        configuration: &str,
        mode: Option<&str>,
        login: Option<Login>,
    ) -> Result<Self, StartError> {
        let dir = bed.make_dir(&name)?;
        // The servers rewrite their configuration when roles change, so it must be theirs.
        let conf = dir.join("redis.conf");
        write_configuration(bed, &name, &conf, configuration)?;
        let process = bed.spawn(
            Spec::new(name.clone(), program)
                .arg(conf)
                .args(mode)
                .port(ports.plain),
        )?;
        Ok(Self {
            name,
            port: ports.plain,
            tls_port: ports.tls,
            process,
            login,
            bus_port: ports.bus,
        })
    }

    node_controls!();

    /// Its address as `redis://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("redis://{}", self.addr())
    }

    /// The address that the others know it by: with TLS where that is set up.
    pub fn announced(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.tls_port.unwrap_or(self.port)).into()
    }

    /// One command over a connection of its own, within 2 s.
    ///
    /// # Errors
    ///
    /// When the connection or the command fails.
    pub async fn command<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StartError> {
        self.query(command)
            .await
            .map_err(StartError::redis(&self.name, "run a command"))
    }

    pub(super) async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisError> {
        let work = async {
            let mut settings = RedisConnectionInfo::default();
            if let Some(login) = &self.login {
                settings = settings
                    .set_username(&login.user)
                    .set_password(&login.password);
            }
            let info = ConnectionAddr::Tcp(self.addr().ip().to_string(), self.port)
                .into_connection_info()?
                .set_redis_settings(settings);
            let client = Client::open(info)?;
            let mut connection = client.get_multiplexed_async_connection().await?;
            command.query_async(&mut connection).await
        };
        match tokio::time::timeout(Duration::from_secs(2), work).await {
            Ok(done) => done,
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        }
    }

    pub(super) async fn wait<'a, F, Look>(
        &'a self,
        what: &'static str,
        deadline: Duration,
        look: F,
    ) -> Result<(), StartError>
    where
        F: Fn(&'a Self) -> Look,
        Look: Future<Output = Result<Result<(), String>, RedisError>>,
    {
        self.process
            .wait_until(what, deadline, async || {
                look(self).await.unwrap_or_else(|error| Err(chain(&error)))
            })
            .await
    }

    pub(super) async fn wait_ready(&self) -> Result<(), StartError> {
        self.wait("answering", STEP, async |node: &Self| {
            let info: String = node.query(&cmd("INFO")).await?;
            // INFO is answered while data is still being loaded, and nothing else is.
            if info.contains("\nloading:1") {
                return Ok(Err("it loads its data".to_owned()));
            }
            let pid = info
                .lines()
                .find_map(|line| line.strip_prefix("process_id:")?.parse().ok());
            // A stranger on the same port would answer just as well.
            Ok(if pid == node.process.pid() {
                Ok(())
            } else {
                Err(format!("process {pid:?} answers"))
            })
        })
        .await
    }
    /// Waits until this master has `replicas` replicas in step.
    pub(super) async fn wait_joined(&self, replicas: usize) -> Result<(), StartError> {
        self.wait("joined by its replicas", STEP, async |node: &Self| {
            let info: String = node.query(cmd("INFO").arg("replication")).await?;
            let online = info
                .lines()
                .filter(|line| line.starts_with("slave") && line.contains("state=online"));
            let joined = online.count() == replicas;
            Ok(joined.then_some(()).ok_or(info))
        })
        .await
    }

    /// Waits until this Sentinel knows the master, so many replicas fit for promotion, and so many other Sentinels.
    pub(super) async fn wait_aware(
        &self,
        replicas: usize,
        others: usize,
    ) -> Result<(), StartError> {
        self.wait("aware of all others", STEP, async |node: &Self| {
            let master: Fields = node
                .query(cmd("SENTINEL").arg("MASTER").arg(MASTER_NAME))
                .await?;
            if !knows(&master, replicas, others) {
                return Ok(Err(format!("{master:?}")));
            }
            let listed: Vec<Fields> = node
                .query(cmd("SENTINEL").arg("REPLICAS").arg(MASTER_NAME))
                .await?;
            let fit = listed.iter().filter(|replica| is_fit(replica)).count();
            let aware = fit == replicas;
            Ok(aware.then_some(()).ok_or_else(|| format!("{listed:?}")))
        })
        .await
    }
}

/// What a Sentinel says of one server.
type Fields = HashMap<String, String>;

fn knows(master: &Fields, replicas: usize, others: usize) -> bool {
    let number = |key: &str| master.get(key).and_then(|text| text.parse::<usize>().ok());
    number("num-slaves") >= Some(replicas)
        && number("num-other-sentinels") == Some(others)
        && master.get("flags").is_some_and(|flags| flags == "master")
}

/// A replica is only fit for promotion once the Sentinel has heard from it.
fn is_fit(replica: &Fields) -> bool {
    let says = |key: &str, value: &str| replica.get(key).is_some_and(|said| said == value);
    says("flags", "slave") && says("master-link-status", "ok")
}
