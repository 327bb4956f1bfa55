//! The whole stack with its database in a PostgreSQL server.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};
use ward_testkit::{Answer, Https, Postgres, Stack, StackOptions};

use crate::api::{create, issue};
use crate::stack;

/// What a stack is told so that it keeps its records in this database; the files that it names are put into `files`.
pub(crate) fn configuration(server: &Postgres, database: &str, files: &Path) -> String {
    let (authority, password) = (files.join("authority.pem"), files.join("password"));
    std::fs::write(&authority, server.authority_pem()).unwrap();
    std::fs::write(&password, format!("{}\n", server.password())).unwrap();
    std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o600)).unwrap();
    format!(
        "[database]\nhosts = 'localhost'\nport = {}\nname = '{database}'\nuser = '{}'\nauthority = '{}'\n\
         password_file = '{}'\n",
        server.port(),
        server.user(),
        authority.display(),
        password.display(),
    )
}

#[test]
fn a_stack_keeps_its_records_in_a_server() {
    let server = Postgres::shared();
    let database = server.new_database();
    let files = tempfile::tempdir().unwrap();
    let configuration = configuration(&server, &database, files.path());
    let mut stack = stack(StackOptions { configuration, demo_patients: 2 });
    let count = || server.run(&database, "SELECT count(*) FROM resource").parse::<usize>().unwrap();
    let loaded = count();
    assert!(loaded > 2, "{loaded}");
    assert!(!stack.data().join("app/ward.db").exists());
    assert!(!stack.logs().contains(server.password()));
    stack.stop();
    stack.start_again();
    assert!(count() >= loaded);
}

const JSON: (&str, &str) = ("Content-Type", "application/fhir+json");

fn update(client: &Https, id: &str, version: u64, patient: &Value) -> Answer {
    let if_match = format!("W/\"{version}\"");
    let path = format!("/fhir/R4/Patient/{id}");
    client.send("PUT", &path, &[JSON, ("If-Match", &if_match)], patient.to_string().as_bytes())
}

/// Two hosts, each with its own stack, its own audit log and the same keys.
#[test]
fn two_stacks_at_once_share_a_server() {
    let server = Postgres::shared();
    let database = server.new_database();
    let files = tempfile::tempdir().unwrap();
    let options = |log: &str| {
        let database = configuration(&server, &database, files.path());
        StackOptions { configuration: format!("{database}[audit]\norigin = '{log}'\n"), demo_patients: 0 }
    };
    let first = stack(options("ward.test/audit/app-1"));
    let mut second = first.start_beside(options("ward.test/audit/app-2"));
    let clients = [&first, &second].map(|stack: &Stack| stack.signed_in("system/*.cruds"));
    let [here, there] = &clients;

    // What one acknowledged, the other knows.
    let (id, _) = create(here, &json!({"resourceType": "Patient", "name": [{"family": "Lovelace"}]}));
    let path = format!("/fhir/R4/Patient/{id}");
    let mut patient = there.get(&path).json();
    assert_eq!(there.search("Patient", "family=lovel&_summary=count").json()["total"], 1);
    patient["gender"] = "female".into();
    assert_eq!(update(there, &id, 1, &patient).status, 200);
    assert_eq!(here.get(&path).json()["gender"], "female");
    assert_eq!(issue(&update(here, &id, 1, &patient)), "conflict");

    // What both do at once, one does: a version follows another, a condition finds what the other made.
    for version in 2..8 {
        let statuses = at_once(&clients, |client| update(client, &id, version, &patient).status);
        assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
        assert!(statuses.iter().all(|status| matches!(status, 200 | 412)), "{statuses:?}");
    }
    for number in 0..4 {
        let condition = format!("identifier=urn:mrn|{number}");
        let person = json!({"resourceType": "Patient", "identifier": [{"system": "urn:mrn", "value": number.to_string()}]});
        let statuses = at_once(&clients, |client| {
            let headers = [JSON, ("If-None-Exist", condition.as_str())];
            client.send("POST", "/fhir/R4/Patient", &headers, person.to_string().as_bytes()).status
        });
        assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 1, "{statuses:?}");
        assert!(statuses.iter().all(|status| matches!(status, 200 | 201)), "{statuses:?}");
    }
    let transaction = |client: &Https| {
        let entry = |number: usize| {
            json!({"request": {"method": "POST", "url": "Observation"}, "resource": {"resourceType": "Observation",
                "status": "final", "code": {"text": number.to_string()}, "subject": {"reference": format!("Patient/{id}")}}})
        };
        let entries: Vec<Value> = (0..20).map(entry).collect();
        client
            .post("/fhir/R4", &json!({"resourceType": "Bundle", "type": "transaction", "entry": entries}))
            .status
    };
    assert_eq!(at_once(&clients, transaction), [200; 8]);
    for client in &clients {
        let count = client.search("Observation", &format!("patient={id}&_summary=count")).json();
        assert_eq!(count["total"], 160, "{count}");
    }

    // Each has a log of its own, whole.
    for stack in [&first, &second] {
        assert!(stack.ward_json(&["audit", "verify"])["entries"].as_u64().unwrap() > 20);
        let who = stack.ward_json(&["audit", "who", "--patient", &id]);
        assert!(!who["accesses"].as_array().unwrap().is_empty(), "{who}");
    }
    second.stop();
    assert_eq!(here.get(&path).status, 200);
    second.start_again();
    assert_eq!(second.signed_in("system/*.rs").get(&path).json()["meta"]["versionId"], "8");
}

/// What four threads at each stack are answered that do the same at once.
fn at_once(clients: &[Https; 2], act: impl Fn(&Https) -> u16 + Sync) -> Vec<u16> {
    let act = &act;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|number| scope.spawn(move || act(&clients[number % 2]))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}
