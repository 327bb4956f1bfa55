//! Subscriptions: a real receiver behind real TLS hears of what it asked for, of nothing else, whatever dies.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use ward_base::{Clock as _, SystemClock};
use ward_testkit::{Https, Stack, StackOptions};
use ward_transport::{CertificateAuthority, Identity, public_server_config};

use crate::{empty_stack, stack};

const BACKPORT: &str = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/";
/// In a header of every Subscription here.
const SECRET: &str = "Zqxsecret4711";
/// The name of every patient here.
const FAMILY: &str = "Zqxfamily0815";

/// A request as it came.
#[derive(Clone)]
struct Heard {
    line: String,
    head: String,
    body: Vec<u8>,
    /// How it was answered.
    status: u16,
}

impl Heard {
    fn path(&self) -> &str {
        self.line.split(' ').nth(1).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// A value of the status in a Bundle.
    fn status_of(&self, name: &str) -> Value {
        let bundle = self.json();
        let list = bundle["entry"][0]["resource"]["parameter"].as_array().unwrap().clone();
        list.into_iter().find(|one| one["name"] == name).unwrap_or_default()
    }

    fn kind(&self) -> String {
        self.status_of("type")["valueCode"].as_str().unwrap().to_owned()
    }

    /// Number and focus of the event.
    fn event(&self) -> (u64, String) {
        let part = self.status_of("notification-event")["part"].clone();
        let number = part[0]["valueString"].as_str().unwrap().parse().unwrap();
        let focus = part[2]["valueReference"]["reference"].as_str().unwrap_or_default();
        let start = focus.match_indices('/').nth(4).map_or(0, |(place, _)| place + 1);
        (number, focus[start..].to_owned())
    }
}

/// An HTTPS server on loopback that writes down what it hears.
struct Receiver {
    address: SocketAddr,
    config: Arc<ServerConfig>,
    heard: Arc<Mutex<Vec<Heard>>>,
    /// What it answers.
    answer: Arc<AtomicU16>,
    open: Arc<AtomicBool>,
}

impl Receiver {
    /// With a certificate of `authority` for `host`.
    fn new(authority: &CertificateAuthority, host: &str) -> Self {
        let identity = authority.issue_listener(&[host.to_owned()], 3600).unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let receiver = Self {
            address: listener.local_addr().unwrap(),
            config: public_server_config(&Identity::new(&identity).unwrap()).unwrap(),
            heard: Arc::default(),
            answer: Arc::new(AtomicU16::new(200)),
            open: Arc::default(),
        };
        receiver.listen(listener);
        receiver
    }

    fn listen(&self, listener: TcpListener) {
        self.open.store(true, Ordering::SeqCst);
        let (config, heard) = (Arc::clone(&self.config), Arc::clone(&self.heard));
        let (answer, open) = (Arc::clone(&self.answer), Arc::clone(&self.open));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if !open.load(Ordering::SeqCst) {
                    return;
                }
                let stream = stream.unwrap();
                let _ = hear(stream, &config, &heard, answer.load(Ordering::SeqCst));
            }
        });
    }

    /// From now on, nobody is there.
    fn close(&self) {
        self.open.store(false, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        // Until the listener is gone.
        eventually("the port is closed", || TcpStream::connect(self.address).err());
    }

    /// Somebody is there again.
    fn open_again(&self) {
        self.listen(TcpListener::bind(self.address).unwrap());
    }

    fn answer(&self, status: u16) {
        self.answer.store(status, Ordering::SeqCst);
    }

    fn origin(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    /// What was heard at this path, once there are `count`.
    fn heard_at(&self, path: &str, count: usize) -> Vec<Heard> {
        eventually(&format!("{count} requests to {path}"), || {
            let all: Vec<Heard> = self.heard().into_iter().filter(|one| one.path() == path).collect();
            (all.len() >= count).then_some(all)
        })
    }
}

/// Hears one request, if the caller goes on after the handshake.
fn hear(
    stream: TcpStream,
    config: &Arc<ServerConfig>,
    heard: &Mutex<Vec<Heard>>,
    status: u16,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(config)).unwrap(), stream);
    let mut received = Vec::new();
    let mut buffer = [0; 4096];
    let (head, length) = loop {
        if let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(received[..end].to_vec()).unwrap();
            let length = head.to_ascii_lowercase();
            let length = length.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            received.drain(..end + 4);
            break (head, length.unwrap_or(0));
        }
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            read => received.extend_from_slice(&buffer[..read]),
        }
    };
    while received.len() < length {
        let read = stream.read(&mut buffer)?;
        received.extend_from_slice(&buffer[..read]);
    }
    let line = head.lines().next().unwrap().to_owned();
    heard.lock().unwrap().push(Heard { line, head, body: received, status });
    write!(stream, "HTTP/1.1 {status} Status\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
    stream.conn.send_close_notify();
    stream.flush()
}

