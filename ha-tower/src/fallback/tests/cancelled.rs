use super::*;

/// Counts what is under way.
#[derive(Clone, Default)]
struct UnderWay(Arc<AtomicUsize>);

struct Held(Arc<AtomicUsize>);

impl UnderWay {
    fn enter(&self) -> Held {
        self.0.fetch_add(1, Ordering::Relaxed);
        Held(self.0.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn dropped_at_each_await_point_it_leaves_nothing_under_way() {
    let under_way = UnderWay::default();
    let takes = |millis: u64, status: u16| {
        let under_way = under_way.clone();
        move || {
            let held = under_way.enter();
            async move {
                let _held = held;
                tokio::time::sleep(Duration::from_millis(millis)).await;
                Ok::<_, Infallible>(response(status, ""))
            }
        }
    };
    let (first, second) = (takes(10, 502), takes(10, 200));
    let layer = FallbackLayer::answer(move |_| second()).build().unwrap();
    let service = layer.layer(service_fn(move |_: Request<Body>| first()));
    for (millis, inside) in [(0, 1), (5, 1), (15, 1), (25, 0)] {
        let mut call = Box::pin(service.clone().oneshot(get("/")));
        let ended = tokio::time::timeout(Duration::from_millis(millis), call.as_mut()).await;
        assert_eq!(ended.is_ok(), inside == 0, "{millis} ms");
        assert_eq!(under_way.0.load(Ordering::Relaxed), inside, "{millis} ms");
        drop(call);
        assert_eq!(under_way.0.load(Ordering::Relaxed), 0, "{millis} ms");
    }
}
