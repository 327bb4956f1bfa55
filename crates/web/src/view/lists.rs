//! Conditions, medications, allergies and encounters as rows.

use serde_json::Value;

use super::{has_more, resources, text};

const NOT_NAMED: &str = "Not named";

/// A row of any of the lists: texts by column, and whether it belongs to the present.
pub(crate) struct Row {
    pub(crate) cells: Vec<String>,
    pub(crate) current: bool,
    when: Option<f64>,
}

/// One list of a chart.
pub(crate) struct List {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    pub(crate) columns: &'static [&'static str],
    pub(crate) rows: Vec<Row>,
    /// Said when there are no rows, unless there is a problem.
    pub(crate) empty: &'static str,
    /// Not all of them are shown.
    pub(crate) more: bool,
    /// Some or all of them could not be loaded: why.
    pub(crate) problem: Option<&'static str>,
}

impl List {
    /// The list of `kind` out of search answers.
    pub(crate) fn new(kind: ListKind, bundles: &[&Value], problem: Option<&'static str>) -> Self {
        let mut rows: Vec<Row> = bundles
            .iter()
            .flat_map(|bundle| resources(bundle))
            .filter_map(|resource| kind.row(resource))
            .collect();
        text::newest_first(&mut rows, |row| row.when);
        rows.sort_by_key(|row| !row.current);
        let (id, title, columns, empty): (_, _, &'static [&'static str], _) = match kind {
            ListKind::Conditions => (
                "conditions",
                "Conditions",
                &["Condition", "Status", "Since", "Recorded"],
                "No conditions recorded.",
            ),
            ListKind::Medications => (
                "medications",
                "Medications",
                &["Medication", "Status", "Dosage", "Date"],
                "No medications recorded.",
            ),
            ListKind::Allergies => (
                "allergies",
                "Allergies",
                &["Allergy or intolerance", "Status", "Criticality", "Reactions"],
                "No allergies recorded. This does not mean that there are none.",
            ),
            ListKind::Encounters => (
                "encounters",
                "Encounters",
                &["Encounter", "Status", "When", "Reason", "Where"],
                "No encounters recorded.",
            ),
        };
        let more = bundles.iter().any(|bundle| has_more(bundle));
        Self { id, title, columns, rows, empty, more, problem }
    }
}

/// Which list.
#[derive(Clone, Copy)]
pub(crate) enum ListKind {
    Conditions,
    Medications,
    Allergies,
    Encounters,
}

