//! What reaches the other side.

use http::{Request, Response};
use http_body_util::BodyExt as _;
use ward_base::RequestId;
use ward_transport::{Body, RequestBody};

use crate::support::{Balancer, World, limits, text, web};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_not_believed_about_themselves() {
    let world = World::new();
    let back_end = world.named(web(1)).await;
    let balancer = Balancer::public(&world, &[&back_end]).await;
    let request = Request::get("/fhir/R4/x")
        .header("x-forwarded-for", "10.9.9.9")
        .header("x-forwarded-for", "10.8.8.8")
        .header("x-forwarded-proto", "http")
        .header("x-forwarded-host", "evil.example")
        .header("forwarded", "for=10.9.9.9")
        .header("x-real-ip", "10.9.9.9")
        .header("x-request-id", "01HZX5T6Y7J8K9M0N1P2Q3R4S5")
        .header("x-ward-passive", "1")
        .header("x-ward-purpose-of-use", "TREAT")
        .header("connection", "keep-alive, x-forwarded-for, x-request-id, host, x-hop")
        .header("x-hop", "1")
        .header("te", "trailers")
        .header("authorization", "Bearer t")
        .header("cookie", "a=b")
        .header("origin", "https://elsewhere.example");
    let answer = balancer.client().await.send(request, "").await;
    let head = back_end.heads.lock().unwrap().pop().unwrap();
    let all = |name: &str| {
        head.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(all("x-forwarded-proto"), ["https"]);
    for gone in ["x-forwarded-host", "forwarded", "x-real-ip", "x-ward-passive", "x-hop", "te", "connection"]
    {
        assert_eq!(all(gone), [""; 0], "{gone}");
    }
    assert_eq!(all("x-ward-purpose-of-use"), ["TREAT"]);
    assert_eq!(all("authorization"), ["Bearer t"]);
    assert_eq!(all("cookie"), ["a=b"]);
    assert_eq!(all("origin"), ["https://elsewhere.example"]);
    assert_eq!(all("host"), [format!("localhost:{}", balancer.address.port())]);
    let id = all("x-request-id").pop().unwrap();
    assert_ne!(id, "01HZX5T6Y7J8K9M0N1P2Q3R4S5");
    assert!(RequestId::parse(&id).is_some(), "{id}");
    assert_eq!(answer.header("x-request-id"), Some(id.as_str()), "the same id goes back");
    assert_ne!(balancer.get("/").await.header("x-request-id"), Some(id.as_str()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn between_tiers_the_first_balancers_word_is_passed_on() {
    let world = World::new();
    let back_end = world.named(web(1)).await;
    let caller = world.authority.issue(web(1), 600).unwrap();
    let pins = vec![caller.pin().unwrap()];
    let balancer = Balancer::start(&world, vec![back_end.target.clone()], limits(), pins, false).await;
    let mut client = balancer.mutual_client(&world, &caller).await.unwrap();
    let id = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
    let request = Request::get("/session")
        .header("x-forwarded-for", "192.0.2.7")
        .header("x-request-id", id)
        .header("x-ward-passive", "1")
        .header("host", "any.example");
    let answer = client.send(request, "").await;
    assert_eq!(
        (answer.status, answer.header("x-request-id"), answer.header("set-cookie")),
        (200, Some(id), None)
    );
    let head = back_end.heads.lock().unwrap().pop().unwrap();
    for (name, value) in [
        ("x-forwarded-for", "192.0.2.7"),
        ("x-request-id", id),
        ("x-ward-passive", "1"),
        ("host", "any.example"),
    ] {
        assert_eq!(head.get(name).unwrap(), value);
    }
    client.send(Request::get("/").header("x-request-id", "a patient's name"), "").await;
    let head = back_end.heads.lock().unwrap().pop().unwrap();
    assert!(
        RequestId::parse(head["x-request-id"].to_str().unwrap()).is_some(),
        "only an id is taken for one"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_tell_nothing_about_the_inside() {
    let world = World::new();
    let answer = |_| async {
        Response::builder()
            .status(404)
            .header("server", "inside/1.0")
            .header("connection", "x-inner")
            .header("x-inner", "1")
            .header("keep-alive", "timeout=5")
            .header("strict-transport-security", "max-age=0")
            .header("x-kept", "1")
            .body(Body::full("no"))
            .unwrap()
    };
    let back_end = world.back_end(web(1), answer).await;
    let balancer = Balancer::public(&world, &[&back_end]).await;
    let answer = balancer.get("/fhir/R4/x").await;
    assert_eq!((answer.status, answer.text(), answer.header("x-kept")), (404, "no", Some("1")));
    for gone in ["server", "x-inner", "keep-alive"] {
        assert_eq!(answer.header(gone), None, "{gone}");
    }
    assert_eq!(answer.header("strict-transport-security"), Some("max-age=63072000; includeSubDomains"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_is_asked_for_alone() {
    let world = World::new();
    let back_end = world.back_end(web(1), |_| async { text("twelve bytes") }).await;
    let balancer = Balancer::public(&world, &[&back_end]).await;
    let mut client = balancer.client().await;
    for _ in 0..2 {
        let head = client.send(Request::head("/fhir/R4/x"), "").await;
        assert_eq!((head.status, head.header("content-length"), head.text()), (200, Some("12"), ""));
        assert_eq!(client.get("/fhir/R4/x").await.text(), "twelve bytes");
        assert_eq!(client.send(Request::head("/.."), "").await.status, 400);
    }
}

/// Bytes that do not repeat, so that nothing lost or doubled goes unnoticed.
fn large(bytes: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_arrive_whole_both_ways() {
    let world = World::new();
    let echo = |request: Request<RequestBody>| async move { Response::new(Body::from(request.into_body())) };
    let back_end = world.back_end(web(1), echo).await;
    let limits = ward_edge::EdgeLimits { request_bytes: 10 << 20, ..limits() };
    let balancer = Balancer::public_with(&world, &[&back_end], limits).await;
    let mut client = balancer.client().await;
    let body = large(10 << 20);
    for _ in 0..2 {
        let answer = client.send(Request::post("/fhir/R4"), body.clone()).await;
        assert_eq!(answer.status, 200);
        assert!(answer.body == body);
    }
    let one_too_many = large((10 << 20) + 1);
    match client.try_send(Request::post("/fhir/R4"), one_too_many).await {
        Ok(answer) => assert_eq!(answer.status, 413),
        Err(error) => panic!("no answer: {error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_not_read_does_not_spoil_the_next_request() {
    let world = World::new();
    let back_end = world.back_end(web(1), |_| async { text("not read") }).await;
    let balancer = Balancer::public(&world, &[&back_end]).await;
    for bytes in [1, 1000, 100_000, 1_000_000] {
        let mut client = balancer.client().await;
        let answer = client.send(Request::post("/fhir/R4/x"), large(bytes)).await;
        assert_eq!((answer.status, answer.text()), (200, "not read"), "{bytes}");
        if let Ok(next) = client.try_send(Request::get("/fhir/R4/x"), "").await {
            assert_eq!((next.status, next.text()), (200, "not read"), "{bytes}");
        }
    }
    let body = |request: Request<RequestBody>| async move {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        text(&body.len().to_string())
    };
    let reading = world.back_end(web(1), body).await;
    let balancer = Balancer::public(&world, &[&reading]).await;
    assert_eq!(balancer.client().await.send(Request::post("/"), large(70_000)).await.text(), "70000");
}
