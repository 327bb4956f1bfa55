//! The operations on codes (<https://hl7.org/fhir/R4/terminology-service.html>): `$expand`, `$validate-code`, `$lookup`
//! and `$subsumes`.
//!
//! What the definitions draw on is read whatever its type: it is part of what they say. So who may search the type
//! (or read it, where one resource is meant) may ask.

use http::StatusCode;
use serde_json::Value;
use ward_audit::Class;
use ward_fhir::ResourceType;
use ward_fhir::outcome::IssueCode;
use ward_fhir::terminology::{
    Coding, Expansion, Fault, Part, Terminology, Verdict, expanded, looked_up, outcome_of_subsumption,
    split_canonical, validated,
};
use ward_identity::Permission;
use ward_store::{ResourceKey, Session};
use ward_transport::RequestBody;

use super::definitions::{self, Held, terminology};
use super::{media, operation};
use crate::call::Call;
use crate::form;
use crate::problem::Problem;
use crate::reply::Reply;
use crate::route::Target;

/// The longest answer of `$expand`.
const ANSWER_CODES_MAX: usize = 10_000;

/// What may stand in a URL: which definition is meant, and the shape of the answer. Codes, their names and words that
/// are looked for may not: whoever asks about them has a patient before them, most often.
const HARMLESS: [&str; 13] = [
    "_format",
    "_pretty",
    "abstract",
    "count",
    "displayLanguage",
    "includeDesignations",
    "offset",
    "property",
    "system",
    "systemVersion",
    "url",
    "valueSetVersion",
    "version",
];

#[derive(Clone, Copy)]
enum Operation {
    Expand,
    ValidateInSet,
    ValidateInSystem,
    Lookup,
    Subsumes,
}

/// Whether this is the name of one of the operations.
pub(crate) fn is_operation(name: &str) -> bool {
    matches!(name, "$expand" | "$validate-code" | "$lookup" | "$subsumes")
}

impl Operation {
    fn parse(kind: ResourceType, name: &str, of_one: bool) -> Option<Self> {
        Some(match (kind.name(), name) {
            ("ValueSet", "$expand") => Self::Expand,
            ("ValueSet", "$validate-code") => Self::ValidateInSet,
            ("CodeSystem", "$validate-code") => Self::ValidateInSystem,
            ("CodeSystem", "$lookup") if !of_one => Self::Lookup,
            ("CodeSystem", "$subsumes") => Self::Subsumes,
            _ => return None,
        })
    }

    /// For the audit log.
    const fn action(self) -> &'static str {
        match self {
            Self::Expand => "expand",
            Self::ValidateInSet | Self::ValidateInSystem => "validate-code",
            Self::Lookup => "lookup",
            Self::Subsumes => "subsumes",
        }
    }

    /// The parameters that it knows, for the words of a refusal as well.
    const fn takes(self) -> &'static [&'static str] {
        match self {
            Self::Expand => &["url", "valueSetVersion", "filter", "offset", "count"],
            Self::ValidateInSet => &[
                "url",
                "valueSetVersion",
                "code",
                "system",
                "systemVersion",
                "display",
                "coding",
                "codeableConcept",
                "abstract",
            ],
            Self::ValidateInSystem => {
                &["url", "version", "code", "system", "display", "coding", "codeableConcept", "abstract"]
            }
            Self::Lookup => &["code", "system", "version", "coding", "property"],
            Self::Subsumes => &["codeA", "codeB", "system", "version", "codingA", "codingB"],
        }
    }
}

/// Taken, and without effect: names are given as they stand in the definitions.
const WITHOUT_EFFECT: [&str; 4] = ["_format", "_pretty", "displayLanguage", "includeDesignations"];