impl ListKind {
    fn row(self, resource: &Value) -> Option<Row> {
        let when = |names: &[&str]| names.iter().find_map(|name| text::at(resource, name)).map(str::to_owned);
        let (cells, date, current) = match self {
            Self::Conditions => {
                let status = text::status(resource.get("clinicalStatus"));
                let (verification, holds) = verification(resource);
                let current =
                    holds && !matches!(status.as_deref(), Some("inactive" | "remission" | "resolved"));
                let onset = when(&["/onsetDateTime", "/onsetString"])
                    .map(|onset| text::date(&onset))
                    .or_else(|| text::period(resource.get("onsetPeriod")))
                    .or_else(|| text::quantity(resource.get("onsetAge")));
                let date = when(&["/recordedDate", "/onsetDateTime"]);
                let recorded = text::at(resource, "/recordedDate").map(text::date);
                let cells = vec![
                    text::concept(resource.get("code")),
                    text::joined(status.into_iter().chain(verification)),
                    onset,
                    recorded,
                ];
                (cells, date, current)
            }
            Self::Medications => {
                let status = text::at(resource, "/status");
                let mut name = text::concept(resource.get("medicationCodeableConcept"))
                    .or_else(|| text::display(resource.get("medicationReference")));
                let forbidden = resource.get("doNotPerform") == Some(&Value::Bool(true));
                if forbidden {
                    name = Some(format!("Do not give: {}", name.as_deref().unwrap_or(NOT_NAMED)));
                }
                // Not ordered yet.
                let intent =
                    text::at(resource, "/intent").filter(|intent| matches!(*intent, "proposal" | "plan"));
                let dosages =
                    ["dosageInstruction", "dosage"].iter().flat_map(|list| text::items(resource, list));
                let date =
                    when(&["/authoredOn", "/effectiveDateTime", "/effectivePeriod/start", "/dateAsserted"]);
                let cells = vec![
                    name,
                    text::joined(status.into_iter().chain(intent).map(text::word)),
                    text::joined(dosages.filter_map(dosage)),
                    date.as_deref().map(text::date),
                ];
                let current =
                    !forbidden && matches!(status, Some("active" | "on-hold" | "draft" | "intended"));
                (cells, date, current)
            }
            Self::Allergies => {
                let status = text::status(resource.get("clinicalStatus"));
                let (verification, holds) = verification(resource);
                let current = holds && !matches!(status.as_deref(), Some("inactive" | "resolved"));
                let reactions = text::items(resource, "reaction").iter().filter_map(|reaction| {
                    let what = text::concepts(text::items(reaction, "manifestation"))?;
                    let severity = text::at(reaction, "/severity").map(|severity| format!(" ({severity})"));
                    Some(what + severity.as_deref().unwrap_or_default())
                });
                let cells = vec![
                    text::concept(resource.get("code")),
                    text::joined(status.into_iter().chain(verification)),
                    text::at(resource, "/criticality").map(text::word),
                    text::joined(reactions),
                ];
                (cells, when(&["/recordedDate", "/onsetDateTime"]), current)
            }
            Self::Encounters => {
                let status = text::at(resource, "/status");
                let kind = text::concepts(text::items(resource, "type")).or_else(|| {
                    text::at(resource, "/class/display")
                        .or_else(|| text::at(resource, "/class/code"))
                        .map(str::to_owned)
                });
                let places =
                    text::items(resource, "location").iter().filter_map(|l| text::display(l.get("location")));
                let cells = vec![
                    kind,
                    status.map(text::word),
                    text::period(resource.get("period")),
                    text::concepts(text::items(resource, "reasonCode")),
                    text::display(resource.get("serviceProvider")).or_else(|| text::joined(places)),
                ];
                (
                    cells,
                    when(&["/period/start", "/period/end"]),
                    matches!(status, Some("in-progress" | "arrived")),
                )
            }
        };
        if text::at(resource, "/resourceType").is_none_or(|kind| kind == "OperationOutcome") {
            return None;
        }
        let mut cells: Vec<String> = cells.into_iter().map(Option::unwrap_or_default).collect();
        if let Some(first) = cells.first_mut()
            && first.is_empty()
        {
            NOT_NAMED.clone_into(first);
        }
        Some(Row { cells, current, when: date.as_deref().and_then(text::days) })
    }
}

/// How sure a condition or an allergy is, if it is not confirmed, and whether it can hold at all.
fn verification(resource: &Value) -> (Option<String>, bool) {
    let verification =
        text::status(resource.get("verificationStatus")).filter(|status| status != "confirmed");
    let holds = !matches!(verification.as_deref(), Some("entered in error" | "refuted"));
    (verification, holds)
}

