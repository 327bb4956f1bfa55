//! Conditions on which resource is meant (<https://hl7.org/fhir/R4/http.html#ccreate>): a search that must find one
//! resource at most, asked once to know what is touched, and again in the write itself.

use serde_json::Value;
use ward_base::{ResourceId, Timestamp};
use ward_fhir::ResourceType;
use ward_fhir::outcome::IssueCode;
use ward_fhir::search::{Handling, Query, allowed_in_url, extract_for};
use ward_store::{Page, Session, Stored};

use super::codes;
use super::search::{self, Asked, Scope};
use crate::app::App;
use crate::call::Call;
use crate::form;
use crate::problem::Problem;

/// So often a conditional write is tried again whose condition finds something else when it comes to writing.
pub(crate) const TRIES: usize = 4;

/// Parameters of what a search gives, not of what it finds.
pub(crate) const SHAPING: [&str; 7] =
    ["_count", "_elements", "_include", "_revinclude", "_sort", "_summary", "_total"];

/// So many resources are examined for a condition: it is asked while others wait to write.
const EFFORT: usize = 2000;

/// A search that says which resource is meant.
pub(crate) struct Condition(Asked);

/// What a condition finds.
#[derive(Clone)]
pub(crate) enum Matched {
    Nothing,
    One(Box<Stored>),
    Several,
}

/// The condition in `If-None-Exist`, before which `?` or `Type?` may stand.
pub(crate) fn if_none_exist(kind: ResourceType, text: &str) -> &str {
    let text = text.strip_prefix(kind.name()).filter(|rest| rest.starts_with('?')).unwrap_or(text);
    text.strip_prefix('?').unwrap_or(text)
}

impl Condition {
    /// Understands the condition on a resource of this type: what stands after `?` in a URL.
    pub(crate) fn read(
        app: &App,
        account: &str,
        now: Timestamp,
        kind: ResourceType,
        text: &str,
    ) -> Result<Self, Problem> {
        let pairs = form::pairs(text.as_bytes())?;
        let shapes = |name: &str| SHAPING.contains(&name.split(':').next().unwrap_or_default());
        if pairs.iter().any(|(name, _)| shapes(name)) {
            let words =
                "a condition says which resource is meant: it has no order, size, summary or includes";
            return Err(Problem::malformed(IssueCode::NotSupported, words));
        }
        let mut asked = search::understand(app, account, now, Scope::of_type(kind), pairs, Handling::Strict)?;
        if asked.queries.iter().any(|query| query.is_all()) || asked.is_link() {
            let words =
                "a condition needs search parameters that say which resource is meant, such as an identifier";
            return Err(Problem::malformed(IssueCode::Required, words));
        }
        // It is asked again, of what is not stored yet as well, and must mean the same each time.
        if asked.queries.iter().any(codes::are_asked_for) {
            let words = "a condition cannot ask by `:in`, `:not-in`, `:above` or `:below` of codes and resources; name them";
            return Err(Problem::malformed(IssueCode::NotSupported, words));
        }
        asked.bound(EFFORT);
        Ok(Self(asked))
    }

    /// Understands the condition in a request's URL, where nothing may stand that tells of people.
    pub(crate) fn in_url(call: &Call, kind: ResourceType, query: Option<&str>) -> Result<Self, Problem> {
        let text = query.unwrap_or_default();
        let tells =
            form::pairs(text.as_bytes())?.iter().any(|(name, value)| !allowed_in_url(name, value, kind));
        if tells && !call.app.settings.allow_phi_in_urls {
            return Err(Problem::phi_in_condition());
        }
        Self::read(&call.app, &call.account()?, call.now, kind, text)
    }

    /// Fails unless the caller may ask it: what is found tells of what is there.
    pub(crate) fn permit(&mut self, call: &Call) -> Result<(), Problem> {
        self.0.permit(call)
    }

    /// As the audit log has it.
    pub(crate) const fn asked(&self) -> &Asked {
        &self.0
    }

    /// What it finds now.
    pub(crate) fn find(&self, session: &mut (impl Session + ?Sized)) -> Result<Matched, Problem> {
        let mut page = session.search(&self.0.queries, &Page { count: 2, after: None })?;
        // A page may end early, after large resources.
        Ok(match (page.hits.pop(), page.hits.pop(), page.next) {
            (None, _, None) => Matched::Nothing,
            (Some(one), None, None) => Matched::One(Box::new(one)),
            _ => Matched::Several,
        })
    }

    /// Whether a resource meets it that is not stored yet. It does not if that depends on others.
    pub(crate) fn is_met_by(&self, resource: &Value, id: &ResourceId, base: &str, now: Timestamp) -> bool {
        let of_type = |query: &&Query| {
            resource.get("resourceType").and_then(Value::as_str) == Some(query.resource_type.name())
        };
        self.0.queries.iter().filter(of_type).any(|query| {
            let extracted = extract_for(query, resource, base);
            query.matches(&extracted, id.as_str(), now) == Some(true)
        })
    }

    /// Whether it still finds what it found: this one resource, or nothing.
    pub(crate) fn still_finds(
        &self,
        session: &mut (impl Session + ?Sized),
        id: Option<&ResourceId>,
    ) -> Result<bool, Problem> {
        Ok(match (self.find(session)?, id) {
            (Matched::Nothing, None) => true,
            (Matched::One(stored), Some(id)) => stored.key.id == *id,
            _ => false,
        })
    }
}
