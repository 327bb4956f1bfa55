//! What can be done to a resource before it reaches the writer's thread.

use serde_json::Value;
use ward_base::{Phi, ResourceId};
use ward_fhir::{compartment, search::Added};
use ward_keys::KeyScope;

use crate::{ResourceKey, Store, StoreError, Written, body::Frame};

/// A resource made ready: normalised, compressed, its tokens computed. CPU work only, so that the writer's thread
/// has little left to do. It is bound to nothing yet and can be put once or more.
pub struct Prepared {
    pub(crate) key: ResourceKey,
    pub(crate) id_token: [u8; 16],
    pub(crate) frame: Phi<Vec<u8>>,
    /// Sorted and distinct.
    pub(crate) tokens: Vec<i64>,
    /// Of the index that the tokens are for.
    pub(crate) generation: u64,
    /// What it adds to the search parameters, if it is a resource that could.
    pub(crate) adds: Option<Option<Added>>,
    pub(crate) scope: KeyScope,
    pub(crate) patients: Vec<ResourceId>,
}

impl Prepared {
    /// Which resource it is for.
    pub const fn key(&self) -> &ResourceKey {
        &self.key
    }

    /// The patients in whose compartments it lies, the owner first.
    pub fn patients(&self) -> &[ResourceId] {
        &self.patients
    }

    /// The JSON text that a read gives after it was stored as `written`.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] cannot happen to what [`Store::prepare`] made.
    pub fn served(&self, written: &Written) -> Result<Phi<Vec<u8>>, StoreError> {
        Ok(Phi::new(Frame::decode(self.frame.expose())?.served(written.version, written.updated)))
    }
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Prepared(..)")
    }
}

impl Store {
    /// Makes `resource` ready to be stored under `key`, whose id replaces the one in it.
    ///
    /// # Errors
    /// [`StoreError::Unstorable`] if it is not an object of the type that `key` names, its `meta` is not an object, or
    /// it is an active SearchParameter that [`Added::read`] refuses.
    pub fn prepare(&self, key: &ResourceKey, resource: &Value) -> Result<Prepared, StoreError> {
        let inner = &*self.0;
        let named = resource.get("resourceType").and_then(Value::as_str);
        if named != Some(key.resource_type.name()) {
            return Err(StoreError::Unstorable);
        }
        let patients =
            compartment::patients(key.resource_type, resource, Some(key.id.as_str()), &inner.vault.base_url);
        let scope = inner.vault.scope(key.resource_type, patients.first());
        let index = inner.vault.index();
        let adds = match key.resource_type.name() {
            "SearchParameter" => Some(Added::read(resource).map_err(|_| StoreError::Unstorable)?),
            _ => None,
        };
        Ok(Prepared {
            tokens: index.tokens(key.resource_type, resource, &inner.vault.base_url),
            generation: index.generation(),
            adds,
            id_token: inner.vault.id_token(key),
            frame: Phi::new(Frame::new(resource, &key.id, patients.clone())?.encode()?),
            key: key.clone(),
            scope,
            patients,
        })
    }
}
