//! FHIR's data types as text for people.

use serde_json::Value;

/// The text at a JSON pointer, if it is not blank.
pub(crate) fn at<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer)?.as_str().map(str::trim).filter(|text| !text.is_empty())
}

/// The elements of a list; none if there is no list.
pub(crate) fn items<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A CodeableConcept: its text, or the first display, or the first code.
pub(crate) fn concept(value: Option<&Value>) -> Option<String> {
    let value = value?;
    let codings = items(value, "coding");
    let found = at(value, "/text")
        .or_else(|| codings.iter().find_map(|coding| at(coding, "/display")))
        .or_else(|| codings.iter().find_map(|coding| at(coding, "/code")));
    found.map(str::to_owned)
}

/// Several CodeableConcepts in a row.
pub(crate) fn concepts(values: &[Value]) -> Option<String> {
    joined(values.iter().filter_map(|value| concept(Some(value))))
}

/// A word of a code such as `entered-in-error` or `in-progress`, for reading.
pub(crate) fn word(code: &str) -> String {
    code.replace('-', " ")
}

/// A status given as a CodeableConcept, for reading.
pub(crate) fn status(value: Option<&Value>) -> Option<String> {
    let value = value?;
    let code = items(value, "coding").iter().find_map(|coding| at(coding, "/code"));
    code.or_else(|| at(value, "/text")).map(word)
}

/// A number as it was written.
pub(crate) fn number(value: Option<&Value>) -> Option<String> {
    value?.as_number().map(ToString::to_string)
}

/// A Quantity: comparator, value and unit.
pub(crate) fn quantity(value: Option<&Value>) -> Option<String> {
    let value = value?;
    let comparator = at(value, "/comparator").unwrap_or_default();
    let unit = unit(value).map(|unit| format!(" {unit}")).unwrap_or_default();
    Some(format!("{comparator}{}{unit}", number(value.get("value"))?))
}

/// The unit of a Quantity, as people write it.
pub(crate) fn unit(quantity: &Value) -> Option<&str> {
    Some(match at(quantity, "/unit").or_else(|| at(quantity, "/code"))? {
        "mm[Hg]" => "mmHg",
        "Cel" => "°C",
        "[degF]" => "°F",
        "[lb_av]" => "lb",
        "[in_i]" => "in",
        "{score}" => "points",
        other => other.trim_start_matches('{').trim_end_matches('}'),
    })
}

/// A date, dateTime or instant: the day, and the minute with its zone where there is one.
pub(crate) fn date(text: &str) -> String {
    let whole_day = |(day, _): &(&str, &str)| day.len() == "2024-03-01".len();
    let Some((day, time)) = text.split_once('T').filter(whole_day) else { return text.to_owned() };
    let (clock, zone) = match time.find(['Z', '+', '-']) {
        Some(position) => time.split_at(position),
        None => (time, ""),
    };
    let minutes = clock.get(..5).unwrap_or(clock);
    let zone = match zone {
        "Z" | "+00:00" | "-00:00" => " UTC".to_owned(),
        "" => String::new(),
        other => format!(" {other}"),
    };
    format!("{day} {minutes}{zone}")
}

/// A Period.
pub(crate) fn period(value: Option<&Value>) -> Option<String> {
    let value = value?;
    match (at(value, "/start").map(date), at(value, "/end").map(date)) {
        (Some(start), Some(end)) if start == end => Some(start),
        (Some(start), Some(end)) => Some(format!("{start} to {end}")),
        (Some(start), None) => Some(format!("since {start}")),
        (None, Some(end)) => Some(format!("until {end}")),
        (None, None) => None,
    }
}

/// The first moment of a date, dateTime or instant, in days since 1970; for sorting and drawing.
pub(crate) fn days(text: &str) -> Option<f64> {
    let day = match text.len() {
        4 => format!("{text}-01-01"),
        7 => format!("{text}-01"),
        10 => text.to_owned(),
        _ => {
            let moment: jiff::Timestamp = text.parse().ok()?;
            return Some(moment.as_microsecond() as f64 / 86_400_000_000.0);
        }
    };
    let day: jiff::civil::Date = day.parse().ok()?;
    let since = day.since(jiff::civil::date(1970, 1, 1)).ok()?;
    Some(f64::from(since.get_days()))
}

