//! Whose sessions are: listed, revoked one by one and all at once.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::extract::Path;
use axum::routing::get;
use ha_session::{MemoryStore, Session, SessionLayer};
use http::StatusCode;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::support::{Answer, Client, Probe, keys, routes};

/// An app in which a sign-in waits between checking the password and its end when asked to.
fn app(gate: &Arc<Notify>, arrived: &Arc<Notify>) -> Router {
    let (gate, arrived) = (Arc::clone(gate), Arc::clone(arrived));
    let login = async |session: Session,
                       Path((user, device)): Path<(String, String)>|
           -> Answer<&'static str> {
        session.set_principal_on(&user, &device)?;
        session.insert("user", user)?;
        Ok("in")
    };
    let slow = async move |session: Session, Path(user): Path<String>| -> Answer<&'static str> {
        arrived.notify_one();
        gate.notified().await;
        session.set_principal(&user)?;
        session.insert("user", user)?;
        Ok("in")
    };
    let who = async |session: Session| -> Answer<String> {
        let principal = session.principal().await?;
        Ok(principal.map_or("nobody".into(), |who| who.as_str().to_owned()))
    };
    let devices = async |session: Session| -> Answer<String> {
        let list = session.sessions().await?;
        let own = session.id();
        let shown = list.into_iter().map(|info| {
            let mark = if Some(info.id()) == own { "*" } else { "" };
            format!("{mark}{}", info.device.unwrap_or_default())
        });
        let mut shown: Vec<_> = shown.collect();
        shown.sort();
        Ok(shown.join(","))
    };
    let id_of = async |session: Session, Path(device): Path<String>| -> Answer<String> {
        let list = session.sessions().await?;
        let found = list
            .into_iter()
            .find(|info| info.device.as_deref() == Some(&device));
        Ok(found.map(|info| info.id()).unwrap_or_default())
    };
    let revoke = async |session: Session, Path(id): Path<String>| -> Answer<String> {
        Ok(session.revoke(&id).await?.to_string())
    };
    let everywhere = async |session: Session| -> Answer<&'static str> {
        session.revoke_all().await?;
        Ok("out")
    };
    let password = async |session: Session| -> Answer<&'static str> {
        session.revoke_others().await?;
        session.rotate();
        Ok("changed")
    };
    let reset = async |session: Session, Path(user): Path<String>| -> Answer<&'static str> {
        session.revoke_all_of(&user).await?;
        session.set_principal(&user)?;
        Ok("reset")
    };
    routes()
        .route("/login/{user}/{device}", get(login))
        .route("/slow-login/{user}", get(slow))
        .route("/who", get(who))
        .route("/devices", get(devices))
        .route("/id/{device}", get(id_of))
        .route("/revoke/{id}", get(revoke))
        .route("/everywhere", get(everywhere))
        .route("/password", get(password))
        .route("/reset/{user}", get(reset))
}

struct Bed {
    store: Probe,
    gate: Arc<Notify>,
    arrived: Arc<Notify>,
}

impl Bed {
    fn new() -> Self {
        Self {
            store: Probe::default(),
            gate: Arc::default(),
            arrived: Arc::default(),
        }
    }

    fn client(&self) -> Client {
        let layer = SessionLayer::new(self.store.clone(), keys(1));
        Client::with(app(&self.gate, &self.arrived), layer)
    }

