use super::extract::split_reference;
use super::parameters::{ParameterKind, SearchParameter, parameter, parameters};
use crate::ResourceType;
use crate::outcome::{Issue, IssueCode};
use crate::primitive::Moment;

/// A query, understood. Its values are PHI.
pub struct Query {
    /// What is searched.
    pub resource_type: ResourceType,
    /// All of them must match.
    pub filters: Vec<Filter>,
    /// The order; empty means the store's own, which never changes.
    pub sort: Vec<Sort>,
    /// The page size that was asked for.
    pub count: Option<u32>,
    /// Whether to count all matches.
    pub total: Total,
    /// Which part of each resource to give.
    pub summary: Summary,
    /// Only these top-level elements, if any are named.
    pub elements: Vec<String>,
}

/// One `name=value` of a query.
pub struct Filter {
    /// The parameter.
    pub parameter: &'static SearchParameter,
    /// What stands after `:`.
    pub modifier: Option<Modifier>,
    /// One of them must match.
    pub values: Vec<FilterValue>,
}

/// What stands after `:` in a parameter's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Modifier {
    /// Exactly this text.
    Exact,
    /// This text anywhere.
    Contains,
    /// There is no value, or there is one.
    Missing,
    /// No value is one of these.
    Not,
    /// By the words for people.
    Text,
    /// By the identifier that a reference carries.
    Identifier,
    /// A reference to this type.
    Type(ResourceType),
}

/// How a value is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefix {
    /// Within the search's precision.
    Equal,
    /// Not that.
    NotEqual,
    /// Below.
    Less,
    /// Above.
    Greater,
    /// Below or equal.
    LessOrEqual,
    /// Above or equal.
    GreaterOrEqual,
    /// Starts after.
    StartsAfter,
    /// Ends before.
    EndsBefore,
    /// About the same.
    Approximately,
}

/// What a token search says of the system.
#[derive(Clone, PartialEq, Eq)]
pub enum TokenSystem {
    /// Nothing: `code`.
    Any,
    /// There must be none: `|code`.
    None,
    /// This one: `system|code`.
    Is(String),
}

/// One value of a filter. It is PHI, so it cannot be printed.
#[derive(Clone, PartialEq)]
pub enum FilterValue {
    /// `:missing`.
    Missing(bool),
    /// A token; no code means any code of the system.
    Token {
        /// The system.
        system: TokenSystem,
        /// The code.
        code: Option<String>,
    },
    /// `:text` of a token or reference, normalised by the caller of the comparison.
    Words(String),
    /// Text, as it was sent.
    String(String),
    /// A URI.
    Uri(String),
    /// A reference by type and id on this server, by id alone, or by URL.
    Reference {
        /// The type, if it is named or the parameter has one target only.
        resource_type: Option<ResourceType>,
        /// The id.
        id: Option<String>,
        /// Another server's URL, a canonical or a URN.
        url: Option<String>,
    },
    /// A span of time, microseconds, end exclusive.
    Date {
        /// How to compare.
        prefix: Prefix,
        /// Inclusive.
        start: i64,
        /// Exclusive.
        end: i64,
    },
    /// A number and the range that its digits imply.
    Number {
        /// How to compare.
        prefix: Prefix,
        /// As sent.
        value: f64,
        /// Inclusive.
        low: f64,
        /// Exclusive.
        high: f64,
    },
    /// A quantity.
    Quantity {
        /// How to compare.
        prefix: Prefix,
        /// As sent.
        value: f64,
        /// Inclusive.
        low: f64,
        /// Exclusive.
        high: f64,
        /// The unit's system, if one was sent.
        system: Option<String>,
        /// The unit's code or text, if one was sent.
        code: Option<String>,
    },
    /// One value for each component.
    Composite(Vec<Self>),
}

impl std::fmt::Debug for FilterValue {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("FilterValue(..)")
    }
}

/// One key of the order.
pub struct Sort {
    /// By its values.
    pub parameter: &'static SearchParameter,
    /// Largest first.
    pub descending: bool,
}

