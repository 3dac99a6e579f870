//! What to start, and how.

use std::path::{Path, PathBuf};

use futures_util::future::try_join_all;

use super::{
    Cluster, Node, SETTINGS, STEP,
    files::{append, copy, make_standby},
    slot,
};
use crate::{
    StartError,
    parts::{Choices, builder_choices, builder_replicas, postgres_programs},
    ports::Reservation,
    process::{Bed, Spec, run},
};

/// Where to begin.
#[derive(Debug)]
#[non_exhaustive]
pub struct Postgres;

impl Postgres {
    /// A primary, to begin with without replicas.
    pub fn primary() -> Builder {
        Builder {
            replicas: 0,
            synchronous: false,
            choices: Choices::default(),
        }
    }
}

/// What to start.
#[derive(Debug, Clone)]
pub struct Builder {
    replicas: usize,
    synchronous: bool,
    choices: Choices,
}

impl Builder {
    builder_replicas!("How many replicas stream from the primary. Default: none.");

    /// Whether a commit waits until any one replica has it on disk (`synchronous_standby_names = 'ANY 1 (*)'`).
    /// Default: no.
    #[must_use]
    pub fn synchronous(mut self, synchronous: bool) -> Self {
        self.synchronous = synchronous;
        self
    }

    builder_choices!(
        "postgresql.conf",
        start: "Starts the nodes and returns when every replica streams.",
        errors: "When PostgreSQL is not installed or does not start"
    );

    async fn start_once(&self) -> Result<Cluster, StartError> {
        let bin = postgres_programs("PostgreSQL")?;
        let bed = Bed::choose(self.choices.dir.as_deref())?;
        let ports = Reservation::take(self.replicas + 1)
            .map_err(StartError::io("PostgreSQL", "reserve ports"))?;
        let start = Start {
            bed: &bed,
            bin: &bin,
        };
        let mut layouts = Vec::new();
        for (index, port) in ports.ports().iter().enumerate() {
            layouts.push(Layout::new(&bed, index, *port)?);
        }
        let replicas = layouts.split_off(1);
        let nodes = start.all(self, layouts.remove(0), replicas).await?;
        let cluster = Cluster {
            nodes,
            bin,
            bed,
            _ports: ports,
        };
        cluster.wait_streaming(0, self.replicas, STEP).await?;
        if self.synchronous {
            make_synchronous(&cluster).await?;
        }
        Ok(cluster)
    }

    fn configuration(&self) -> String {
        let own = [
            ("listen_addresses", "127.0.0.1"),
            ("wal_retrieve_retry_interval", "100ms"),
        ];
        let own = own.iter().chain(&SETTINGS).copied();
        let asked = self.choices.settings.iter();
        let mut text = "\n# The test bed's own.\n".to_owned();
        for (key, value) in own.chain(asked.map(|(key, value)| (key.as_str(), value.as_str()))) {
            text.push_str(&format!("{key} = '{}'\n", value.replace('\'', "''")));
        }
        text
    }
}

async fn make_synchronous(cluster: &Cluster) -> Result<(), StartError> {
    for statement in [
        "alter system set synchronous_standby_names = 'ANY 1 (*)'",
        "select pg_reload_conf()",
    ] {
        cluster.nodes[0]
            .execute("make it synchronous", statement)
            .await?;
    }
    let counts =
        "select count(*) > 0 from pg_stat_replication where sync_state in ('quorum', 'sync')";
    cluster.wait_query(0, "synchronous", counts, STEP).await
}

/// Where a node lives before it runs.
struct Layout {
    name: String,
    port: u16,
    dir: PathBuf,
    data: PathBuf,
}

impl Layout {
    fn new(bed: &Bed, index: usize, port: u16) -> Result<Self, StartError> {
        let name = format!("postgres-{index}");
        let dir = bed.make_dir(&name)?;
        let data = dir.join("data");
        Ok(Self {
            name,
            port,
            dir,
            data,
        })
    }
}

/// What every step of a start needs.
struct Start<'a> {
    bed: &'a Bed,
    bin: &'a Path,
}

impl Start<'_> {
    /// A replica begins as a copy of what the primary begins with, taken before anybody runs, so that it needs no base
    /// backup from a running primary and only has to stream what came after.
    async fn all(
        &self,
        builder: &Builder,
        primary: Layout,
        replicas: Vec<Layout>,
    ) -> Result<Vec<Node>, StartError> {
        self.initdb(&primary).await?;
        let conf = primary.data.join("postgresql.conf");
        append(self.bed, &primary.name, &conf, &builder.configuration())?;
        if !(builder.choices.settings.is_empty() || replicas.is_empty()) {
            self.settle(&primary).await?;
        }
        let copies = replicas.iter().map(|replica| {
            let (from, to) = (primary.data.clone(), replica.data.clone());
            copy(self.bed, &replica.name, from, to)
        });
        try_join_all(copies).await?;

        let primary = self.node(primary).await?;
        for replica in &replicas {
            let slot = format!(
                "select pg_create_physical_replication_slot('{}')",
                slot(&replica.name)
            );
            primary.execute("create a replication slot", &slot).await?;
            make_standby(
                self.bed,
                &replica.name,
                &replica.data,
                &primary.replication(),
            )?;
        }
        let replicas = try_join_all(replicas.into_iter().map(|replica| self.node(replica))).await?;
        Ok(std::iter::once(primary).chain(replicas).collect())
    }

    async fn initdb(&self, layout: &Layout) -> Result<(), StartError> {
        let spec = Spec::new(format!("{}-initdb", layout.name), self.bin.join("initdb"))
            .args([
                "--auth=trust",
                "--username=postgres",
                "--encoding=UTF8",
                "--no-locale",
                "--no-sync",
                "--pgdata",
            ])
            .arg(&layout.data);
        run(self.bed, spec, &layout.dir, STEP).await
    }

    /// Has PostgreSQL write its settings into the control file, by a start without clients: a replica refuses to run
    /// with fewer connections than are written there.
    async fn settle(&self, layout: &Layout) -> Result<(), StartError> {
        let name = format!("{}-settings", layout.name);
        let spec = Spec::new(name, self.bin.join("postgres"))
            .args(["--single", "-D"])
            .arg(&layout.data)
            .arg("postgres");
        run(self.bed, spec, &layout.dir, STEP).await
    }

    async fn node(&self, layout: Layout) -> Result<Node, StartError> {
        let spec = Spec::new(layout.name.clone(), self.bin.join("postgres"))
            .arg("-D")
            .arg(&layout.data)
            .args(["-p", &layout.port.to_string()])
            .port(layout.port);
        let node = Node {
            name: layout.name,
            port: layout.port,
            process: self.bed.spawn(spec)?,
            data: layout.data,
        };
        node.wait_ready().await?;
        Ok(node)
    }
}