    async fn login(&self, user: &str, device: &str) -> Client {
        let mut client = self.client();
        let path = format!("/login/{user}/{device}");
        // A sign-in within milliseconds of a revocation cannot tell that it came later, and is refused until it can.
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let answer = client.send(&path).await;
            if answer.status() != StatusCode::SERVICE_UNAVAILABLE {
                assert_eq!(answer.status(), StatusCode::OK);
                return client;
            }
            assert!(Instant::now() < deadline, "still refused");
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_user_sees_the_own_devices_and_ends_one_of_them() {
    let bed = Bed::new();
    let mut phone = bed.login("ann", "phone").await;
    let mut laptop = bed.login("ann", "laptop").await;
    let mut eve = bed.login("eve", "cave").await;
    assert_eq!(phone.text("/devices").await, "*phone,laptop");
    assert_eq!(bed.client().text("/devices").await, "");

    let id = phone.text("/id/laptop").await;
    assert_eq!(eve.text(&format!("/revoke/{id}")).await, "false");
    assert_eq!(laptop.text("/who").await, "ann", "left alone");
    for bad in ["x", "%00", &"0".repeat(64)] {
        assert_eq!(phone.text(&format!("/revoke/{bad}")).await, "false");
    }
    assert_eq!(phone.text(&format!("/revoke/{id}")).await, "true");
    assert_eq!(laptop.text("/who").await, "nobody");
    assert_eq!(phone.text("/devices").await, "*phone");
    let own = phone.text("/id/phone").await;
    assert_eq!(phone.text(&format!("/revoke/{own}")).await, "true");
    assert_eq!(phone.cookie, None);
}

#[tokio::test]
async fn logging_out_everywhere_ends_all_sessions_of_one_user_and_takes_no_writes_after_it() {
    let bed = Bed::new();
    let mut phone = bed.login("ann", "phone").await;
    let mut laptop = bed.login("ann", "laptop").await;
    let mut eve = bed.login("eve", "cave").await;
    phone.text("/everywhere").await;
    assert_eq!(phone.cookie, None);
    assert_eq!(laptop.text("/who").await, "nobody");
    assert_eq!(eve.text("/who").await, "eve");
    let mut again = bed.login("ann", "phone").await;
    assert_eq!(again.text("/devices").await, "*phone");
    let answer = bed.client().send("/everywhere").await;
    assert_eq!(answer.status(), StatusCode::CONFLICT, "nobody is signed in");
}

#[tokio::test]
async fn after_a_change_of_the_password_only_this_session_is_left() {
    let bed = Bed::new();
    let mut phone = bed.login("ann", "phone").await;
    let mut laptop = bed.login("ann", "laptop").await;
    let before = phone.cookie.clone();
    phone.text("/password").await;
    assert_ne!(phone.cookie, before, "rotated");
    assert_eq!(phone.text("/get/user").await, "ann");
    assert_eq!(phone.text("/devices").await, "*phone");
    assert_eq!(laptop.text("/who").await, "nobody");
    assert_eq!(laptop.text("/get/user").await, "nothing");
}

#[tokio::test]
async fn a_reset_ends_what_was_there_and_signs_in_anew() {
    let bed = Bed::new();
    let mut phone = bed.login("ann", "phone").await;
    let mut laptop = bed.login("ann", "laptop").await;
    let mut stranger = bed.client();
    stranger.text("/set/cart/1").await;
    stranger.text("/reset/ann").await;
    assert_eq!(stranger.text("/who").await, "ann");
    assert_eq!(stranger.text("/get/cart").await, "1");
    assert_eq!(phone.text("/who").await, "nobody");
    let mut own = stranger.clone();
    own.text("/reset/ann").await;
    assert_eq!(own.text("/who").await, "ann");
    assert_eq!(stranger.text("/who").await, "nobody");
    assert_eq!(laptop.text("/who").await, "nobody");
}

/// The password was checked before everything was revoked: what it was checked against may be what was revoked.
#[tokio::test(start_paused = true)]
async fn a_sign_in_under_way_does_not_slip_past_a_revocation() {
    for before in [true, false] {
        let bed = Bed::new();
        let mut phone = bed.login("ann", "phone").await;
        let mut mallory = bed.client();
        mallory.text("/set/cart/1").await;
        tokio::time::advance(Duration::from_secs(1)).await;
        if before {
            phone.text("/everywhere").await;
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let mut slow = mallory.clone();
        let mut guest = mallory.clone();
        let task = tokio::spawn(async move {
            let answer = slow.send("/slow-login/ann").await;
            (slow, answer.status())
        });
        bed.arrived.notified().await;
        if !before {
            phone.text("/everywhere").await;
        }
        tokio::time::advance(Duration::from_secs(2)).await;
        bed.gate.notify_one();
        let (mut slow, status) = task.await.unwrap();
        if before {
            assert_eq!(
                (status, slow.text("/who").await.as_str()),
                (StatusCode::OK, "ann")
            );
            continue;
        }
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(slow.text("/who").await, "nobody");
        assert_eq!(bed.store.live().await, 1, "what the guest had is as before");
        assert_eq!(guest.text("/get/cart").await, "1");
        // Sent again it is checked again, and takes the guest's cart along.
        slow.text("/login/ann/phone").await;
        assert_eq!(slow.text("/who").await, "ann");
        assert_eq!(slow.text("/get/cart").await, "1");
    }
}

/// A cookie of a session that was revoked a moment ago: whoever signs in with it is asked to send the sign-in again, not told that
/// something ended.
#[tokio::test(start_paused = true)]
async fn a_sign_in_right_after_a_revocation_can_be_sent_again() {
    let bed = Bed::new();
    let mut phone = bed.login("ann", "phone").await;
    let mut laptop = bed.login("ann", "laptop").await;
    tokio::time::advance(Duration::from_secs(1)).await;
    phone.text("/everywhere").await;
    let answer = laptop.send("/login/ann/laptop").await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    tokio::time::advance(Duration::from_millis(20)).await;
    laptop.text("/login/ann/laptop").await;
    assert_eq!(laptop.text("/who").await, "ann");
}

#[tokio::test]
async fn signing_out_with_a_cookie_that_was_rotated_away_ends_what_followed_it() {
    let bed = Bed::new();
    let mut client = bed.client();
    client.text("/set/cart/1").await;
    let mut old = client.clone();
    client.text("/login/ann/phone").await;
    client.text("/password").await;
    assert_eq!(client.text("/who").await, "ann");
    old.text("/sign-out").await;
    assert_eq!(client.text("/who").await, "nobody");
    assert_eq!(bed.store.live().await, 0);
}

/// A grace that is over leads nowhere: whoever once planted an id cannot sign its user out for ever.
#[tokio::test(start_paused = true)]
async fn an_id_whose_grace_is_over_ends_nothing() {
    let bed = Bed::new();
    let mut client = bed.client();
    client.text("/set/cart/1").await;
    let mut old = client.clone();
    client.text("/login/ann/phone").await;
    tokio::time::advance(ha_session::ROTATION_GRACE).await;
    old.text("/sign-out").await;
    assert_eq!(client.text("/who").await, "ann");
}

#[tokio::test]
async fn a_store_that_cannot_say_revokes_nothing_and_says_so() {
    let bed = Bed::new();
    let mut phone = bed.login("ann", "phone").await;
    bed.store.down.store(true, Ordering::SeqCst);
    for path in ["/devices", "/everywhere", "/password", "/reset/ann"] {
        let answer = phone.send(path).await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "{path}");
    }
    bed.store.down.store(false, Ordering::SeqCst);
    assert_eq!(phone.text("/who").await, "ann");
}

#[tokio::test]
async fn a_principal_that_is_no_name_is_refused_by_name() {
    let bad = async |session: Session| -> Answer<&'static str> {
        session.set_principal("a\0b")?;
        Ok("in")
    };
    let layer = SessionLayer::new(MemoryStore::new(), keys(1));
    let mut client = Client::with(routes().route("/bad", get(bad)), layer);
    let answer = client.send("/bad").await;
    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(client.cookie, None);
}
