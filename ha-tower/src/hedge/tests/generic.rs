use std::sync::atomic::{AtomicU32, Ordering};

use tower::service_fn;

use super::*;

#[tokio::test(start_paused = true)]
async fn any_request_that_is_called_repeatable_is_hedged_and_the_classifier_decides() {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    // Every second call is fast, and answers with its number.
    let service = service_fn(move |_: &'static str| {
        let call = counted.fetch_add(1, Ordering::Relaxed);
        async move {
            let millis = if call.is_multiple_of(2) { 1_000 } else { 1 };
            sleep(MS * millis).await;
            Ok::<_, Broke>(call)
        }
    });
    let reads = Generic::when(|query: &&'static str| query.starts_with("select"));
    let layer = HedgeLayer::of(reads).after(MS * 10).build().unwrap();
    let started = Instant::now();
    assert_eq!(
        layer
            .layer(service.clone())
            .oneshot("select")
            .await
            .unwrap(),
        1
    );
    assert_eq!(started.elapsed(), MS * 11);
    assert_eq!(
        layer
            .layer(service.clone())
            .oneshot("insert")
            .await
            .unwrap(),
        2
    );
    assert_eq!(calls.load(Ordering::Relaxed), 3);

    // An answer that is `Ok` and still none to be happy with.
    calls.store(0, Ordering::Relaxed);
    let judged = reads.success(|result: Result<&u32, &Broke>| result.is_ok_and(|call| *call != 1));
    let layer = HedgeLayer::of(judged).after(MS * 10).build().unwrap();
    let started = Instant::now();
    assert_eq!(layer.layer(service).oneshot("select").await.unwrap(), 0);
    assert_eq!(started.elapsed(), MS * 1_000);
}