/// What `look` gives, as soon as it gives anything.
fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn authority() -> CertificateAuthority {
    CertificateAuthority::create("hooks", SystemClock.now()).unwrap()
}

/// A stack that may send to these, known by this authority.
fn stack_for(
    files: &Path,
    authority: &CertificateAuthority,
    endpoints: &[String],
    retry_milliseconds: u32,
    tries: u32,
) -> Stack {
    let pem = files.join("hooks.pem");
    std::fs::write(&pem, authority.certificate_pem()).unwrap();
    let configuration = format!(
        "[app]\naccept_client_ids = true\n[subscriptions]\nendpoints = {endpoints:?}\nauthorities = '{}'\n\
         retry_milliseconds = {retry_milliseconds}\ntries = {tries}\n",
        pem.display()
    );
    stack(StackOptions { configuration, ..Default::default() })
}

/// A Subscription in R4's own form.
fn plain(criteria: &str, endpoint: &str) -> Value {
    json!({
        "resourceType": "Subscription", "status": "requested", "reason": "to be told", "criteria": criteria,
        "channel": {"type": "rest-hook", "endpoint": endpoint, "payload": "application/fhir+json",
            "header": [format!("Authorization: Bearer {SECRET}")]},
    })
}

/// A Subscription to a topic.
fn of_topic(stack: &Stack, kind: &str, filter: Option<&str>, endpoint: &str, content: &str) -> Value {
    let mut resource = plain(&format!("{}/fhir/R4/SubscriptionTopic/{kind}", stack.origin()), endpoint);
    if let Some(filter) = filter {
        resource["_criteria"] = json!({"extension": [
            {"url": format!("{BACKPORT}backport-filter-criteria"), "valueString": filter},
        ]});
    }
    resource["channel"]["_payload"] = json!({"extension": [
        {"url": format!("{BACKPORT}backport-payload-content"), "valueCode": content},
    ]});
    resource
}

/// Writes a Subscription and gives its id.
fn subscribe(client: &Https, resource: &Value) -> String {
    let answer = client.post("/fhir/R4/Subscription", resource);
    assert_eq!(answer.status, 201, "{}", answer.text());
    answer.json()["id"].as_str().unwrap().to_owned()
}

fn read(client: &Https, id: &str) -> Value {
    client.get(&format!("/fhir/R4/Subscription/{id}")).json()
}

/// The Subscription, once it has this status.
fn wait_for(client: &Https, id: &str, status: &str) -> Value {
    eventually(&format!("a Subscription becomes {status}"), || {
        Some(read(client, id)).filter(|resource| resource["status"] == status)
    })
}

/// Writes the Subscription again with this status.
fn set_status(client: &Https, id: &str, status: &str) {
    let mut resource = read(client, id);
    resource["status"] = status.into();
    let answer = client.put(&format!("/fhir/R4/Subscription/{id}"), &resource);
    assert_eq!(answer.status, 200, "{}", answer.text());
}

