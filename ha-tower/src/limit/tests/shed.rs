use tower::limit::ConcurrencyLimitLayer;
use tower::{Layer, ServiceBuilder, ServiceExt};

use super::*;

#[tokio::test(start_paused = true)]
async fn what_is_not_ready_is_refused_at_once_instead_of_waited_for() {
    let service = ServiceBuilder::new()
        .layer(LoadShedLayer::http())
        .layer(ConcurrencyLimitLayer::new(1))
        .service(slow());
    let held = tokio::spawn(service.clone().oneshot(request()));
    tokio::task::yield_now().await;
    let refused = service.clone().oneshot(request()).await.unwrap();
    assert!(is_refusal(&refused, 503), "{refused:?}");
    assert_eq!(held.await.unwrap().unwrap().status(), 200);
    assert_eq!(service.oneshot(request()).await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn the_generic_form_is_a_typed_error() {
    let (mock, mut inner) = tower_test::mock::pair::<(), ()>();
    inner.allow(0);
    let service = LoadShedLayer::new().layer(mock);
    let error = service.clone().oneshot(()).await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::NotReady));
    inner.allow(1);
    let call = tokio::spawn(service.oneshot(()));
    inner.next_request().await.unwrap().1.send_response(());
    call.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_service_that_has_failed_says_so_and_is_not_shed() {
    let (mock, mut inner) = tower_test::mock::pair::<(), ()>();
    inner.send_error("dead");
    let error = LoadShedLayer::new()
        .layer(mock)
        .oneshot(())
        .await
        .unwrap_err();
    assert!(!error.is_shed(), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_clone_is_not_ready_because_the_original_was() {
    let (mock, mut inner) = tower_test::mock::pair::<(), ()>();
    inner.allow(1);
    let mut service = LoadShedLayer::new().layer(mock);
    service.ready().await.unwrap();
    let error = service.clone().call(()).await.unwrap_err();
    assert!(error.is_shed());
}
