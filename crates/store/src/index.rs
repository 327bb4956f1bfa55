//! What the blind index is made of, and how that changes while requests run: search parameters come and go, and its
//! key is replaced by that of a new epoch.
//!
//! One sealed record holds the [`Definition`], and every change of it a new generation. A change happens in steps, each
//! of which is compatible with the one before, because what another thread or instance knows may be one step old:
//!
//! 1. A new **search parameter** is written into the index by every write, while searches by it look at every resource
//!    that is left by their other conditions. Once nobody can be writing without it any more ([`Index::settled`]), the
//!    rest of the index is filled up. Then searches use it.
//! 2. A new **key** is first only asked by (`next`). Once everybody asks by it, writes use it, and searches go on to ask
//!    by the old one as well (`old`). Then every resource's tokens are replaced, and the old key is forgotten.
//!
//! Filling up goes through all resources of the types concerned, a few at a time: their tokens are made beside the
//! writer and put in place only if the resource is still of the version that they were made of, for whoever writes
//! makes all tokens anyway. How far it got is part of the record, in the same transaction, so that whoever is killed
//! goes on where it was.
//!
//! What names rows (ids, scopes, records) is not part of the index and keeps the first key.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use ward_fhir::ResourceType;
use ward_fhir::search::{Added, Parameters, extract};
use ward_keys::{KeyRing, Tokenizer};

use crate::{
    RecordKind, Session as _, Store, StoreError,
    links::parsed,
    read::Snapshot,
    sql,
    token::{self, type_token},
    vault::{Vault, type_of},
    write::WriteSession,
};

/// The key of the record.
const NAME: &str = "definition";
/// The first epoch, of whose key nothing is said in any record.
const FIRST_EPOCH: u32 = 1;
/// So many search parameters may be added.
const ADDED_MAX: usize = 500;
/// So many resources get new tokens in one transaction.
const FILLED_AT_ONCE: usize = 100;
/// So many rows are passed by for them.
const PASSED_AT_ONCE: i64 = 10_000;

/// What is stored of the index.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Definition {
    generation: u64,
    /// By whose key tokens are made.
    epoch: u32,
    /// An epoch that begins once everybody asks by it.
    next: Option<u32>,
    /// An epoch of which there are tokens left.
    old: Option<u32>,
    added: Vec<AddedParameter>,
    work: Option<Work>,
}

#[derive(Clone, Serialize, Deserialize)]
struct AddedParameter {
    /// Of the SearchParameter resource.
    id: String,
    /// As [`Added`] reads it.
    definition: Value,
    /// Whether the index has it for all resources.
    ready: bool,
}

/// What is left to be filled up.
#[derive(Clone, Serialize, Deserialize)]
struct Work {
    /// The types, or all.
    kinds: Option<BTreeSet<String>>,
    /// The last row that is done.
    after: i64,
    done: u64,
    /// How many there are, once they were counted.
    total: Option<u64>,
}

impl Work {
    fn concerns(&self, kind: ResourceType) -> bool {
        self.kinds.as_ref().is_none_or(|kinds| kinds.contains(kind.name()))
    }
}

impl Default for Definition {
    fn default() -> Self {
        Self { generation: 0, epoch: FIRST_EPOCH, next: None, old: None, added: Vec::new(), work: None }
    }
}

impl Definition {
    fn read(record: Option<&[u8]>) -> Result<Self, StoreError> {
        record.map_or(Ok(Self::default()), |bytes| {
            serde_json::from_slice(bytes).map_err(|_| StoreError::Corrupt)
        })
    }

