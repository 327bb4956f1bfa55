//! One value of a search parameter, and what stands behind its name: from text to what is compared.

use super::extract::{normalize_string, split_reference, words};
use super::parameters::{ParameterKind, SearchParameter, parent};
use super::query::{FilterValue, Modifier, Prefix, TokenSystem};
use crate::ResourceType;
use crate::outcome::IssueCode;
use crate::primitive::Moment;

/// How far `near` looks if nothing is said, in metres.
const NEAR_METRES: f64 = 10_000.0;
/// The most words that are looked for at once.
const WORDS_MAX: usize = 100;

/// What is wrong with a parameter.
pub(super) enum Fault {
    /// It is not known.
    Unknown(String),
    /// It is known, and not understood.
    Wrong(String),
    /// It is not answered, whatever types a chain leads to beside.
    Refused(IssueCode, &'static str),
}

pub(super) fn wrong(words: &str) -> Fault {
    Fault::Wrong(words.to_owned())
}

/// What stands after `:` in the name of a parameter.
pub(super) fn read_modifier(text: &str, parameter: &SearchParameter) -> Result<Modifier, Fault> {
    use ParameterKind::{Composite, Place, Reference, String, Token, Uri, Words};
    let modifier = match (text, parameter.kind) {
        ("missing", kind) if !matches!(kind, Composite | Place | Words) => Modifier::Missing,
        ("exact", String) => Modifier::Exact,
        ("contains", String | Uri) => Modifier::Contains,
        ("not", Token) => Modifier::Not,
        ("text", Token) => Modifier::Text,
        ("of-type", Token) if parameter.code == "identifier" => Modifier::OfType,
        ("below", Uri | Token | Reference) => Modifier::Below,
        ("above", Uri | Token | Reference) => Modifier::Above,
        ("in", Token) => Modifier::In,
        ("not-in", Token) => Modifier::NotIn,
        ("identifier", Reference) => Modifier::Identifier,
        (name, Reference) if ResourceType::parse(name).is_some() => {
            ResourceType::parse(name).map(Modifier::Type).ok_or_else(|| wrong("no such type"))?
        }
        _ => return Err(Fault::Unknown("this modifier is not supported for this parameter".to_owned())),
    };
    Ok(modifier)
}

/// One value of a parameter.
pub(super) fn read_value(
    text: &str,
    parameter: &SearchParameter,
    modifier: Option<Modifier>,
    base: &str,
) -> Result<FilterValue, Fault> {
    if text.is_empty() {
        return Err(wrong("a value is empty"));
    }
    match modifier {
        Some(Modifier::Missing) => {
            return match text {
                "true" => Ok(FilterValue::Missing(true)),
                "false" => Ok(FilterValue::Missing(false)),
                _ => Err(wrong("`:missing` takes true or false")),
            };
        }
        Some(Modifier::Text) => return Ok(FilterValue::Words(normal(text)?)),
        Some(Modifier::Exact) => return Ok(FilterValue::String(unescape(text))),
        Some(Modifier::Identifier) => return Ok(token(text)),
        Some(Modifier::In | Modifier::NotIn) => return Ok(FilterValue::ValueSet(unescape(text))),
        Some(Modifier::Above | Modifier::Below) if parameter.kind == ParameterKind::Token => {
            let code = token(text);
            let is_whole = matches!(&code, FilterValue::Token { system: TokenSystem::Is(_), code: Some(_) });
            let words = "`:above` and `:below` of a code take its code system and the code, with `|` between";
            return if is_whole { Ok(code) } else { Err(wrong(words)) };
        }
        Some(Modifier::Above | Modifier::Below) if parameter.kind == ParameterKind::Reference => {
            let value = read_plain(text, parameter.kind, &parameter.targets, base)?;
            return within_hierarchy(value, text, parameter, modifier);
        }
        Some(Modifier::OfType) => {
            let parts = split_escaped(text, '|');
            let [system, code, value] = parts.as_slice() else {
                return Err(wrong(
                    "`:of-type` takes the type's system, its code and the value, with `|` between",
                ));
            };
            if code.is_empty() || value.is_empty() {
                return Err(wrong("`:of-type` needs the type's code and the value"));
            }
            return Ok(FilterValue::Identifier {
                system: Some(unescape(system)).filter(|system| !system.is_empty()),
                code: unescape(code),
                value: unescape(value),
            });
        }
        Some(Modifier::Type(kind)) => {
            return Ok(FilterValue::Reference {
                resource_type: Some(kind),
                id: Some(unescape(text)),
                url: None,
            });
        }
        _ => {}
    }
    if parameter.kind == ParameterKind::Composite {
        let parts = split_escaped(text, '$');
        if parts.len() != parameter.components.len() {
            return Err(wrong("a composite takes one value for each of its parts, with `$` between"));
        }
        let values = parts
            .iter()
            .zip(&parameter.components)
            .map(|(part, component)| read_plain(part, component.kind, &[], base));
        return Ok(FilterValue::Composite(values.collect::<Result<_, _>>()?));
    }
    read_plain(text, parameter.kind, &parameter.targets, base)
}

/// A reference of `:above` or `:below` must lead into a hierarchy, or be a canonical, whose versions are below it.
fn within_hierarchy(
    value: FilterValue,
    text: &str,
    parameter: &SearchParameter,
    modifier: Option<Modifier>,
) -> Result<FilterValue, Fault> {
    let is_canonical = modifier == Some(Modifier::Below)
        && (text.contains("://") || text.starts_with("urn:"))
        && !parameter.targets.iter().any(|kind| parent(*kind).is_some());
    match &value {
        _ if is_canonical => Ok(value),
        FilterValue::Reference { id: Some(_), resource_type: Some(kind), .. } if parent(*kind).is_some() => {
            Ok(value)
        }
        FilterValue::Reference { id: Some(_), resource_type: None, .. } => {
            Err(wrong("`:above` and `:below` need the type of the resource, as in `Location/1`"))
        }
        _ => Err(wrong(
            "`:above` and `:below` of a reference take a resource that can be part of another of its type, such as a \
             Location, Organization or Encounter; `:below` of a canonical takes a URL",
        )),
    }
}

fn read_plain(
    text: &str,
    kind: ParameterKind,
    targets: &[ResourceType],
    base: &str,
) -> Result<FilterValue, Fault> {
    Ok(match kind {
        ParameterKind::Token => token(text),
        ParameterKind::String => FilterValue::String(normal(text)?),
        ParameterKind::Uri => FilterValue::Uri(unescape(text)),
        ParameterKind::Reference => {
            let text = unescape(text);
            if !text.contains(['/', ':']) && ward_base::ResourceId::parse(&text).is_ok() {
                let only = if let [only] = targets { Some(*only) } else { None };
                return Ok(FilterValue::Reference { resource_type: only, id: Some(text), url: None });
            }
            let (resource_type, id, url, _) = split_reference(&text, base);
            FilterValue::Reference { resource_type, id, url }
        }
        ParameterKind::Date => {
            let (prefix, rest) = prefix(text);
            let moment = Moment::parse(rest).ok_or_else(|| {
                wrong("a date must be YYYY, YYYY-MM, YYYY-MM-DD or a moment such as 2015-02-07T13:28:17Z")
            })?;
            FilterValue::Date { prefix, start: moment.start, end: moment.end }
        }
        ParameterKind::Number => {
            let (prefix, rest) = prefix(text);
            let (value, low, high) = number(rest)?;
            FilterValue::Number { prefix, value, low, high }
        }
        ParameterKind::Quantity => {
            let parts = split_escaped(text, '|');
            let (prefix, rest) = prefix(parts.first().copied().unwrap_or_default());
            let (value, low, high) = number(rest)?;
            let part =
                |index: usize| parts.get(index).map(|part| unescape(part)).filter(|part| !part.is_empty());
            FilterValue::Quantity { prefix, value, low, high, system: part(1), code: part(2) }
        }
        ParameterKind::Words => {
            let text = normal(text)?;
            match words(&text).take(WORDS_MAX + 1).count() {
                0 => return Err(wrong("a text that is looked for needs a word")),
                1..=WORDS_MAX => FilterValue::Words(text),
                _ => return Err(wrong("`_text` and `_content` take 100 words at most")),
            }
        }
        ParameterKind::Place => near(text)?,
        ParameterKind::Composite => return Err(wrong("a composite cannot stand here")),
    })
}

/// The text as it is compared. Of one that is empty then, every text would be a match.
fn normal(text: &str) -> Result<String, Fault> {
    let normal = normalize_string(&unescape(text));
    if normal.is_empty() { Err(wrong("a text that is looked for is blank")) } else { Ok(normal) }
}

/// `latitude|longitude|distance|unit` (<https://hl7.org/fhir/R4/location.html#positional>).
fn near(text: &str) -> Result<FilterValue, Fault> {
    let fault = || wrong("`near` is written like -83.69|42.26|11.2|km, in km, m or [mi_us]");
    let mut parts = text.split('|');
    let mut number = |most: f64| {
        let number = parts.next().map(str::trim).filter(|part| !part.is_empty());
        let number = number.map(|part| part.parse::<f64>().map_err(|_| fault())).transpose()?;
        if number.is_some_and(|number| !number.is_finite() || number.abs() > most) {
            Err(fault())
        } else {
            Ok(number)
        }
    };
    let (latitude, longitude) = (number(90.0)?.ok_or_else(fault)?, number(180.0)?.ok_or_else(fault)?);
    let distance = number(f64::MAX)?;
    let metres = match parts.next().map_or("km", str::trim) {
        "km" | "" => 1_000.0,
        "m" => 1.0,
        "[mi_us]" | "[mi_i]" | "mi" => 1_609.344,
        _ => return Err(fault()),
    };
    if parts.next().is_some() || distance.is_some_and(|distance| distance < 0.0) {
        return Err(fault());
    }
    let distance = distance.map_or(NEAR_METRES, |distance| distance * metres);
    Ok(FilterValue::Near { latitude, longitude, distance })
}

fn token(text: &str) -> FilterValue {
    let parts = split_escaped(text, '|');
    let filled = |part: &&str| Some(unescape(part)).filter(|part| !part.is_empty());
    match parts.as_slice() {
        [system, code, ..] => FilterValue::Token {
            system: filled(system).map_or(TokenSystem::None, TokenSystem::Is),
            code: filled(code),
        },
        [code] => FilterValue::Token { system: TokenSystem::Any, code: filled(code) },
        [] => FilterValue::Token { system: TokenSystem::Any, code: None },
    }
}

fn prefix(text: &str) -> (Prefix, &str) {
    let found = match text.get(..2) {
        Some("eq") => Prefix::Equal,
        Some("ne") => Prefix::NotEqual,
        Some("lt") => Prefix::Less,
        Some("gt") => Prefix::Greater,
        Some("le") => Prefix::LessOrEqual,
        Some("ge") => Prefix::GreaterOrEqual,
        Some("sa") => Prefix::StartsAfter,
        Some("eb") => Prefix::EndsBefore,
        Some("ap") => Prefix::Approximately,
        _ => return (Prefix::Equal, text),
    };
    (found, text.get(2..).unwrap_or_default())
}

/// A number with half a unit of its last digit to either side.
fn number(text: &str) -> Result<(f64, f64, f64), Fault> {
    let fault = || wrong("a number must be written like 5, 5.40 or 5.4e-3");
    let body = text.trim_start_matches('-');
    let shaped = body.starts_with(|letter: char| letter.is_ascii_digit())
        && body.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'-' | b'+'));
    let value: f64 = text.parse().ok().filter(|value: &f64| shaped && value.is_finite()).ok_or_else(fault)?;
    let half = half_of_last_digit(body).ok_or_else(fault)?;
    Ok((value, value - half, value + half))
}

/// Half a unit of a number's last digit.
pub(super) fn half_of_last_digit(number: &str) -> Option<f64> {
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let digits = mantissa.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    let exponent: i32 = exponent.parse().ok()?;
    Some(0.5 * 10_f64.powi(exponent.saturating_sub(i32::try_from(digits).ok()?)))
}

/// Splits at `separator`, but not where a backslash stands before it.
pub(super) fn split_escaped(text: &str, separator: char) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (position, letter) in text.char_indices() {
        if escaped {
            escaped = false;
        } else if letter == '\\' {
            escaped = true;
        } else if letter == separator {
            parts.extend(text.get(start..position));
            start = position + separator.len_utf8();
        }
    }
    parts.extend(text.get(start..));
    parts
}

pub(super) fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter == '\\' {
            out.extend(letters.next());
        } else {
            out.push(letter);
        }
    }
    out
}