fn create(client: &Https, resource: &Value) -> String {
    let kind = resource["resourceType"].as_str().unwrap();
    let answer = client.post(&format!("/fhir/R4/{kind}"), resource);
    assert_eq!(answer.status, 201, "{}", answer.text());
    answer.json()["id"].as_str().unwrap().to_owned()
}

fn observation(code: &str, patient: &str) -> Value {
    json!({
        "resourceType": "Observation", "status": "final", "code": {"coding": [{"system": "urn:codes", "code": code}]},
        "subject": {"reference": format!("Patient/{patient}")},
    })
}

fn patient() -> Value {
    json!({"resourceType": "Patient", "name": [{"family": FAMILY}]})
}

/// Neither a header's secret nor a name stands in anything that the stack has written.
fn assert_clean(stack: &Stack) {
    let mut directories = vec![stack.data()];
    let mut count = 0;
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap().flatten() {
            if entry.path().is_dir() {
                directories.push(entry.path());
                continue;
            }
            let bytes = std::fs::read(entry.path()).unwrap_or_default();
            count += 1;
            for mark in [SECRET, FAMILY] {
                let found = bytes.windows(mark.len()).any(|window| window == mark.as_bytes());
                assert!(!found, "{mark} stands in {}", entry.path().display());
            }
        }
    }
    assert!(count > 4);
    assert!(!stack.logs().contains(SECRET) && !stack.logs().contains(FAMILY));
}

