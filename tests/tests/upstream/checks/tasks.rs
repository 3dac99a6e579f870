//! Who owns the checks, and what becomes of those under way.

use super::*;

/// A silent server that tells when a connection was opened, and when the other side closed it.
async fn tells_of_connections() -> (Server, mpsc::UnboundedReceiver<&'static str>) {
    let (told, connections) = mpsc::unbounded_channel();
    let server = Server::start(play(move |mut stream| {
        let told = told.clone();
        async move {
            let _ = told.send("opened");
            let _ = stream.read_to_end(&mut Vec::new()).await;
            let _ = told.send("closed");
        }
    }))
    .await;
    (server, connections)
}

async fn told(connections: &mut mpsc::UnboundedReceiver<&'static str>) -> &'static str {
    let event = tokio::time::timeout(DEADLINE, connections.recv()).await;
    event.expect("nothing told in time").unwrap()
}

#[tokio::test]
async fn the_check_under_way_is_closed_when_its_endpoint_goes_or_the_last_clone_does() {
    let (gone, mut at_gone) = tells_of_connections().await;
    let (kept, mut at_kept) = tells_of_connections().await;
    let endpoint = |server: &Server| server.url().parse::<Endpoint>().unwrap();
    let (sets, coming) = mpsc::unbounded_channel();
    sets.send(vec![endpoint(&gone), endpoint(&kept)]).unwrap();
    let coming = futures_util::stream::unfold(coming, async |mut coming| {
        let set: Vec<Endpoint> = coming.recv().await?;
        Some((set, coming))
    });
    let upstream = Upstream::builder("checked")
        .discover(discover::stream(coming))
        .health(Http::get("/readyz").interval(LONG).timeout(LONG))
        .build()
        .unwrap();
    assert_eq!(told(&mut at_gone).await, "opened");
    assert_eq!(told(&mut at_kept).await, "opened");
    sets.send(vec![endpoint(&kept)]).unwrap();
    assert_eq!(told(&mut at_gone).await, "closed");
    assert!(at_kept.try_recv().is_err(), "the other goes on");
    let clone = upstream.clone();
    drop(upstream);
    assert!(at_kept.try_recv().is_err(), "a clone keeps it");
    drop(clone);
    assert_eq!(told(&mut at_kept).await, "closed");
}

/// Two thousand endpoints behind one real listener, a few of which never answer.
#[tokio::test]
async fn two_thousand_endpoints_are_checked_by_few_tasks_although_some_never_answer() {
    const AT_ONCE: usize = 64;
    // The servers have a runtime of their own: on this one only the upstream has tasks.
    let servers = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let start = |play| servers.spawn(Server::start(play));
    let (well, hangs) = (start(says(OK)), start(silent()));
    let (well, hangs) = (well.await.unwrap(), hangs.await.unwrap());
    let endpoints = (0..2000).map(|i| {
        let server = if i % 50 == 0 { &hangs } else { &well };
        let endpoint = server.url().parse::<Endpoint>().unwrap();
        endpoint.with_key(format!("e{i}"))
    });
    let set = futures_util::stream::iter([endpoints.collect::<Vec<_>>()]);
    let check = Http::get("/readyz")
        .interval(Duration::from_secs(4))
        .timeout(Duration::from_secs(1))
        .start(Start::FirstPass)
        .at_once(AT_ONCE);
    let upstream = Upstream::builder("checked")
        .discover(discover::stream(set))
        .health(check)
        .build()
        .unwrap();
    let most = Mutex::new(0);
    let count = |state| {
        let tasks = tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks();
        let mut most = most.lock().unwrap();
        *most = tasks.max(*most);
        upstream
            .endpoints()
            .iter()
            .filter(|e| e.health == state)
            .count()
    };
    eventually("all that answer pass", || count(State::Passing) == 1960).await;
    eventually("all that hang fail", || count(State::Failing) == 40).await;
    let most = *most.lock().unwrap();
    assert!(
        most <= AT_ONCE + 2,
        "{most} tasks: the checks, their owner and discovery"
    );
    drop(upstream);
    servers.shutdown_background();
}
