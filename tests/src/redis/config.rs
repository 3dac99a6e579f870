//! What the servers and Sentinels are told.

use super::MASTER_NAME;

/// The configuration of a server on `port`, a replica of the one on `of` where that is given.
pub(super) fn server(port: u16, of: Option<u16>, settings: &[(String, String)]) -> String {
    let mut text = format!(
        "port {port}\nbind 127.0.0.1\nreplica-announce-ip 127.0.0.1\nreplica-announce-port {port}\n\
         save \"\"\nappendonly no\nrepl-diskless-sync yes\nrepl-diskless-sync-delay 0\nrepl-timeout 10\n\
         repl-ping-replica-period 1\n"
    );
    if let Some(master) = of {
        text.push_str(&format!("replicaof 127.0.0.1 {master}\n"));
    }
    for (key, value) in settings {
        text.push_str(&format!("{key} {value}\n"));
    }
    text
}

/// The configuration of one of `sentinels` on `port`, which watch over the master on `master`.
pub(super) fn sentinel(port: u16, master: u16, sentinels: usize) -> String {
    let quorum = sentinels / 2 + 1;
    format!(
        "port {port}\nbind 127.0.0.1\nsentinel announce-ip 127.0.0.1\n\
         sentinel monitor {MASTER_NAME} 127.0.0.1 {master} {quorum}\n\
         sentinel down-after-milliseconds {MASTER_NAME} 2000\n\
         sentinel failover-timeout {MASTER_NAME} 10000\n\
         sentinel parallel-syncs {MASTER_NAME} 2\n"
    )
}
