//! Whether a resource matches a query: the truth, whatever an index may think.

use std::borrow::Cow;

use ward_base::Timestamp;

use crate::ResourceType;

use super::extract::{Extracted, SearchValue, normalize_string, plain, words};
use super::query::{Compartment, Filter, FilterValue, Modifier, Prefix, Query, TokenSystem};

impl Query {
    /// Whether a resource meets the query: `extracted` are its values (for the query's parameters at least), `id` and
    /// `updated` what the server knows of it. Nothing if that depends on other resources.
    pub fn matches(&self, extracted: &[Extracted], id: &str, updated: Timestamp) -> Option<bool> {
        if !self.filters_match(extracted, id, updated) {
            return Some(false);
        }
        let any = |branches: &[Self]| {
            let mut met = Some(false);
            for branch in branches {
                match branch.matches(extracted, id, updated) {
                    Some(true) => return Some(true),
                    Some(false) => {}
                    None => met = None,
                }
            }
            met
        };
        let mut met = self.links.is_empty().then_some(true);
        let excluded = any(&self.exclusions).map(|met| !met);
        for part in self.alternatives.iter().map(|branches| any(branches)).chain([excluded]) {
            match part {
                Some(true) => {}
                Some(false) => return Some(false),
                None => met = None,
            }
        }
        met
    }

    /// Whether a resource meets the query's filters and lies in its compartment. What its links, alternatives and
    /// exclusions demand is left open.
    pub fn filters_match(&self, extracted: &[Extracted], id: &str, updated: Timestamp) -> bool {
        self.filters.iter().all(|filter| filter.matches(extracted, id, updated))
            && self
                .compartment
                .as_ref()
                .is_none_or(|compartment| compartment.holds(self.resource_type, extracted, id))
    }
}

impl Compartment {
    fn holds(&self, kind: ResourceType, extracted: &[Extracted], id: &str) -> bool {
        (kind == self.resource_type && id == self.id)
            || extracted.iter().any(|one| {
                let SearchValue::Reference { resource_type, id: Some(id), .. } = &one.value else {
                    return false;
                };
                *resource_type == Some(self.resource_type)
                    && *id == self.id
                    && self.parameters.iter().any(|parameter| std::ptr::eq(*parameter, one.parameter))
            })
    }
}

impl Filter {
    /// Whether a resource meets this one condition; see [`Query::filters_match`].
    pub fn matches(&self, extracted: &[Extracted], id: &str, updated: Timestamp) -> bool {
        if self.needs_lookup() {
            return false;
        }
        let own: Vec<SearchValue>;
        let values: Vec<&SearchValue> = match self.parameter.code {
            "_id" => {
                own = vec![plain(id.to_owned())];
                own.iter().collect()
            }
            "_lastUpdated" => {
                // What clients are shown is exact to a millisecond.
                let start = updated.micros().div_euclid(1000) * 1000;
                own = vec![SearchValue::Date { start, end: start + 1000 }];
                own.iter().collect()
            }
            _ => extracted
                .iter()
                .filter(|one| std::ptr::eq(one.parameter, self.parameter))
                .map(|one| &one.value)
                .collect(),
        };
        if let (Some(Modifier::Missing), Some(FilterValue::Missing(missing))) =
            (self.modifier, self.values.first())
        {
            return values.is_empty() == *missing;
        }
        let is_wanted = |value: &&SearchValue| {
            let value = comparable(value, self.modifier);
            self.values.iter().any(|wanted| compare(wanted, &value, self.modifier))
        };
        match self.modifier {
            Some(Modifier::Not) => !values.iter().any(is_wanted),
            // Words for people, and the type of an identifier, stand beside a value and are none.
            Some(Modifier::Other) => !values.iter().filter(|value| is_value(value)).all(is_wanted),
            _ => values.iter().any(is_wanted),
        }
    }
}

const fn is_value(value: &SearchValue) -> bool {
    !matches!(value, SearchValue::Token { code: None, .. } | SearchValue::Identifier { .. })
}

