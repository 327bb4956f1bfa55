//! The form for a vital sign: what may be chosen, the check of what was typed, and the Observation made of it.

use serde_json::{Map, Number, Value, json};
use ward_base::Timestamp;

/// A unit with its UCUM code (<https://ucum.org>).
#[derive(Clone, Copy)]
pub(crate) struct Unit {
    pub(crate) code: &'static str,
    pub(crate) shown: &'static str,
    /// The least and the greatest value that a living person can have in this unit.
    range: (f64, f64),
}

/// A vital sign that can be added (FHIR's vital signs profile, <https://hl7.org/fhir/R4/observation-vitalsigns.html>).
pub(crate) struct VitalSign {
    pub(crate) key: &'static str,
    pub(crate) shown: &'static str,
    loinc: &'static str,
    /// The first is the usual one.
    pub(crate) units: &'static [Unit],
}

const fn unit(code: &'static str, shown: &'static str, low: f64, high: f64) -> Unit {
    Unit { code, shown, range: (low, high) }
}

const BLOOD_PRESSURE: &str = "blood-pressure";

/// Everything that can be added.
pub(crate) const VITAL_SIGNS: [VitalSign; 7] = [
    VitalSign {
        key: BLOOD_PRESSURE,
        shown: "Blood pressure",
        loinc: "85354-9",
        units: &[unit("mm[Hg]", "mmHg", 10.0, 400.0)],
    },
    VitalSign {
        key: "heart-rate",
        shown: "Heart rate",
        loinc: "8867-4",
        units: &[unit("/min", "/min", 5.0, 400.0)],
    },
    VitalSign {
        key: "respiratory-rate",
        shown: "Respiratory rate",
        loinc: "9279-1",
        units: &[unit("/min", "/min", 1.0, 150.0)],
    },
    VitalSign {
        key: "body-temperature",
        shown: "Body temperature",
        loinc: "8310-5",
        units: &[unit("Cel", "°C", 12.0, 46.0), unit("[degF]", "°F", 53.0, 115.0)],
    },
    VitalSign {
        key: "oxygen-saturation",
        shown: "Oxygen saturation",
        loinc: "2708-6",
        units: &[unit("%", "%", 1.0, 100.0)],
    },
    VitalSign {
        key: "body-weight",
        shown: "Body weight",
        loinc: "29463-7",
        units: &[
            unit("kg", "kg", 0.2, 700.0),
            unit("g", "g", 200.0, 20_000.0),
            unit("[lb_av]", "lb", 0.4, 1500.0),
        ],
    },
    VitalSign {
        key: "body-height",
        shown: "Body height",
        loinc: "8302-2",
        units: &[unit("cm", "cm", 20.0, 280.0), unit("[in_i]", "in", 8.0, 110.0)],
    },
];

/// What was typed, kept to be shown again.
#[derive(Clone, Default, serde::Deserialize)]
pub(crate) struct Typed {
    #[serde(default)]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) value: String,
    #[serde(default)]
    pub(crate) unit: String,
    #[serde(default)]
    pub(crate) effective: String,
}

/// Something to correct: the field's name and what to do, in plain words.
pub(crate) struct FieldError {
    pub(crate) field: &'static str,
    pub(crate) message: String,
}

impl FieldError {
    /// An error of one field.
    pub(crate) fn new(field: &'static str, message: impl Into<String>) -> Self {
        Self { field, message: message.into() }
    }
}

/// Every unit there is, once each, for the list to choose from.
pub(crate) fn units() -> Vec<Unit> {
    let mut units: Vec<Unit> = Vec::new();
    for unit in VITAL_SIGNS.iter().flat_map(|vital| vital.units) {
        if !units.iter().any(|known| known.code == unit.code) {
            units.push(*unit);
        }
    }
    units
}

/// `now` as the form's date field takes it.
pub(crate) fn now_for_form(now: Timestamp) -> String {
    now.to_instant().get(..16).unwrap_or_default().to_owned()
}

/// The Observation about the patient with this id, or everything that is to be corrected.
pub(crate) fn check(typed: &Typed, patient: &str, now: Timestamp) -> Result<Value, Vec<FieldError>> {
    let mut errors = Vec::new();
    let vital = VITAL_SIGNS.iter().find(|vital| vital.key == typed.kind);
    if vital.is_none() {
        errors.push(FieldError::new("kind", "Choose what was measured."));
    }
    let unit = vital.and_then(|vital| match typed.unit.as_str() {
        "" => vital.units.first().copied(),
        code => vital.units.iter().find(|unit| unit.code == code).copied(),
    });
    if let (Some(vital), None) = (vital, unit) {
        let fitting: Vec<&str> = vital.units.iter().map(|unit| unit.shown).collect();
        let message = format!("{} is measured in {}. Choose that unit.", vital.shown, fitting.join(" or "));
        errors.push(FieldError::new("unit", message));
    }
    let numbers = match (vital, unit) {
        (Some(vital), Some(unit)) => read_value(vital, unit, &typed.value),
        _ if typed.value.trim().is_empty() => Err("Enter the value.".to_owned()),
        _ => Ok(Vec::new()),
    };
    if let Err(message) = &numbers {
        errors.push(FieldError::new("value", message));
    }
    let effective = read_effective(&typed.effective, now);
    if let Err(message) = effective {
        errors.push(FieldError::new("effective", message));
    }
    match (vital, unit, numbers, effective) {
        (Some(vital), Some(unit), Ok(numbers), Ok(effective)) if errors.is_empty() => {
            Ok(resource(vital, unit, numbers, &effective.to_instant(), patient))
        }
        _ => Err(errors),
    }
}

