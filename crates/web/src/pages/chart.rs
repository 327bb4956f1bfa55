//! A patient's record on one page.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use serde_json::Value;
use ward_base::Phi;

use super::{Layout, html, patient_id, read_patient};
use crate::site::Site;
use crate::trouble::Trouble;
use crate::view::has_more;
use crate::view::lists::{List, ListKind};
use crate::view::notes::{self, Note};
use crate::view::patient::Patient;
use crate::view::vitals::Vitals;
use crate::visit::Signed;

#[derive(Template)]
#[template(path = "chart.html")]
struct ChartPage {
    layout: Layout,
    handle: String,
    saved: bool,
    patient: Patient,
    lists: Vec<List>,
    vitals: Vitals,
    notes: Vec<Note>,
    notes_more: bool,
    notes_problem: Option<&'static str>,
}

/// `GET /patients/{handle}`.
pub(crate) async fn chart(
    State(site): State<Arc<Site>>,
    signed: Signed,
    Path(handle): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Trouble> {
    let id = patient_id(&signed, &handle)?;
    let reference = format!("Patient/{}", id.expose());
    let (app, visit) = (&site.app, &signed.visit);
    // If there are too many, it is the old ones that are left out.
    let newest = |resource_type, sort| {
        let parameters = [("patient", reference.as_str()), ("_sort", sort), ("_count", "200")];
        async move { app.search(visit, resource_type, &parameters).await }
    };
    let vital_signs =
        [("patient", reference.as_str()), ("category", "vital-signs"), ("_sort", "-date"), ("_count", "200")];
    // All at once: the page is as slow as the slowest of them, not as their sum.
    let (
        me,
        patient,
        conditions,
        requests,
        statements,
        allergies,
        encounters,
        vitals,
        documents,
        compositions,
    ) = tokio::join!(
        app.me(visit, false),
        app.patient(visit, id.expose()),
        newest("Condition", "-recorded-date"),
        newest("MedicationRequest", "-authoredon"),
        newest("MedicationStatement", "-effective"),
        newest("AllergyIntolerance", "-date"),
        newest("Encounter", "-date"),
        app.search(visit, "Observation", &vital_signs),
        newest("DocumentReference", "-date"),
        newest("Composition", "-date"),
    );
    let (me, patient) = (me?, patient?);
    let lists = vec![
        list(ListKind::Conditions, &[conditions]),
        list(ListKind::Medications, &[requests, statements]),
        list(ListKind::Allergies, &[allergies]),
        list(ListKind::Encounters, &[encounters]),
    ];
    let vitals = match &vitals {
        Ok(bundle) => Vitals::new(bundle.expose(), None),
        Err(trouble) => Vitals::new(&Value::Null, Some(trouble.sentence())),
    };
    let written = [documents, compositions];
    let bundles: Vec<&Value> = written.iter().flatten().map(Phi::expose).collect();
    html(&ChartPage {
        layout: Layout::signed_in("Patient record", me),
        handle,
        saved: query.as_deref() == Some("saved"),
        patient: read_patient(&site, &patient),
        lists,
        vitals,
        notes: notes::notes(&bundles),
        notes_more: bundles.iter().any(|bundle| has_more(bundle)),
        notes_problem: written
            .iter()
            .find_map(|found| found.as_ref().err())
            .map(|trouble| trouble.sentence()),
    })
}

fn list(kind: ListKind, found: &[Result<Phi<Value>, Trouble>]) -> List {
    let bundles: Vec<&Value> = found.iter().flatten().map(Phi::expose).collect();
    let problem = found.iter().find_map(|found| found.as_ref().err()).map(|trouble| trouble.sentence());
    List::new(kind, &bundles, problem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::Me;
    use serde_json::json;
    use ward_base::Timestamp;

    /// A page of a record in which every text is hostile.
    #[test]
    fn no_text_of_a_record_becomes_markup() {
        let evil = "<img src=x onerror=alert(1)>\"'&";
        let entry = |resource: Value| json!({"entry": [{"resource": resource}]});
        let conditions =
            entry(json!({"resourceType": "Condition", "code": {"text": evil}, "onsetString": evil}));
        let observation = |date: &str| {
            json!({"resource": {"resourceType": "Observation", "status": evil, "code": {"text": evil},
                   "effectiveDateTime": date, "valueQuantity": {"value": 1.5, "unit": evil}}})
        };
        let vitals = json!({"entry": [observation("2024-01-01"), observation("2024-02-01")]});
        let note = entry(
            json!({"resourceType": "Composition", "title": evil, "date": evil, "author": [{"display": evil}],
            "section": [{"title": evil, "text": {"div": format!("<div>&lt;script&gt;{evil}</div>")}}]}),
        );
        let patient = json!({"name": [{"text": evil}], "birthDate": evil, "gender": evil,
            "identifier": [{"type": {"text": evil}, "value": evil}], "address": [{"text": evil}]});
        let page = ChartPage {
            layout: Layout::signed_in("Patient record", Me { display_name: evil.to_owned(), remaining: 900 }),
            handle: "h".to_owned(),
            saved: false,
            patient: Patient::new(&patient, Timestamp(0)),
            lists: vec![List::new(ListKind::Conditions, &[&conditions], None)],
            vitals: Vitals::new(&vitals, None),
            notes: notes::notes(&[&note]),
            notes_more: false,
            notes_problem: None,
        };
        assert_eq!(page.vitals.graphs.len(), 1);
        let page = page.render().unwrap();
        for forbidden in ["<img", "<script>", " style=", "onerror=alert(1)>", "\"'&"] {
            assert!(!page.contains(forbidden), "{forbidden}");
        }
        assert!(page.matches("&#60;img src=x onerror=alert(1)&#62;").count() >= 10);
        assert!(!page.contains("<title>&#60;"), "no name in the title");
    }

    #[test]
    fn a_part_that_cannot_be_loaded_does_not_take_the_others_along() {
        let aspirin = json!({"resourceType": "MedicationStatement", "status": "active",
            "medicationCodeableConcept": {"text": "Aspirin"}});
        let found = Phi::new(json!({"entry": [{"resource": aspirin}]}));
        let page = ChartPage {
            layout: Layout::open("Patient record"),
            handle: "h".to_owned(),
            saved: false,
            patient: Patient::new(&Value::Null, Timestamp(0)),
            lists: vec![
                list(ListKind::Medications, &[Err(Trouble::Unavailable), Ok(found)]),
                list(ListKind::Allergies, &[Err(Trouble::Forbidden)]),
                list(ListKind::Encounters, &[]),
            ],
            vitals: Vitals::new(&Value::Null, None),
            notes: vec![],
            notes_more: false,
            notes_problem: None,
        };
        let page = page.render().unwrap();
        let part =
            |id: &str| page.split("<section").find(|part| part.contains(&format!("id=\"{id}\""))).unwrap();
        let medications = part("medications");
        assert!(medications.contains("cannot be loaded") && medications.contains("Aspirin"));
        let allergies = part("allergies");
        assert!(allergies.contains("does not allow") && !allergies.contains("No allergies recorded"));
        assert!(part("encounters").contains("No encounters recorded"));
    }
}
