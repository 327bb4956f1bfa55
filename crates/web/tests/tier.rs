//! A whole web instance, called like the public balancer calls it, in front of an app tier of the test's own.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use ward_base::{Clock as _, InstanceId, SystemClock, Tier};
use ward_transport::control::{Bootstrap, Target, Update};
use ward_transport::{
    Authority, Body, Caller, CertificateAuthority, Identity, NodeError, Peers, Pool, RequestBody, Serve,
    Server, ServerLimits, UpstreamLimits, mutual_server_config,
};
use ward_web::WebConfig;

const EDGE: InstanceId = InstanceId { tier: Tier::PublicEdge, number: 1 };
const WEB: InstanceId = InstanceId { tier: Tier::Web, number: 1 };
const INTERNAL: InstanceId = InstanceId { tier: Tier::InternalEdge, number: 1 };
const SESSION: &str = "__Host-ward-session=0123456789abcdef0123456789abcdef";

/// What came to the app tier.
type Heard = Arc<Mutex<Vec<(Method, String, HeaderMap)>>>;

struct AppTier(Heard);

impl Serve for AppTier {
    type Body = Body;

    async fn serve(&self, _: &Caller, request: Request<RequestBody>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let signed_in = parts.headers.contains_key("authorization");
        self.0.lock().unwrap().push((parts.method, path.clone(), parts.headers));
        match path.as_str() {
            "/session" if signed_in => {
                Response::new(Body::full(json!({"display_name": "Ada", "expires_in": 90_000}).to_string()))
            }
            "/fhir/R4/Patient/_search" => {
                let patient = json!({"resourceType": "Patient", "id": "p-1"});
                Response::new(Body::full(json!({"entry": [{"resource": patient}]}).to_string()))
            }
            "/ward/accesses" => Response::new(Body::full(json!({"complete": false}).to_string())),
            "/fhir/R4/Observation" => Response::builder().status(503).body(Body::empty()).unwrap(),
            path if path.starts_with("/fhir/") => Response::new(Body::from(body)),
            _ => Response::builder().status(401).body(Body::empty()).unwrap(),
        }
    }
}

