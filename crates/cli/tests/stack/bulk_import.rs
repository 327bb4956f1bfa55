//! Import by reference: files behind real TLS are taken in once, whatever dies, from listed hosts and nobody else.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use ward_base::{Clock as _, SystemClock};
use ward_testkit::{Answer, Https, Postgres, Stack, StackOptions};
use ward_transport::{CertificateAuthority, Identity, public_server_config};

use crate::api::issue;
use crate::search::found;
use crate::{server, stack};

const ASYNC: (&str, &str) = ("Prefer", "respond-async");
const JSON: (&str, &str) = ("Content-Type", "application/json");

/// An HTTPS server of files.
struct Files {
    port: u16,
    held: Arc<Mutex<HashMap<String, Vec<u8>>>>,
    /// How it answers.
    status: Arc<AtomicU16>,
    /// So many bytes of a file are sent before the connection breaks; 0 for all.
    breaks_after: Arc<AtomicUsize>,
    asked: Arc<AtomicUsize>,
}

impl Files {
    fn new(authority: &CertificateAuthority) -> Self {
        let identity = authority.issue_listener(&["localhost".to_owned()], 3600).unwrap();
        let config = public_server_config(&Identity::new(&identity).unwrap()).unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let files = Self {
            port: listener.local_addr().unwrap().port(),
            held: Arc::default(),
            status: Arc::new(AtomicU16::new(200)),
            breaks_after: Arc::default(),
            asked: Arc::default(),
        };
        let (held, status) = (Arc::clone(&files.held), Arc::clone(&files.status));
        let (breaks_after, asked) = (Arc::clone(&files.breaks_after), Arc::clone(&files.asked));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (config, held, asked) = (Arc::clone(&config), Arc::clone(&held), Arc::clone(&asked));
                let (status, most) = (status.load(Ordering::SeqCst), breaks_after.load(Ordering::SeqCst));
                std::thread::spawn(move || serve(stream.unwrap(), &config, &held, &asked, status, most));
            }
        });
        files
    }

    fn put(&self, path: &str, lines: impl IntoIterator<Item = String>) {
        let text: Vec<String> = lines.into_iter().collect();
        self.held.lock().unwrap().insert(path.to_owned(), text.join("\n").into_bytes());
    }

    fn origin(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    fn input(&self, kind: &str, path: &str) -> Value {
        json!({"type": kind, "url": format!("{}{path}", self.origin())})
    }
}

fn serve(
    stream: TcpStream,
    config: &Arc<ServerConfig>,
    held: &Mutex<HashMap<String, Vec<u8>>>,
    asked: &AtomicUsize,
    status: u16,
    most: usize,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(config)).unwrap(), stream);
    let mut head = Vec::new();
    let mut buffer = [0; 4096];
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            read => head.extend_from_slice(&buffer[..read]),
        }
    }
    asked.fetch_add(1, Ordering::SeqCst);
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap();
    let body = held.lock().unwrap().get(path).cloned();
    let (status, body) = match body {
        Some(body) => (status, body),
        None => (404, Vec::new()),
    };
    let length = body.len();
    write!(stream, "HTTP/1.1 {status} Status\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")?;
    let most = if most == 0 { length } else { most.min(length) };
    stream.write_all(&body[..most])?;
    if most == length {
        stream.conn.send_close_notify();
    }
    stream.flush()
}

fn authority() -> CertificateAuthority {
    CertificateAuthority::create("files", SystemClock.now()).unwrap()
}

fn stack_for(directory: &Path, authority: &CertificateAuthority, sources: &[String]) -> Stack {
    stack_with(directory, authority, sources, "")
}

fn stack_with(directory: &Path, authority: &CertificateAuthority, sources: &[String], more: &str) -> Stack {
    let pem = directory.join("files.pem");
    std::fs::write(&pem, authority.certificate_pem()).unwrap();
    let configuration = format!("[import]\nsources = {sources:?}\nauthorities = {pem:?}\n{more}");
    stack(StackOptions { configuration, ..StackOptions::default() })
}

fn people(numbers: std::ops::Range<usize>) -> impl Iterator<Item = String> {
    numbers.map(|number| {
        json!({"resourceType": "Patient", "id": format!("p{number}"), "name": [{"family": "Imported"}]})
            .to_string()
    })
}

fn kick_off(client: &Https, manifest: &Value) -> String {
    let accepted = client.send("POST", "/fhir/R4/$import", &[ASYNC, JSON], manifest.to_string().as_bytes());
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    let location = accepted.header("content-location").unwrap();
    location[location.find("/fhir/R4/").unwrap()..].to_owned()
}

