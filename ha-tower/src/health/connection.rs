use std::future::Future;
use std::pin::pin;

use futures_util::future::{Either, select};
use ha_core::endpoint::Address;
use tokio::net::TcpStream;

use super::Failure;

pub(super) async fn open(address: &Address) -> Result<TcpStream, Failure> {
    let stream = TcpStream::connect((address.host(), address.port())).await;
    stream.map_err(|source| Failure::Connect {
        address: address.authority().to_owned(),
        source,
    })
}

/// Runs `talk` over a connection that moves only while it is polled, without a task for it.
pub(super) async fn drive<T>(connection: impl Future, talk: impl Future<Output = T>) -> T {
    match select(pin!(talk), pin!(connection)).await {
        Either::Left((said, _)) => said,
        // An error of the connection shows up in the talk as well.
        Either::Right((_, talk)) => talk.await,
    }
}