/// Answers one of the operations, about one resource if there is a key.
pub(crate) async fn answer(
    call: &mut Call,
    kind: ResourceType,
    key: Option<ResourceKey>,
    name: &str,
    target: &Target<'_>,
    body: RequestBody,
) -> Result<Reply, Problem> {
    let operation = Operation::parse(kind, name, key.is_some()).ok_or_else(Problem::no_such_path)?;
    call.doing(Class::Rest, operation.action(), Some(kind));
    if let Some(key) = &key {
        call.about(key, None);
    }
    if !matches!(target.method.as_str(), "GET" | "POST") {
        return Err(Problem::method_not_allowed("GET, POST"));
    }
    media::acceptable(call, target.query)?;
    call.permit(if key.is_some() { Permission::Read } else { Permission::Search }, Some(kind))?;
    let pairs = form::pairs(target.query.unwrap_or_default().as_bytes())?;
    let tells = pairs.iter().any(|(name, _)| !HARMLESS.contains(&name.as_str()));
    if tells && !call.app.settings.allow_phi_in_urls {
        return Err(Problem::phi_in_operation());
    }
    let mut all: Vec<(String, Value)> = pairs.into_iter().map(|(name, value)| (name, value.into())).collect();
    if target.method.as_str() == "POST" {
        all.extend(operation::values(call, body).await?);
    }
    let known = |name: &str| operation.takes().contains(&name) || WITHOUT_EFFECT.contains(&name);
    if all.iter().any(|(name, _)| !known(name)) {
        let words = format!("the operation takes {}", operation.takes().join(", "));
        return Err(Problem::malformed(IssueCode::NotSupported, words));
    }
    let (asked, now) = (Asked { all, key }, call.now.to_instant());
    let answer = move |session: &mut dyn Session| {
        let own = asked.own(session)?;
        let mut terminology = terminology(session);
        match operation {
            Operation::Expand => asked.expand(own, &mut terminology, &now),
            Operation::ValidateInSet => asked.validate_in_set(own, &mut terminology),
            Operation::ValidateInSystem => asked.validate_in_system(own, &mut terminology),
            Operation::Lookup => asked.look_up(&mut terminology),
            Operation::Subsumes => asked.subsumes(own, &mut terminology),
        }
    };
    let answer = call.app.store.read(answer).await?;
    call.touches([], 1);
    Ok(Reply::fhir(StatusCode::OK, answer.to_string().into_bytes()))
}

type Terms<'s> = Terminology<Held<'s, dyn Session + 's>>;

/// What was asked.
struct Asked {
    all: Vec<(String, Value)>,
    key: Option<ResourceKey>,
}

impl Asked {
    /// The resource that the address names, if it names one.
    fn own(&self, session: &mut dyn Session) -> Result<Option<Value>, Problem> {
        let Some(key) = &self.key else { return Ok(None) };
        let stored = session.current(key)?.ok_or_else(Problem::not_found)?;
        if stored.deleted {
            return Err(Problem::gone());
        }
        Ok(Some(definitions::read(&stored)?))
    }

    fn expand(&self, own: Option<Value>, terms: &mut Terms<'_>, now: &str) -> Result<Value, Problem> {
        let part = Part {
            words: self.text("filter")?,
            offset: self.number("offset")?,
            count: self.number("count")?,
        };
        let set = self.set(own, terms)?;
        let expansion = terms.expand_resource(&set)?;
        let unbounded = part.count.is_none_or(|count| count > ANSWER_CODES_MAX);
        if unbounded && expansion.codes().len() > ANSWER_CODES_MAX {
            let words = format!(
                "the value set has more codes than one answer holds; ask for {ANSWER_CODES_MAX} at most at a time, with \
                 `count` and `offset`"
            );
            return Err(Problem::malformed(IssueCode::TooCostly, words));
        }
        Ok(expanded(&set, &expansion, &part, now))
    }

    /// The value set that is meant.
    fn set(&self, own: Option<Value>, terms: &mut Terms<'_>) -> Result<Value, Problem> {
        if let Some(own) = own {
            return Ok(own);
        }
        let canonical = self.required("url")?;
        let (url, version) = split_canonical(&canonical);
        let stated = self.text("valueSetVersion")?;
        let set = terms.value_set(url, stated.as_deref().or(version))?;
        Ok(std::sync::Arc::unwrap_or_clone(set))
    }

    fn validate_in_set(&self, own: Option<Value>, terms: &mut Terms<'_>) -> Result<Value, Problem> {
        let codings = self.codings()?;
        let set = self.set(own, terms)?;
        let expansion = terms.expand_resource(&set)?;
        let abstracts = self.text("abstract")?.as_deref() == Some("true");
        self.first_fine(&codings, |coding| in_set(&expansion, coding, abstracts, terms))
    }

    fn validate_in_system(&self, own: Option<Value>, terms: &mut Terms<'_>) -> Result<Value, Problem> {
        let codings = self.codings()?;
        let stated = self.text("url")?.or_else(|| codings.iter().find_map(|coding| coding.system.clone()));
        let system = match (&own, &stated) {
            (Some(own), _) => terms.code_system_of(own)?,
            (None, Some(url)) => terms.code_system(url, self.text("version")?.as_deref())?,
            (None, None) => return Err(missing("url")),
        };
        let abstracts = self.text("abstract")?.as_deref() == Some("true");
        self.first_fine(&codings, |coding| {
            if coding.system.as_deref().is_some_and(|url| url != system.url()) {
                return Ok(Verdict::wrong("the code is of another code system"));
            }
            let Some(concept) = system.concept(&coding.code) else {
                // What is not in a part may be in the rest.
                return match system.is_complete() {
                    true => Ok(Verdict::wrong("the code system has no such code")),
                    false => Err(Fault::PartialCodeSystem.into()),
                };
            };
            let display = concept.display().map(Into::into);
            Ok(match &coding.display {
                _ if concept.is_abstract() && !abstracts => Verdict::wrong(GROUPS),
                Some(name) if !concept.is_called(name) => Verdict::misnamed(display),
                _ => Verdict::fine(display),
            })
        })
    }

