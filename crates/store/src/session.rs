//! What callers see: keys, pages and the two traits that a FHIR operation works through.

use serde_json::Value;
use ward_base::{Phi, ResourceId, Timestamp};
use ward_fhir::{ResourceType, search::Query};

use crate::{Prepared, StoreError, position};

/// A resource's identity, independent of its version.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ResourceKey {
    /// The resource type.
    pub resource_type: ResourceType,
    /// The logical id.
    pub id: ResourceId,
}

/// One version of a resource, decrypted.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Which resource.
    pub key: ResourceKey,
    /// The version, counted from 1.
    pub version: u64,
    /// When this version was written.
    pub updated: Timestamp,
    /// Whether this version is a deletion; its body is empty.
    pub deleted: bool,
    /// The JSON text with `id`, `meta.versionId` and `meta.lastUpdated`.
    pub body: Phi<Vec<u8>>,
    /// The patients in whose compartments it lies, the owner first. For a deletion, those of the version deleted.
    pub patients: Vec<ResourceId>,
}

/// What must hold for a write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Anything.
    Any,
    /// No current version: never written, or deleted.
    Absent,
    /// Some version, current or deleted: the id was given out here.
    Known,
    /// Some current, undeleted version.
    Current,
    /// This current, undeleted version.
    Version(u64),
}

/// What a write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The new version.
    pub version: u64,
    /// Its time.
    pub updated: Timestamp,
    /// Whether a current version was there before.
    pub outcome: WriteOutcome,
}

/// Whether a write made a resource or replaced one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// There was no current version.
    Created,
    /// There was one; it is history now.
    Updated,
}

/// Whose history.
#[derive(Clone, Debug)]
pub enum HistoryScope {
    /// Of one resource.
    Instance(ResourceKey),
    /// Of all resources of a type.
    Type(ResourceType),
    /// Of everything.
    System,
}

/// Which part of a long answer is wanted.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// At most so many entries.
    pub count: u32,
    /// Those after this position, or from the start.
    pub after: Option<Position>,
}

/// A place in an ordered answer that stays right while data changes.
///
/// Its bytes may hold sort keys taken from resources, so they are PHI: the caller seals them before they leave.
#[derive(Clone, PartialEq, Eq)]
pub struct Position(pub(crate) Vec<u8>);

impl Position {
    /// The bytes to seal into a paging link.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.clone()
    }

    /// Where in the history of a type, or of everything, what was stored before a moment begins.
    pub fn before(moment: Timestamp) -> Self {
        position::of_moment(moment.micros(), i64::MIN)
    }

    /// A position from the bytes of [`Position::to_bytes`]. Whether they fit a query is checked when it runs.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl std::fmt::Debug for Position {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Position(..)")
    }
}

/// A page of versions, newest first.
#[derive(Clone, Debug, Default)]
pub struct HistoryPage {
    /// The versions, deletions included.
    pub entries: Vec<Stored>,
    /// For each entry, where a page starts that begins after it.
    pub places: Vec<Position>,
    /// Where the next page starts; `None` at the end.
    pub next: Option<Position>,
    /// How many versions there are, for one resource only.
    pub total: Option<u64>,
}

/// A page of search results.
#[derive(Clone, Debug, Default)]
pub struct SearchPage {
    /// The matches, in the order asked for.
    pub hits: Vec<Stored>,
    /// What is included with them, each resource once.
    pub included: Vec<Stored>,
    /// Where the next page starts; `None` at the end.
    pub next: Option<Position>,
    /// How many match altogether, when the query asks for it.
    pub total: Option<u64>,
}

/// A current resource as it went in.
#[derive(Clone, Debug)]
pub struct Original {
    /// The JSON text, with an `id`.
    pub text: Phi<Vec<u8>>,
    /// The patients in whose compartments it lies, the owner first.
    pub patients: Vec<ResourceId>,
}

/// Originals, and where the next batch starts.
pub type ExportPage = (Vec<Original>, Option<Position>);

