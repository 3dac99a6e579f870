//! Sockets that begin as a request and live longer, over real connections.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use axum::routing::get;
use futures_util::{SinkExt as _, StreamExt as _};
use ha_session::{MemoryStore, Session, SessionError, SessionLayer};
use http::Request;
use http::header::{COOKIE, SET_COOKIE};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Message as Sent;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::support::{Answer, Client, keys, routes};

const DEADLINE: Duration = Duration::from_secs(60);

/// Answers each message with what it finds in the session.
async fn serve(mut socket: WebSocket, session: Session) {
    while let Some(Ok(Message::Text(text))) = socket.recv().await {
        let said = match session.refresh().await {
            Ok(true) if text.as_str() == "write" => {
                session.insert("written", "yes").unwrap();
                match session.commit().await {
                    Ok(()) => "stored".to_owned(),
                    Err(error) => error.to_string(),
                }
            }
            Ok(true) => session.get("user").await.unwrap().unwrap_or_default(),
            Ok(false) => "signed out".to_owned(),
            Err(SessionError::Unknown(_)) => "unknown".to_owned(),
            Err(error) => error.to_string(),
        };
        if socket.send(Message::Text(said.into())).await.is_err() {
            return;
        }
    }
}

fn app() -> Router {
    let open = async |session: Session, upgrade: WebSocketUpgrade| -> Answer<Response> {
        session.insert("socket", "open")?;
        let held = session.clone();
        Ok(upgrade.on_upgrade(move |socket| serve(socket, held)))
    };
    routes().route("/socket", get(open))
}

#[tokio::test]
async fn an_upgrade_commits_first_and_its_socket_sees_a_sign_out_elsewhere() {
    let store = MemoryStore::new();
    let mut client = Client::with(app(), SessionLayer::new(store, keys(1)));
    client.text("/set/user/ann").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = Arc::new(Notify::new());
    let (serving, stopped) = (client.app.clone(), Arc::clone(&stop));
    let server = tokio::spawn(async move {
        let stopped = async move { stopped.notified().await };
        axum::serve(listener, serving)
            .with_graceful_shutdown(stopped)
            .await
            .unwrap();
    });

    let mut request: Request<()> = format!("ws://{address}/socket")
        .into_client_request()
        .unwrap();
    let cookie = format!("__Host-id={}", client.cookie.clone().unwrap());
    request
        .headers_mut()
        .insert(COOKIE, cookie.try_into().unwrap());
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut socket, answer) = tokio_tungstenite::client_async(request, stream)
        .await
        .unwrap();
    assert_eq!(answer.status(), 101);
    assert!(
        answer.headers().contains_key(SET_COOKIE),
        "the commit came first"
    );
    assert_eq!(client.text("/get/socket").await, "open");

    let mut ask = async |what: &str| {
        socket.send(Sent::text(what)).await.unwrap();
        let said = tokio::time::timeout(DEADLINE, socket.next()).await.unwrap();
        said.unwrap().unwrap().into_text().unwrap().to_string()
    };
    assert_eq!(ask("who").await, "ann");
    client.text("/set/user/bob").await;
    assert_eq!(
        ask("who").await,
        "bob",
        "what another request changed is seen"
    );
    assert_eq!(ask("write").await, "stored");
    assert_eq!(client.text("/get/written").await, "yes");
    client.text("/sign-out").await;
    assert_eq!(ask("who").await, "signed out");
    assert_eq!(ask("write").await, "signed out");
    drop(socket);
    stop.notify_one();
    tokio::time::timeout(DEADLINE, server)
        .await
        .unwrap()
        .unwrap();
}