    /// Of several codings one must be fine; if none is, what is wrong with the first is told.
    fn first_fine(
        &self,
        codings: &[Coding],
        mut judge: impl FnMut(&Coding) -> Result<Verdict, Problem>,
    ) -> Result<Value, Problem> {
        let mut first = None;
        for coding in codings {
            let verdict = judge(coding)?;
            if verdict.result {
                return Ok(validated(&verdict));
            }
            first.get_or_insert(verdict);
        }
        Ok(validated(&first.ok_or_else(|| missing("coding"))?))
    }

    fn look_up(&self, terms: &mut Terms<'_>) -> Result<Value, Problem> {
        let coding = self.one_coding("code", "coding")?;
        let url = coding.system.as_deref().ok_or_else(|| missing("system"))?;
        let stated = self.text("version")?;
        let system = terms.code_system(url, stated.as_deref().or(coding.version.as_deref()))?;
        let Some(concept) = system.concept(&coding.code) else {
            let fault = if system.is_complete() { Fault::UnknownCode } else { Fault::PartialCodeSystem };
            return Err(fault.into());
        };
        let properties = self.all.iter().filter(|(name, _)| name == "property");
        let wanted: Vec<String> = properties.filter_map(|(_, value)| operation::plain(value)).collect();
        Ok(looked_up(&system, concept, &wanted))
    }

    fn subsumes(&self, own: Option<Value>, terms: &mut Terms<'_>) -> Result<Value, Problem> {
        let (first, second) = (self.one_coding("codeA", "codingA")?, self.one_coding("codeB", "codingB")?);
        let stated = [&first.system, &second.system];
        let system = match (&own, &first.system) {
            (Some(own), _) => terms.code_system_of(own)?,
            (None, Some(url)) => {
                let version = self.text("version")?;
                terms.code_system(url, version.as_deref().or(first.version.as_deref()))?
            }
            (None, None) => return Err(missing("system")),
        };
        if stated.into_iter().flatten().any(|url| url != system.url()) {
            let words = "both codes must be of the code system that is asked";
            return Err(Problem::malformed(IssueCode::Invalid, words));
        }
        Ok(outcome_of_subsumption(system.subsumes(&first.code, &second.code)?))
    }

    /// The codes that are asked about, in whichever of three ways.
    fn codings(&self) -> Result<Vec<Coding>, Problem> {
        let Some(concept) = self.value("codeableConcept") else {
            return Ok(vec![self.one_coding("code", "coding")?]);
        };
        let all =
            concept.get("coding").and_then(Value::as_array).ok_or_else(|| missing("codeableConcept"))?;
        Ok(all.iter().filter_map(Coding::read).collect())
    }

    /// The code that is asked about: out of a Coding, or by itself with the parameters beside it.
    fn one_coding(&self, code: &'static str, coding: &'static str) -> Result<Coding, Problem> {
        match self.value(coding) {
            Some(value) => Coding::read(value).ok_or_else(|| missing(coding)),
            None => Ok(Coding {
                system: self.text("system")?,
                version: self.text("systemVersion")?,
                code: self.required(code)?,
                display: self.text("display")?,
            }),
        }
    }

    fn value(&self, name: &str) -> Option<&Value> {
        self.all.iter().find(|(own, _)| own == name).map(|(_, value)| value)
    }

    fn text(&self, name: &'static str) -> Result<Option<String>, Problem> {
        self.value(name).map(|value| operation::plain(value).ok_or_else(|| missing(name))).transpose()
    }

    fn required(&self, name: &'static str) -> Result<String, Problem> {
        self.text(name)?.ok_or_else(|| missing(name))
    }

    fn number(&self, name: &'static str) -> Result<Option<usize>, Problem> {
        let number = self.text(name)?.map(|text| text.parse());
        number.transpose().map_err(|_| {
            Problem::malformed(IssueCode::Value, "`count` and `offset` must be whole numbers from 0 on")
        })
    }
}

const GROUPS: &str = "the code only groups others (`abstract` = true lets it stand)";

fn in_set(
    expansion: &Expansion,
    coding: &Coding,
    abstracts: bool,
    terms: &mut Terms<'_>,
) -> Result<Verdict, Problem> {
    let Some(coded) = expansion.find(coding.system.as_deref(), &coding.code) else {
        return Ok(Verdict::wrong("the value set does not have the code"));
    };
    if coded.is_abstract && !abstracts {
        return Ok(Verdict::wrong(GROUPS));
    }
    Ok(match &coding.display {
        Some(name) if !terms.is_called(coded, name)? => Verdict::misnamed(coded.display.clone()),
        _ => Verdict::fine(coded.display.clone()),
    })
}

fn missing(name: &'static str) -> Problem {
    let words = format!("the operation needs `{name}`, with a value as the specification has it");
    Problem::malformed(IssueCode::Required, words)
}
