//! Run: `cargo run -p login --bin axum_login`, then
//! `curl -i -d 'name=ann&password=secret' http://127.0.0.1:3000/login`.

use ha_session::MemoryStore;
use login::axum_login_app;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("http://{}", listener.local_addr()?);
    axum::serve(listener, axum_login_app(MemoryStore::new())).await?;
    Ok(())
}