/// Sorts newest first; what has no date comes last.
pub(crate) fn newest_first<T>(rows: &mut [T], date: impl Fn(&T) -> Option<f64>) {
    rows.sort_by(|a, b| {
        let key = |row: &T| date(row).unwrap_or(f64::NEG_INFINITY);
        key(b).total_cmp(&key(a))
    });
}

/// The name to call somebody by: the official or usual one, else the first that is not old.
pub(crate) fn name(resource: &Value) -> Option<String> {
    let names = items(resource, "name");
    let with = |wanted: &str| names.iter().find(|name| at(name, "/use") == Some(wanted));
    let current = || names.iter().find(|name| at(name, "/use") != Some("old"));
    let name = with("official").or_else(|| with("usual")).or_else(current).or_else(|| names.first())?;
    if let Some(text) = at(name, "/text") {
        return Some(text.to_owned());
    }
    let words = |part: &str| {
        items(name, part).iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
    };
    let mut parts = words("prefix");
    parts.extend(words("given"));
    parts.extend(at(name, "/family").map(str::to_owned));
    parts.extend(words("suffix"));
    (!parts.is_empty()).then(|| parts.join(" "))
}

/// A Reference's display.
pub(crate) fn display(value: Option<&Value>) -> Option<String> {
    at(value?, "/display").map(str::to_owned)
}

/// Texts with commas between; `None` if there is none.
pub(crate) fn joined(texts: impl IntoIterator<Item = String>) -> Option<String> {
    let texts: Vec<String> = texts.into_iter().collect();
    (!texts.is_empty()).then(|| texts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn dates_are_short_and_keep_their_zone() {
        for (written, shown) in [
            ("2024", "2024"),
            ("2024-03-01", "2024-03-01"),
            ("2024-03-01T09:30:12.5Z", "2024-03-01 09:30 UTC"),
            ("2024-03-01T09:30:12-05:00", "2024-03-01 09:30 -05:00"),
            ("2024-03-01T09:30:12+02:00", "2024-03-01 09:30 +02:00"),
            ("Tuesday", "Tuesday"),
            ("2024-03-01T", "2024-03-01 "),
        ] {
            assert_eq!(date(written), shown);
        }
    }

    #[test]
    fn dates_have_an_order() {
        assert_eq!(days("1970-01-02"), Some(1.0));
        assert_eq!(days("1970-02"), Some(31.0));
        assert_eq!(days("1971"), Some(365.0));
        assert_eq!(days("1970-01-01T12:00:00Z"), Some(0.5));
        assert_eq!(days("1970-01-01T00:00:00-12:00"), Some(0.5));
        for bad in ["", "x", "19700", "1970-13-01", "1970-01-01T99:00:00Z"] {
            assert_eq!(days(bad), None);
        }
    }

    #[test]
    fn quantities_keep_their_digits() {
        let heavy: Value = serde_json::from_str(r#"{"value": 72.50, "unit": "kg"}"#).unwrap();
        assert_eq!(quantity(Some(&heavy)).as_deref(), Some("72.50 kg"));
        assert_eq!(
            quantity(Some(&json!({"value": 5, "comparator": "<", "code": "mm[Hg]"}))).as_deref(),
            Some("<5 mmHg")
        );
        assert_eq!(quantity(Some(&json!({"unit": "kg"}))), None);
    }

    #[test]
    fn names_prefer_the_official_one() {
        let patient = json!({"name": [
            {"use": "nickname", "given": ["Ada"]},
            {"use": "official", "prefix": ["Dr"], "given": ["Augusta", "Ada"], "family": "King"},
        ]});
        assert_eq!(name(&patient).as_deref(), Some("Dr Augusta Ada King"));
        assert_eq!(name(&json!({"name": [{"text": " A. King "}]})).as_deref(), Some("A. King"));
        assert_eq!(name(&json!({"name": [{}]})), None);
        assert_eq!(name(&json!({})), None);
    }
}