    /// Sets or removes the search parameter of a resource; says whether that changes anything.
    fn set(&mut self, id: &str, added: Option<&Added>) -> Result<bool, StoreError> {
        let place = self.added.iter().position(|known| known.id == id);
        let before = place.and_then(|place| self.added.get(place));
        let before = before.and_then(|known| Added::read(&known.definition).ok().flatten());
        if before.as_ref() == added {
            return Ok(false);
        }
        if let Some(place) = place {
            self.added.remove(place);
        }
        if let Some(added) = added {
            if self.added.len() >= ADDED_MAX {
                return Err(StoreError::TooManyParameters);
            }
            let others = self.added.iter().filter_map(|known| Added::read(&known.definition).ok().flatten());
            if others.into_iter().any(|other| other.shares_a_name_with(added)) {
                return Err(StoreError::ParameterTaken);
            }
            if added.parameters(false).is_empty() {
                return Err(StoreError::TooManyParameters);
            }
            let definition = added.to_json();
            self.added.push(AddedParameter { id: id.to_owned(), definition, ready: false });
        }
        let bases = before.iter().chain(added).flat_map(|added| added.bases().iter());
        self.fill(Some(bases.map(|kind| kind.name().to_owned()).collect()));
        Ok(true)
    }

    /// Begins to fill up what concerns these types, and what was not done before.
    fn fill(&mut self, kinds: Option<BTreeSet<String>>) {
        let kinds = match self.work.take().map(|work| work.kinds) {
            Some(left) => left.zip(kinds).map(|(left, kinds)| left.union(&kinds).cloned().collect()),
            None => kinds,
        };
        self.work = Some(Work { kinds, after: 0, done: 0, total: None });
        self.generation += 1;
    }

    /// All is filled up.
    fn finish(&mut self) {
        self.work = None;
        self.old = None;
        self.added.iter_mut().for_each(|added| added.ready = true);
        self.generation += 1;
    }
}

/// The index as this instance knows it.
pub(crate) struct Index {
    definition: Definition,
    pub(crate) parameters: Arc<Parameters>,
    tokenizer: Arc<Tokenizer>,
    other: Option<Arc<Tokenizer>>,
    /// Since when this instance has known the generation.
    since: Instant,
}

impl Index {
    fn new(definition: Definition, ring: &KeyRing) -> Self {
        let mut parameters = Parameters::default();
        for known in &definition.added {
            if let Ok(Some(added)) = Added::read(&known.definition) {
                let all = added.parameters(known.ready).into_iter();
                all.for_each(|(kind, parameter)| parameters.add(kind, parameter));
            }
        }
        let of_epoch = |epoch: u32| Arc::new(ring.tokenizer_of(epoch));
        Self {
            parameters: Arc::new(parameters),
            tokenizer: of_epoch(definition.epoch),
            other: definition.next.or(definition.old).map(of_epoch),
            definition,
            since: Instant::now(),
        }
    }

    /// What the index is before anything was changed.
    pub(crate) fn first(ring: &KeyRing) -> Self {
        Self::new(Definition::default(), ring)
    }

    pub(crate) const fn generation(&self) -> u64 {
        self.definition.generation
    }

    /// By whose keys tokens may have been made: one, or two while one takes the other's place.
    pub(crate) fn tokenizers(&self) -> impl Iterator<Item = &Tokenizer> {
        std::iter::once(&*self.tokenizer).chain(self.other.as_deref())
    }

    /// The tokens of a resource as they are to be now, sorted and distinct.
    pub(crate) fn tokens(&self, kind: ResourceType, resource: &Value, base: &str) -> Vec<i64> {
        token::of_resource(&self.tokenizer, kind, &extract(kind, resource, base, &self.parameters))
    }

    /// The tokens that all resources of a type have, one by each key.
    pub(crate) fn type_tokens(&self, kind: ResourceType) -> Vec<i64> {
        self.tokenizers().map(|tokenizer| type_token(tokenizer, kind)).collect()
    }

    /// Whether nobody knows, or works by, the generation before any more.
    fn settled(&self, grace: Duration) -> bool {
        self.since.elapsed() >= grace
    }
}

