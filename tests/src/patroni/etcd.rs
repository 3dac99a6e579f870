//! Where Patroni keeps who leads.

use std::path::PathBuf;

use super::{STEP, rest};
use crate::{
    StartError,
    process::{Bed, Process, Spec},
};

/// One etcd, answering; with the v2 API, which is the one Patroni's `etcd` section uses.
pub(super) async fn start(
    bed: &Bed,
    program: PathBuf,
    client: u16,
    peer: u16,
) -> Result<Process, StartError> {
    let (client_url, peer_url) = (
        format!("http://127.0.0.1:{client}"),
        format!("http://127.0.0.1:{peer}"),
    );
    let process = bed.spawn(
        Spec::new("etcd-0", program)
            .args([
                "--name",
                "etcd-0",
                "--data-dir",
                "data",
                "--enable-v2",
                "--log-level",
                "warn",
            ])
            .args([
                "--listen-client-urls",
                &client_url,
                "--advertise-client-urls",
                &client_url,
            ])
            .args([
                "--listen-peer-urls",
                &peer_url,
                "--initial-advertise-peer-urls",
                &peer_url,
            ])
            .args(["--initial-cluster", &format!("etcd-0={peer_url}")])
            .port(client),
    )?;
    process
        .wait_until("healthy", STEP, async || {
            match rest::get(client, "/health").await {
                Ok((200, body)) if body.contains("true") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await?;
    Ok(process)
}
