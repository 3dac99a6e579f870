//! Run: `cargo run -p login`, then
//! `curl -i -d 'name=ann&password=secret' http://127.0.0.1:3000/login`.
//!
//! The cookie is `__Host-id` and `Secure`: a browser takes it over HTTPS, or on `localhost`, only.

use ha_session::{Key, MemoryStore};
use login::{Users, app};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // In production the same on every app server, from where secrets are kept; and Tiered instead of MemoryStore.
    let mut secret = [0; 32];
    getrandom::fill(&mut secret)?;
    let app = app(
        MemoryStore::new(),
        Key::from_bytes(&secret)?,
        Users::of("ann", "secret"),
    )?;
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("http://{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}