#[test]
fn whoever_subscribed_is_told_of_what_matches_and_of_nothing_else() {
    let (files, authority) = (tempfile::tempdir().unwrap(), authority());
    let receiver = Receiver::new(&authority, "localhost");
    let mut stack = stack_for(files.path(), &authority, &[receiver.origin()], 50, 10);
    let client = stack.signed_in("system/*.cruds");
    let person = create(&client, &patient());
    let before = create(&client, &observation("a", &person));

    let endpoint = format!("{}/hook?for=me", receiver.origin());
    let filter = Some("Observation?code=urn:codes|a");
    let id = subscribe(&client, &of_topic(&stack, "Observation", filter, &endpoint, "full-resource"));
    assert_eq!(receiver.heard_at("/hook?for=me", 1)[0].kind(), "handshake");
    let active = wait_for(&client, &id, "active");
    assert_eq!(active["channel"]["header"][0], format!("Authorization: Bearer {SECRET}"));

    // What is told, in this order; between it, what is not.
    let mut expected = Vec::new();
    create(&client, &observation("b", &person));
    create(&client, &patient());
    let one = create(&client, &observation("a", &person));
    expected.push(("POST", one.clone()));
    let mut changed = observation("a", &person);
    changed["id"] = one.as_str().into();
    changed["status"] = "amended".into();
    assert_eq!(client.put(&format!("/fhir/R4/Observation/{one}"), &changed).status, 200);
    expected.push(("PUT", one.clone()));
    let bundle = json!({"resourceType": "Bundle", "type": "transaction", "entry": [
        {"resource": observation("b", &person), "request": {"method": "POST", "url": "Observation"}},
        {"resource": observation("a", &person), "request": {"method": "POST", "url": "Observation"}},
        {"request": {"method": "DELETE", "url": format!("Observation/{before}")}},
    ]});
    let answer = client.post("/fhir/R4", &bundle);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let location = answer.json()["entry"][1]["response"]["location"].as_str().unwrap().to_owned();
    let made = location.split('/').nth_back(2).unwrap().to_owned();
    // Deletions come first in a transaction (https://hl7.org/fhir/R4/http.html#trules).
    expected.push(("DELETE", before.clone()));
    expected.push(("POST", made));
    let failing = json!({"resourceType": "Bundle", "type": "transaction", "entry": [
        {"resource": observation("a", &person), "request": {"method": "POST", "url": "Observation"}},
        {"request": {"method": "PUT", "url": "Observation/none"}, "resource": {"resourceType": "Observation",
            "id": "none", "status": "final", "code": {"text": "a"}}},
        {"request": {"method": "PUT", "url": format!("Observation/{one}"), "ifMatch": "W/\"99\""},
            "resource": changed},
    ]});
    assert!(client.post("/fhir/R4", &failing).status >= 400, "all or nothing");
    // From now on it does not match any more, and nobody is told that it was changed or deleted.
    changed["code"]["coding"][0]["code"] = "b".into();
    assert_eq!(client.put(&format!("/fhir/R4/Observation/{one}"), &changed).status, 200);
    assert_eq!(client.send("DELETE", &format!("/fhir/R4/Observation/{one}"), &[], b"").status, 204);
    let file = stack.scratch().join("import.ndjson");
    let mut imported = observation("a", &person);
    imported["id"] = "imported".into();
    std::fs::write(&file, imported.to_string()).unwrap();
    assert_eq!(stack.ward_json(&["import", file.to_str().unwrap()])["accepted"], 1);
    expected.push(("POST", "imported".to_owned()));

    let heard = receiver.heard_at("/hook?for=me", 1 + expected.len());
    for (place, (heard, (method, of))) in heard[1..].iter().zip(&expected).enumerate() {
        assert_eq!(heard.event(), (place as u64 + 1, format!("Observation/{of}")));
        assert!(heard.line.starts_with("POST "), "{}", heard.line);
        assert!(
            heard
                .head
                .to_ascii_lowercase()
                .contains(&format!("authorization: bearer {SECRET}").to_lowercase())
        );
        let bundle = heard.json();
        assert_eq!(bundle["entry"][1]["request"]["method"], *method);
        assert_eq!(bundle["entry"][1]["resource"]["id"] == **of, *method != "DELETE", "{bundle}");
    }
    assert_eq!(heard.len(), 1 + expected.len(), "nothing else");

    let status = client.get(&format!("/fhir/R4/Subscription/{id}/$status"));
    assert_eq!(status.status, 200, "{}", status.text());
    let list = status.json()["entry"][0]["resource"]["parameter"].clone();
    assert_eq!(list[3]["valueCode"], "query-status");
    assert_eq!(list[4]["valueString"], expected.len().to_string());

    // Whose record left stands in the log.
    let who = stack.ward_json(&["audit", "who", "--patient", &person]);
    let told = who["accesses"].as_array().unwrap().iter();
    let told = told.filter(|one| one["action"] == "notify" && one["outcome"] == "success").count();
    assert_eq!(told, expected.len(), "{who}");

    // Off is off, and what is deleted is gone.
    set_status(&client, &id, "off");
    create(&client, &observation("a", &person));
    let other = subscribe(&client, &plain("Observation", &format!("{}/other", receiver.origin())));
    wait_for(&client, &other, "active");
    let last = create(&client, &observation("a", &person));
    let heard = receiver.heard_at(&format!("/other/Observation/{last}"), 1);
    assert!(heard[0].line.starts_with("PUT "));
    assert_eq!(heard[0].json()["id"], last.as_str());
    assert_eq!(client.send("DELETE", &format!("/fhir/R4/Subscription/{other}"), &[], b"").status, 204);
    create(&client, &observation("a", &person));
    assert_eq!(receiver.heard().len(), 2 + expected.len());
    assert_clean(&stack);
    stack.stop();
    assert_clean(&stack);
}

