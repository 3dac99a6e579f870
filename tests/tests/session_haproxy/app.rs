//! The app processes: this very program, told by the environment to be one.

use std::time::Duration;

use axum::Router;
use axum::extract::Path;
use axum::routing::get;
use ha_db::postgres::Router as Database;
use ha_db::redis::Connection;
use ha_session::{
    Key, MemoryStore, PostgresStore, RedisStore, Session, SessionError, SessionLayer, Tiered,
};
use tokio::net::TcpListener;

pub(crate) const PORT: &str = "HA_SESSION_APP_PORT";
pub(crate) const REDIS: &str = "HA_SESSION_APP_REDIS";
pub(crate) const POSTGRES: &str = "HA_SESSION_APP_POSTGRES";

type Answer = Result<String, SessionError>;

#[test]
fn an_app_process_serves_when_the_environment_names_a_port() {
    let Ok(port) = std::env::var(PORT) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let key = Key::from_bytes(&[1; 32]).unwrap();
        let sessions = match (std::env::var(REDIS), std::env::var(POSTGRES)) {
            (Ok(redis), Ok(postgres)) => SessionLayer::new(shared(&redis, &postgres).await, key),
            _ => SessionLayer::new(MemoryStore::new(), key),
        };
        let app = Router::new()
            .route("/add/{name}", get(add))
            .route("/held/{count}", get(held))
            .layer(sessions)
            .route("/ready", get(async || "ready"));
        let listener = TcpListener::bind(format!("127.0.0.1:{port}"))
            .await
            .unwrap();
        axum::serve(listener, app).await.unwrap();
    });
}

async fn shared(redis: &str, postgres: &str) -> Tiered {
    let wait = Duration::from_secs(60);
    let database = Database::builder().node("db", postgres).build().unwrap();
    database.wait_primary(wait).await.unwrap();
    let connection = Connection::from_url(redis).unwrap();
    connection.ready(wait).await.unwrap();
    let durable = PostgresStore::new(database);
    durable.migrate().await.unwrap();
    Tiered::new(RedisStore::new(connection), durable)
}

async fn add(session: Session, Path(name): Path<String>) -> Answer {
    session.insert(&name, "1")?;
    Ok(name)
}

/// Which of the first names the session holds.
async fn held(session: Session, Path(count): Path<usize>) -> Answer {
    let mut held = Vec::new();
    for n in 0..count {
        let name = n.to_string();
        if session.get::<String>(&name).await?.is_some() {
            held.push(name);
        }
    }
    Ok(held.join(","))
}
