use ha_tower::health::{self, Failure};

use super::*;

#[tokio::test]
async fn a_custom_check_asks_what_it_wants_and_its_error_is_the_reason() {
    let check = health::custom(|endpoint: Endpoint| async move {
        match endpoint.address.port() {
            1 => Err(std::io::Error::other("the disk is full")),
            _ => Ok(()),
        }
    });
    let (told, mut events) = mpsc::unbounded_channel();
    let check = check.start(Start::FirstPass).on_event(move |event| {
        if let Reason::Failed(Failure::Custom(error)) = &event.reason {
            let _ = told.send((event.endpoint.to_string(), error.to_string()));
        }
    });
    let upstream = Upstream::builder("checked")
        .discover(discover::fixed(["http://127.0.0.1:1", "http://127.0.0.1:2"]).unwrap())
        .health(check)
        .build()
        .unwrap();
    let failed = tokio::time::timeout(DEADLINE, events.recv()).await.unwrap();
    let expected = ("127.0.0.1:1".to_owned(), "the disk is full".to_owned());
    assert_eq!(failed.unwrap(), expected);
    tokio::time::timeout(DEADLINE, upstream.ready())
        .await
        .unwrap();
}
