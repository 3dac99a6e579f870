//! The programs a bed needs, and what they are called.

use std::fmt;

/// A program the bed starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Tool {
    /// PostgreSQL's server; `initdb`, `pg_basebackup` and `pg_rewind` must lie beside it.
    Postgres,
    /// Patroni, which keeps a PostgreSQL cluster alive.
    Patroni,
    /// etcd, where Patroni keeps who leads.
    Etcd,
    /// The Python module through which Patroni talks to etcd.
    PythonEtcd,
    /// The Redis server.
    Redis,
    /// Redis Sentinel, which fails Redis over.
    Sentinel,
    /// HAProxy, as an edge of somebody else's making.
    HaProxy,
    /// PgBouncer, a pooler of somebody else's making before PostgreSQL.
    PgBouncer,
}

impl Tool {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Postgres,
        Self::Patroni,
        Self::Etcd,
        Self::PythonEtcd,
        Self::Redis,
        Self::Sentinel,
        Self::HaProxy,
        Self::PgBouncer,
    ];

    /// The environment variable that names the program, for those who keep it elsewhere.
    pub fn env(self) -> &'static str {
        match self {
            Self::Postgres => "HA_TESTBED_POSTGRES",
            Self::Patroni => "HA_TESTBED_PATRONI",
            Self::Etcd => "HA_TESTBED_ETCD",
            Self::PythonEtcd => "HA_TESTBED_PYTHON",
            Self::Redis => "HA_TESTBED_REDIS_SERVER",
            Self::Sentinel => "HA_TESTBED_REDIS_SENTINEL",
            Self::HaProxy => "HA_TESTBED_HAPROXY",
            Self::PgBouncer => "HA_TESTBED_PGBOUNCER",
        }
    }

    pub(super) fn program(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Patroni => "patroni",
            Self::Etcd => "etcd",
            Self::PythonEtcd => "python3",
            Self::Redis => "redis-server",
            Self::Sentinel => "redis-sentinel",
            Self::HaProxy => "haproxy",
            Self::PgBouncer => "pgbouncer",
        }
    }

    pub(super) fn debian(self) -> &'static str {
        match self {
            Self::Postgres => "postgresql",
            Self::Patroni => "patroni",
            Self::Etcd => "etcd-server",
            Self::PythonEtcd => "python3-etcd",
            Self::Redis => "redis-server",
            Self::Sentinel => "redis-sentinel",
            Self::HaProxy => "haproxy",
            Self::PgBouncer => "pgbouncer",
        }
    }

    pub(super) fn brew(self) -> &'static str {
        match self {
            Self::Postgres => "postgresql@16",
            // The formula carries the Python modules it needs.
            Self::Patroni | Self::PythonEtcd => "patroni",
            Self::Etcd => "etcd",
            Self::Redis | Self::Sentinel => "redis",
            Self::HaProxy => "haproxy",
            Self::PgBouncer => "pgbouncer",
        }
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Postgres => "PostgreSQL",
            Self::Patroni => "Patroni",
            Self::Etcd => "etcd",
            Self::PythonEtcd => "Python's etcd module",
            Self::Redis => "Redis",
            Self::Sentinel => "Redis Sentinel",
            Self::HaProxy => "HAProxy",
            Self::PgBouncer => "PgBouncer",
        })
    }
}