/// The value with its text normalised where that is what is compared: once, whatever is wanted.
fn comparable(value: &SearchValue, modifier: Option<Modifier>) -> Cow<'_, SearchValue> {
    match (value, modifier) {
        (SearchValue::String(_), Some(Modifier::Exact)) => Cow::Borrowed(value),
        (SearchValue::String(text), _) => Cow::Owned(SearchValue::String(normalize_string(text))),
        (SearchValue::Token { text: Some(text), .. }, Some(Modifier::Text)) => {
            Cow::Owned(SearchValue::Token {
                system: None,
                implied: false,
                code: None,
                text: Some(normalize_string(text)),
            })
        }
        (SearchValue::Composite(parts), _)
            if parts.iter().any(|part| matches!(part, SearchValue::String(_))) =>
        {
            let parts = parts.iter().map(|part| comparable(part, None).into_owned());
            Cow::Owned(SearchValue::Composite(parts.collect()))
        }
        _ => Cow::Borrowed(value),
    }
}

/// Compares what is wanted with a value that is [`comparable`].
fn compare(wanted: &FilterValue, value: &SearchValue, modifier: Option<Modifier>) -> bool {
    match (wanted, value) {
        (FilterValue::Token { system, code }, SearchValue::Token { system: of, implied, code: is, .. }) => {
            let system_fits = match system {
                TokenSystem::Any => true,
                TokenSystem::None => of.is_none(),
                TokenSystem::Is(system) => *implied || of.as_ref() == Some(system),
            };
            let code_fits = |wanted: &String, code: &String| match modifier {
                Some(Modifier::Whole | Modifier::Other) => wanted.to_lowercase() == code.to_lowercase(),
                _ => wanted == code,
            };
            system_fits && is.as_ref().is_some_and(|is| code.as_ref().is_none_or(|code| code_fits(code, is)))
        }
        (FilterValue::Token { system, code }, SearchValue::Reference { identifier: Some((of, is)), .. }) => {
            let system_fits = match system {
                TokenSystem::Any => true,
                TokenSystem::None => of.is_none(),
                TokenSystem::Is(system) => of.as_ref() == Some(system),
            };
            modifier == Some(Modifier::Identifier)
                && system_fits
                && code.as_ref().is_none_or(|code| Some(code) == is.as_ref())
        }
        (FilterValue::Words(words), SearchValue::Token { text: Some(text), .. }) => text.contains(words),
        (FilterValue::Words(wanted), SearchValue::Words(found)) => {
            words(wanted).all(|word| found.contains(word))
        }
        (
            FilterValue::Identifier { system, code, value },
            SearchValue::Identifier { system: of, code: is, value: at },
        ) => (system.is_none() || system == of) && code == is && value == at,
        (FilterValue::Near { latitude, longitude, distance }, SearchValue::Place(north, east)) => {
            metres((*latitude, *longitude), (*north, *east)) <= *distance
        }
        (FilterValue::String(wanted), SearchValue::String(text)) => match modifier {
            Some(Modifier::Exact | Modifier::Whole | Modifier::Other) => wanted == text,
            Some(Modifier::Contains) => text.contains(wanted),
            Some(Modifier::End) => text.ends_with(wanted),
            Some(Modifier::Ordered(order)) => ordered(order, text, wanted),
            _ => text.starts_with(wanted),
        },
        (FilterValue::Uri(wanted), SearchValue::Uri(uri)) => match modifier {
            Some(Modifier::Contains) => uri.contains(wanted.as_str()),
            Some(Modifier::Below) => is_below(uri, wanted),
            Some(Modifier::Above) => is_below(wanted, uri),
            _ => uri == wanted,
        },
        (FilterValue::Uri(wanted), SearchValue::Reference { url: Some(uri), .. }) => uri == wanted,
        (
            FilterValue::Reference { resource_type, id, url },
            SearchValue::Reference { resource_type: of, id: is, url: at, .. },
        ) => match (id, url) {
            (Some(id), _) => is.as_ref() == Some(id) && resource_type.is_none_or(|kind| Some(kind) == *of),
            (None, Some(url)) if modifier == Some(Modifier::Below) => {
                at.as_ref().is_some_and(|at| is_version_of(at, url))
            }
            (None, Some(url)) => at
                .as_ref()
                .is_some_and(|at| at == url || at.split_once('|').is_some_and(|(plain, _)| plain == url)),
            (None, None) => false,
        },
        (FilterValue::Date { prefix, start, end }, SearchValue::Date { start: from, end: to }) => {
            dates(*prefix, (*start, *end), (*from, *to))
        }
        (
            FilterValue::Number { prefix: Prefix::Within, value, .. },
            SearchValue::Number { low, high, half },
        ) => low - half <= *value && high + half >= *value,
        (
            FilterValue::Number { prefix, value, low, high },
            SearchValue::Number { low: from, high: to, .. },
        ) => numbers(*prefix, *value, (*low, *high), (*from, *to)),
        (
            FilterValue::Quantity { prefix, value, low, high, system, code },
            SearchValue::Quantity { low: from, high: to, system: of, code: is, unit },
        ) => {
            let unit_fits = match (system, code) {
                (None, None) => true,
                (None, Some(code)) => is.as_ref() == Some(code) || unit.as_ref() == Some(code),
                (Some(system), code) => {
                    of.as_ref() == Some(system) && code.as_ref().is_none_or(|code| is.as_ref() == Some(code))
                }
            };
            unit_fits && numbers(*prefix, *value, (*low, *high), (*from, *to))
        }
        (FilterValue::Composite(wanted), SearchValue::Composite(values)) => {
            wanted.len() == values.len()
                && wanted.iter().zip(values).all(|(wanted, value)| compare(wanted, value, None))
        }
        _ => false,
    }
}

