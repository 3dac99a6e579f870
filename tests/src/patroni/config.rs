//! What a Patroni is told.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::{StartError, postgres::SETTINGS, process::Bed};

/// What all nodes are told alike.
pub(super) struct Shared<'a> {
    /// The directory of PostgreSQL's programs.
    pub(super) bin: &'a Path,
    /// The port of etcd.
    pub(super) etcd: u16,
    /// The test's own settings of PostgreSQL.
    pub(super) settings: &'a [(String, String)],
}

impl Shared<'_> {
    fn parameters(&self) -> Map<String, Value> {
        let own = [("wal_retrieve_retry_interval", "500ms")];
        let mut parameters: Map<String, Value> = own
            .iter()
            .chain(&SETTINGS)
            .map(|(key, value)| ((*key).to_owned(), (*value).into()))
            .collect();
        parameters.extend(
            self.settings
                .iter()
                .map(|(key, value)| (key.clone(), value.clone().into())),
        );
        parameters
    }
}

/// Where a node lives before it runs.
pub(super) struct Layout {
    pub(super) name: String,
    pub(super) dir: PathBuf,
    pub(super) data: PathBuf,
    pub(super) port: u16,
    pub(super) rest_port: u16,
}

impl Layout {
    pub(super) fn new(
        bed: &Bed,
        index: usize,
        port: u16,
        rest_port: u16,
    ) -> Result<Self, StartError> {
        let name = format!("patroni-{index}");
        let dir = bed.make_dir(&name)?;
        Ok(Self {
            name,
            data: dir.join("data"),
            dir,
            port,
            rest_port,
        })
    }

    pub(super) fn configuration(&self, shared: &Shared<'_>) -> Value {
        let parameters = shared.parameters();
        let loopback = |port: u16| format!("127.0.0.1:{port}");
        let (address, rest) = (loopback(self.port), loopback(self.rest_port));
        let user = |name: &str| json!({"username": name, "password": name});
        json!({
            "scope": "ha-testbed",
            "name": self.name,
            "restapi": {
                "listen": rest,
                "connect_address": rest,
            },
            "etcd": {"host": loopback(shared.etcd)},
            "bootstrap": {
                "dcs": {
                    "ttl": 5,
                    "loop_wait": 1,
                    "retry_timeout": 2,
                    "maximum_lag_on_failover": 16 * 1024 * 1024,
                    "primary_start_timeout": 0,
                    "synchronous_mode": true,
                    "failsafe_mode": true,
                    "postgresql": {"use_pg_rewind": true, "use_slots": true, "parameters": parameters},
                },
                "initdb": [{"encoding": "UTF8"}, "no-locale", "no-sync"],
            },
            "postgresql": {
                "listen": address,
                "connect_address": address,
                "bin_dir": shared.bin,
                "data_dir": self.data,
                "pgpass": self.dir.join("pgpass"),
                "authentication": {
                    "superuser": user("postgres"),
                    "replication": user("replicator"),
                    "rewind": user("rewinder"),
                },
                "pg_hba": ["host all all 127.0.0.1/32 trust", "host replication all 127.0.0.1/32 trust"],
                "basebackup": [{"checkpoint": "fast"}, "no-sync"],
                "parameters": parameters,
            },
            "watchdog": {"mode": "off"},
        })
    }
}
