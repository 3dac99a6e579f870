//! What to start, and how.

use std::path::Path;

use super::config::{self, Ports, Security};
use super::{Cluster, Login, Node, tls};
use crate::{
    StartError,
    parts::{Choices, builder_choices, builder_replicas, program},
    ports::Reservation,
    process::Bed,
    setup::Tool,
};

/// Where to begin.
#[derive(Debug)]
#[non_exhaustive]
pub struct Redis;

impl Redis {
    /// One Redis by itself.
    pub fn single() -> Builder {
        Builder {
            replicas: 0,
            sentinels: 0,
            shards: 0,
            login: None,
            sentinel_login: None,
            tls: false,
            choices: Choices::default(),
        }
    }

    /// A master, two replicas, and `sentinels` Sentinels that need a majority of themselves to fail over.
    pub fn sentinel(sentinels: usize) -> Builder {
        Builder {
            replicas: 2,
            sentinels,
            ..Self::single()
        }
    }

    /// A Redis Cluster of `nodes` nodes, half of them replicas, one of each master; fewer than six are all masters. Only three
    /// masters or more can agree on a failover.
    pub fn cluster(nodes: usize) -> Builder {
        let shards = if nodes < 6 { nodes } else { nodes / 2 };
        Builder {
            replicas: nodes - shards,
            shards: shards.max(1),
            ..Self::single()
        }
    }
}

/// What to start.
#[derive(Debug, Clone)]
pub struct Builder {
    replicas: usize,
    sentinels: usize,
    /// Masters of a cluster; none without.
    shards: usize,
    login: Option<Login>,
    sentinel_login: Option<Login>,
    tls: bool,
    choices: Choices,
}

impl Builder {
    builder_replicas!(
        "How many replicas there are. Default: 2 with Sentinels, one of each master in a cluster, else none."
    );

    /// Only this user may use the servers, with every right; default: nobody has to log in.
    #[must_use]
    pub fn acl(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        let (user, password) = (user.into(), password.into());
        self.login = Some(Login { user, password });
        self
    }

    /// Only this user may use the Sentinels; default: nobody has to log in.
    #[must_use]
    pub fn sentinel_acl(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        let (user, password) = (user.into(), password.into());
        self.sentinel_login = Some(Login { user, password });
        self
    }

    /// Serves TLS as well, with certificates of the bed's own: [`Cluster::ca`] is who signed them.
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    builder_choices!(
        "redis.conf",
        start: "Starts everything and returns when the replicas are in step and all nodes and Sentinels know each other.",
        errors: "When Redis is not installed or does not start"
    );

    async fn start_once(&self) -> Result<Cluster, StartError> {
        let server = program("Redis", Tool::Redis)?;
        let sentinel = if self.sentinels > 0 {
            Some(program("Redis", Tool::Sentinel)?)
        } else {
            None
        };
        let bed = Bed::choose(self.choices.dir.as_deref())?;
        let data = self.shards.max(1) + self.replicas;
        let all = data + self.sentinels;
        let reservation =
            Reservation::take(3 * all).map_err(StartError::io("Redis", "reserve ports"))?;
        let ports: Vec<Ports> = reservation
            .ports()
            .chunks_exact(3)
            .map(|three| Ports {
                plain: three[0],
                tls: self.tls.then_some(three[1]),
                bus: (self.shards > 0).then_some(three[2]),
            })
            .collect();
        let (data_ports, sentinel_ports) = ports.split_at(data);
        let certificates = if self.tls {
            Some(tls::certificates(&bed)?)
        } else {
            None
        };

        let nodes = self
            .servers(&bed, &server, data_ports, certificates.as_deref())
            .await?;
        let sentinels = match sentinel {
            Some(program) => {
                let master = data_ports[0].announced();
                let security = self.security(certificates.as_deref());
                self.sentinels(&bed, &program, master, sentinel_ports, security)
                    .await?
            }
            None => Vec::new(),
        };
        let cluster = Cluster {
            nodes,
            sentinels,
            certificates,
            bed,
            _ports: reservation,
        };
        if self.shards > 0 {
            cluster.form(self.shards).await?;
        }
        Ok(cluster)
    }

    fn security<'a>(&'a self, certificates: Option<&'a Path>) -> Security<'a> {
        Security {
            login: self.login.as_ref(),
            sentinel_login: self.sentinel_login.as_ref(),
            certificates,
        }
    }

    /// The servers; without a cluster the first is the master of the others, which are in step.
    async fn servers(
        &self,
        bed: &Bed,
        program: &Path,
        ports: &[Ports],
        certificates: Option<&Path>,
    ) -> Result<Vec<Node>, StartError> {
        let mut nodes = Vec::new();
        for (i, own) in ports.iter().enumerate() {
            let of = (i > 0 && self.shards == 0).then(|| ports[0].announced());
            let security = self.security(certificates);
            let conf = config::server(*own, of, security, &self.choices.settings);
            let name = format!("redis-{i}");
            nodes.push(Node::spawn(
                bed,
                program,
                name,
                *own,
                &conf,
                None,
                self.login.clone(),
            )?);
        }
        for node in &nodes {
            node.wait_ready().await?;
        }
        if self.shards == 0 {
            nodes[0].wait_joined(self.replicas).await?;
        }
        Ok(nodes)
    }

    /// The Sentinels, aware of the replicas and of each other.
    async fn sentinels(
        &self,
        bed: &Bed,
        program: &Path,
        master: u16,
        ports: &[Ports],
        security: Security<'_>,
    ) -> Result<Vec<Node>, StartError> {
        let mut sentinels = Vec::new();
        for (i, own) in ports.iter().enumerate() {
            let conf = config::sentinel(*own, master, self.sentinels, security);
            let (name, mode) = (format!("sentinel-{i}"), Some("--sentinel"));
            let login = self.sentinel_login.clone();
            sentinels.push(Node::spawn(bed, program, name, *own, &conf, mode, login)?);
        }
        for sentinel in &sentinels {
            sentinel.wait_ready().await?;
            sentinel
                .wait_aware(self.replicas, ports.len().saturating_sub(1))
                .await?;
        }
        Ok(sentinels)
    }
}