/// Compares texts by the code points of their characters.
fn ordered(order: Prefix, text: &str, wanted: &str) -> bool {
    match order {
        Prefix::Less => text < wanted,
        Prefix::LessOrEqual => text <= wanted,
        Prefix::Greater => text > wanted,
        Prefix::GreaterOrEqual => text >= wanted,
        _ => false,
    }
}

/// Whether `uri` is `root` or a path under it.
fn is_below(uri: &str, root: &str) -> bool {
    let root = root.strip_suffix('/').unwrap_or(root);
    uri.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether `canonical` is what `wanted` names, in a version that begins with the parts of its version.
fn is_version_of(canonical: &str, wanted: &str) -> bool {
    let (url, version) = canonical.split_once('|').unwrap_or((canonical, ""));
    let (wanted_url, wanted_version) = wanted.split_once('|').unwrap_or((wanted, ""));
    let rest = version.strip_prefix(wanted_version);
    let begins = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '-']));
    url == wanted_url && (wanted_version.is_empty() || begins)
}

/// The way between two places on a sphere (the haversine formula), given as degrees north and east.
fn metres((north, east): (f64, f64), (other_north, other_east): (f64, f64)) -> f64 {
    const EARTH_RADIUS: f64 = 6_371_008.8;
    let half = |from: f64, to: f64| ((to - from).to_radians() / 2.0).sin().powi(2);
    let parallel = north.to_radians().cos() * other_north.to_radians().cos();
    let square = half(north, other_north) + parallel * half(east, other_east);
    2.0 * EARTH_RADIUS * square.clamp(0.0, 1.0).sqrt().asin()
}

/// Compares spans of time as <https://hl7.org/fhir/R4/search.html#prefix> says.
fn dates(prefix: Prefix, (start, end): (i64, i64), (from, to): (i64, i64)) -> bool {
    let equal = from >= start && to <= end;
    match prefix {
        Prefix::Equal => equal,
        Prefix::NotEqual => !equal,
        Prefix::Less => from < start,
        Prefix::Greater => to > end,
        Prefix::LessOrEqual => from < start || equal,
        Prefix::GreaterOrEqual => to > end || equal,
        Prefix::StartsAfter => from >= end,
        Prefix::EndsBefore => to <= start,
        // The specification leaves it open: within the span's own length to either side.
        Prefix::Approximately => {
            let margin = end.saturating_sub(start);
            from < end.saturating_add(margin) && to > start.saturating_sub(margin)
        }
        Prefix::Within => from <= start && to >= end,
        Prefix::Overlapping => from < end && to > start,
    }
}