/// What the status says once the job is over.
fn over(client: &Https, status: &str) -> Answer {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let answer = client.get(status);
        // While the tier comes back, nothing is said.
        if ![202, 503].contains(&answer.status) {
            return answer;
        }
        assert!(Instant::now() < deadline, "{:?}", answer.header("x-progress"));
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn files_are_taken_in_and_what_is_wrong_is_said_by_line() {
    let (authority, directory) = (authority(), tempfile::tempdir().unwrap());
    let files = Files::new(&authority);
    let stack = stack_for(directory.path(), &authority, &[files.origin()]);
    let client = stack.signed_in("system/*.cruds");
    files.put("/patients.ndjson", people(0..1_200));
    let observation = |number: usize| {
        json!({"resourceType": "Observation", "id": format!("o{number}"), "status": "final",
            "code": {"text": "x"}, "subject": {"reference": format!("Patient/p{number}")}})
        .to_string()
    };
    let mut lines: Vec<String> = (0..10).map(observation).collect();
    lines.insert(3, "{not json".to_owned());
    lines.insert(5, String::new());
    lines.insert(7, json!({"resourceType": "Observation", "id": "bad"}).to_string());
    lines.push(json!({"resourceType": "Patient", "id": "stray"}).to_string());
    files.put("/observations.ndjson?part=1", lines);
    let manifest = json!({"inputFormat": "application/fhir+ndjson", "inputSource": "https://example.org", "input": [
        files.input("Patient", "/patients.ndjson"), files.input("Observation", "/observations.ndjson?part=1")]});
    let status = kick_off(&client, &manifest);
    let done = over(&client, &status);
    assert_eq!(done.status, 200, "{}", done.text());
    let done = done.json();
    assert_eq!((&done["output"][0]["count"], &done["output"][1]["count"]), (&json!(1_200), &json!(10)));
    assert_eq!(done["error"][0]["count"], 3);
    let errors = done["error"][0]["url"].as_str().unwrap();
    let errors = client.get(&errors[errors.find("/fhir/R4/").unwrap()..]);
    assert_eq!(errors.header("content-type"), Some("application/fhir+ndjson"));
    let told: Vec<String> = errors
        .text()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|outcome| outcome["issue"][0]["diagnostics"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(told.len(), 3);
    assert!(
        told[0].starts_with("line 4: not JSON") && told[1].starts_with("line 8: Observation.status"),
        "{told:?}"
    );
    assert!(told[2].starts_with("line 14: is no Observation"), "{told:?}");
    let all = client.search("Patient", "family=imported&_summary=count");
    assert_eq!(all.json()["total"], 1_200);
    assert_eq!(found(&client.search("Observation", "patient=p7"), "match"), ["Observation/o7"]);
    assert_eq!(client.get("/fhir/R4/Patient/stray").status, 404);
    let who = stack.ward_json(&["audit", "who", "--patient", "p7"]);
    assert!(
        who["accesses"].as_array().unwrap().iter().any(|access| access["action"] == "bulk-import"),
        "{who}"
    );
    // The same again, as Parameters, changes nothing.
    let part = |name: &str, key: &str, value: &Value| json!({"name": name, key: value});
    let parameters = json!({"resourceType": "Parameters", "parameter": [
        {"name": "inputFormat", "valueCode": "application/fhir+ndjson"},
        {"name": "input", "part": [part("type", "valueCode", &json!("Patient")),
            part("url", "valueUri", &files.input("Patient", "/patients.ndjson")["url"])]}]});
    let again = over(&client, &kick_off(&client, &parameters)).json();
    assert_eq!(again["output"][0]["count"], 1_200);
    assert_eq!(client.get("/fhir/R4/Patient/p7").json()["meta"]["versionId"], "1");
    // It is nobody else's, and gone when it is let go.
    assert_eq!(stack.signed_in("system/*.cruds").get(&status).status, 404);
    assert_eq!(client.send("DELETE", &status, &[], b"").status, 202);
    assert_eq!(client.get(&status).status, 404);
}

#[test]
fn an_import_that_is_killed_or_cut_off_goes_on_and_takes_each_line_once() {
    takes_each_line_once(|_| String::new());
}

#[test]
fn an_import_into_a_server_that_is_killed_or_cut_off_goes_on_and_takes_each_line_once() {
    let server = Postgres::shared();
    takes_each_line_once(|files| server::configuration(&server, &server.new_database(), files));
}

fn takes_each_line_once(database: impl Fn(&Path) -> String) {
    let (authority, directory) = (authority(), tempfile::tempdir().unwrap());
    let files = Files::new(&authority);
    let database = database(directory.path());
    let stack = stack_with(directory.path(), &authority, &[files.origin()], &database);
    let client = stack.signed_in("system/*.cruds");
    files.put("/patients.ndjson", people(0..5_000));
    // It breaks off after more than one transaction's worth.
    files.breaks_after.store(100_000, Ordering::SeqCst);
    let status = kick_off(&client, &json!({"input": [files.input("Patient", "/patients.ndjson")]}));
    let progress = |answer: &Answer| {
        let words = answer.header("x-progress").unwrap_or_default().to_owned();
        words.split(' ').find_map(|word| word.parse::<u64>().ok().filter(|lines| *lines > 5)).unwrap_or(0)
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    while progress(&client.get(&status)) == 0 {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(20));
    }
    for _ in 0..3 {
        stack.kill("app-1");
        stack.wait_until_healthy();
        std::thread::sleep(Duration::from_millis(200));
    }
    files.breaks_after.store(0, Ordering::SeqCst);
    let done = over(&client, &status);
    assert_eq!(done.status, 200, "{}", done.text());
    assert_eq!(done.json()["output"][0]["count"], 5_000);
    let client = stack.signed_in("system/*.cruds");
    assert_eq!(client.search("Patient", "family=imported&_summary=count").json()["total"], 5_000);
    for number in [0, 499, 500, 2_345, 4_999] {
        let one = client.get(&format!("/fhir/R4/Patient/p{number}"));
        assert_eq!((one.status, one.json()["meta"]["versionId"].as_str()), (200, Some("1")));
    }
    stack.ward_json(&["audit", "verify"]);
}

#[test]
fn nothing_is_fetched_from_whom_the_operator_does_not_list_or_for_who_may_not_write() {
    let (authority, directory) = (authority(), tempfile::tempdir().unwrap());
    let (files, stranger) = (Files::new(&authority), Files::new(&self::authority()));
    let stack = stack_for(directory.path(), &authority, &[files.origin(), stranger.origin()]);
    let client = stack.signed_in("system/*.cruds");
    files.put("/patients.ndjson", people(0..3));
    stranger.put("/patients.ndjson", people(0..3));
    let good = json!({"input": [files.input("Patient", "/patients.ndjson")]});
    let with = |input: Value| json!({"input": [input]});
    let other = Files::new(&authority);
    for (manifest, headers, status) in [
        (good.clone(), &[JSON][..], 400),
        (json!({"input": []}), &[ASYNC, JSON], 400),
        (json!({"inputFormat": "text/csv", "input": good["input"]}), &[ASYNC, JSON], 400),
        (with(json!({"type": "Potato", "url": good["input"][0]["url"]})), &[ASYNC, JSON], 404),
        (with(other.input("Patient", "/patients.ndjson")), &[ASYNC, JSON], 400),
        (with(json!({"type": "Patient", "url": "http://localhost/x"})), &[ASYNC, JSON], 400),
        (with(json!({"type": "Patient", "url": "file:///etc/passwd"})), &[ASYNC, JSON], 400),
        (
            with(json!({"type": "Patient", "url": format!("https://me@localhost:{}/x", files.port)})),
            &[ASYNC, JSON],
            400,
        ),
    ] {
        let refused = client.send("POST", "/fhir/R4/$import", headers, manifest.to_string().as_bytes());
        assert_eq!(refused.status, status, "{manifest}: {}", refused.text());
        issue(&refused);
    }
    assert_eq!(other.asked.load(Ordering::SeqCst), 0);
    for scopes in ["system/*.rs", "system/Observation.cruds", "system/Patient.c"] {
        let narrow = stack.signed_in(scopes);
        let refused = narrow.send("POST", "/fhir/R4/$import", &[ASYNC, JSON], good.to_string().as_bytes());
        assert_eq!(refused.status, 403, "{scopes}");
    }
    assert_eq!(files.asked.load(Ordering::SeqCst), 0);
    assert_eq!(client.get("/fhir/R4/$import").status, 405);
    // Who cannot prove its name is sent nothing, and the job ends with words.
    let status = kick_off(&client, &with(stranger.input("Patient", "/patients.ndjson")));
    let missing = kick_off(&client, &with(files.input("Patient", "/nothing.ndjson")));
    for (status, words) in [(status, "no certificate for its name"), (missing, "status 404")] {
        let failed = over(&client, &status);
        assert_eq!(failed.status, 502, "{}", failed.text());
        assert!(failed.text().contains(words), "{}", failed.text());
        issue(&failed);
    }
    assert_eq!(stranger.asked.load(Ordering::SeqCst), 0);
    assert_eq!(client.search("Patient", "family=imported").json()["entry"], Value::Null);
}