fn read_value(vital: &VitalSign, unit: Unit, typed: &str) -> Result<Vec<Number>, String> {
    if typed.trim().is_empty() {
        return Err("Enter the value.".to_owned());
    }
    if vital.key != BLOOD_PRESSURE {
        return Ok(vec![read_number(vital.shown, unit, typed)?]);
    }
    let Some((systolic, diastolic)) = typed.split_once('/') else {
        return Err("Write blood pressure as systolic/diastolic, for example 120/80.".to_owned());
    };
    let both = vec![
        read_number("Systolic pressure", unit, systolic)?,
        read_number("Diastolic pressure", unit, diastolic)?,
    ];
    let as_numbers: Vec<f64> = both.iter().filter_map(Number::as_f64).collect();
    if let [systolic, diastolic] = as_numbers.as_slice()
        && systolic <= diastolic
    {
        return Err("The systolic pressure, written first, must be the higher one.".to_owned());
    }
    Ok(both)
}

/// A decimal of up to six digits and three decimals, with a point or a comma. Digits are kept as typed.
fn read_number(what: &str, unit: Unit, typed: &str) -> Result<Number, String> {
    let malformed = || format!("{what} must be a number, such as {}.", example(unit));
    let text = typed.trim().replace(',', ".");
    let (whole, decimals) = text.split_once('.').unwrap_or((&text, ""));
    let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let has_point = text.contains('.');
    if whole.is_empty() || whole.len() > 6 || !is_digits(whole) || !is_digits(decimals) || decimals.len() > 3
    {
        return Err(malformed());
    }
    if has_point && decimals.is_empty() {
        return Err(malformed());
    }
    let trimmed = whole.trim_start_matches('0');
    let whole = if trimmed.is_empty() { "0" } else { trimmed };
    let digits = if has_point { format!("{whole}.{decimals}") } else { whole.to_owned() };
    let number: Number = serde_json::from_str(&digits).map_err(|_| malformed())?;
    let (low, high) = unit.range;
    match number.as_f64() {
        Some(value) if (low..=high).contains(&value) => Ok(number),
        _ => Err(format!("{what} must be between {low} and {high} {}. Check value and unit.", unit.shown)),
    }
}

fn example(unit: Unit) -> &'static str {
    match unit.code {
        "Cel" => "37.2",
        "[degF]" => "98.9",
        "kg" => "71.5",
        "cm" => "172",
        _ => "80",
    }
}

fn read_effective(typed: &str, now: Timestamp) -> Result<Timestamp, &'static str> {
    let typed = typed.trim();
    if typed.is_empty() {
        return Err("Enter when it was measured.");
    }
    const WORDS: &str = "Enter date and time like 2026-05-17T14:30, in UTC and without an offset.";
    // The parser would drop an offset without a word.
    let is_local = matches!(typed.len(), 16 | 19)
        && typed.bytes().enumerate().all(|(position, byte)| match position {
            4 | 7 => byte == b'-',
            10 => byte == b'T',
            13 | 16 => byte == b':',
            _ => byte.is_ascii_digit(),
        });
    let moment: jiff::civil::DateTime = typed.parse().ok().filter(|_| is_local).ok_or(WORDS)?;
    let moment = jiff::tz::Offset::UTC.to_timestamp(moment).map_err(|_| WORDS)?;
    let moment = Timestamp(moment.as_microsecond());
    // Clocks differ by minutes, not by more.
    if moment > now.plus_seconds(300) {
        return Err("The measurement cannot lie in the future. Times are in UTC.");
    }
    if moment < now.plus_seconds(-130 * 366 * 86_400) {
        return Err("The measurement cannot be that long ago.");
    }
    Ok(moment)
}

