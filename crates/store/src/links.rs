//! What a query demands beside its own filters: of other resources (chains, `_has` and lists), and by alternatives and
//! exclusions.
//!
//! A link is resolved in one of two ways. Where what is on its other side can be listed with little work, it is, and
//! narrows the search down like any other filter. Otherwise, or if few candidates are left anyway, each candidate is
//! followed by itself. Both ways give the same answer, and all that they examine counts against the one bound.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use serde_json::Value;
use ward_base::ResourceId;
use ward_fhir::ResourceType;
use ward_fhir::search::{
    Extracted, Filter, Link, Query, SearchParameter, SearchValue, extract_for, extract_parameter, read_for,
};

use crate::{
    ResourceKey, StoreError,
    plan::{self, Plan},
    read::{Opened, Snapshot},
    search::{Budget, Search},
};

/// So many resources on the other side of a link are listed at most.
const LISTED_MAX: usize = 1_000;
/// So many are decrypted to find them.
const LISTED_EXAMINED_MAX: usize = 4_000;
/// With so few candidates, each is followed by itself.
const FOLLOWED: f64 = 100.0;

/// Type and id.
type Target = (ResourceType, String);

/// A query whose links are resolved.
pub(crate) struct Compiled<'a> {
    pub(crate) query: &'a Query,
    links: Vec<Resolved<'a>>,
    /// Of each of these, one is met.
    alternatives: Vec<Vec<Self>>,
    /// None of these is met.
    exclusions: Vec<Self>,
    /// What the links narrow the search down to.
    narrowed: Plan,
}

enum Resolved<'a> {
    /// A reference of `parameter` leads to one of these.
    Targets { parameter: &'static SearchParameter, targets: HashSet<Target> },
    /// A reference of `parameter` leads to what meets one of these; what was found out is kept.
    EachTarget {
        parameter: &'static SearchParameter,
        targets: Vec<Compiled<'a>>,
        known: RefCell<HashMap<Target, bool>>,
    },
    /// It is one of these.
    Listed(HashSet<String>),
    /// What meets the source refers to it by `parameter`.
    EachSource { parameter: &'static SearchParameter, source: Compiled<'a> },
}

impl<'a> Compiled<'a> {
    /// Resolves the links of `query`.
    pub(crate) fn new(
        snapshot: &Snapshot<'_>,
        query: &'a Query,
        budget: &Budget,
    ) -> Result<Self, StoreError> {
        Self::resolve(snapshot, query, budget, false)
    }