#[test]
fn each_payload_holds_what_was_asked_for_and_no_more() {
    let (files, authority) = (tempfile::tempdir().unwrap(), authority());
    let receiver = Receiver::new(&authority, "localhost");
    let stack = stack_for(files.path(), &authority, &[receiver.origin()], 50, 10);
    let client = stack.signed_in("system/*.cruds");
    let at = |path: &str| format!("{}{path}", receiver.origin());
    let mut silent = plain(&format!("Patient?family={FAMILY}"), &at("/silent"));
    silent["channel"].as_object_mut().unwrap().shift_remove("payload");
    let all = [
        of_topic(&stack, "Patient", None, &at("/empty"), "empty"),
        of_topic(&stack, "Patient", None, &at("/id-only"), "id-only"),
        of_topic(&stack, "Patient", None, &at("/full"), "full-resource"),
        plain(&format!("Patient?family={FAMILY}"), &at("/plain")),
        silent,
    ];
    for id in all.map(|one| subscribe(&client, &one)) {
        wait_for(&client, &id, "active");
    }
    let id = create(&client, &patient());
    let heard = |path: &str, count: usize| receiver.heard_at(path, count).pop().unwrap();
    let empty = heard("/empty", 2);
    assert_eq!(empty.event(), (1, String::new()));
    assert!(
        !String::from_utf8_lossy(&empty.body).contains(&id)
            && !String::from_utf8_lossy(&empty.body).contains(FAMILY)
    );
    let id_only = heard("/id-only", 2);
    assert_eq!(id_only.event(), (1, format!("Patient/{id}")));
    assert!(!String::from_utf8_lossy(&id_only.body).contains(FAMILY));
    assert_eq!(heard("/full", 2).json()["entry"][1]["resource"]["name"][0]["family"], FAMILY);
    let plain = heard(&format!("/plain/Patient/{id}"), 1);
    assert!(plain.line.starts_with("PUT ") && plain.json()["name"][0]["family"] == FAMILY);
    let silent = heard("/silent", 1);
    assert!(silent.line.starts_with("POST ") && silent.body.is_empty());
}

#[test]
fn an_endpoint_that_is_away_hears_everything_when_it_is_back() {
    let (files, authority) = (tempfile::tempdir().unwrap(), authority());
    let receiver = Receiver::new(&authority, "localhost");
    let stack = stack_for(files.path(), &authority, &[receiver.origin()], 20, 4);
    let client = stack.signed_in("system/*.cruds");
    let endpoint = format!("{}/hook", receiver.origin());

    // Away from the start.
    receiver.close();
    let id = subscribe(&client, &of_topic(&stack, "Patient", None, &endpoint, "id-only"));
    let failed = wait_for(&client, &id, "error");
    let words = failed["error"].as_str().unwrap();
    assert!(words.contains("cannot be reached") && words.contains("after 4 tries"), "{words}");
    assert!(words.contains("as `requested`") && !words.contains("localhost"), "{words}");
    create(&client, &patient());

    // Back, and written again.
    receiver.open_again();
    set_status(&client, &id, "requested");
    let active = wait_for(&client, &id, "active");
    assert_eq!(active.get("error"), None);
    let first = create(&client, &patient());
    let heard = receiver.heard_at("/hook", 2);
    assert_eq!(heard[1].event(), (1, format!("Patient/{first}")), "what was not queued for has no number");

    // It answers, but not with a success; redirects are not followed.
    receiver.answer(307);
    let (second, third) = (create(&client, &patient()), create(&client, &patient()));
    let failed = wait_for(&client, &id, "error");
    assert!(failed["error"].as_str().unwrap().contains("status 307"), "{failed}");
    let tried = receiver.heard_at("/hook", 2 + 4);
    assert_eq!(tried.len(), 2 + 4, "tried as often as the settings say");
    assert!(tried[2..].iter().all(|one| one.event() == (2, format!("Patient/{second}"))), "in order");

    receiver.answer(200);
    set_status(&client, &id, "requested");
    let heard = receiver.heard_at("/hook", 2 + 4 + 3);
    assert_eq!(heard[6].kind(), "handshake");
    assert_eq!(heard[7].event(), (2, format!("Patient/{second}")));
    assert_eq!(heard[8].event(), (3, format!("Patient/{third}")));
    let logs = std::fs::read_dir(stack.data().join("log")).unwrap();
    let logs: String = logs.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect();
    assert!(logs.contains("subscription.delivery_failed") && logs.contains("subscription.given_up"));
    assert!(!logs.contains("/hook") && !logs.contains(SECRET));
}

