//! The REST APIs of Patroni and etcd.

use std::{io, net::Ipv4Addr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// A `GET` in HTTP/1.0: the server closes the connection at the end of the body.
pub(super) async fn get(port: u16, path: &str) -> io::Result<(u16, String)> {
    let work = async {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        stream
            .write_all(format!("GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n").as_bytes())
            .await?;
        let mut bytes = Vec::new();
        stream.take(1024 * 1024).read_to_end(&mut bytes).await?;
        Ok::<_, io::Error>(String::from_utf8_lossy(&bytes).into_owned())
    };
    let answer = tokio::time::timeout(Duration::from_secs(2), work)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let parsed = answer.split_once("\r\n\r\n").and_then(|(head, body)| {
        let status = head.split_whitespace().nth(1)?.parse().ok()?;
        Some((status, body.to_owned()))
    });
    parsed.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}
