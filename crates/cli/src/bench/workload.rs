//! The work: the same requests for any FHIR server, spread over a number of connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::Context as _;
use bytes::Bytes;
use http::header::{self, HeaderName};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::measure::Figure;
use crate::client::Endpoint;
use crate::population;

/// One kind of request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    CreatePatient,
    CreateObservation,
    Read,
    SearchByName,
    SearchByPatientCodeDate,
    Transaction,
}

impl Step {
    /// In the order in which they need each other's results.
    pub(super) const ALL: [Self; 6] = [
        Self::CreatePatient,
        Self::CreateObservation,
        Self::Read,
        Self::SearchByName,
        Self::SearchByPatientCodeDate,
        Self::Transaction,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::CreatePatient => "create Patient",
            Self::CreateObservation => "create Observation",
            Self::Read => "read",
            Self::SearchByName => "search by name",
            Self::SearchByPatientCodeDate => "search by patient, code, date",
            Self::Transaction => "transaction of 100",
        }
    }
}

const FHIR_JSON: &str = "application/fhir+json";
const FORM: &str = "application/x-www-form-urlencoded";
/// Five codes, so that patient + code + date finds a fifth of a patient's Observations.
const CODES: [&str; 5] = ["8867-4", "9279-1", "8310-5", "29463-7", "2708-6"];

/// What has been created so far, for the steps that read.
pub(super) struct Workload {
    base: String,
    authorization: String,
    patients: usize,
    requests: usize,
    created: Vec<String>,
    /// In every name of this run, so that another run on the same server does not find them.
    run: String,
}

struct Request {
    method: &'static str,
    path: String,
    content_type: &'static str,
    body: Bytes,
    expected: u16,
}

impl Workload {
    pub(super) fn new(base: &str, authorization: &str, patients: usize, requests: usize) -> Self {
        let run =
            population::Dice::new(u64::from_be_bytes(ward_base::SystemRandom::bytes())).between(0, 1 << 30);
        Self {
            base: base.trim_end_matches('/').to_owned(),
            authorization: authorization.to_owned(),
            patients,
            requests,
            created: Vec::new(),
            run: format!("r{run:x}"),
        }
    }

