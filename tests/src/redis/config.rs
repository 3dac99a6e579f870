//! What the servers and Sentinels are told.

use std::path::Path;

use super::{Login, MASTER_NAME};

/// Where one server listens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    /// Without TLS: what the bed itself uses.
    pub(super) plain: u16,
    /// With TLS, where that is set up.
    pub(super) tls: Option<u16>,
    /// The bus of a cluster.
    pub(super) bus: Option<u16>,
}

impl Ports {
    /// The one that servers and Sentinels tell each other and their clients.
    pub(super) fn announced(self) -> u16 {
        self.tls.unwrap_or(self.plain)
    }
}

/// What is set up on every server and Sentinel of a bed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Security<'a> {
    pub(super) login: Option<&'a Login>,
    pub(super) sentinel_login: Option<&'a Login>,
    pub(super) certificates: Option<&'a Path>,
}

impl Security<'_> {
    fn tls(self, port: Option<u16>) -> String {
        let (Some(dir), Some(port)) = (self.certificates, port) else {
            return String::new();
        };
        let dir = dir.display();
        format!(
            "tls-port {port}\ntls-cert-file {dir}/server.pem\ntls-key-file {dir}/server-key.pem\n\
             tls-ca-cert-file {dir}/ca.pem\ntls-auth-clients no\ntls-replication yes\n"
        )
    }
}

/// Nobody but this user.
fn only(login: &Login) -> String {
    let Login { user, password } = login;
    format!("user default off\nuser {user} on >{password} ~* &* +@all\n")
}

/// The configuration of a server, a replica of the one on `of` where that is given.
pub(super) fn server(
    ports: Ports,
    of: Option<u16>,
    security: Security<'_>,
    settings: &[(String, String)],
) -> String {
    let (port, announced) = (ports.plain, ports.announced());
    let mut text = format!(
        "port {port}\nbind 127.0.0.1\nreplica-announce-ip 127.0.0.1\nreplica-announce-port {announced}\n\
         save \"\"\nappendonly no\nrepl-diskless-sync yes\nrepl-diskless-sync-delay 0\nrepl-timeout 10\n\
         repl-ping-replica-period 1\n"
    );
    text.push_str(&security.tls(ports.tls));
    if let Some(login) = security.login {
        text.push_str(&only(login));
        text.push_str(&format!(
            "masteruser {}\nmasterauth {}\n",
            login.user, login.password
        ));
    }
    if let Some(master) = of {
        text.push_str(&format!("replicaof 127.0.0.1 {master}\n"));
    }
    if let Some(bus) = ports.bus {
        text.push_str(&format!(
            "cluster-enabled yes\ncluster-config-file nodes.conf\ncluster-port {bus}\n\
             cluster-node-timeout 2000\n"
        ));
        if ports.tls.is_some() {
            text.push_str("tls-cluster yes\n");
        }
    }
    for (key, value) in settings {
        text.push_str(&format!("{key} {value}\n"));
    }
    text
}

/// The configuration of one of `sentinels`, which watch over the master on `master`.
pub(super) fn sentinel(
    ports: Ports,
    master: u16,
    sentinels: usize,
    security: Security<'_>,
) -> String {
    let quorum = sentinels / 2 + 1;
    let (port, announced) = (ports.plain, ports.announced());
    let mut text = format!(
        "port {port}\nbind 127.0.0.1\nsentinel announce-ip 127.0.0.1\nsentinel announce-port {announced}\n\
         sentinel monitor {MASTER_NAME} 127.0.0.1 {master} {quorum}\n\
         sentinel down-after-milliseconds {MASTER_NAME} 2000\n\
         sentinel failover-timeout {MASTER_NAME} 10000\n\
         sentinel parallel-syncs {MASTER_NAME} 2\n"
    );
    text.push_str(&security.tls(ports.tls));
    if let Some(Login { user, password }) = security.login {
        text.push_str(&format!(
            "sentinel auth-user {MASTER_NAME} {user}\nsentinel auth-pass {MASTER_NAME} {password}\n"
        ));
    }
    if let Some(login) = security.sentinel_login {
        text.push_str(&only(login));
        let Login { user, password } = login;
        text.push_str(&format!(
            "sentinel sentinel-user {user}\nsentinel sentinel-pass {password}\n"
        ));
    }
    text
}