#[test]
fn whatever_was_acknowledged_is_told_though_the_app_tier_is_killed() {
    let (files, authority) = (tempfile::tempdir().unwrap(), authority());
    let receiver = Receiver::new(&authority, "localhost");
    let mut stack = stack_for(files.path(), &authority, &[receiver.origin()], 50, 1000);
    let client = stack.signed_in("system/*.cruds");
    let endpoint = format!("{}/hook", receiver.origin());
    let id = subscribe(&client, &of_topic(&stack, "Patient", None, &endpoint, "id-only"));
    wait_for(&client, &id, "active");

    // Queued and not told: the endpoint refuses until everything was killed.
    receiver.answer(503);
    let mut acknowledged: BTreeSet<String> = (0..3).map(|_| create(&client, &patient())).collect();
    receiver.heard_at("/hook", 2);
    stack.kill_everything();
    stack.start_again();
    receiver.answer(200);
    let client = stack.signed_in("system/*.cruds");

    // Told while it is killed again and again.
    for _ in 0..4 {
        acknowledged.extend((0..5).map(|_| create(&client, &patient())));
        stack.kill("app-1");
        stack.wait_until_healthy();
        eventually("an answer", || {
            let answer = client.try_send("GET", "/fhir/R4/metadata", &[], b"").ok()?;
            (answer.status == 200).then_some(())
        });
    }
    let told = eventually("everything is told", || {
        let heard = receiver.heard();
        let events = heard.iter().filter(|one| one.status == 200 && one.kind() == "event-notification");
        let told: Vec<(u64, String)> = events.map(Heard::event).collect();
        let ids: BTreeSet<&str> =
            told.iter().filter_map(|(_, focus)| focus.strip_prefix("Patient/")).collect();
        acknowledged.iter().all(|id| ids.contains(id.as_str())).then_some(told)
    });
    // Perhaps some twice, but in order, and without gaps.
    let mut numbers: Vec<u64> = told.iter().map(|(number, _)| *number).collect();
    assert!(numbers.is_sorted(), "{numbers:?}");
    numbers.dedup();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    assert_eq!(read(&client, &id)["status"], "active");
}

#[test]
fn nothing_goes_to_whoever_cannot_prove_the_name_of_a_listed_endpoint() {
    let (files, authority) = (tempfile::tempdir().unwrap(), authority());
    let stranger = Receiver::new(&self::authority(), "localhost");
    let namesake = Receiver::new(&authority, "hooks.example");
    let unlisted = Receiver::new(&authority, "localhost");
    let listed = [stranger.origin(), namesake.origin()];
    let stack = stack_for(files.path(), &authority, &listed, 20, 3);
    let client = stack.signed_in("system/*.cruds");
    for receiver in [&stranger, &namesake] {
        for resource in [
            plain("Patient", &receiver.origin()),
            of_topic(&stack, "Patient", None, &receiver.origin(), "full-resource"),
        ] {
            let id = subscribe(&client, &resource);
            create(&client, &patient());
            let failed = wait_for(&client, &id, "error");
            assert!(failed["error"].as_str().unwrap().contains("no certificate for its name"), "{failed}");
        }
        assert!(receiver.heard().is_empty(), "not a byte");
    }
    for status in ["requested", "active"] {
        let mut resource = plain("Patient", &unlisted.origin());
        resource["status"] = status.into();
        let refused = client.post("/fhir/R4/Subscription", &resource);
        assert_eq!(refused.status, 422, "{}", refused.text());
        assert!(refused.text().contains("`subscriptions.endpoints` of ward.toml"), "{}", refused.text());
        assert!(
            !refused.text().contains(SECRET) && !refused.text().contains("localhost"),
            "{}",
            refused.text()
        );
    }
    assert!(unlisted.heard().is_empty());
}

