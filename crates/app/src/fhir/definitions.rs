//! The CodeSystems, ValueSets and StructureDefinitions that this server has: those that are stored here, and the codes
//! of the specification.

use std::sync::Arc;

use serde_json::Value;
use ward_base::ResourceId;
use ward_fhir::ResourceType;
use ward_fhir::profile;
use ward_fhir::search::{Filter, FilterValue, Query, Sort, TokenSystem, parameter};
use ward_fhir::terminology::{Definitions, Terminology, specification};
use ward_store::{Page, ResourceKey, Session, StoreError, Stored};

/// What is stored in one snapshot.
pub(crate) struct Held<'s, S: Session + ?Sized>(&'s mut S);

/// Questions about codes, answered from one snapshot.
pub(crate) fn terminology<S: Session + ?Sized>(session: &mut S) -> Terminology<Held<'_, S>> {
    Terminology::new(Held::new(session))
}

/// A definition as it is stored.
pub(crate) fn read(stored: &Stored) -> Result<Value, StoreError> {
    serde_json::from_slice(stored.body.expose()).map_err(|_| StoreError::Corrupt)
}

impl<S: Session + ?Sized> Definitions for Held<'_, S> {
    type Error = StoreError;

    fn code_system(&mut self, url: &str, version: Option<&str>) -> Result<Option<Arc<Value>>, StoreError> {
        let stored = self.stored("CodeSystem", url, version)?;
        Ok(stored.or_else(|| specification::code_system(url, version)))
    }

    fn value_set(&mut self, url: &str, version: Option<&str>) -> Result<Option<Arc<Value>>, StoreError> {
        if let Some(id) = url.strip_prefix("ValueSet/") {
            return self.by_id(id);
        }
        let stored = self.stored("ValueSet", url, version)?;
        Ok(stored.or_else(|| specification::value_set(url, version)))
    }
}

impl<S: Session + ?Sized> profile::Definitions for Held<'_, S> {
    fn structure_definition(
        &mut self,
        url: &str,
        version: Option<&str>,
    ) -> Result<Option<Arc<Value>>, StoreError> {
        self.stored("StructureDefinition", url, version)
    }
}

impl<'s, S: Session + ?Sized> Held<'s, S> {
    /// What is stored, as this session sees it.
    pub(crate) const fn new(session: &'s mut S) -> Self {
        Self(session)
    }

    /// The definition with this URL; of several, the one that was changed last.
    fn stored(
        &mut self,
        kind: &str,
        url: &str,
        version: Option<&str>,
    ) -> Result<Option<Arc<Value>>, StoreError> {
        let Some(kind) = ResourceType::parse(kind) else { return Ok(None) };
        let filter = |code, value| {
            parameter(kind, code).map(|parameter| Filter { parameter, modifier: None, values: vec![value] })
        };
        let mut query = Query::all(kind);
        query.filters.extend(filter("url", FilterValue::Uri(url.to_owned())));
        if let Some(version) = version {
            let value = FilterValue::Token { system: TokenSystem::Any, code: Some(version.to_owned()) };
            query.filters.extend(filter("version", value));
        }
        let updated = parameter(kind, "_lastUpdated");
        query.sort.extend(updated.map(|parameter| Sort { parameter, descending: true }));
        let found = self.0.search(&[query], &Page { count: 1, after: None })?;
        found.hits.first().map(|stored| read(stored).map(Arc::new)).transpose()
    }

    fn by_id(&mut self, id: &str) -> Result<Option<Arc<Value>>, StoreError> {
        let (Some(resource_type), Ok(id)) = (ResourceType::parse("ValueSet"), ResourceId::parse(id)) else {
            return Ok(None);
        };
        let stored = self.0.current(&ResourceKey { resource_type, id })?;
        stored.filter(|stored| !stored.deleted).map(|stored| read(&stored).map(Arc::new)).transpose()
    }
}
