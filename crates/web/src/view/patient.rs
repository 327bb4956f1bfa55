//! Who a record is about.

use serde_json::Value;
use ward_base::Timestamp;

use super::text;

/// The lines at the head of each page of a record, and of a row in a list of patients.
pub(crate) struct Patient {
    pub(crate) name: String,
    pub(crate) birth_date: String,
    /// In words, such as `41 years`; empty if unknown.
    pub(crate) age: String,
    pub(crate) sex: String,
    pub(crate) deceased: Option<String>,
    pub(crate) inactive: bool,
    /// Label and value.
    pub(crate) identifiers: Vec<(String, String)>,
    pub(crate) phone: Option<String>,
    pub(crate) address: Option<String>,
    pub(crate) language: Option<String>,
    pub(crate) marital_status: Option<String>,
}

impl Patient {
    /// Reads a Patient resource.
    pub(crate) fn new(resource: &Value, now: Timestamp) -> Self {
        let birth_date = text::at(resource, "/birthDate").unwrap_or("unknown").to_owned();
        let deceased = match (text::at(resource, "/deceasedDateTime"), resource.get("deceasedBoolean")) {
            (Some(date), _) => Some(format!("Died {}", text::date(date))),
            (None, Some(Value::Bool(true))) => Some("Deceased".to_owned()),
            _ => None,
        };
        let age = match (&deceased, text::at(resource, "/deceasedDateTime")) {
            (None, _) => age(&birth_date, now.to_instant().get(..10).unwrap_or_default()),
            (Some(_), Some(date)) => age(&birth_date, date.get(..10).unwrap_or(date)),
            (Some(_), None) => None,
        };
        Self {
            name: text::name(resource).unwrap_or_else(|| "Name not recorded".to_owned()),
            birth_date,
            age: age.unwrap_or_default(),
            sex: text::at(resource, "/gender").unwrap_or("not recorded").to_owned(),
            deceased,
            inactive: resource.get("active") == Some(&Value::Bool(false)),
            identifiers: identifiers(resource),
            phone: telecom(resource),
            address: address(resource),
            language: text::items(resource, "communication")
                .iter()
                .find_map(|language| text::concept(language.get("language"))),
            marital_status: text::concept(resource.get("maritalStatus")),
        }
    }
}

/// Whole years, or months below two years, or days below two months, between two dates.
fn age(birth: &str, at: &str) -> Option<String> {
    let full = |date: &str| -> Option<jiff::civil::Date> {
        match date.len() {
            4 => format!("{date}-01-01").parse().ok(),
            7 => format!("{date}-01").parse().ok(),
            _ => date.parse().ok(),
        }
    };
    let (birth_date, at) = (full(birth)?, full(at)?);
    let span = birth_date.until((jiff::Unit::Year, at)).ok()?;
    if birth_date > at {
        return None;
    }
    let (years, months) = (span.get_years(), i32::from(span.get_years()) * 12 + span.get_months());
    let about = if birth.len() < 10 { "about " } else { "" };
    let plural =
        |count: i32, unit: &str| format!("{about}{count} {unit}{}", if count == 1 { "" } else { "s" });
    Some(match (years, months) {
        (2.., _) => plural(years.into(), "year"),
        (_, 2..) => plural(months, "month"),
        _ => plural(birth_date.until((jiff::Unit::Day, at)).ok()?.get_days(), "day"),
    })
}

fn identifiers(resource: &Value) -> Vec<(String, String)> {
    text::items(resource, "identifier")
        .iter()
        .filter(|identifier| text::at(identifier, "/use") != Some("old"))
        .filter_map(|identifier| {
            let label = text::concept(identifier.get("type")).unwrap_or_else(|| "Identifier".to_owned());
            Some((label, text::at(identifier, "/value")?.to_owned()))
        })
        .take(6)
        .collect()
}

fn telecom(resource: &Value) -> Option<String> {
    let points = text::items(resource, "telecom");
    let phone = points.iter().find(|point| text::at(point, "/system") == Some("phone"));
    phone.or_else(|| points.first()).and_then(|point| text::at(point, "/value")).map(str::to_owned)
}

fn address(resource: &Value) -> Option<String> {
    let all = text::items(resource, "address");
    let address = all.iter().find(|address| text::at(address, "/use") != Some("old"))?;
    if let Some(whole) = text::at(address, "/text") {
        return Some(whole.to_owned());
    }
    let lines = text::items(address, "line").iter().filter_map(Value::as_str).map(str::to_owned);
    let place = ["/postalCode", "/city", "/state", "/country"]
        .iter()
        .filter_map(|part| text::at(address, part).map(str::to_owned))
        .collect::<Vec<_>>()
        .join(" ");
    text::joined(lines.chain((!place.is_empty()).then_some(place)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ages_are_in_the_unit_that_matters() {
        for (birth, at, expected) in [
            ("1980-06-15", "2024-06-14", Some("43 years")),
            ("1980-06-15", "2024-06-15", Some("44 years")),
            ("1980", "2024-06-15", Some("about 44 years")),
            ("2023-06-15", "2024-06-14", Some("11 months")),
            ("2024-06-01", "2024-06-02", Some("1 day")),
            ("2025-01-01", "2024-01-01", None),
            ("unknown", "2024-01-01", None),
        ] {
            assert_eq!(age(birth, at).as_deref(), expected, "{birth} at {at}");
        }
    }

    #[test]
    fn an_empty_patient_has_a_banner() {
        let patient = Patient::new(&json!({"resourceType": "Patient"}), Timestamp(0));
        assert_eq!(patient.name, "Name not recorded");
        assert_eq!((patient.birth_date.as_str(), patient.age.as_str()), ("unknown", ""));
    }

    #[test]
    fn a_full_patient_shows_all() {
        let patient = Patient::new(
            &json!({
                "active": false, "gender": "female", "birthDate": "1950-01-02", "deceasedDateTime": "2020-01-01T00:00:00Z",
                "identifier": [{"use": "old", "value": "0"}, {"type": {"text": "Medical record number"}, "value": "M-7"}],
                "telecom": [{"system": "email", "value": "a@example.org"}, {"system": "phone", "value": "555 1"}],
                "address": [{"line": ["1 Elm St"], "city": "Oxford", "postalCode": "OX1"}],
                "communication": [{"language": {"coding": [{"code": "en"}]}}],
            }),
            Timestamp(0),
        );
        assert_eq!(patient.age, "69 years");
        assert_eq!(patient.deceased.as_deref(), Some("Died 2020-01-01 00:00 UTC"));
        assert_eq!(patient.identifiers, [("Medical record number".to_owned(), "M-7".to_owned())]);
        assert_eq!(patient.phone.as_deref(), Some("555 1"));
        assert_eq!(patient.address.as_deref(), Some("1 Elm St, OX1 Oxford"));
        assert!(patient.inactive);
    }
}