#[test]
fn without_a_list_of_endpoints_no_subscription_is_taken_by_any_way() {
    let stack = empty_stack();
    let client = stack.signed_in("system/*.cruds");
    let resource = plain("Patient", "https://hooks.example/");
    let refused = client.post("/fhir/R4/Subscription", &resource);
    assert_eq!(refused.status, 422, "{}", refused.text());
    let entry = json!([{"resource": resource, "request": {"method": "POST", "url": "Subscription"}}]);
    let bundle = |kind: &str| json!({"resourceType": "Bundle", "type": kind, "entry": entry});
    assert_eq!(client.post("/fhir/R4", &bundle("transaction")).status, 422);
    let batch = client.post("/fhir/R4", &bundle("batch")).json();
    assert!(batch["entry"][0]["response"]["status"].as_str().unwrap().starts_with("422"), "{batch}");

    // One that is off says nothing, and cannot be turned on; what is imported is kept as it is, and not acted on.
    let mut off = resource.clone();
    off["status"] = "off".into();
    let id = subscribe(&client, &off);
    let patch = json!([{"op": "replace", "path": "/status", "value": "requested"}]).to_string();
    let headers = [("Content-Type", "application/json-patch+json")];
    let patched = client.send("PATCH", &format!("/fhir/R4/Subscription/{id}"), &headers, patch.as_bytes());
    assert_eq!(patched.status, 422, "{}", patched.text());
    assert_eq!(read(&client, &id), client.get(&format!("/fhir/R4/Subscription/{id}/_history/1")).json());
    let mut imported = resource;
    imported["id"] = "imported".into();
    let file = stack.scratch().join("import.ndjson");
    std::fs::write(&file, imported.to_string()).unwrap();
    assert_eq!(stack.ward_json(&["import", file.to_str().unwrap()])["accepted"], 1);
    create(&client, &patient());
    assert_eq!(read(&client, "imported")["meta"]["versionId"], "1");

    let statement = client.get("/fhir/R4/metadata").json();
    let resources = statement["rest"][0]["resource"].as_array().unwrap().clone();
    let own = resources.into_iter().find(|one| one["type"] == "Subscription").unwrap();
    let topic = format!("{}/fhir/R4/SubscriptionTopic/Observation", stack.origin());
    assert!(own["extension"].as_array().unwrap().iter().any(|one| one["valueCanonical"] == topic.as_str()));
}

#[test]
fn a_subscription_has_the_rights_of_the_account_that_wrote_it() {
    let (files, authority) = (tempfile::tempdir().unwrap(), authority());
    let receiver = Receiver::new(&authority, "localhost");
    let stack = stack_for(files.path(), &authority, &[receiver.origin()], 20, 3);
    let other = stack.signed_in("system/*.cruds");
    let resource = of_topic(&stack, "Patient", None, &format!("{}/hook", receiver.origin()), "full-resource");

    let narrow = stack.signed_in("system/Subscription.cruds system/Observation.rs");
    let refused = narrow.post("/fhir/R4/Subscription", &resource);
    assert_eq!(refused.status, 403, "{}", refused.text());
    let searching = stack.signed_in("system/Subscription.cruds system/Patient.s");
    assert_eq!(searching.post("/fhir/R4/Subscription", &resource).status, 403);

    let scopes = "system/Subscription.cruds system/Patient.rs";
    let (account, key) = stack.add_client(scopes);
    let assertion = key.assertion(&account, &format!("{}/oauth/token", stack.origin()), |_| ());
    let token = ward_testkit::ServiceAccount::token_request(&stack.https(), &assertion, scopes);
    let client = stack.https().with_token(token.json()["access_token"].as_str().unwrap());
    let id = subscribe(&client, &resource);
    wait_for(&client, &id, "active");
    create(&other, &patient());
    receiver.heard_at("/hook", 2);
    stack.ward_json(&["user", "disable", &account]);
    create(&other, &patient());
    let failed = wait_for(&other, &id, "error");
    assert!(failed["error"].as_str().unwrap().contains("disabled or gone"), "{failed}");
    assert_eq!(receiver.heard().len(), 2, "nothing is told with rights that were taken");
}
