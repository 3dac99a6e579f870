//! What is wrong with a node that only an operator can mend.

use serde::Serialize;

use super::error::ConnectError;
use super::lsn::Lsn;
use super::role::Role;
use super::view::View;

/// What is wrong with a node. The others go on without it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case", tag = "kind")]
#[non_exhaustive]
pub enum Problem {
    /// The server refuses the user, the password or the way of signing in.
    #[error("the server refuses the user or the password")]
    Authentication,
    /// The server has no database of this name.
    #[error("the server has no such database")]
    NoDatabase,
    /// The server has no connection left for the probe.
    #[error("the server has no connection left")]
    NoConnectionLeft,
    /// The server is older than what this crate works with.
    #[error("the server is version {version}, the oldest supported one is 12")]
    TooOld {
        /// The server's version, as its `server_version_num`.
        version: u32,
    },
    /// It belongs to another database cluster.
    #[error("the node belongs to database cluster {theirs}, the others to {ours}")]
    Foreign {
        /// Its cluster.
        theirs: u64,
        /// The cluster of this router.
        ours: u64,
    },
    /// Two names lead to one server.
    #[error("the node is the same server as {node}")]
    SameServer {
        /// The name that stands for both.
        node: String,
    },
    /// It takes writes on a timeline that has been left, or that another shares.
    #[error("the node takes writes beside the primary")]
    StalePrimary,
    /// It has received what the new primary's log does not have.
    #[error("the standby is at {at}, past the end of what the primary kept of its timeline")]
    Diverged {
        /// Where it is.
        at: Lsn,
    },
    /// Two nodes took writes on one timeline, and the standby followed one of them.
    #[error("the standby followed one of two primaries on one timeline")]
    Doubtful,
    /// The user may not see what a standby follows.
    #[error("the user is not a member of pg_monitor")]
    NoMonitorGrant,
    /// The history of the timeline cannot be read.
    #[error("the history of timeline {timeline} cannot be read")]
    NoHistory {
        /// The timeline.
        timeline: u32,
    },
    /// A standby receives nothing.
    #[error("the standby receives from nobody")]
    NoUpstream,
}

impl Problem {
    /// What to do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Authentication => {
                "correct user and password in the node's connection string, or add the user to the server's pg_hba.conf"
            }
            Self::NoDatabase => "correct dbname in the node's connection string",
            Self::NoConnectionLeft => {
                "raise max_connections, or lower pool_size so that all app servers together stay below it"
            }
            Self::TooOld { .. } => "upgrade the server to PostgreSQL 12 or later",
            Self::Foreign { .. } => {
                "take the node out, or pin the right cluster with Builder::system_id"
            }
            Self::SameServer { .. } => "give each server once",
            Self::StalePrimary => {
                "stop the server, then rewind it (pg_rewind) and start it as a standby of the primary; remove the node if it is gone for good"
            }
            Self::Diverged { .. } => {
                "rewind it (pg_rewind) or make it anew, and let it follow the primary"
            }
            Self::Doubtful => {
                "make sure that it follows the primary, by rewinding it (pg_rewind) if not, and restart it"
            }
            Self::NoMonitorGrant => "GRANT pg_monitor TO the user",
            Self::NoHistory { .. } => {
                "GRANT EXECUTE ON FUNCTION pg_read_file(text, bigint, bigint, boolean) TO the user"
            }
            Self::NoUpstream => {
                "check the standby's primary_conninfo and that the server it names is up"
            }
        }
    }

    /// What a refused connection says about the set-up; `None` when it says only that the node is down.
    pub(crate) fn of_connect(error: &ConnectError) -> Option<Self> {
        use tokio_postgres::error::SqlState;
        let ConnectError::Postgres(error) = error else {
            return None;
        };
        match error.code()? {
            code if *code == SqlState::INVALID_PASSWORD
                || *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION =>
            {
                Some(Self::Authentication)
            }
            code if *code == SqlState::INVALID_CATALOG_NAME => Some(Self::NoDatabase),
            code if *code == SqlState::TOO_MANY_CONNECTIONS => Some(Self::NoConnectionLeft),
            _ => None,
        }
    }

    /// What the rules have found out about a node, before what it told about the set-up (`told`) where that weighs more.
    pub(crate) fn of_node(
        view: &View,
        index: usize,
        told: Option<&Self>,
        name: impl Fn(usize) -> String,
    ) -> Option<Self> {
        let node = &view.nodes[index];
        match node.role {
            Role::Unreachable => told.cloned(),
            Role::Foreign => Some(Self::Foreign {
                theirs: node.system_id?,
                ours: view.system_id?,
            }),
            Role::Duplicate => Some(Self::SameServer {
                node: name(node.same_as?),
            }),
            Role::StalePrimary => Some(Self::StalePrimary),
            Role::Diverged => Some(Self::Diverged { at: node.lsn? }),
            _ if node.doubtful => Some(Self::Doubtful),
            _ => told
                .cloned()
                .or_else(|| node.cut_off.then_some(Self::NoUpstream)),
        }
    }
}