fn resource(vital: &VitalSign, unit: Unit, numbers: Vec<Number>, effective: &str, patient: &str) -> Value {
    let quantity = |number: Number| json!({"value": number, "unit": unit.shown, "system": "http://unitsofmeasure.org", "code": unit.code});
    let loinc = |code: &str, display: &str| json!({"coding": [{"system": "http://loinc.org", "code": code, "display": display}], "text": display});
    let mut resource = Map::new();
    let mut set = |name: &str, value: Value| resource.insert(name.to_owned(), value);
    set("resourceType", json!("Observation"));
    set("status", json!("final"));
    set(
        "category",
        json!([{"coding": [{
            "system": "http://terminology.hl7.org/CodeSystem/observation-category",
            "code": "vital-signs", "display": "Vital Signs",
        }]}]),
    );
    set("code", loinc(vital.loinc, vital.shown));
    set("subject", json!({"reference": format!("Patient/{patient}")}));
    set("effectiveDateTime", json!(effective));
    let mut numbers = numbers.into_iter();
    match (vital.key, numbers.next(), numbers.next()) {
        (BLOOD_PRESSURE, Some(systolic), Some(diastolic)) => set(
            "component",
            json!([
                {"code": loinc("8480-6", "Systolic blood pressure"), "valueQuantity": quantity(systolic)},
                {"code": loinc("8462-4", "Diastolic blood pressure"), "valueQuantity": quantity(diastolic)},
            ]),
        ),
        (_, Some(number), _) => set("valueQuantity", quantity(number)),
        _ => None,
    };
    Value::Object(resource)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(
        kind: &str,
        value: &str,
        unit: &str,
        effective: &str,
    ) -> Result<Value, Vec<(&'static str, String)>> {
        let now = Timestamp(1_790_000_000_000_000); // 2026-09-21T14:13:20Z
        let [kind, value, unit, effective] = [kind, value, unit, effective].map(str::to_owned);
        check(&Typed { kind, value, unit, effective }, "p-1", now)
            .map_err(|errors| errors.into_iter().map(|error| (error.field, error.message)).collect())
    }

    #[test]
    fn digits_stay_as_typed_and_units_are_coded() {
        let weight = checked("body-weight", " 072,50 ", "", "2026-09-21T10:00").unwrap();
        assert_eq!(
            weight["valueQuantity"].to_string(),
            r#"{"value":72.50,"unit":"kg","system":"http://unitsofmeasure.org","code":"kg"}"#
        );
        assert_eq!(weight["subject"]["reference"], "Patient/p-1");
        assert_eq!(weight["effectiveDateTime"], "2026-09-21T10:00:00.000Z");
        let pressure = checked("blood-pressure", "120 / 80", "mm[Hg]", "2026-09-21T14:15:30").unwrap();
        assert_eq!(pressure["component"][1]["valueQuantity"]["value"].to_string(), "80");
        assert!(pressure.get("valueQuantity").is_none());
        assert_eq!(pressure["category"][0]["coding"][0]["code"], "vital-signs");
    }

    #[test]
    fn every_mistake_is_named_at_once() {
        let errors = checked("", "", "", "").unwrap_err();
        let fields: Vec<&str> = errors.iter().map(|error| error.0).collect();
        assert_eq!(fields, ["kind", "value", "effective"]);
        for (kind, value, unit, field, words) in [
            ("heart-rate", "fast", "", "value", "Heart rate must be a number, such as 80."),
            ("heart-rate", "1e2", "", "value", "Heart rate must be a number, such as 80."),
            ("heart-rate", "80.", "", "value", "Heart rate must be a number, such as 80."),
            ("heart-rate", "-5", "", "value", "Heart rate must be a number, such as 80."),
            ("heart-rate", "٣", "", "value", "Heart rate must be a number, such as 80."),
            (
                "heart-rate",
                "4000",
                "",
                "value",
                "Heart rate must be between 5 and 400 /min. Check value and unit.",
            ),
            (
                "body-temperature",
                "98.6",
                "Cel",
                "value",
                "Body temperature must be between 12 and 46 °C. Check value and unit.",
            ),
            (
                "body-temperature",
                "37",
                "kg",
                "unit",
                "Body temperature is measured in °C or °F. Choose that unit.",
            ),
            (
                "blood-pressure",
                "120",
                "",
                "value",
                "Write blood pressure as systolic/diastolic, for example 120/80.",
            ),
            (
                "blood-pressure",
                "80/120",
                "",
                "value",
                "The systolic pressure, written first, must be the higher one.",
            ),
        ] {
            let errors = checked(kind, value, unit, "2026-09-21T10:00").unwrap_err();
            assert_eq!(errors, [(field, words.to_owned())], "{kind} {value}");
        }
        let form = "Enter date and time like 2026-05-17T14:30, in UTC and without an offset.";
        for (effective, words) in [
            ("tomorrow", form),
            ("2026-05-17", form),
            ("2026-05-17 14:30", form),
            ("2026-05-17T14:30Z", form),
            ("2026-05-17T14:30-05:00", form),
            ("2026-05-17T14:30-05", form),
            ("2026-05-17T14:30[America/New_York]", form),
            ("2026-05-17T14:30:00.5", form),
            ("2026-05-32T14:30", form),
            ("2026-09-21T14:30", "The measurement cannot lie in the future. Times are in UTC."),
            ("1850-01-01T00:00", "The measurement cannot be that long ago."),
        ] {
            assert_eq!(
                checked("heart-rate", "80", "", effective).unwrap_err(),
                [("effective", words.to_owned())]
            );
        }
    }
}