/// How the index is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexStatus {
    /// By the key of which epoch tokens are made.
    pub epoch: u32,
    /// The epoch that is about to begin, or has begun while tokens of the one before are left.
    pub replacing: bool,
    /// How many search parameters were added to the specification's.
    pub parameters: usize,
    /// How many of these the index holds for all resources.
    pub parameters_ready: usize,
    /// How many resources have been filled up, and how many there are, if they were counted; nothing if there is
    /// nothing to do.
    pub progress: Option<(u64, Option<u64>)>,
}

/// New tokens for a resource.
struct Filled {
    rid: i64,
    version: u64,
    tokens: Vec<i64>,
}

impl Store {
    /// The search parameters that are in use.
    pub fn parameters(&self) -> Arc<Parameters> {
        Arc::clone(&self.0.vault.index().parameters)
    }

    /// A number that changes with the search parameters.
    pub fn index_generation(&self) -> u64 {
        self.0.vault.index().generation()
    }

    /// Learns what others changed of the index.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] and [`StoreError::Corrupt`].
    pub async fn refresh_index(&self) -> Result<(), StoreError> {
        self.read_with(load).await
    }

    /// How the index is doing.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] and [`StoreError::Corrupt`].
    pub async fn index_status(&self) -> Result<IndexStatus, StoreError> {
        self.refresh_index().await?;
        let definition = self.0.vault.index().definition.clone();
        Ok(IndexStatus {
            epoch: definition.epoch,
            replacing: definition.next.or(definition.old).is_some(),
            parameters: definition.added.len(),
            parameters_ready: definition.added.iter().filter(|added| added.ready).count(),
            progress: definition.work.map(|work| (work.done, work.total)),
        })
    }

    /// Begins a new epoch of the index's key.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if one is on its way.
    pub async fn replace_index_key(&self) -> Result<(), StoreError> {
        self.change(|definition| {
            if definition.next.or(definition.old).is_some() {
                return Err(StoreError::Conflict);
            }
            definition.next = Some(definition.epoch + 1);
            definition.generation += 1;
            Ok(())
        })
        .await
    }

    /// Does the next bit of what is to be done; says whether there is more to do at once. To be called by every
    /// instance from time to time.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] and [`StoreError::Corrupt`].
    pub async fn advance_index(&self) -> Result<bool, StoreError> {
        self.refresh_index().await?;
        let index = self.0.vault.index();
        if !index.settled(self.0.vault.index_grace) {
            return Ok(false);
        }
        let generation = index.generation();
        if index.definition.next.is_some() {
            let begin = move |definition: &mut Definition| {
                if definition.generation == generation {
                    definition.old = Some(definition.epoch);
                    definition.epoch = definition.next.take().unwrap_or(definition.epoch);
                    definition.fill(None);
                }
                Ok(())
            };
            return self.change(begin).await.map(|()| false);
        }
        let Some(work) = index.definition.work.clone() else { return Ok(false) };
        let after = work.after;
        let found = self.read_with(move |snapshot| next_filled(snapshot, &work)).await?;
        let (filled, passed, total) = found;
        self.write_with(move |session| {
            let mut definition = session.index_definition()?;
            let same = definition.generation == generation;
            let Some(work) = definition.work.as_mut().filter(|work| same && work.after == after) else {
                // Somebody else did it.
                return Ok(false);
            };
            work.done += filled.len() as u64;
            work.total = Some(total);
            match passed {
                Some(passed) => work.after = passed,
                None => definition.finish(),
            }
            let more = definition.work.is_some();
            for one in &filled {
                session.refill(one.rid, one.version, &one.tokens)?;
            }
            session.set_index_definition(&definition)?;
            Ok(more)
        })
        .await
    }