fn numbers(prefix: Prefix, value: f64, (low, high): (f64, f64), (from, to): (f64, f64)) -> bool {
    let equal = from >= low && to < high;
    match prefix {
        Prefix::Equal => equal,
        Prefix::NotEqual => !equal,
        Prefix::Less => from < value,
        Prefix::Greater => to > value,
        Prefix::LessOrEqual => from <= value,
        Prefix::GreaterOrEqual => to >= value,
        Prefix::StartsAfter => from > value,
        Prefix::EndsBefore => to < value,
        Prefix::Approximately => {
            let margin = (value.abs() * 0.1).max(high - value);
            from <= value + margin && to >= value - margin
        }
        Prefix::Within => from <= value && to >= value,
        Prefix::Overlapping => from < high && to >= low,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Handling, ParameterKind, Parameters, Query, extract, extract_for};
    use crate::ResourceType;
    use crate::outcome::Issue;
    use serde_json::{Value, json};
    use ward_base::Timestamp;

    const BASE: &str = "https://h/fhir/R4";

    fn parse(
        kind: ResourceType,
        pairs: &[(String, String)],
        handling: Handling,
        base: &str,
    ) -> Result<(Query, Vec<Issue>), Vec<Issue>> {
        super::super::parse(kind, pairs, handling, base, &Parameters::default())
    }

    fn matches(resource: &Value, query: &[(&str, &str)]) -> bool {
        let kind = ResourceType::parse(resource["resourceType"].as_str().unwrap()).unwrap();
        let pairs: Vec<(String, String)> =
            query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let (query, _) =
            parse(kind, &pairs, Handling::Strict, BASE).unwrap_or_else(|issues| panic!("{issues:?}"));
        let id = resource["id"].as_str().unwrap_or("x");
        let updated = Timestamp(1_767_225_600_000_000);
        let own = query.matches(&extract_for(&query, resource, BASE), id, updated).unwrap();
        if query.parameters().iter().all(|parameter| parameter.kind != ParameterKind::Words) {
            assert_eq!(
                Some(own),
                query.matches(&extract(kind, resource, BASE, &Parameters::default()), id, updated)
            );
        }
        own
    }

    #[test]
    fn patients_match_as_the_specification_says() {
        let patient = json!({
            "resourceType": "Patient", "id": "p1", "active": true, "gender": "female", "birthDate": "1970-03",
            "name": [{"family": "Núñez", "given": ["María", "Ana"]}],
            "identifier": [{"system": "urn:mrn", "value": "7"}, {"value": "8"}],
            "telecom": [{"system": "phone", "value": "555"}],
            "address": [{"city": "Salem", "postalCode": "01970"}],
            "generalPractitioner": [{"reference": "Practitioner/d"}],
        });
        for (query, expected) in [
            (vec![("name", "nun")], true),
            (vec![("family", "MARIA")], false),
            (vec![("given", "ana,bob")], true),
            (vec![("given", "ana"), ("given", "bob")], false),
            (vec![("family:exact", "Núñez")], true),
            (vec![("family:exact", "Nunez")], false),
            (vec![("family:contains", "ñe")], true),
            (vec![("identifier", "urn:mrn|7")], true),
            (vec![("identifier", "urn:mrn|")], true),
            (vec![("identifier", "|7")], false),
            (vec![("identifier", "|8")], true),
            (vec![("identifier", "urn:mrn|8")], false),
            (vec![("identifier", "7")], true),
            (vec![("gender", "http://hl7.org/fhir/administrative-gender|female")], true),
            (vec![("gender:not", "male")], true),
            (vec![("gender:not", "female")], false),
            (vec![("birthdate", "1970")], true),
            (vec![("birthdate", "1970-03-05")], false),
            (vec![("birthdate", "ge1970-02")], true),
            (vec![("birthdate", "lt1970")], false),
            (vec![("birthdate", "sa1970-02"), ("birthdate", "eb1971")], true),
            (vec![("birthdate", "ne1970-03")], false),
            (vec![("address-postalcode", "01970")], true),
            (vec![("phone", "555")], true),
            (vec![("email:missing", "true")], true),
            (vec![("phone:missing", "true")], false),
            (vec![("general-practitioner", "Practitioner/d")], true),
            (vec![("general-practitioner", "https://h/fhir/R4/Practitioner/d")], true),
            (vec![("general-practitioner", "d")], true),
            (vec![("general-practitioner:Organization", "d")], false),
            (vec![("deceased", "false")], true),
            (vec![("active", "true"), ("_id", "p1")], true),
            (vec![("_id", "p2")], false),
            (vec![("_lastUpdated", "ge2026")], true),
            (vec![("_lastUpdated", "2025")], false),
        ] {
            assert_eq!(matches(&patient, &query), expected, "{query:?}");
        }
    }

    #[test]
    fn quantities_and_composites_match_as_the_specification_says() {
        let observation = json!({
            "resourceType": "Observation", "status": "final",
            "code": {"coding": [{"system": "http://loinc.org", "code": "8480-6"}], "text": "Systolic"},
            "valueQuantity": {"value": 107.5, "unit": "mmHg", "system": "http://unitsofmeasure.org", "code": "mm[Hg]"},
        });
        for (query, expected) in [
            (vec![("value-quantity", "107.5")], true),
            (vec![("value-quantity", "108")], true),
            (vec![("value-quantity", "107")], false),
            (vec![("value-quantity", "gt107||mmHg")], true),
            (vec![("value-quantity", "gt107|http://unitsofmeasure.org|mm[Hg]")], true),
            (vec![("value-quantity", "gt107|urn:other|mm[Hg]")], false),
            (vec![("value-quantity", "ap100")], true),
            (vec![("value-quantity", "lt1e2")], false),
            (vec![("code-value-quantity", "8480-6$gt100")], true),
            (vec![("code-value-quantity", "8480-6$gt110")], false),
            (vec![("code:text", "systol")], true),
        ] {
            assert_eq!(matches(&observation, &query), expected, "{query:?}");
        }
    }

    #[test]
    fn value_sets_and_kinds_match_nothing_before_codes_take_their_place() {
        let patient = json!({"resourceType": "Patient", "gender": "female",
            "managingOrganization": {"reference": "Organization/1"}});
        let gender = "http://hl7.org/fhir/administrative-gender|female";
        for query in [
            ("gender:in", "http://hl7.org/fhir/ValueSet/administrative-gender"),
            ("gender:not-in", "ValueSet/1,ValueSet/2"),
            ("gender:below", gender),
            ("gender:above", gender),
            ("organization:below", "Organization/1"),
            ("organization:above", "1"),
        ] {
            assert!(!matches(&patient, &[query]), "{query:?}");
        }
    }

    #[test]
    fn wrong_queries_are_refused_without_repeating_them() {
        let kind = ResourceType::parse("Patient").unwrap();
        for (name, value) in [
            ("Zqx", "1"),
            ("name:Zqx", "1"),
            ("birthdate", "Zqx"),
            ("_count", "Zqx"),
            ("general-practitioner.Zqx", "1"),
            ("link.link.link.link.link.link.link.link.link.link.link._id", "Zqx"),
            ("_sort", "Zqx"),
            ("name", ""),
            ("identifier:of-type", "Zqx|8"),
            ("general-practitioner:Zqx.name", "1"),
            ("name.family", "Zqx"),
            ("_has:Zqx:patient:code", "1"),
            ("_has:Observation:code:status", "Zqx"),
            ("_include", "Zqx"),
            ("_revinclude", "Observation:Zqx"),
            ("_list", "Zqx/1"),
            ("_summary", "true!Zqx"),
            ("general-practitioner:text", "Zqx"),
            ("_has:Zqx", "1"),
            ("name:missing", "Zqx"),
            ("_summary", "Zqx"),
            ("gender:below", "Zqx"),
            ("gender:above", "|Zqx"),
            ("gender:below", "Zqx|"),
            ("organization:above", "http://Zqx"),
            ("organization:below", "http://Zqx"),
            ("organization:below", "Organisation/Zqx"),
            ("general-practitioner._filter", "name eq Zqx or family eq Zqx"),
            ("organization:below", "Organization/Zqx,http://Zqx"),
            ("general-practitioner:below", "Zqx"),
            ("general-practitioner:below", "Practitioner/Zqx"),
            ("name:in", "Zqx"),
            ("name", " "),
            ("name", "Zqx,\u{301}"),
            ("name:contains", " \u{a0}"),
            ("gender:text", " "),
            ("_content", "!?"),
            ("_text", &"Zqx ".repeat(101)),
        ] {
            let issues =
                parse(kind, &[(name.to_owned(), value.to_owned())], Handling::Strict, BASE).err().unwrap();
            assert!(issues.iter().all(|issue| !issue.diagnostics.contains("Zqx")), "{issues:?}");
            assert!(issues[0].diagnostics.contains("the 1st search parameter"), "{issues:?}");
        }
        let lenient = parse(kind, &[("Zqx".to_owned(), "1".to_owned())], Handling::Lenient, BASE);
        assert_eq!(lenient.unwrap_or_else(|_| panic!()).1.len(), 1);
    }

    #[test]
    fn texts_places_uris_and_typed_identifiers_match() {
        let location = json!({
            "resourceType": "Location", "position": {"latitude": 48.2082, "longitude": 16.3738},
            "text": {"status": "generated", "div": "<div><p>Stephans<b>platz</b> 3</p></div>"}, "description": "By the church",
            "identifier": [{"type": {"coding": [{"system": "urn:t", "code": "SN"}]}, "value": "77"}],
        });
        let own_answers = json!({"resourceType": "QuestionnaireResponse", "questionnaire": "https://h/fhir/R4/Questionnaire/q1"});
        let value_set = json!({"resourceType": "ValueSet", "url": "http://a.test/vs/1", "status": "draft"});
        let answers =
            json!({"resourceType": "QuestionnaireResponse", "questionnaire": "http://a.test/q|1.2"});
        for (resource, query, expected) in [
            (&location, ("near", "48.2|16.37|1|km"), true),
            (&location, ("near", "48.2|16.37|900|m"), false),
            (&location, ("near", "48.2|16.37"), true),
            (&location, ("near", "-48.2|16.37|100|[mi_us]"), false),
            (&location, ("_text", "stephans 3"), true),
            (&location, ("_text", "church"), false),
            (&location, ("_content", "CHURCH stephans"), true),
            (&location, ("_content", "churches"), false),
            (&location, ("_content", "churches,by"), true),
            (&location, ("identifier:of-type", "urn:t|SN|77"), true),
            (&location, ("identifier:of-type", "|SN|77"), true),
            (&location, ("identifier:of-type", "urn:u|SN|77"), false),
            (&location, ("identifier:of-type", "urn:t|SN|7"), false),
            (&value_set, ("url:below", "http://a.test/vs"), true),
            (&value_set, ("url:below", "http://a.test/vs/"), true),
            (&value_set, ("url:below", "http://a.test/v"), false),
            (&value_set, ("url:above", "http://a.test/vs/1/2"), true),
            (&value_set, ("url:above", "http://a.test/vs/12"), false),
            (&answers, ("questionnaire", "http://a.test/q"), true),
            (&answers, ("questionnaire", "http://a.test/q|1"), false),
            (&answers, ("questionnaire:below", "http://a.test/q"), true),
            (&answers, ("questionnaire:below", "http://a.test/q|1"), true),
            (&answers, ("questionnaire:below", "http://a.test/q|1.2"), true),
            (&answers, ("questionnaire:below", "http://a.test/q|1.2.0"), false),
            (&answers, ("questionnaire:below", "http://a.test/q|2,http://a.test/q|1"), true),
            (&answers, ("questionnaire:below", "http://a.test|1"), false),
            (&own_answers, ("questionnaire:below", "https://h/fhir/R4/Questionnaire/q1"), true),
            (&own_answers, ("questionnaire:below", "https://h/fhir/R4/Questionnaire/q2"), false),
        ] {
            assert_eq!(matches(resource, &[query]), expected, "{query:?}");
        }
        let kind = ResourceType::parse("Location").unwrap();
        for (name, value) in [
            ("near", "x|1"),
            ("near", "91|0"),
            ("near", "1|1|1|parsec"),
            ("near", "1|1|-1"),
            ("_sort", "near"),
        ] {
            assert!(parse(kind, &[(name.to_owned(), value.to_owned())], Handling::Strict, BASE).is_err());
        }
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_queries_never_panic(name in "[a-zA-Z_:.-]{0,12}|(_has:Observation:(patient|subject):|patient\\.|subject:Patient\\.|_include){0,4}[a-z_:.]{0,9}", value in "\\PC{0,20}", index in 0_usize..40) {
            let kind = ResourceType::parse("Observation").unwrap();
            let known = super::super::parameters(kind);
            for name in [name.as_str(), known[index % known.len()].code] {
                let _ = parse(kind, &[(name.to_owned(), value.clone())], Handling::Lenient, BASE);
            }
        }
    }
}
