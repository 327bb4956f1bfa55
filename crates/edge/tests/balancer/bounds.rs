//! What is refused, and how.

use std::time::Duration;

use http::Request;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use ward_edge::EdgeLimits;
use ward_transport::RequestBody;

use crate::support::{BackEnd, Balancer, World, limits, text, web};

async fn reading(world: &World) -> BackEnd {
    let answer = |request: Request<RequestBody>| async move {
        match request.into_body().collect().await {
            Ok(body) => text(&body.to_bytes().len().to_string()),
            Err(_) => text("cut off"),
        }
    };
    world.back_end(web(1), answer).await
}

fn status(answer: &str) -> u16 {
    answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok()).unwrap_or(0)
}

fn statuses(answer: &str) -> Vec<u16> {
    answer.split("HTTP/1.").skip(1).filter_map(|rest| rest.get(2..5)?.parse().ok()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_bound_has_its_status() {
    let world = World::new();
    let back_end = reading(&world).await;
    let balancer = Balancer::public(&world, &[&back_end]).await;
    let get = |path: &str, rest: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: HOST\r\n{rest}Connection: close\r\n\r\n")
    };
    let many: String = (0..200).map(|number| format!("x-{number}: 1\r\n")).collect();
    let cases = [
        ("long address", get(&format!("/{}", "a".repeat(9 << 10)), ""), 414),
        ("large head", get("/", &format!("x: {}\r\n", "a".repeat(40 << 10))), 431),
        ("huge head", get("/", &format!("x: {}\r\n", "a".repeat(400 << 10))), 431),
        ("many headers", get("/", &many), 431),
        ("other host", "GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n".to_owned(), 421),
        ("no host", "GET / HTTP/1.1\r\nConnection: close\r\n\r\n".to_owned(), 400),
        ("absolute form", get("https://localhost/", ""), 400),
        (
            "CONNECT",
            "CONNECT localhost:443 HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n".to_owned(),
            405,
        ),
        ("TRACE", get("/", "").replace("GET", "TRACE"), 405),
        ("upgrade", get("/", "Upgrade: websocket\r\n"), 400),
        ("expectation", get("/", "Expect: tea\r\n"), 417),
        ("HTTP/1.0", get("/", "").replace("HTTP/1.1", "HTTP/1.0"), 505),
        ("dot segments", get("/a/../b", ""), 400),
        ("encoded dots", get("/a/%2e%2E/b", ""), 400),
        ("encoded slash", get("/a%2Fb", ""), 400),
        ("encoded NUL", get("/a%00", ""), 400),
        ("encoded line end", get("/a%0d%0ax:y", ""), 400),
        ("backslash", get("/a\\b", ""), 400),
        ("control byte", get("/a\x01b", ""), 400),
        ("announced body", get("/", "Content-Length: 1048577\r\n").replace("GET", "POST"), 413),
    ];
    for (what, request, expected) in cases {
        let answer = balancer.raw(&request).await;
        assert_eq!(statuses(&answer), [expected], "{what}: {answer}");
        // The parser's own refusals, of what no client of good faith sends, have no words.
        if !matches!(what, "huge head" | "many headers" | "control byte" | "backslash") {
            assert!(answer.contains("strict-transport-security: max-age=63072000"), "{what}");
            assert!(answer.contains("<h1>"), "{what}");
        }
    }
    assert_eq!(back_end.requests(), 0, "nothing of it was passed on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_grow_stop_or_crawl_are_refused() {
    let world = World::new();
    let back_end = reading(&world).await;
    let balancer = Balancer::public(&world, &[&back_end]).await;
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let growing = format!(
        "POST /fhir/R4/x HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
        chunk.repeat(17)
    );
    let answer = balancer.raw(&growing).await;
    assert_eq!(statuses(&answer), [413], "{answer}");
    assert!(answer.contains("OperationOutcome") && answer.contains("too-long"), "{answer}");

    let mut stream = balancer.connect().await;
    let head = format!(
        "POST /fhir/R4/x HTTP/1.1\r\nHost: localhost:{}\r\nContent-Length: 100\r\n\r\nabc",
        balancer.address.port()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(status(&answer), 408, "{answer}");

    // A byte now and then does not help.
    let mut stream = balancer.connect().await;
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let drip = tokio::spawn(async move {
        while writer.write_all(b"x").await.is_ok() && writer.flush().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let mut answer = vec![0; 12];
    reader.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 408");
    drip.abort();

    // One that ends early: nobody is there to be told, but the back end must not take it for whole.
    let mut stream = balancer.connect().await;
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    assert!(matches!(status(&answer), 0 | 400), "{answer}");
    assert_eq!(balancer.client().await.send(Request::post("/"), "12345").await.text(), "5");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_heads_and_idle_connections_are_let_go() {
    let world = World::new();
    let back_end = reading(&world).await;
    let limits = EdgeLimits { header_read_timeout_ms: 300, handshake_timeout_ms: 300, ..limits() };
    let balancer = Balancer::public_with(&world, &[&back_end], limits).await;
    for start in ["", "GET /x", "GET / HTTP/1.1\r\nHost: HOST\r\nX: "] {
        let answer = balancer.raw(start).await;
        assert!(matches!(status(&answer), 0 | 408), "{start:?}: {answer}");
    }
    // Before TLS as well.
    let mut plain = tokio::net::TcpStream::connect(balancer.address).await.unwrap();
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(10), plain.read_to_end(&mut answer)).await;
    assert!(ended.is_ok());
    assert_eq!(back_end.requests(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_is_waited_for_as_long_as_it_comes() {
    let world = World::new();
    let back_end = reading(&world).await;
    let limits = EdgeLimits { response_timeout_ms: 300, body_read_timeout_ms: 5_000, ..limits() };
    let balancer = Balancer::public_with(&world, &[&back_end], limits).await;
    let mut stream = balancer.connect().await;
    let head = format!(
        "POST / HTTP/1.1\r\nHost: localhost:{}\r\nContent-Length: 10\r\nConnection: close\r\n\r\n",
        balancer.address.port()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        stream.write_all(b"x").await.unwrap();
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(status(&answer), 200, "{answer}");
    assert!(answer.ends_with("10"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_is_asked_for_before_it_is_sent() {
    let world = World::new();
    let back_end = reading(&world).await;
    let balancer = Balancer::public(&world, &[&back_end]).await;
    let head = |length: u32| {
        format!(
            "POST / HTTP/1.1\r\nHost: localhost:{}\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\
             Connection: close\r\n\r\n",
            balancer.address.port()
        )
    };
    let mut stream = balancer.connect().await;
    stream.write_all(head(3).as_bytes()).await.unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"abc").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(status(&answer), 200, "{answer}");
    assert!(!back_end.heads.lock().unwrap()[0].contains_key("expect"));
    assert_eq!(statuses(&balancer.raw(head(2_000_000)).await), [413], "refused instead");
}

/// Each hides a request for `/smuggled` where some implementation would find it.
const SMUGGLED: &[(&str, &str)] = &[
    (
        "CL.TE",
        "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: HOST\r\n\r\n",
    ),
    (
        "TE.CL",
        "POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n2e\r\nGET /smuggled HTTP/1.1\r\nHost: HOST\r\nX: y\r\n\r\n\r\n0\r\n\r\n",
    ),
    (
        "two lengths",
        "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 0\r\nContent-Length: 44\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: HOST\r\n\r\n",
    ),
    (
        "list of lengths",
        "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 0, 0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: HOST\r\n\r\n",
    ),
    (
        "signed length",
        "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: +0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: HOST\r\n\r\n",
    ),
    (
        "hidden encoding",
        "POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: xchunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: HOST\r\n\r\n",
    ),
    (
        "space before the colon",
        "POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: HOST\r\n\r\n",
    ),
    (
        "two encodings",
        "POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: HOST\r\n\r\n",
    ),
    (
        "folding",
        "POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: HOST\r\n\r\n",
    ),
    (
        "bare LF",
        "POST / HTTP/1.1\r\nHost: HOST\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: HOST\r\n\r\n",
    ),
    (
        "bare CR",
        "POST / HTTP/1.1\r\nHost: HOST\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: HOST\r\n\r\n",
    ),
    (
        "chunk extension",
        "POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n1;a\r\nx\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: HOST\r\n\r\n",
    ),
    (
        "chunk size",
        "POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n0x0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: HOST\r\n\r\n",
    ),
    (
        "trailer",
        "POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: HOST\r\n\r\n",
    ),
    (
        "two hosts",
        "GET / HTTP/1.1\r\nHost: HOST\r\nHost: evil.example\r\nConnection: close\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: HOST\r\n\r\n",
    ),
    (
        "HTTP/1.0 chunked",
        "POST / HTTP/1.0\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: HOST\r\n\r\n",
    ),
    (
        "fragment",
        "GET /#/smuggled HTTP/1.1\r\nHost: HOST\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: HOST\r\n\r\n",
    ),
    ("HTTP/0.9", "GET /\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: HOST\r\n\r\n"),
    ("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: HOST\r\n\r\n"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn smuggled_requests_are_refused_with_what_carries_them() {
    let world = World::new();
    let answer = |request: Request<RequestBody>| async move {
        let path = request.uri().path().to_owned();
        let _ = request.into_body().collect().await;
        text(&path)
    };
    let back_end = world.back_end(web(1), answer).await;
    let balancer = Balancer::public(&world, &[&back_end]).await;
    for (what, request) in SMUGGLED {
        let answer = balancer.raw(request).await;
        assert!(matches!(statuses(&answer).as_slice(), [400 | 505] | []), "{what}: {answer}");
        // Behind a request that is in order, that one is answered and nothing else.
        let behind = format!("GET /before HTTP/1.1\r\nHost: HOST\r\n\r\n{request}");
        let answer = balancer.raw(behind).await;
        assert!(matches!(statuses(&answer).as_slice(), [200, 400 | 505] | [200]), "{what}: {answer}");
        assert!(!answer.contains("/smuggled"), "{what}: {answer}");
    }
    // And these are fine.
    let pipelined = "POST /one HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
                     POST /two HTTP/1.1\r\nHost: HOST\r\nContent-Length: 2\r\nConnection: close\r\n\r\nab";
    let answer = balancer.raw(pipelined).await;
    assert_eq!(statuses(&answer), [200, 200], "{answer}");
    assert!(answer.find("/one").unwrap() < answer.find("/two").unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_line_that_the_parser_has_seen_half_of_is_refused() {
    let world = World::new();
    let back_end = reading(&world).await;
    let balancer = Balancer::public(&world, &[&back_end]).await;
    let port = balancer.address.port();
    for (first, second) in
        [("0;", "a\r\n\r\n"), ("0;a\r", "\n\r\n"), ("0 ", ";a\r\n\r\n"), ("0\r\nX", ": y\r\n\r\n")]
    {
        let mut stream = balancer.connect().await;
        let head =
            format!("POST / HTTP/1.1\r\nHost: localhost:{port}\r\nTransfer-Encoding: chunked\r\n\r\n{first}");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        stream.write_all(second.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(statuses(&answer), [400], "{first:?}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_connections_than_allowed_are_told_so() {
    let world = World::new();
    let back_end = reading(&world).await;
    let limits = EdgeLimits { connections: 2, ..limits() };
    let balancer = Balancer::public_with(&world, &[&back_end], limits).await;
    let (mut one, mut two) = (balancer.client().await, balancer.client().await);
    assert_eq!((one.get("/").await.status, two.get("/").await.status), (200, 200));
    let refused = balancer.get("/fhir/R4/x").await;
    assert_eq!((refused.status, refused.header("connection")), (503, Some("close")));
    assert!(refused.text().contains("OperationOutcome"));
    assert!(refused.header("strict-transport-security").is_some());
    assert_eq!(one.get("/").await.status, 200);
}