    async fn change(
        &self,
        mut change: impl FnMut(&mut Definition) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<(), StoreError> {
        self.write_with(move |session| {
            let mut definition = session.index_definition()?;
            change(&mut definition)?;
            session.set_index_definition(&definition)
        })
        .await
    }
}

/// Reads the definition and goes by it from now on.
pub(crate) fn load(snapshot: &mut Snapshot<'_>) -> Result<(), StoreError> {
    let asked = Instant::now();
    let definition = Definition::read(snapshot.record(RecordKind::Index, NAME)?.as_deref())?;
    snapshot.vault.know_index(definition, asked);
    Ok(())
}

impl Vault {
    fn know_index(&self, definition: Definition, asked: Instant) {
        self.replace_index(asked, |known| {
            // Progress alone changes no generation, and nothing of what follows from it.
            if known.generation() != definition.generation {
                return Index::new(definition, &self.ring);
            }
            Index {
                definition,
                parameters: Arc::clone(&known.parameters),
                tokenizer: Arc::clone(&known.tokenizer),
                other: known.other.clone(),
                since: known.since,
            }
        });
    }
}

/// The next resources that get new tokens, the last row that was passed (nothing at the end), and how many there are
/// in all.
fn next_filled(
    snapshot: &mut Snapshot<'_>,
    work: &Work,
) -> Result<(Vec<Filled>, Option<i64>, u64), StoreError> {
    let total = match work.total {
        Some(total) => total,
        None => count(snapshot, work)?,
    };
    let parameters = [sql::SHARD.into(), work.after.into(), PASSED_AT_ONCE.into()];
    let (mut passed, mut rows, mut wanted) = (None, 0, Vec::new());
    snapshot.connection.each(sql::CURRENT_TYPES, &parameters, |row| {
        let rid = row.integer(0)?;
        passed = Some(rid);
        rows += 1;
        if work.concerns(type_of(row.integer(1)?)?) {
            wanted.push(rid);
        }
        Ok(if wanted.len() >= FILLED_AT_ONCE { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    let ended = rows < PASSED_AT_ONCE && wanted.len() < FILLED_AT_ONCE;
    snapshot.fetch_ahead(&wanted)?;
    let index = Arc::clone(&snapshot.index);
    let filled = wanted.into_iter().map(|rid| {
        let opened = snapshot.by_rid(rid)?;
        let tokens = index.tokens(opened.resource_type, &parsed(&opened)?, &snapshot.vault.base_url);
        Ok(Filled { rid, version: opened.version, tokens })
    });
    let filled = filled.collect::<Result<Vec<_>, StoreError>>()?;
    Ok((filled, passed.filter(|_| !ended), total))
}

fn count(snapshot: &Snapshot<'_>, work: &Work) -> Result<u64, StoreError> {
    let mut total = 0;
    for kind in ResourceType::all().filter(|kind| work.concerns(*kind)) {
        total += snapshot.count_of(kind)?;
    }
    Ok(total)
}

impl WriteSession<'_> {
    /// The definition, which nobody else changes before the commit.
    fn index_definition(&mut self) -> Result<Definition, StoreError> {
        Definition::read(self.record(RecordKind::Index, NAME)?.as_deref())
    }

    fn set_index_definition(&mut self, definition: &Definition) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(definition).map_err(|_| StoreError::Unstorable)?;
        self.write_record(RecordKind::Index, NAME, &bytes, None)?;
        self.vault().index_changes();
        self.changes_index = true;
        Ok(())
    }

    /// A SearchParameter resource adds this now, or nothing any more.
    pub(crate) fn search_parameter(&mut self, id: &str, added: Option<&Added>) -> Result<(), StoreError> {
        let mut definition = self.index_definition()?;
        if definition.set(id, added)? {
            self.set_index_definition(&definition)?;
        }
        Ok(())
    }

    /// Whether the index still is what this operation went by; if so, it stays so until the commit.
    pub(crate) fn index_is_current(&mut self) -> Result<bool, StoreError> {
        // Who changes it has locked it.
        Ok(self.changes_index || self.index_definition()?.generation == self.index().generation())
    }
}
