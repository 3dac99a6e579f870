//! What to start, and how.

use super::{
    Cluster, Node,
    config::{Layout, Shared},
    etcd,
};
use crate::{
    StartError,
    parts::{Choices, builder_choices, postgres_programs, program, write_configuration},
    ports::Reservation,
    process::{Bed, Spec},
    setup::Tool,
};

/// Where to begin.
#[derive(Debug)]
#[non_exhaustive]
pub struct Patroni;

impl Patroni {
    /// A cluster with this many PostgreSQL nodes, each under a Patroni of its own, and one etcd.
    pub fn cluster(nodes: usize) -> Builder {
        Builder {
            nodes,
            choices: Choices::default(),
        }
    }
}

/// What to start.
#[derive(Debug, Clone)]
pub struct Builder {
    nodes: usize,
    choices: Choices,
}

impl Builder {
    builder_choices!(
        "postgresql.conf",
        start: "Starts everything and returns when the cluster is healthy: see [`Cluster::wait_healthy`].",
        errors: "When PostgreSQL, Patroni, etcd or Python's etcd module is not installed, or one of them does not start"
    );

    async fn start_once(&self) -> Result<Cluster, StartError> {
        let part = "Patroni";
        let bin = postgres_programs(part)?;
        let (patroni, etcd) = (program(part, Tool::Patroni)?, program(part, Tool::Etcd)?);
        // Without the module Patroni waits for ever instead of failing.
        program(part, Tool::PythonEtcd)?;
        let bed = Bed::choose(self.choices.dir.as_deref())?;
        let ports =
            Reservation::take(2 + 2 * self.nodes).map_err(StartError::io(part, "reserve ports"))?;
        let (etcd_ports, node_ports) = ports.ports().split_at(2);

        let etcd = etcd::start(&bed, etcd, etcd_ports[0], etcd_ports[1]).await?;
        let shared = Shared {
            bin: &bin,
            etcd: etcd_ports[0],
            settings: &self.choices.settings,
        };
        let mut nodes = Vec::new();
        for (index, ports) in node_ports.chunks(2).enumerate() {
            let layout = Layout::new(&bed, index, ports[0], ports[1])?;
            let conf = layout.dir.join("patroni.yml");
            // JSON is YAML, and needs no rules for quoting.
            let text = layout.configuration(&shared).to_string();
            write_configuration(&bed, &layout.name, &conf, &text)?;
            let process = bed.spawn(
                Spec::new(layout.name.clone(), &patroni)
                    .arg(conf)
                    .env("PYTHONUNBUFFERED", "1")
                    .port(layout.rest_port),
            )?;
            nodes.push(Node {
                name: layout.name,
                port: layout.port,
                rest_port: layout.rest_port,
                process,
                data: layout.data,
            });
        }
        let cluster = Cluster {
            nodes,
            etcd,
            bed,
            ports,
        };
        tokio::select! {
            ready = cluster.wait_ready() => ready?,
            ended = cluster.any_ended() => return Err(ended),
        }
        Ok(cluster)
    }
}
