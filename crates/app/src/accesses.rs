//! `POST /ward/accesses`: who has looked at a patient's record (the raw material of 45 CFR 164.528).

use std::collections::{HashMap, HashSet};

use http::StatusCode;
use serde_json::{Value, json};
use ward_audit::{Access, Actor, Class, Outcome};
use ward_base::{RequestId, ResourceId};
use ward_fhir::ResourceType;
use ward_fhir::outcome::IssueCode;
use ward_identity::Permission;
use ward_store::ResourceKey;
use ward_transport::RequestBody;

use crate::authenticate::{OPERATOR, client, user};
use crate::call::Call;
use crate::problem::Problem;
use crate::reply::Reply;

/// The most accesses in one answer: the newest.
const ACCESSES_MAX: usize = 1_000;

/// The newest accesses to the record of `{"patient": id}`, and whether they are all.
pub(crate) async fn accesses(call: &mut Call, body: RequestBody) -> Result<Reply, Problem> {
    let kind = ResourceType::parse("Patient");
    call.doing(Class::Disclosure, "read-accesses", kind);
    call.authenticate().await?;
    call.permit(Permission::ReadAccesses, None)?;
    let asked = call.json(body).await?;
    let patient = asked
        .get("patient")
        .and_then(Value::as_str)
        .and_then(|id| ResourceId::parse(id.strip_prefix("Patient/").unwrap_or(id)).ok())
        .ok_or_else(|| Problem::malformed(IssueCode::Value, "`patient` must be the id of a patient"))?;
    if let Some(resource_type) = kind {
        call.about(&ResourceKey { resource_type, id: patient.clone() }, None);
    }
    call.touches([&patient], 0);
    let found =
        call.app.trail.accesses(patient, ACCESSES_MAX).await.map_err(|_| Problem::audit_unavailable())?;
    call.entry.rows = u32::try_from(found.len()).unwrap_or(u32::MAX);
    let names = names(call, &found).await?;
    let accesses: Vec<Value> = summed_up(&found).iter().map(|line| line.to_json(&names)).collect();
    Ok(Reply::json(StatusCode::OK, &json!({"accesses": accesses, "complete": found.len() < ACCESSES_MAX})))
}

/// What one request did to one type of resource.
struct Line<'a> {
    access: &'a Access,
    /// How it ended; what an intent came to may stand in the last entry of its request.
    ended: Option<Outcome>,
    intended: u32,
    done: u32,
}

/// One line for all entries of a request that say the same, in the order of the log.
fn summed_up(found: &[Access]) -> Vec<Line<'_>> {
    let mut ends: HashMap<RequestId, Outcome> = HashMap::new();
    let mut intended: HashSet<RequestId> = HashSet::new();
    for access in found {
        if access.outcome == Outcome::Intent {
            intended.insert(access.request);
        } else {
            ends.entry(access.request).or_insert(access.outcome);
        }
    }
    let mut lines: Vec<Line<'_>> = Vec::new();
    let mut places: HashMap<(RequestId, &str, Option<&str>), usize> = HashMap::new();
    for access in found {
        let ended = Some(access.outcome).filter(|outcome| *outcome != Outcome::Intent);
        // The end of a request about many resources tells how it ended, and its intents what it was about.
        if ended.is_some() && access.resource_type.is_none() && intended.contains(&access.request) {
            continue;
        }
        let key = (access.request, access.action.as_str(), access.resource_type.as_deref());
        let place = *places.entry(key).or_insert(lines.len());
        if lines.len() == place {
            lines.push(Line { access, ended: None, intended: 0, done: 0 });
        }
        let Some(line) = lines.get_mut(place) else { continue };
        let sum = if ended.is_some() { &mut line.done } else { &mut line.intended };
        *sum = sum.saturating_add(access.rows);
        line.ended = line.ended.or(ended);
    }
    for line in &mut lines {
        line.ended = line.ended.or_else(|| ends.get(&line.access.request).copied());
    }
    lines
}

impl Line<'_> {
    fn to_json(&self, names: &HashMap<String, String>) -> Value {
        let access = self.access;
        let who = match &access.actor {
            Actor::User(id) | Actor::Client(id) => names.get(id).cloned().unwrap_or_else(|| id.clone()),
            Actor::Anonymous => "nobody signed in".to_owned(),
        };
        json!({
            "time": access.time.to_instant(), "who": who, "roles": access.roles, "action": access.action,
            "outcome": self.ended.unwrap_or(Outcome::Intent).name(), "resource_type": access.resource_type,
            "count": if self.done > 0 { self.done } else { self.intended },
            "purpose": access.purpose, "request": access.request.to_string(),
            "address": access.address.as_ref().map(|address| address.expose().to_string()),
        })
    }
}

/// What people call the actors.
async fn names(call: &Call, found: &[Access]) -> Result<HashMap<String, String>, Problem> {
    let mut actors: Vec<Actor> = Vec::new();
    for access in found {
        if !actors.contains(&access.actor) {
            actors.push(access.actor.clone());
        }
    }
    let operator = call.app.operator.name.clone();
    call.app
        .store
        .read(move |session| {
            let mut names = HashMap::new();
            for actor in actors {
                match actor {
                    Actor::User(id) => {
                        if let Some(user) = user(session, &id)? {
                            names.insert(id, user.display_name);
                        }
                    }
                    Actor::Client(id) if id == OPERATOR => {
                        names.insert(id, operator.clone());
                    }
                    Actor::Client(id) => {
                        if let Some(client) = client(session, &id)? {
                            names.insert(id, client.name);
                        }
                    }
                    Actor::Anonymous => {}
                }
            }
            Ok(names)
        })
        .await
}