/// What a small sealed record is about. The numbers are stored: never reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RecordKind {
    /// A user by opaque id.
    User = 1,
    /// A user name, leading to the opaque id.
    Username = 2,
    /// An API client.
    Client = 3,
    /// A signed-in session or access token, by the hash of its token.
    Session = 4,
    /// A sign-in between password and second factor.
    Challenge = 5,
    /// An enrolment link that was not used yet.
    Enrolment = 6,
    /// A client assertion that was used, so that it cannot be replayed.
    AssertionId = 7,
    /// A counter of failed sign-ins.
    SignInFailures = 8,
    /// A setting of the installation.
    Setting = 9,
    /// A bulk export that can be fetched.
    ExportJob = 10,
    /// What the blind index is made of.
    Index = 11,
    /// A Subscription that is acted on, by its id: who wrote it, and where it stands.
    Subscription = 12,
    /// How many events a Subscription has had.
    SubscriptionEvents = 13,
    /// An event that a Subscription is yet to be told of.
    Notification = 14,
    /// How far the deliveries of a Subscription have come, and which instance is at it.
    Delivery = 15,
    /// An import by reference that is under way or over.
    ImportJob = 16,
}

impl RecordKind {
    /// As it is stored.
    pub(crate) fn number(self) -> i64 {
        i64::from(self as u8)
    }
}

/// Reading, in one consistent snapshot.
pub trait Session {
    /// The current version: `None` if it never was; a [`Stored`] with `deleted` if it was deleted.
    fn current(&mut self, key: &ResourceKey) -> Result<Option<Stored>, StoreError>;

    /// One version, current or past.
    fn version(&mut self, key: &ResourceKey, version: u64) -> Result<Option<Stored>, StoreError>;

    /// Versions, newest first.
    fn history(&mut self, scope: &HistoryScope, page: &Page) -> Result<HistoryPage, StoreError>;

    /// The current resources that match, and what is to be included with them. Every hit was decrypted and checked
    /// again with [`Query::matches`]. There is one query for each type that is searched; they differ in nothing else,
    /// and their results stand in one order.
    ///
    /// # Errors
    /// [`StoreError::TooCostly`] if more resources would have to be examined, sorted or included than the limits
    /// allow.
    fn search(&mut self, queries: &[Query], page: &Page) -> Result<SearchPage, StoreError>;

    /// Where parts of all current resources of a type begin, each of `every` resources but the last, which has no end: a
    /// search for all of them, in no order of its own, that begins at such a position ends with its part.
    fn parts(&mut self, resource_type: ResourceType, every: u32) -> Result<Vec<Position>, StoreError>;

    /// The originals of current resources, equal as JSON to what went in (with an `id`).
    fn export(
        &mut self,
        resource_type: Option<ResourceType>,
        after: Option<&Position>,
        limit: u32,
    ) -> Result<ExportPage, StoreError>;

    /// Whether the current version's original equals `resource` as JSON. `false` if there is none.
    fn original_equals(&mut self, key: &ResourceKey, resource: &Value) -> Result<bool, StoreError>;

    /// A small record that has not expired.
    fn record(&mut self, kind: RecordKind, key: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// All records of a kind that have not expired, with their keys, in no particular order.
    fn records(&mut self, kind: RecordKind) -> Result<Vec<(String, Vec<u8>)>, StoreError>;

    /// The size and root hash of the audit log that was stored last.
    fn audit_checkpoint(&mut self) -> Result<Option<(u64, [u8; 32])>, StoreError>;
}

/// Reading and writing; all of it happens, or nothing.
pub trait Transaction: Session {
    /// Stores a new version.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if `expected` does not hold.
    fn put(&mut self, prepared: &Prepared, expected: Expected) -> Result<Written, StoreError>;

    /// Marks the resource deleted and gives the version of the deletion; `None` if there was nothing to delete.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if `expected` does not hold.
    fn delete(&mut self, key: &ResourceKey, expected: Expected) -> Result<Option<u64>, StoreError>;

    /// Stores a small record, replacing any.
    fn put_record(
        &mut self,
        kind: RecordKind,
        key: &str,
        value: &[u8],
        expires: Option<Timestamp>,
    ) -> Result<(), StoreError>;

    /// Stores a small record unless one that has not expired is there; says whether it did.
    fn insert_record(
        &mut self,
        kind: RecordKind,
        key: &str,
        value: &[u8],
        expires: Option<Timestamp>,
    ) -> Result<bool, StoreError>;

    /// Removes a small record; says whether there was one.
    fn delete_record(&mut self, kind: RecordKind, key: &str) -> Result<bool, StoreError>;

    /// Removes what has expired; says how many.
    fn purge_expired(&mut self) -> Result<u64, StoreError>;

    /// Remembers the size and root hash of the audit log.
    fn set_audit_checkpoint(&mut self, size: u64, root: [u8; 32]) -> Result<(), StoreError>;
}