/// Whether to count all matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Total {
    /// No.
    None,
    /// Exactly.
    Accurate,
}

/// Which part of each resource to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Summary {
    /// All of it.
    False,
    /// The number of matches only.
    Count,
    /// Without the narrative.
    Data,
    /// The narrative and what must be there.
    Text,
}

/// What to do with a parameter that is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handling {
    /// Refuse the search.
    Strict,
    /// Leave it out, and say so.
    Lenient,
}

/// The most values in one parameter, and parameters in one query.
const MOST: usize = 200;

const ELEMENTS_MAX: usize = 64;
const SORT_KEYS_MAX: usize = 4;

/// Understands decoded `name=value` pairs. Gives the query and warnings, or everything that is wrong.
///
/// Neither names nor values that came from outside are repeated; a parameter is named by its position.
pub fn parse(
    kind: ResourceType,
    pairs: &[(String, String)],
    handling: Handling,
    base: &str,
) -> Result<(Query, Vec<Issue>), Vec<Issue>> {
    let mut query = Query {
        resource_type: kind,
        filters: Vec::new(),
        sort: Vec::new(),
        count: None,
        total: Total::None,
        summary: Summary::False,
        elements: Vec::new(),
    };
    let (mut errors, mut warnings) = (Vec::new(), Vec::new());
    if pairs.len() > MOST {
        return Err(vec![Issue::error(
            IssueCode::TooCostly,
            format!("a search has {MOST} parameters at most"),
        )]);
    }
    for (index, (name, value)) in pairs.iter().enumerate() {
        match query.take(name, value, base) {
            Ok(()) => {}
            Err(fault) => {
                let place = position(index);
                match (fault, handling) {
                    (Fault::Unknown(words), Handling::Lenient) => warnings.push(Issue::warning(
                        IssueCode::NotSupported,
                        format!("{place} was left out: {words}"),
                    )),
                    (Fault::Unknown(words), Handling::Strict) => {
                        errors.push(Issue::error(IssueCode::NotSupported, format!("{place}: {words}")));
                    }
                    (Fault::Wrong(words), _) => {
                        errors.push(Issue::error(IssueCode::Value, format!("{place}: {words}")));
                    }
                }
            }
        }
    }
    if errors.is_empty() { Ok((query, warnings)) } else { Err(errors) }
}

fn position(index: usize) -> String {
    let number = index + 1;
    let suffix = match (number % 10, number % 100) {
        (1, 1 | 21..) => "st",
        (2, 2 | 22..) => "nd",
        (3, 3 | 23..) => "rd",
        _ => "th",
    };
    format!("the {number}{suffix} search parameter")
}

enum Fault {
    Unknown(String),
    Wrong(String),
}

fn wrong(words: &str) -> Fault {
    Fault::Wrong(words.to_owned())
}

impl Query {
    fn take(&mut self, name: &str, value: &str, base: &str) -> Result<(), Fault> {
        match name {
            "_count" => {
                self.count = Some(value.parse().map_err(|_| wrong("`_count` must be a whole number"))?);
                return Ok(());
            }
            "_total" => {
                self.total = match value {
                    "none" | "estimate" => Total::None,
                    "accurate" => Total::Accurate,
                    _ => return Err(wrong("`_total` must be none, estimate or accurate")),
                };
                return Ok(());
            }
            "_summary" => {
                self.summary = match value {
                    "false" => Summary::False,
                    "count" => Summary::Count,
                    "data" => Summary::Data,
                    "text" => Summary::Text,
                    _ => return Err(wrong("`_summary` must be false, count, data or text")),
                };
                return Ok(());
            }
            "_elements" => {
                self.elements =
                    value.split(',').take(ELEMENTS_MAX + 1).map(|part| part.trim().to_owned()).collect();
                if self.elements.len() > ELEMENTS_MAX {
                    return Err(wrong("`_elements` names 64 elements at most"));
                }
                return Ok(());
            }
            "_sort" => return self.sort(value),
            "_format" | "_pretty" => return Ok(()),
            _ => {}
        }
        let (code, modifier) = match name.split_once(':') {
            Some((code, modifier)) => (code, Some(modifier)),
            None => (name, None),
        };
        if code.contains('.')
            || matches!(code, "_has" | "_include" | "_revinclude" | "_contained" | "_filter" | "_list")
        {
            let words = "chains, `_has`, `_include` and `_revinclude` are not supported yet; search in steps";
            return Err(Fault::Unknown(words.to_owned()));
        }
        let Some(parameter) = parameter(self.resource_type, code) else {
            let known: Vec<&str> = parameters(self.resource_type).iter().map(|known| known.code).collect();
            let kind = self.resource_type.name();
            return Err(Fault::Unknown(format!("{kind} has no such parameter; it has {}", known.join(", "))));
        };
        let modifier = modifier.map(|modifier| read_modifier(modifier, parameter)).transpose()?;
        let parts = split_escaped(value, ',');
        if parts.len() > MOST {
            return Err(wrong("too many values in one parameter"));
        }
        let values = parts
            .iter()
            .map(|part| read_value(part, parameter, modifier, base))
            .collect::<Result<Vec<_>, _>>()?;
        self.filters.push(Filter { parameter, modifier, values });
        Ok(())
    }

