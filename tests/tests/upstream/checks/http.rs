use std::collections::BTreeSet;

use ::http::Method;

use super::*;

const CHUNKS: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nready\r\n";

#[tokio::test]
async fn http_checks_look_at_the_status_and_the_body() {
    let cases = [
        (OK, get(), State::Passing, "Passed"),
        (OK, get().body_contains("ready"), State::Passing, "Passed"),
        (
            OK,
            get().body_contains("steady"),
            State::Failing,
            "the answer does not contain \"steady\"",
        ),
        (
            OK,
            get().statuses([204]),
            State::Failing,
            "the answer has the status 200 OK",
        ),
        (
            OK,
            get().body_limit(4),
            State::Failing,
            "the answer has more than 4 bytes",
        ),
        (
            "HTTP/1.1 204 No Content\r\n\r\n",
            get().statuses([204]),
            State::Passing,
            "Passed",
        ),
        (
            "HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n",
            get(),
            State::Failing,
            "the answer has the status 302 Found",
        ),
        (
            "HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n",
            get().statuses(200..=399),
            State::Passing,
            "Passed",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nready",
            get(),
            State::Failing,
            "the exchange broke off",
        ),
        (
            "SSH-2.0-OpenSSH_9.2\r\n",
            get(),
            State::Failing,
            "the exchange broke off",
        ),
        ("", get(), State::Failing, "the exchange broke off"),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
            patient(Http::head("/readyz")),
            State::Passing,
            "Passed",
        ),
    ];
    for (answer, check, state, reason) in cases {
        let found = verdict(says(answer), check).await;
        assert_eq!(found, (state, reason.to_owned()), "{answer}");
    }
}

#[tokio::test]
async fn an_answer_that_never_ends_costs_no_more_than_the_timeout_and_the_limit() {
    let brief = || Http::get("/readyz").interval(SHORT);
    let late = "the check was not over within 300ms";
    let long = "the answer has more than 65536 bytes";
    let big: &str = String::from_utf8(vec![b'x'; 10_000]).unwrap().leak();
    let big_chunk: &str = format!("2710\r\n{big}\r\n").leak();
    let found = join_all([
        // A head of one more byte now and then, and a body of the same kind.
        verdict(
            never_ends("HTTP/1.1 200 OK\r\nx-slow: ", "x", DRIP),
            brief(),
        ),
        verdict(never_ends(CHUNKS, "1\r\nx\r\n", DRIP), brief()),
        verdict(silent(), brief()),
        verdict(never_ends(CHUNKS, big_chunk, Duration::ZERO), get()),
        verdict(
            never_ends("HTTP/1.1 200 OK\r\nx-big: ", big, Duration::ZERO),
            get(),
        ),
        // What is wanted is there, so that the rest does not matter.
        verdict(
            never_ends(CHUNKS, "1\r\nx\r\n", DRIP),
            get().body_contains("ready"),
        ),
    ])
    .await;
    let failing = |reason: &str| (State::Failing, reason.to_owned());
    assert_eq!(
        found,
        [
            failing(late),
            failing(late),
            failing(late),
            failing(long),
            failing("the exchange broke off"),
            (State::Passing, "Passed".to_owned()),
        ]
    );
}

#[tokio::test]
async fn an_app_says_by_a_header_that_it_leaves_or_that_its_region_is_sick() {
    for (answer, state, reason) in [
        (
            "HTTP/1.1 200 OK\r\nx-ha-draining: true\r\ncontent-length: 0\r\n\r\n",
            State::Draining,
            "Said",
        ),
        (
            "HTTP/1.1 503 No\r\nx-ha-draining: true\r\ncontent-length: 0\r\n\r\n",
            State::Draining,
            "Said",
        ),
        (
            "HTTP/1.1 503 No\r\nx-ha-region: sick\r\ncontent-length: 0\r\n\r\n",
            State::RegionSick,
            "Said",
        ),
        (
            "HTTP/1.1 503 No\r\nx-ha-region: well\r\ncontent-length: 0\r\n\r\n",
            State::Failing,
            "the answer has the status 503 Service Unavailable",
        ),
    ] {
        // Only the last one needs as many as `fall` says; its fast checks are for that.
        let check = get().fall(3).transition_interval(DRIP);
        let server = Server::start(says(answer)).await;
        let mut watched = Watched::start(&server.url(), check);
        let found = watched.next().await;
        assert_eq!(found, (state, reason.to_owned()), "{answer}");
        let endpoint = watched.upstream.endpoints().remove(0);
        assert_eq!((endpoint.health, endpoint.available), (state, false));
    }
}

#[tokio::test]
async fn an_http_check_asks_what_it_was_told_on_a_connection_of_its_own() {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let connections = Arc::new(Mutex::new(Vec::new()));
    let (heard, opened) = (heads.clone(), connections.clone());
    let server = Server::start(play(move |mut stream| {
        let (heads, connections) = (heard.clone(), opened.clone());
        async move {
            let peer = stream.peer_addr().unwrap().port();
            // Kept open: whoever wants to ask again may.
            loop {
                let head = head(&mut stream).await;
                if head.is_empty() {
                    return;
                }
                let path = head.split(' ').nth(1).unwrap().to_owned();
                connections.lock().unwrap().push((path, peer));
                heads.lock().unwrap().push(head);
                let _ = stream.write_all(OK.as_bytes()).await;
            }
        }
    }))
    .await;
    let check = Http::request(Method::OPTIONS, "/readyz?deep=1")
        .host("shop.example")
        .interval(SHORT);
    let watched = Watched::start(&server.url(), check);
    let ports = |path: &str| -> Vec<u16> {
        let all = connections.lock().unwrap();
        let of_path = all.iter().filter(|(asked, _)| asked == path);
        of_path.map(|(_, port)| *port).collect()
    };
    for _ in 0..3 {
        let response = call(&watched.upstream, "/").await.unwrap();
        let body = http_body_util::BodyExt::collect(response.into_body()).await;
        assert_eq!(body.unwrap().to_bytes(), "ready");
    }
    eventually("five checks", || ports("/readyz?deep=1").len() >= 5).await;
    let checks = ports("/readyz?deep=1");
    let own: BTreeSet<_> = checks.iter().collect();
    assert_eq!(own.len(), checks.len(), "a connection for each");
    assert!(ports("/").iter().all(|port| !own.contains(port)));
    let heads = heads.lock().unwrap();
    let check = heads
        .iter()
        .find(|head| head.starts_with("OPTIONS"))
        .unwrap();
    let check = check.to_ascii_lowercase();
    assert!(
        check.starts_with("options /readyz?deep=1 http/1.1\r\n"),
        "{check}"
    );
    assert!(check.contains("\r\nhost: shop.example\r\n"), "{check}");
    assert!(check.contains("\r\nconnection: close\r\n"), "{check}");
}