struct Instance {
    client: Pool,
    heard: Heard,
    updates: mpsc::Sender<Update>,
    task: JoinHandle<Result<(), NodeError>>,
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Instance {
    async fn start() -> Self {
        let authority = CertificateAuthority::create("tiers", SystemClock.now()).unwrap();
        let trust = Authority::from_pem(authority.certificate_pem()).unwrap();
        let issue = |instance| authority.issue(instance, 600).unwrap();
        let (edge, web, internal) = (issue(EDGE), issue(WEB), issue(INTERNAL));

        let clients = Peers::new(vec![web.pin().unwrap()]);
        let tls = mutual_server_config(&Identity::new(&internal).unwrap(), &trust, &clients).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = |instance, address, pin| Target { instance, address, pins: vec![pin] };
        let upstream = target(INTERNAL, listener.local_addr().unwrap(), internal.pin().unwrap());
        let heard = Heard::default();
        let server = Server::new(tls, ServerLimits::default());
        tokio::spawn(server.serve(listener, AppTier(heard.clone()), std::future::pending()));

        let listen = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let bootstrap = Bootstrap {
            instance: WEB,
            identity: web.clone(),
            authority_pem: authority.certificate_pem().to_owned(),
            listen,
            clients: vec![edge.pin().unwrap()],
            config: WebConfig {
                public_origin: "https://ward.example".to_owned(),
                upstream: vec![upstream],
                handle_key: "ab".repeat(32),
                idle_seconds: 900,
            },
        };
        let (updates, receiver) = mpsc::channel(1);
        let task = tokio::spawn(ward_web::run(bootstrap, receiver));
        let identity = Identity::new(&edge).unwrap();
        let target = target(WEB, listen, web.pin().unwrap());
        let client = Pool::new(target, &identity, &trust, UpstreamLimits::default()).unwrap();
        let instance = Self { client, heard, updates, task };
        while instance.client.send(request("GET", "/healthz")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        instance
    }

    async fn send(&self, request: Request<Body>) -> Reply {
        let Ok(response) = self.client.send(request).await else { panic!("no answer") };
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Reply {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }

    async fn get(&self, path: &str) -> Reply {
        self.send(request("GET", path)).await
    }

    /// Where the pages of the one patient are.
    async fn patient(&self) -> String {
        let asked = form(with(request("POST", "/patients"), "cookie", SESSION), "name=ada");
        let found = self.send(asked).await.headers["location"].to_str().unwrap().to_owned();
        let found = self.send(with(request("GET", &found), "cookie", SESSION)).await;
        let handle = found.text.split_once("href=\"/patients/").unwrap().1.split_once('"').unwrap().0;
        format!("/patients/{handle}")
    }
}

fn request(method: &str, path: &str) -> Request<Body> {
    let request = Request::builder().method(method).uri(path).header("host", "ward.example");
    request.header("x-forwarded-for", "192.0.2.7").body(Body::empty()).unwrap()
}

fn with(mut request: Request<Body>, name: &'static str, value: &'static str) -> Request<Body> {
    request.headers_mut().insert(name, value.parse().unwrap());
    request
}

fn form(request: Request<Body>, fields: &'static str) -> Request<Body> {
    with(request, "content-type", "application/x-www-form-urlencoded").map(|_| Body::full(fields))
}

#[tokio::test]
async fn pages_are_served_and_the_api_is_passed_on() {
    let instance = Instance::start().await;
    assert_eq!(instance.get("/healthz").await.status, 200);
    assert!(instance.heard.lock().unwrap().is_empty(), "its own health asks nobody");
    let mut large = request("GET", "/healthz");
    large.headers_mut().insert("x", "a".repeat(256 << 10).parse().unwrap());
    assert_eq!(
        instance.send(large).await.status,
        200,
        "how large a head may be is for the public balancer to say"
    );

    let signed_out = instance.get("/").await;
    assert_eq!(signed_out.status, 303);
    assert_eq!(signed_out.headers["location"], "/sign-in");
    let sign_in = instance.get("/sign-in").await;
    assert_eq!(sign_in.status, 200);
    assert!(
        sign_in.headers["content-security-policy"].to_str().unwrap().contains("require-trusted-types-for")
    );
    assert_eq!(sign_in.headers["cache-control"], "no-store");
    let missing = instance.get("/no/such/page").await;
    assert_eq!(missing.status, 404);
    assert!(missing.text.contains("<h1>"));
    assert_eq!(instance.get("/session/sign-in").await.status, 404, "no way to the app tier's own paths");

    let resource = r#"{"resourceType":"Patient"}"#;
    let post = with(request("POST", "/fhir/R4/Patient"), "authorization", "Bearer t");
    let answer = instance.send(with(post, "cookie", SESSION).map(|_| Body::full(resource))).await;
    assert_eq!((answer.status, answer.text.as_str()), (StatusCode::OK, resource));
    let (method, path, headers) = instance.heard.lock().unwrap().pop().unwrap();
    assert_eq!((method, path.as_str()), (Method::POST, "/fhir/R4/Patient"));
    assert_eq!(headers["authorization"], "Bearer t");
    assert_eq!(headers["x-forwarded-for"], "192.0.2.7");
    assert!(!headers.contains_key("cookie"), "a browser's session is no credential for the API");

    instance.updates.send(Update::Drain).await.unwrap();
    drop(instance.client);
    instance.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_page_speaks_for_its_session_and_leaves_in_time() {
    let instance = Instance::start().await;
    let home = instance.send(with(request("GET", "/"), "cookie", SESSION)).await;
    assert_eq!(home.status, 200);
    assert!(home.text.contains("data-remaining=\"900\""), "at the latest after the idle time");
    let (_, path, headers) = instance.heard.lock().unwrap().pop().unwrap();
    assert_eq!(path, "/session");
    assert_eq!(headers["authorization"], "Bearer 0123456789abcdef0123456789abcdef");
    assert_eq!(headers["x-forwarded-for"], "192.0.2.7");

    // The script of a page that is still open is told so when another one signed out.
    for (method, path) in [("GET", "/session/remaining"), ("POST", "/session/renew")] {
        let answer = instance.send(with(request(method, path), "cookie", SESSION)).await;
        assert_eq!((answer.status, answer.text.as_str()), (StatusCode::OK, r#"{"remaining":900}"#));
        assert_eq!(instance.send(request(method, path)).await.status, 401, "{path}");
    }
}

#[tokio::test]
async fn only_what_was_certainly_not_saved_is_said_not_to_be() {
    let instance = Instance::start().await;
    let path = format!("{}/observations", instance.patient().await);
    let measured = "kind=heart-rate&value=71&effective=2024-05-17T14:30";
    let add = || form(with(request("POST", &path), "cookie", SESSION), measured);

    let opened = instance.send(with(request("GET", &path), "cookie", SESSION)).await;
    assert_eq!(opened.status, 303);
    assert_eq!(opened.headers["location"], format!("{path}/new"));
    assert_eq!(instance.get("/patients").await.headers["location"], "/");
    let perhaps = instance.send(add()).await;
    assert_eq!(perhaps.status, 502);
    assert!(perhaps.text.contains("not known whether it was saved") && !perhaps.text.contains("Nothing was"));

    let nobody = Update::Targets { group: "internal-edge".to_owned(), targets: vec![] };
    instance.updates.send(nobody).await.unwrap();
    while instance.get("/fhir/R4/metadata").await.status != 503 {
        tokio::task::yield_now().await;
    }
    let unsent = instance.send(add()).await;
    assert_eq!(unsent.status, 503);
    assert!(unsent.text.contains("Nothing was changed"));
}

#[tokio::test]
async fn a_list_of_accesses_says_that_it_is_not_whole() {
    let instance = Instance::start().await;
    let path = format!("{}/accesses", instance.patient().await);
    let page = instance.send(with(request("GET", &path), "cookie", SESSION)).await;
    assert_eq!(page.status, 200);
    assert!(page.text.contains("There are older ones."));
}

#[tokio::test]
async fn what_cannot_be_a_code_is_not_sent_on() {
    let instance = Instance::start().await;
    for (code, sent) in [("code=12345", 0), ("code=12345a", 0), ("code=", 0), ("code=123+456", 1)] {
        let typed = form(request("POST", "/sign-in/code"), code);
        let typed = with(typed, "cookie", "__Host-ward-challenge=0123456789abcdef");
        assert_eq!(instance.send(typed).await.status, 422);
        assert_eq!(instance.heard.lock().unwrap().len(), sent, "{code}");
    }
}

#[tokio::test]
async fn forms_of_other_sites_are_refused() {
    let instance = Instance::start().await;
    let sign_in = || form(request("POST", "/sign-in"), "username=ada&password=lovelace");
    for (name, value, status) in [
        ("origin", "https://evil.example", 403),
        ("sec-fetch-site", "cross-site", 403),
        ("sec-fetch-site", "same-site", 403),
        ("origin", "https://ward.example", 422),
        ("sec-fetch-site", "same-origin", 422),
    ] {
        let before = instance.heard.lock().unwrap().len();
        let answer = instance.send(with(sign_in(), name, value)).await;
        assert_eq!(answer.status.as_u16(), status, "{name}: {value}");
        assert_eq!(instance.heard.lock().unwrap().len() - before, usize::from(status != 403));
    }
}

#[tokio::test]
async fn without_an_app_tier_there_are_words_for_everyone() {
    let instance = Instance::start().await;
    let nobody = Update::Targets { group: "internal-edge".to_owned(), targets: vec![] };
    instance.updates.send(nobody).await.unwrap();
    while instance.get("/fhir/R4/metadata").await.status != 503 {
        tokio::task::yield_now().await;
    }
    let outcome = instance.get("/fhir/R4/metadata").await;
    assert!(outcome.text.contains("OperationOutcome") && outcome.headers.contains_key("retry-after"));
    let page = instance.send(with(request("GET", "/"), "cookie", SESSION)).await;
    assert_eq!(page.status, 503);
    assert!(page.text.contains("<h1>"));
    assert_eq!(instance.get("/sign-in").await.status, 200);
    assert_eq!(instance.get("/healthz").await.status, 200);
}