    fn sort(&mut self, value: &str) -> Result<(), Fault> {
        if value.split(',').nth(SORT_KEYS_MAX).is_some() {
            return Err(wrong("`_sort` has four keys at most"));
        }
        for key in value.split(',') {
            let (code, descending) = match key.trim().strip_prefix('-') {
                Some(code) => (code, true),
                None => (key.trim(), false),
            };
            match parameter(self.resource_type, code) {
                Some(parameter) if parameter.kind != ParameterKind::Composite => {
                    self.sort.push(Sort { parameter, descending });
                }
                _ => {
                    return Err(wrong(
                        "`_sort` must name parameters of this type, with `-` before for descending",
                    ));
                }
            }
        }
        if self.sort.len() > SORT_KEYS_MAX {
            return Err(wrong("`_sort` has four keys at most"));
        }
        Ok(())
    }
}

fn read_modifier(text: &str, parameter: &SearchParameter) -> Result<Modifier, Fault> {
    use ParameterKind::{Composite, Reference, String, Token, Uri};
    let modifier = match (text, parameter.kind) {
        ("missing", kind) if kind != Composite => Modifier::Missing,
        ("exact", String) => Modifier::Exact,
        ("contains", String | Uri) => Modifier::Contains,
        ("not", Token) => Modifier::Not,
        ("text", Token) => Modifier::Text,
        ("identifier", Reference) => Modifier::Identifier,
        (name, Reference) if ResourceType::parse(name).is_some() => {
            ResourceType::parse(name).map(Modifier::Type).ok_or_else(|| wrong("no such type"))?
        }
        _ => return Err(Fault::Unknown("this modifier is not supported for this parameter".to_owned())),
    };
    Ok(modifier)
}

fn read_value(
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
        Some(Modifier::Text) => return Ok(FilterValue::Words(unescape(text))),
        Some(Modifier::Identifier) => return Ok(token(text)),
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

fn read_plain(
    text: &str,
    kind: ParameterKind,
    targets: &[ResourceType],
    base: &str,
) -> Result<FilterValue, Fault> {
    Ok(match kind {
        ParameterKind::Token => token(text),
        ParameterKind::String => FilterValue::String(unescape(text)),
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
        ParameterKind::Composite => return Err(wrong("a composite cannot stand here")),
    })
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
    let (mantissa, exponent) = body.split_once(['e', 'E']).unwrap_or((body, "0"));
    let digits = mantissa.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    let exponent: i32 = exponent.parse().map_err(|_| fault())?;
    let half = 0.5 * 10_f64.powi(exponent.saturating_sub(i32::try_from(digits).map_err(|_| fault())?));
    Ok((value, value - half, value + half))
}

/// Splits at `separator`, but not where a backslash stands before it.
fn split_escaped(text: &str, separator: char) -> Vec<&str> {
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

fn unescape(text: &str) -> String {
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