    /// Sends every request of `step` and measures. Fails on the first answer that is not what it should be.
    pub(super) async fn run(
        &mut self,
        step: Step,
        endpoint: &Endpoint,
        connections: usize,
    ) -> anyhow::Result<Figure> {
        let count = match step {
            Step::CreatePatient => self.patients,
            Step::CreateObservation => self.patients * 5,
            Step::Transaction => (self.patients / 10).max(10),
            _ => self.requests,
        };
        let requests: Arc<Vec<Request>> =
            Arc::new((0..count).map(|number| self.request(step, number)).collect());
        let next = Arc::new(AtomicUsize::new(0));
        let locations = Arc::new(Mutex::new(Vec::new()));
        let mut open = Vec::new();
        for _ in 0..connections {
            open.push(endpoint.connect().await?);
        }
        let started = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for mut connection in open {
            let (requests, next, locations) =
                (Arc::clone(&requests), Arc::clone(&next), Arc::clone(&locations));
            let authorization = self.authorization.clone();
            tasks.spawn(async move {
                let mut latencies = Vec::new();
                let mut found = Vec::new();
                while let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mut headers: Vec<(HeaderName, &str)> =
                        vec![(header::CONTENT_TYPE, request.content_type)];
                    if !authorization.is_empty() {
                        headers.push((header::AUTHORIZATION, &authorization));
                    }
                    let sent = Instant::now();
                    let response = connection
                        .send(request.method, &request.path, &headers, request.body.clone())
                        .await?;
                    latencies.push(sent.elapsed());
                    anyhow::ensure!(
                        response.status().as_u16() == request.expected,
                        "{} was answered {}",
                        request.method,
                        response.status()
                    );
                    if step == Step::CreatePatient {
                        found.push(location(&response).context("no Location in the answer")?);
                    }
                }
                locations.lock().await.extend(found);
                Ok(latencies)
            });
        }
        let mut latencies = Vec::with_capacity(count);
        while let Some(task) = tasks.join_next().await {
            latencies.extend(task??);
        }
        let took = started.elapsed();
        if step == Step::CreatePatient {
            self.created = std::mem::take(&mut *locations.lock().await);
        }
        Ok(Figure::new(step.name(), took, latencies))
    }

    fn request(&self, step: Step, number: usize) -> Request {
        let base = &self.base;
        let patient = self.created.get(number % self.created.len().max(1)).map_or("", String::as_str);
        let search = |kind: &str, form: String| Request {
            method: "POST",
            path: format!("{base}/{kind}/_search"),
            content_type: FORM,
            body: Bytes::from(form),
            expected: 200,
        };
        let create = |kind: &str, body: Value| Request {
            method: "POST",
            path: format!("{base}/{kind}"),
            content_type: FHIR_JSON,
            body: Bytes::from(body.to_string()),
            expected: 201,
        };
        match step {
            Step::CreatePatient => create("Patient", self.patient(number)),
            Step::CreateObservation => {
                create("Observation", observation(patient, number / self.patients.max(1)))
            }
            Step::Read => Request {
                method: "GET",
                path: format!("{base}/Patient/{patient}"),
                content_type: FHIR_JSON,
                body: Bytes::new(),
                expected: 200,
            },
            Step::SearchByName => search("Patient", format!("family={}&_count=20", self.family(number))),
            Step::SearchByPatientCodeDate => search(
                "Observation",
                format!(
                    "patient=Patient%2F{patient}&code=http%3A%2F%2Floinc.org%7C{}&date=ge2026-01-01&_count=5",
                    CODES[number % CODES.len()]
                ),
            ),
            Step::Transaction => {
                let entries: Vec<Value> = (0..100)
                    .map(|entry| {
                        json!({
                            "resource": observation(patient, number + entry),
                            "request": {"method": "POST", "url": "Observation"},
                        })
                    })
                    .collect();
                let mut request =
                    create("", json!({"resourceType": "Bundle", "type": "transaction", "entry": entries}));
                request.path.clone_from(base);
                request.expected = 200;
                request
            }
        }
    }

    /// Twenty patients share each family name. Names differ from their first letters on, as people's do.
    fn family(&self, number: usize) -> String {
        let family = number % (self.patients / 20).max(1);
        let letters = |number: usize| {
            let (first, second) = (b"bcdfghjklmnpqrstvwxz", b"aeiou");
            let at = |letters: &[u8], index: usize| {
                char::from(letters.get(index % letters.len()).copied().unwrap_or(b'a'))
            };
            [at(first, number), at(second, number / 20), at(first, number / 100), at(second, number / 2_000)]
        };
        format!("{}{}", letters(family.wrapping_mul(7)).iter().collect::<String>(), self.run)
    }

    pub(super) fn patient(&self, number: usize) -> Value {
        json!({
            "resourceType": "Patient", "active": true,
            "identifier": [{"system": "urn:oid:2.16.840.1.113883.19.5", "value": format!("{}-{number}", self.run)}],
            "name": [{"family": self.family(number), "given": ["Bench", "Q"]}],
            "gender": if number.is_multiple_of(2) { "female" } else { "male" },
            "birthDate": format!("19{:02}-{:02}-{:02}", 20 + number % 80, 1 + number % 12, 1 + number % 28),
            "telecom": [{"system": "phone", "value": format!("555-{number:04}")}],
            "address": [{"line": ["1 Elm Street"], "city": "Springfield", "state": "IL", "postalCode": "62701"}],
        })
    }
}

pub(super) fn observation(patient: &str, number: usize) -> Value {
    let code = CODES[number % CODES.len()];
    json!({
        "resourceType": "Observation", "status": "final",
        "category": [{"coding": [{
            "system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "vital-signs"}]}],
        "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
        "subject": {"reference": format!("Patient/{patient}")},
        "effectiveDateTime": format!("2026-{:02}-{:02}T08:{:02}:00Z", 1 + number % 12, 1 + number % 28, number % 60),
        "valueQuantity": {
            "value": 60 + number % 40, "unit": "/min", "system": "http://unitsofmeasure.org", "code": "/min"},
    })
}

/// The id in `…/Type/id/_history/version`.
fn location(response: &http::Response<Bytes>) -> Option<String> {
    let text = response.headers().get(header::LOCATION)?.to_str().ok()?;
    let path = text.split("/_history/").next()?;
    path.rsplit('/').next().map(str::to_owned)
}
