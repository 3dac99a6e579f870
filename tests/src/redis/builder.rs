//! What to start, and how.

use std::path::Path;

use super::{Cluster, Node, config};
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
}

/// What to start.
#[derive(Debug, Clone)]
pub struct Builder {
    replicas: usize,
    sentinels: usize,
    choices: Choices,
}

impl Builder {
    builder_replicas!("How many replicas the master has. Default: 2 with Sentinels, else none.");

    builder_choices!(
        "redis.conf",
        start: "Starts everything and returns when the replicas are in step and all Sentinels know each other and them.",
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
        let count = 1 + self.replicas + self.sentinels;
        let ports = Reservation::take(count).map_err(StartError::io("Redis", "reserve ports"))?;
        let (data_ports, sentinel_ports) = ports.ports().split_at(1 + self.replicas);

        let nodes = self.servers(&bed, &server, data_ports).await?;
        let sentinels = match sentinel {
            Some(program) => {
                self.sentinels(&bed, &program, data_ports[0], sentinel_ports)
                    .await?
            }
            None => Vec::new(),
        };
        Ok(Cluster {
            nodes,
            sentinels,
            bed,
            _ports: ports,
        })
    }

    /// The master and its replicas, in step.
    async fn servers(
        &self,
        bed: &Bed,
        program: &Path,
        ports: &[u16],
    ) -> Result<Vec<Node>, StartError> {
        let mut nodes = Vec::new();
        for (i, port) in ports.iter().enumerate() {
            let of = (i > 0).then(|| ports[0]);
            let conf = config::server(*port, of, &self.choices.settings);
            let name = format!("redis-{i}");
            nodes.push(Node::spawn(bed, program, name, *port, &conf, None)?);
        }
        for node in &nodes {
            node.wait_ready().await?;
        }
        nodes[0].wait_joined(self.replicas).await?;
        Ok(nodes)
    }

    /// The Sentinels, aware of the replicas and of each other.
    async fn sentinels(
        &self,
        bed: &Bed,
        program: &Path,
        master: u16,
        ports: &[u16],
    ) -> Result<Vec<Node>, StartError> {
        let mut sentinels = Vec::new();
        for (i, port) in ports.iter().enumerate() {
            let conf = config::sentinel(*port, master, self.sentinels);
            let (name, mode) = (format!("sentinel-{i}"), Some("--sentinel"));
            sentinels.push(Node::spawn(bed, program, name, *port, &conf, mode)?);
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