    /// Resolves the links of `query`, of which few candidates may be known to be asked.
    fn resolve(
        snapshot: &Snapshot<'_>,
        query: &'a Query,
        budget: &Budget,
        few: bool,
    ) -> Result<Self, StoreError> {
        let mut compiled = Self::without_links(query);
        let resolve = |branches: &'a [Query], few| -> Result<Vec<_>, StoreError> {
            branches.iter().map(|branch| Self::resolve(snapshot, branch, budget, few)).collect()
        };
        // What narrows the search down without looking at other resources comes first.
        let (asking, plain): (Vec<_>, Vec<_>) = query
            .alternatives
            .iter()
            .partition::<Vec<&'a Vec<Query>>, _>(|branches| branches.iter().any(Query::asks_of_others));
        for branches in plain {
            compiled.alternatives.push(resolve(branches, few)?);
        }
        if query.compartment.is_some() {
            compiled.narrowed.ids = compiled.own_compartment(snapshot, budget)?;
        }
        for link in &query.links {
            let resolved = match link {
                Link::Chain { parameter, targets } => {
                    compiled.chain(snapshot, parameter, targets, budget, few)?
                }
                Link::Has { parameter, source } => compiled.has(snapshot, parameter, source, budget, few)?,
                Link::List(ids) => Resolved::Listed(listed(snapshot, query.resource_type, ids)?),
            };
            match &resolved {
                Resolved::Targets { parameter, targets } if parameter.indexed => {
                    let ids: Vec<&str> = targets.iter().map(|(_, id)| id.as_str()).collect();
                    let tokens = plan::referring(&snapshot.index, query.resource_type, &ids);
                    compiled.narrowed.groups.extend(tokens);
                }
                Resolved::Listed(ids) => compiled.narrowed.narrow_to_ids(ids.iter().cloned().collect()),
                Resolved::Targets { .. } | Resolved::EachTarget { .. } | Resolved::EachSource { .. } => {}
            }
            compiled.links.push(resolved);
        }
        let few =
            few || query.branches().any(Query::asks_of_others) && compiled.is_narrow(snapshot, budget)?;
        for branches in asking {
            compiled.alternatives.push(resolve(branches, few)?);
        }
        compiled.exclusions = resolve(&query.exclusions, few)?;
        Ok(compiled)
    }

    fn without_links(query: &'a Query) -> Self {
        let (links, alternatives, exclusions) = (Vec::new(), Vec::new(), Vec::new());
        Self { query, links, alternatives, exclusions, narrowed: Plan::default() }
    }

    /// How the search is narrowed down, by a further filter as well if there is one.
    pub(crate) fn plan(&self, snapshot: &Snapshot<'_>, further: Option<&Filter>) -> Plan {
        let mut plan = plan::plan(&snapshot.index, self.query, further);
        plan.groups.extend(self.narrowed.groups.iter().cloned());
        if let Some(ids) = &self.narrowed.ids {
            plan.narrow_to_ids(ids.clone());
        }
        for branches in &self.alternatives {
            let branches = branches.iter().map(|branch| branch.plan(snapshot, None));
            plan.narrow_to_any(&snapshot.index, branches.collect());
        }
        plan
    }

    /// The values of a resource if it meets the query.
    pub(crate) fn met_by(
        &self,
        snapshot: &Snapshot<'_>,
        opened: &Opened,
        budget: &Budget,
    ) -> Result<Option<Vec<Extracted>>, StoreError> {
        if opened.frame.deleted() || opened.resource_type != self.query.resource_type {
            return Ok(None);
        }
        let parameters = self.query.parameters();
        let extracted = if parameters.is_empty() {
            Vec::new()
        } else {
            let resource = read(opened, parameters.into_iter())?;
            extract_for(self.query, &resource, &snapshot.vault.base_url)
        };
        Ok(self.holds(snapshot, opened, &extracted, budget)?.then_some(extracted))
    }

    /// Whether a resource of the query's type that has these values meets the query.
    fn holds(
        &self,
        snapshot: &Snapshot<'_>,
        opened: &Opened,
        extracted: &[Extracted],
        budget: &Budget,
    ) -> Result<bool, StoreError> {
        if !self.query.filters_match(extracted, opened.frame.id.as_str(), opened.updated) {
            return Ok(false);
        }
        for link in &self.links {
            if !link.holds(snapshot, opened, extracted, budget)? {
                return Ok(false);
            }
        }
        let one_holds = |branches: &[Self]| {
            for branch in branches {
                if branch.holds(snapshot, opened, extracted, budget)? {
                    return Ok(true);
                }
            }
            Ok::<_, StoreError>(false)
        };
        for branches in &self.alternatives {
            if !one_holds(branches)? {
                return Ok(false);
            }
        }
        Ok(!one_holds(&self.exclusions)?)
    }

    /// In a compartment named after a resource of the same type there are itself and what refers to it.
    fn own_compartment(
        &self,
        snapshot: &Snapshot<'_>,
        budget: &Budget,
    ) -> Result<Option<Vec<String>>, StoreError> {
        let Some(compartment) =
            self.query.compartment.as_ref().filter(|one| one.resource_type == self.query.resource_type)
        else {
            return Ok(None);
        };
        let mut ids = vec![compartment.id.clone()];
        for parameter in &compartment.parameters {
            let query = Query::all(self.query.resource_type);
            let further = Filter::referring(parameter, compartment.resource_type, &compartment.id);
            let compiled = Compiled::without_links(&query);
            let mut search = Search::new(snapshot, &compiled, Some(further), budget);
            let found = search.list(LISTED_MAX, LISTED_EXAMINED_MAX)?.ok_or(StoreError::TooCostly)?;
            ids.extend(found.into_iter().map(|opened| opened.frame.id.as_str().to_owned()));
        }
        Ok(Some(ids))
    }

    /// Whether so few candidates are left that links are not worth listing.
    fn is_narrow(&self, snapshot: &Snapshot<'_>, budget: &Budget) -> Result<bool, StoreError> {
        Ok(Search::new(snapshot, self, None, budget).weight()? <= FOLLOWED)
    }

    fn chain(
        &self,
        snapshot: &Snapshot<'_>,
        parameter: &'static SearchParameter,
        targets: &'a [Query],
        budget: &Budget,
        few: bool,
    ) -> Result<Resolved<'a>, StoreError> {
        let targets = targets
            .iter()
            .map(|target| Compiled::new(snapshot, target, budget))
            .collect::<Result<Vec<_>, _>>()?;
        let mut found = Some(HashSet::new());
        if few || self.is_narrow(snapshot, budget)? {
            found = None;
        }
        for target in &targets {
            let Some(so_far) = &mut found else { break };
            let room = LISTED_MAX - so_far.len();
            match Search::new(snapshot, target, None, budget).list(room, LISTED_EXAMINED_MAX)? {
                Some(listed) => so_far.extend(
                    listed.into_iter().map(|one| (one.resource_type, one.frame.id.as_str().to_owned())),
                ),
                None => found = None,
            }
        }
        Ok(match found {
            Some(targets) => Resolved::Targets { parameter, targets },
            None => Resolved::EachTarget { parameter, targets, known: RefCell::default() },
        })
    }

    fn has(
        &self,
        snapshot: &Snapshot<'_>,
        parameter: &'static SearchParameter,
        source: &'a Query,
        budget: &Budget,
        few: bool,
    ) -> Result<Resolved<'a>, StoreError> {
        let source = Compiled::new(snapshot, source, budget)?;
        if !(few || self.is_narrow(snapshot, budget)?)
            && let Some(listed) =
                Search::new(snapshot, &source, None, budget).list(LISTED_MAX, LISTED_EXAMINED_MAX)?
        {
            let mut ids = HashSet::new();
            for opened in listed {
                let values = values(snapshot, &opened, parameter)?;
                ids.extend(
                    values
                        .iter()
                        .filter_map(local)
                        .filter(|(kind, _)| *kind == self.query.resource_type)
                        .map(|(_, id)| id),
                );
            }
            return Ok(Resolved::Listed(ids));
        }
        Ok(Resolved::EachSource { parameter, source })
    }
}

