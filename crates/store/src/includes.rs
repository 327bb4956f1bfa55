//! What is given along with the matches of a search: `_include` and `_revinclude`, with `:iterate`.

use std::collections::HashSet;

use serde_json::Value;
use ward_base::ResourceId;
use ward_fhir::ResourceType;
use ward_fhir::search::{
    Filter, FilterValue, Include, ParameterKind, Parameters, Query, SearchParameter, SearchValue,
    extract_parameter, parameter,
};

use crate::{
    ResourceKey, StoreError,
    links::{Compiled, local, parsed, read},
    read::{Opened, PAGE_BYTES_MAX, Snapshot},
    search::{Budget, Search},
};

/// So many resources are included in one page at most, and examined for one reference backwards.
const INCLUDED_MAX: usize = 1_000;

/// What all queries ask for, each once.
pub(crate) fn of(queries: &[Query]) -> Vec<&Include> {
    let mut known = HashSet::new();
    let all = queries.iter().flat_map(|query| &query.includes);
    all.filter(|include| {
        let code = include.parameter.map(|parameter| parameter.code);
        known.insert((include.source, code, include.target, include.reverse, include.iterate))
    })
    .collect()
}

/// What `includes` ask for beside `matches`, each resource once. What may not be given leads nowhere either.
pub(crate) fn run(
    snapshot: &Snapshot<'_>,
    includes: &[&Include],
    visible: Option<&HashSet<ResourceType>>,
    matches: &[&Opened],
    budget: &Budget,
) -> Result<Vec<Opened>, StoreError> {
    let known = matches.iter().map(|opened| opened.rid).collect();
    let mut bounds = Bounds { known, visible, count: 0, bytes: 0 };
    let mut included: Vec<Opened> = Vec::new();
    let mut looked_at = 0;
    let mut first = true;
    // The matches first, then what they brought, then what that brought: each once, so that circles end.
    while first || looked_at < included.len() {
        let round: Vec<&Opened> =
            if first { matches.to_vec() } else { included.iter().skip(looked_at).collect() };
        let mut brought = Vec::new();
        let mut keep = |opened: Opened| {
            if bounds.takes(&opened)? {
                brought.push(opened);
            }
            Ok(())
        };
        for include in includes.iter().filter(|include| first || include.iterate) {
            if include.reverse {
                backwards(snapshot, include, &round, budget, &mut keep)?;
            } else {
                forwards(snapshot, include, &round, budget, &mut keep)?;
            }
        }
        looked_at = included.len();
        first = false;
        included.extend(brought);
    }
    Ok(included)
}

/// What is done with a resource that an include brings.
type Keep<'a> = &'a mut dyn FnMut(Opened) -> Result<(), StoreError>;

/// What may be included yet.
struct Bounds<'a> {
    known: HashSet<i64>,
    visible: Option<&'a HashSet<ResourceType>>,
    count: usize,
    bytes: usize,
}

impl Bounds<'_> {
    /// Whether to keep a resource: not if it is there or may not be given. Fails when it is too much.
    fn takes(&mut self, opened: &Opened) -> Result<bool, StoreError> {
        let may = self.visible.is_none_or(|visible| visible.contains(&opened.resource_type));
        if !may || !self.known.insert(opened.rid) {
            return Ok(false);
        }
        self.count += 1;
        self.bytes = self.bytes.saturating_add(opened.frame.text().len());
        if self.count > INCLUDED_MAX || self.bytes > PAGE_BYTES_MAX {
            return Err(StoreError::TooCostly);
        }
        Ok(true)
    }
}

/// The parameters that an include follows.
fn followed<'p>(
    parameters: &'p Parameters,
    include: &Include,
) -> impl Iterator<Item = &'static SearchParameter> + use<'p> {
    let all = include.parameter.is_none().then(|| parameters.of(include.source)).into_iter().flatten();
    let target = include.target;
    let fits = move |parameter: &&SearchParameter| {
        parameter.kind == ParameterKind::Reference
            && target.is_none_or(|target| parameter.targets.contains(&target))
    };
    include.parameter.into_iter().chain(all).filter(fits)
}

