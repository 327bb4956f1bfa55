//! What every request of the app tier works with.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use ward_base::{Clock, Random, ResourceId, Timestamp};
use ward_fhir::ResourceType;
use ward_identity::ClientRecord;
use ward_keys::Tokenizer;
use ward_store::Store;

use crate::authenticate::Sessions;
use crate::config::AppLimits;
use crate::cursor::Cursors;
use crate::fhir::Imports;
use crate::subscriptions::Subscriptions;
use crate::trail::Trail;

/// The tier's parts, shared by all requests.
pub(crate) struct App {
    pub(crate) store: Store,
    pub(crate) trail: Trail,
    pub(crate) sessions: Sessions,
    pub(crate) cursors: Cursors,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    /// The host's own service account. It is made of what the supervisor handed over and stands in no database.
    pub(crate) operator: ClientRecord,
    /// What goes on by itself and is waited for at the end.
    pub(crate) tasks: TaskTracker,
    /// Turns at hashing a password, which takes 19 MiB each.
    pub(crate) hashing: Semaphore,
    /// Names what is imported without an id.
    pub(crate) import_ids: Tokenizer,
    pub(crate) subscriptions: Subscriptions,
    pub(crate) imports: Imports,
    pub(crate) settings: Settings,
    /// The CapabilityStatement of a generation of the search parameters.
    pub(crate) capability_statement: Mutex<Option<(u64, Bytes)>>,
}

impl App {
    /// The CapabilityStatement, with the search parameters that are in use.
    pub(crate) fn capability_statement(&self) -> Bytes {
        let generation = self.store.index_generation();
        let mut made = self.capability_statement.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, statement)) = made.as_ref().filter(|(of, _)| *of == generation) {
            return statement.clone();
        }
        let (base, date) = (&self.settings.base, self.settings.started.to_instant());
        let version = env!("CARGO_PKG_VERSION");
        let mut statement = ward_fhir::capability::statement(base, version, &date, &self.store.parameters());
        crate::subscriptions::announce(&mut statement, base);
        let statement = Bytes::from(statement.to_string().into_bytes());
        *made = Some((generation, statement.clone()));
        statement
    }

    /// The id of an imported resource that has none: the same text gets the same id, so that it is not stored twice.
    /// It looks like an id that the server made, and tells as little.
    pub(crate) fn id_of(&self, kind: ResourceType, text: &[u8]) -> ResourceId {
        struct Named([u8; 16]);
        impl Random for Named {
            fn fill(&self, bytes: &mut [u8]) {
                for (byte, own) in bytes.iter_mut().zip(self.0) {
                    *byte = own;
                }
            }
        }
        ResourceId::random(&Named(self.import_ids.token128("import/id", &[kind.name().as_bytes(), text])))
    }
}

/// What does not change while the tier runs.
pub(crate) struct Settings {
    /// `https://host[:port]`.
    pub(crate) origin: String,
    /// `https://host[:port]/fhir/R4`.
    pub(crate) base: String,
    pub(crate) accept_client_ids: bool,
    pub(crate) allow_phi_in_urls: bool,
    pub(crate) idle_seconds: u32,
    pub(crate) absolute_seconds: u32,
    pub(crate) limits: AppLimits,
    /// Since when the tier runs.
    pub(crate) started: Timestamp,
    /// The origins that Subscriptions may send to.
    pub(crate) endpoints: Vec<String>,
}