impl Resolved<'_> {
    fn holds(
        &self,
        snapshot: &Snapshot<'_>,
        opened: &Opened,
        extracted: &[Extracted],
        budget: &Budget,
    ) -> Result<bool, StoreError> {
        match self {
            Self::Listed(ids) => Ok(ids.contains(opened.frame.id.as_str())),
            Self::Targets { parameter, targets } => {
                Ok(leading(parameter, extracted).any(|target| targets.contains(&target)))
            }
            Self::EachTarget { parameter, targets, known } => {
                for target in leading(parameter, extracted) {
                    let before = known.borrow().get(&target).copied();
                    let holds = match before {
                        Some(holds) => holds,
                        None => {
                            let holds = follow(snapshot, &target, targets, budget)?;
                            known.borrow_mut().insert(target, holds);
                            holds
                        }
                    };
                    if holds {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Self::EachSource { parameter, source } => {
                let further = Filter::referring(parameter, opened.resource_type, opened.frame.id.as_str());
                Search::new(snapshot, source, Some(further), budget).any()
            }
        }
    }
}

/// Whether what `target` names is there and meets one of these.
fn follow(
    snapshot: &Snapshot<'_>,
    (kind, id): &Target,
    targets: &[Compiled<'_>],
    budget: &Budget,
) -> Result<bool, StoreError> {
    let Some(wanted) = targets.iter().find(|wanted| wanted.query.resource_type == *kind) else {
        return Ok(false);
    };
    let Ok(id) = ResourceId::parse(id) else { return Ok(false) };
    budget.examine()?;
    let Some(opened) = snapshot.opened(&ResourceKey { resource_type: *kind, id })? else { return Ok(false) };
    Ok(wanted.met_by(snapshot, &opened, budget)?.is_some())
}

/// Where the references of `parameter` lead on this server.
fn leading(parameter: &'static SearchParameter, extracted: &[Extracted]) -> impl Iterator<Item = Target> {
    extracted
        .iter()
        .filter(move |one| std::ptr::eq(one.parameter, parameter))
        .filter_map(|one| local(&one.value))
}

/// What a reference on this server leads to.
pub(crate) fn local(value: &SearchValue) -> Option<Target> {
    match value {
        SearchValue::Reference { resource_type: Some(kind), id: Some(id), .. } => Some((*kind, id.clone())),
        _ => None,
    }
}

/// The ids of resources of this type that are entries of one of these lists.
fn listed(
    snapshot: &Snapshot<'_>,
    kind: ResourceType,
    ids: &[String],
) -> Result<HashSet<String>, StoreError> {
    let mut found = HashSet::new();
    let Some(list) = ResourceType::parse("List") else { return Ok(found) };
    let Some(items) = ward_fhir::search::parameter(list, "item") else { return Ok(found) };
    for id in ids {
        let Ok(id) = ResourceId::parse(id) else { continue };
        let Some(opened) = snapshot.opened(&ResourceKey { resource_type: list, id })? else { continue };
        if !opened.frame.deleted() {
            let values = values(snapshot, &opened, items)?;
            found.extend(values.iter().filter_map(local).filter(|(of, _)| *of == kind).map(|(_, id)| id));
        }
    }
    Ok(found)
}

/// What `parameters` look at of a resource.
pub(crate) fn read<'p>(
    opened: &Opened,
    parameters: impl Iterator<Item = &'p SearchParameter>,
) -> Result<Value, StoreError> {
    read_for(opened.frame.text(), parameters).map_err(|_| StoreError::Corrupt)
}

/// What `parameter` finds in a resource.
pub(crate) fn values(
    snapshot: &Snapshot<'_>,
    opened: &Opened,
    parameter: &'static SearchParameter,
) -> Result<Vec<SearchValue>, StoreError> {
    let resource = read(opened, std::iter::once(parameter))?;
    Ok(extract_parameter(parameter, &resource, &snapshot.vault.base_url))
}

/// The whole resource.
pub(crate) fn parsed(opened: &Opened) -> Result<Value, StoreError> {
    serde_json::from_slice(opened.frame.text()).map_err(|_| StoreError::Corrupt)
}