/// What resources of the include's source refer to.
fn forwards(
    snapshot: &Snapshot<'_>,
    include: &Include,
    from: &[&Opened],
    budget: &Budget,
    keep: Keep<'_>,
) -> Result<(), StoreError> {
    let mut asked = HashSet::new();
    for source in from.iter().filter(|opened| opened.resource_type == include.source) {
        let resource = read(source, followed(&snapshot.index.parameters, include))?;
        for parameter in followed(&snapshot.index.parameters, include) {
            for value in extract_parameter(parameter, &resource, &snapshot.vault.base_url) {
                if let Some((kind, id)) = local(&value) {
                    if include.target.is_none_or(|target| target == kind) && asked.insert((kind, id.clone()))
                    {
                        current(snapshot, kind, &id, budget)?.map_or(Ok(()), &mut *keep)?;
                    }
                } else if let SearchValue::Reference { url: Some(url), .. } = &value {
                    let kinds = parameter.targets.iter().copied();
                    for kind in kinds.filter(|kind| include.target.is_none_or(|target| target == *kind)) {
                        if asked.insert((kind, url.clone())) {
                            canonical(snapshot, kind, url, budget)?.map_or(Ok(()), &mut *keep)?;
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

fn current(
    snapshot: &Snapshot<'_>,
    resource_type: ResourceType,
    id: &str,
    budget: &Budget,
) -> Result<Option<Opened>, StoreError> {
    let Ok(id) = ResourceId::parse(id) else { return Ok(None) };
    budget.examine()?;
    let opened = snapshot.opened(&ResourceKey { resource_type, id })?;
    Ok(opened.filter(|opened| !opened.frame.deleted()))
}

/// The resource of this type with a canonical URL, of the version that it names if it does.
fn canonical(
    snapshot: &Snapshot<'_>,
    kind: ResourceType,
    canonical: &str,
    budget: &Budget,
) -> Result<Option<Opened>, StoreError> {
    let (url, version) = match canonical.split_once('|') {
        Some((url, version)) => (url, Some(version)),
        None => (canonical, None),
    };
    let Some(parameter) = parameter(kind, "url").filter(|parameter| parameter.kind == ParameterKind::Uri)
    else {
        return Ok(None);
    };
    let further = Filter { parameter, modifier: None, values: vec![FilterValue::Uri(url.to_owned())] };
    let found = all(snapshot, kind, further, budget)?;
    for opened in found {
        let fits = version.is_none_or(|version| {
            parsed(&opened).is_ok_and(|value| value.get("version").and_then(Value::as_str) == Some(version))
        });
        if fits {
            return Ok(Some(opened));
        }
    }
    Ok(None)
}

/// Resources of the include's source that refer to these.
fn backwards(
    snapshot: &Snapshot<'_>,
    include: &Include,
    to: &[&Opened],
    budget: &Budget,
    keep: Keep<'_>,
) -> Result<(), StoreError> {
    for parameter in followed(&snapshot.index.parameters, include) {
        let targets: Vec<FilterValue> = to
            .iter()
            .filter(|opened| {
                parameter.targets.contains(&opened.resource_type)
                    && include.target.is_none_or(|target| target == opened.resource_type)
            })
            .map(|opened| FilterValue::Reference {
                resource_type: Some(opened.resource_type),
                id: Some(opened.frame.id.as_str().to_owned()),
                url: None,
            })
            .collect();
        // As many at once as the index is asked for together.
        for targets in targets.chunks(128) {
            let further = Filter { parameter, modifier: None, values: targets.to_vec() };
            all(snapshot, include.source, further, budget)?.into_iter().try_for_each(&mut *keep)?;
        }
    }
    Ok(())
}

/// Every resource of a type that meets one filter.
fn all(
    snapshot: &Snapshot<'_>,
    kind: ResourceType,
    further: Filter,
    budget: &Budget,
) -> Result<Vec<Opened>, StoreError> {
    let query = Query::all(kind);
    let compiled = Compiled::new(snapshot, &query, budget)?;
    let mut search = Search::new(snapshot, &compiled, Some(further), budget);
    search.list(INCLUDED_MAX, usize::MAX)?.ok_or(StoreError::TooCostly)
}