fn dosage(dosage: &Value) -> Option<String> {
    if let Some(text) = text::at(dosage, "/text") {
        return Some(text.to_owned());
    }
    let amount =
        text::items(dosage, "doseAndRate").iter().find_map(|dose| text::quantity(dose.get("doseQuantity")));
    let repeat = dosage.pointer("/timing/repeat");
    let often = repeat.and_then(|repeat| {
        let (times, every) = (text::number(repeat.get("frequency"))?, text::number(repeat.get("period"))?);
        Some(format!("{times} time(s) every {every} {}", text::at(repeat, "/periodUnit").unwrap_or_default()))
    });
    let needed = (dosage.get("asNeededBoolean") == Some(&Value::Bool(true))).then(|| "as needed".to_owned());
    text::joined(amount.into_iter().chain(often).chain(needed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rows(kind: ListKind, resources: &[Value]) -> Vec<Vec<String>> {
        let entries: Vec<Value> = resources.iter().map(|resource| json!({"resource": resource})).collect();
        List::new(kind, &[&json!({"entry": entries})], None).rows.into_iter().map(|row| row.cells).collect()
    }

    #[test]
    fn what_is_current_comes_first_then_the_newest() {
        let condition = |name: &str, status: &str, date: &str| {
            json!({"resourceType": "Condition", "code": {"text": name}, "recordedDate": date,
                   "clinicalStatus": {"coding": [{"code": status}]}})
        };
        let rows = rows(
            ListKind::Conditions,
            &[
                condition("old", "active", "2001"),
                condition("healed", "resolved", "2024-01-01"),
                condition("new", "active", "2020-05-05T10:00:00Z"),
            ],
        );
        let names: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
        assert_eq!(names, ["new", "old", "healed"]);
        assert_eq!(rows[0], ["new", "active", "", "2020-05-05 10:00 UTC"]);
    }

    #[test]
    fn medications_and_allergies_say_how_and_what() {
        let medication = json!({"resourceType": "MedicationRequest", "status": "active", "authoredOn": "2024-02-03",
            "medicationCodeableConcept": {"coding": [{"display": "Ibuprofen 200 mg"}]},
            "dosageInstruction": [{"asNeededBoolean": true, "timing": {"repeat": {"frequency": 1, "period": 8, "periodUnit": "h"}},
                                   "doseAndRate": [{"doseQuantity": {"value": 2, "unit": "tablets"}}]}]});
        let expected =
            ["Ibuprofen 200 mg", "active", "2 tablets, 1 time(s) every 8 h, as needed", "2024-02-03"];
        assert_eq!(rows(ListKind::Medications, &[medication])[0], expected);
        let allergy = json!({"resourceType": "AllergyIntolerance", "code": {"text": "Peanut"}, "criticality": "high",
            "reaction": [{"manifestation": [{"text": "Hives"}], "severity": "mild"}]});
        assert_eq!(rows(ListKind::Allergies, &[allergy])[0], ["Peanut", "", "high", "Hives (mild)"]);
    }

    #[test]
    fn what_does_not_hold_is_not_current_and_says_so() {
        let status = |code: &str| json!({"coding": [{"code": code}]});
        for (kind, resource_type) in
            [(ListKind::Conditions, "Condition"), (ListKind::Allergies, "AllergyIntolerance")]
        {
            for (verification, shown, current) in [
                ("confirmed", "active", true),
                ("unconfirmed", "active, unconfirmed", true),
                ("refuted", "active, refuted", false),
                ("entered-in-error", "active, entered in error", false),
            ] {
                let resource = json!({"resourceType": resource_type, "clinicalStatus": status("active"),
                    "verificationStatus": status(verification)});
                let row = kind.row(&resource).unwrap();
                assert_eq!((row.cells[1].as_str(), row.current), (shown, current), "{resource_type}");
            }
        }
        let request = |intent: &str, forbidden: bool| {
            let request = json!({"resourceType": "MedicationRequest", "status": "active", "intent": intent,
                "medicationCodeableConcept": {"text": "Aspirin"}, "doNotPerform": forbidden});
            let row = ListKind::Medications.row(&request).unwrap();
            (row.cells[0].clone(), row.cells[1].clone(), row.current)
        };
        let expected = |name: &str, status: &str, current| (name.to_owned(), status.to_owned(), current);
        assert_eq!(request("order", false), expected("Aspirin", "active", true));
        assert_eq!(request("plan", false), expected("Aspirin", "active, plan", true));
        assert_eq!(request("proposal", false), expected("Aspirin", "active, proposal", true));
        assert_eq!(request("order", true), expected("Do not give: Aspirin", "active", false));
    }

    #[test]
    fn any_json_is_survived() {
        for odd in [
            json!(null),
            json!({"resourceType": 7}),
            json!({"resourceType": "Encounter", "type": "x", "period": []}),
        ] {
            for kind in
                [ListKind::Conditions, ListKind::Medications, ListKind::Allergies, ListKind::Encounters]
            {
                rows(kind, std::slice::from_ref(&odd));
            }
        }
    }
}
