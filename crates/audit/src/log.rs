use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use ward_base::{ResourceId, SystemRandom};

use crate::files::{CHECKPOINT, Directory, JOURNAL, KEY, failed};
use crate::format::{Line, Outline, Token, patient_token};
use crate::index::{Index, SEGMENT};
use crate::journal::{self, Journal, Tail};
use crate::layout::{self, Kind, Tile};
use crate::merkle::{Hash, Tree, WIDTH, leaf};
use crate::note::{Checkpoint, NoteError, is_name};
use crate::{Access, AuditError, AuditKeys, Entry};

/// The journal is begun anew when it holds so many entries or bytes.
const JOURNAL_ENTRIES: u64 = 16_384;
const JOURNAL_BYTES: u64 = 32 << 20;
/// A batch of more bytes becomes several records of the journal.
const RECORD_BYTES: usize = 16 << 20;

/// One append-only log in one directory, open for writing. Blocking; one writer at a time.
///
/// Dropping it leaves the directory a complete log in the standard layout, if the disk allows; [`Log::close`] also
/// says whether it did.
pub struct Log {
    directory: Directory,
    keys: Arc<AuditKeys>,
    tree: Tree,
    /// The entries of the bundle that is not full.
    recent: Vec<Vec<u8>>,
    journal: Writer,
    /// The size that the file `checkpoint` names.
    published: u64,
    index: Index,
    /// A write failed, or is under way.
    poisoned: bool,
    dropped_bytes: usize,
}

/// Where a batch went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The number of its first entry. An event of very many patients takes several.
    pub first: u64,
    /// The entries of the log, now.
    pub size: u64,
}

struct Writer {
    file: File,
    base: u64,
    /// What was written.
    length: u64,
    /// Where the zeros after it end, and the file.
    room_end: u64,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Log(..)")
    }
}

impl Log {
    /// Opens the log in `directory`, or begins one. Whatever was acknowledged before a crash is there; an append that
    /// was not is there whole or not at all.
    ///
    /// Fails if it is open elsewhere, if it belongs to other keys, or if it is damaged in a way that a crash does
    /// not explain.
    pub fn open(directory: &Path, keys: Arc<AuditKeys>) -> Result<Self, AuditError> {
        if !is_name(keys.origin()) {
            return Err(AuditError::Origin);
        }
        let mut directory = Directory::lock(directory)?;
        let key = format!("{}\n", keys.verifier_key());
        let stored = directory.read(KEY)?;
        if stored.as_ref().is_some_and(|stored| stored != key.as_bytes()) {
            return Err(AuditError::OtherKey);
        }
        directory.clear_temporary(true)?;
        if stored.is_none() {
            directory.write(KEY, &[key.as_bytes()])?;
        }
        let published = published(&directory, &keys)?;
        let recovered = match (directory.read(JOURNAL)?, &published) {
            (Some(bytes), _) => Recovered::from_journal(&directory, &keys, &bytes, published.as_ref())?,
            (None, Some(checkpoint)) => Recovered::from_tiles(&directory, checkpoint)?,
            (None, None) => Recovered::default(),
        };
        let Recovered { tree, tiles, entries, dropped_bytes } = recovered;
        // What is there stays as it is, though its name may not be durable; what a crash kept from being written is
        // written now.
        let mut lost = Vec::new();
        for (tile, bytes) in tiles {
            directory.unsynced(&tile.path());
            if directory.read(&tile.path())?.is_none_or(|found| found != bytes) {
                lost.push((tile, bytes));
            }
        }
        directory.write_tiles(&lost, || Ok(()))?;
        let published = published.map(|checkpoint| checkpoint.size);
        publish(&mut directory, &keys, &tree, &entries, published)?;
        let mut log = Self {
            journal: Writer::begin(&mut directory, &keys, &tree, &entries)?,
            index: Index::new(directory.path(), keys.index().clone()),
            published: tree.size(),
            directory,
            keys,
            tree,
            recent: entries,
            poisoned: true,
            dropped_bytes,
        };
        for (entry, tokens) in log.tokens(log.size() / SEGMENT * SEGMENT, log.size())? {
            log.index.add(entry, &tokens, &[0; 32]);
        }
        log.poisoned = false;
        Ok(log)
    }

    /// Adds a batch. When it returns, the entries and a signature under a checkpoint over them are durable. After a
    /// crash a batch that was not acknowledged is there whole or not at all, or if it is beyond 16 MiB up to somewhere.
    /// One `fdatasync`, and for every 256 entries two more at the same time.
    ///
    /// After a failure other than [`AuditError::TooLarge`] the log takes no more; the batch may or may not be found
    /// when it is opened again.
    pub fn append(&mut self, entries: &[Entry]) -> Result<Appended, AuditError> {
        if self.poisoned {
            return Err(AuditError::Poisoned);
        }
        let first = self.size();
        let mut lines = Vec::with_capacity(entries.len());
        for entry in entries {
            entry.encode(&self.keys, &SystemRandom, &mut lines)?;
        }
        let mut lines = lines.into_iter().peekable();
        while let Some(line) = lines.next() {
            let mut bytes = line.bytes.len();
            let mut record = vec![line];
            while let Some(line) = lines.next_if(|line| bytes + line.bytes.len() <= RECORD_BYTES) {
                bytes += line.bytes.len();
                record.push(line);
            }
            self.append_lines(record)?;
        }
        Ok(Appended { first, size: self.size() })
    }

    fn append_lines(&mut self, lines: Vec<Line>) -> Result<(), AuditError> {
        let mut tree = self.tree.clone();
        let mut full = Vec::new();
        let leaves: Vec<Hash> = lines.iter().map(|line| leaf(&line.bytes)).collect();
        for leaf in &leaves {
            tree.push(*leaf, |level, index, hashes| {
                full.push((Tile::full(Kind::Hashes(level), index), hashes.as_flattened().to_vec()));
            });
        }
        let bytes = lines.iter().map(|line| line.bytes.as_slice());
        let record = journal::record(self.journal.base, self.journal.length, bytes, &self.keys.sign(&tree))
            .ok_or(AuditError::TooLarge)?;
        if tree.size() / WIDTH > self.tree.size() / WIDTH {
            let before = self.recent.iter().map(Vec::as_slice);
            let added = lines.iter().map(|line| line.bytes.as_slice());
            full.extend(full_bundles(self.tree.size() / WIDTH, before.chain(added))?);
        }
        // Until the end: what fails, or panics, leaves the log closed to more, and as it was to readers.
        self.poisoned = true;
        let journal = &mut self.journal;
        self.directory.write_tiles(&full, || journal.append(&record))?;
        for (entry, (line, leaf)) in (self.tree.size()..).zip(lines.iter().zip(&leaves)) {
            self.index.add(entry, &line.patients, leaf);
        }
        self.recent.extend(lines.into_iter().map(|line| line.bytes));
        self.recent.drain(..self.recent.len() - tree.edge().first().map_or(0, Vec::len));
        self.tree = tree;
        if self.size() - self.journal.base >= JOURNAL_ENTRIES || self.journal.length >= JOURNAL_BYTES {
            self.publish_now()?;
            self.journal = Writer::begin(&mut self.directory, &self.keys, &self.tree, &self.recent)?;
        }
        self.poisoned = false;
        Ok(())
    }

    /// Writes the file `checkpoint` and the partial tiles for the present size, durably, so that a reader of the
    /// standard layout sees every entry. The log does so by itself every 16,384 entries and when it is closed.
    pub fn publish(&mut self) -> Result<(), AuditError> {
        if self.poisoned {
            return Err(AuditError::Poisoned);
        }
        self.poisoned = true;
        self.publish_now()?;
        self.poisoned = false;
        Ok(())
    }

    fn publish_now(&mut self) -> Result<(), AuditError> {
        publish(&mut self.directory, &self.keys, &self.tree, &self.recent, Some(self.published))?;
        self.published = self.tree.size();
        Ok(())
    }

    /// Closes the log. The directory then holds a complete log in the standard layout and no journal.
    pub fn close(mut self) -> Result<(), AuditError> {
        self.finish()
    }

    fn finish(&mut self) -> Result<(), AuditError> {
        if self.poisoned {
            return Err(AuditError::Poisoned);
        }
        self.poisoned = true;
        self.publish_now()?;
        self.directory.clear_temporary(false)?;
        self.directory.remove(JOURNAL)?;
        self.directory.sync()
    }

    /// The number of acknowledged entries.
    pub fn size(&self) -> u64 {
        self.tree.size()
    }

    /// The Merkle root over all of them.
    pub fn root(&self) -> [u8; 32] {
        self.tree.root()
    }

    /// The signed checkpoint over all of them, to be remembered elsewhere: by another host, in print. Whoever has it
    /// notices if this log is later cut short or rewritten.
    pub fn checkpoint(&self) -> String {
        self.keys.note(&self.tree)
    }

    /// Bytes of an unacknowledged append that were found and dropped when the log was opened. Worth an entry.
    pub const fn dropped_bytes(&self) -> usize {
        self.dropped_bytes
    }

    /// The root when the log had `size` entries, from the hashes on the disk: equal to the one in any checkpoint of
    /// that size, or the log was rewritten.
    pub fn root_at(&self, size: u64) -> Result<[u8; 32], AuditError> {
        if size > self.size() {
            return Err(AuditError::Beyond);
        }
        let mut edge = Vec::new();
        for level in 0..8 {
            let Some(tile) = Tile::partial(Kind::Hashes(level), size) else {
                edge.push(Vec::new());
                continue;
            };
            let width = usize::from(tile.width);
            let inner = self.tree.edge().get(usize::from(level)).and_then(|hashes| hashes.get(..width));
            let own =
                Tile::partial(Kind::Hashes(level), self.size()).is_some_and(|own| own.index == tile.index);
            edge.push(match inner {
                Some(hashes) if own => hashes.to_vec(),
                _ => self.directory.hashes(level, tile.index, u64::from(tile.width))?,
            });
        }
        Ok(Tree::new(size, edge).root())
    }

    /// The last `most` entries that name `patient`, oldest first.
    pub fn patient_entries(&self, patient: &ResourceId, most: usize) -> Result<Vec<Access>, AuditError> {
        let token = patient_token(&self.keys, patient);
        let segments = self.size() / SEGMENT;
        let mut found = Vec::new();
        for segment in 0..segments {
            let last = self.last_leaf(segment)?;
            let entries = match self.index.find(segment, &last, token) {
                Some(entries) => entries,
                None => {
                    let tokens = self.tokens(segment * SEGMENT, (segment + 1) * SEGMENT)?;
                    self.index.rebuild(segment, &last, &tokens, token)
                }
            };
            found.extend(entries);
        }
        found.extend(self.index.find_recent(token));
        found.drain(..found.len().saturating_sub(most));
        let mut accesses = Vec::with_capacity(found.len());
        let mut bundle = Bundle::default();
        for entry in found {
            let bytes = bundle.entry(self, entry)?;
            if Outline::read(bytes).is_some_and(|outline| outline.patients.contains(&token)) {
                accesses.push(Access::open(&self.keys, entry, bytes)?);
            }
        }
        Ok(accesses)
    }

    /// The last `count` entries, oldest first.
    pub fn latest(&self, count: u64) -> Result<Vec<Access>, AuditError> {
        let mut bundle = Bundle::default();
        (self.size().saturating_sub(count)..self.size())
            .map(|entry| Access::open(&self.keys, entry, bundle.entry(self, entry)?))
            .collect()
    }

    /// The hash of the last entry of a full segment.
    fn last_leaf(&self, segment: u64) -> Result<Hash, AuditError> {
        let tile = ((segment + 1) * SEGMENT - 1) / WIDTH;
        let hashes = self.directory.hashes(0, tile, WIDTH)?;
        hashes.last().copied().ok_or_else(|| damaged("tile", "a tile is empty"))
    }

    fn tokens(&self, from: u64, to: u64) -> Result<Vec<(u64, Vec<Token>)>, AuditError> {
        let mut bundle = Bundle::default();
        (from..to)
            .map(|entry| {
                let outline = Outline::read(bundle.entry(self, entry)?);
                let file = Tile::full(Kind::Entries, entry / WIDTH).path();
                let what = "an entry is not in a format known here";
                Ok((entry, outline.ok_or(AuditError::Damaged { file, what })?.patients))
            })
            .collect()
    }

    fn bundle(&self, bundle: u64) -> Result<Vec<u8>, AuditError> {
        if bundle == self.size() / WIDTH {
            return bundle_of(&self.recent);
        }
        let name = Tile::full(Kind::Entries, bundle).path();
        let bytes = self.directory.read(&name)?.ok_or_else(|| damaged(&name, "it is missing"))?;
        layout::entries(&bytes, WIDTH).ok_or_else(|| damaged(&name, "it is not a full bundle"))?;
        Ok(bytes)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // Nobody is left to tell. What does not succeed here is done when the log is opened again.
        let _ = self.finish();
    }
}

/// The bundle read last.
#[derive(Default)]
struct Bundle(Option<(u64, Vec<u8>)>);

impl Bundle {
    fn entry(&mut self, log: &Log, entry: u64) -> Result<&[u8], AuditError> {
        let number = entry / WIDTH;
        let bytes = match self.0.take() {
            Some((known, bytes)) if known == number => bytes,
            _ => log.bundle(number)?,
        };
        let (_, bytes) = self.0.insert((number, bytes));
        let mut rest = bytes.as_slice();
        for _ in 0..entry % WIDTH {
            rest = layout::take_entry(rest).ok_or(AuditError::Beyond)?.1;
        }
        layout::take_entry(rest).map(|(entry, _)| entry).ok_or(AuditError::Beyond)
    }
}

impl Writer {
    /// Begins a journal that holds the entries of the bundle that is not full, and the signature under `tree`. It
    /// takes the place of the one before when it is durable, and only once every full tile is.
    fn begin(
        directory: &mut Directory,
        keys: &AuditKeys,
        tree: &Tree,
        recent: &[Vec<u8>],
    ) -> Result<Self, AuditError> {
        let base = tree.size() - recent.len() as u64;
        let header = journal::header(base);
        let record =
            journal::record(base, header.len() as u64, recent.iter().map(Vec::as_slice), &keys.sign(tree))
                .ok_or(AuditError::TooLarge)?;
        directory.sync()?;
        let file = directory.write(JOURNAL, &[&header, &record, &[0; journal::ROOM]])?;
        directory.sync()?;
        let length = (header.len() + record.len()) as u64;
        Ok(Self { file, base, length, room_end: length + journal::ROOM as u64 })
    }

    fn append(&mut self, record: &[u8]) -> Result<(), AuditError> {
        let end = self.length + record.len() as u64;
        let grows = end > self.room_end;
        self.file
            .write_all_at(record, self.length)
            .and_then(|()| if grows { self.file.write_all_at(&[0; journal::ROOM], end) } else { Ok(()) })
            .and_then(|()| self.file.sync_data())
            .map_err(|source| failed(JOURNAL, source))?;
        self.length = end;
        if grows {
            self.room_end = end + journal::ROOM as u64;
        }
        Ok(())
    }
}

/// What a directory holds when it is opened.
#[derive(Default)]
struct Recovered {
    tree: Tree,
    /// Full tiles that follow from the journal.
    tiles: Vec<(Tile, Vec<u8>)>,
    /// The entries of the bundle that is not full.
    entries: Vec<Vec<u8>>,
    dropped_bytes: usize,
}

impl Recovered {
    /// A log that was closed: the checkpoint and the tiles are all.
    fn from_tiles(directory: &Directory, checkpoint: &Checkpoint) -> Result<Self, AuditError> {
        let size = checkpoint.size;
        let base = size / WIDTH * WIDTH;
        let next = Tile::full(Kind::Entries, size / WIDTH).path();
        if directory.read(&next)?.is_some() {
            return Err(damaged(JOURNAL, "it is missing, though there are entries after the checkpoint"));
        }
        let mut tree = tree_at(directory, base)?;
        let mut entries = Vec::new();
        if let Some(tile) = Tile::partial(Kind::Entries, size) {
            let name = tile.path();
            let bytes = directory.read(&name)?.ok_or_else(|| damaged(&name, "it is missing"))?;
            let found = layout::entries(&bytes, u64::from(tile.width));
            for entry in found.ok_or_else(|| damaged(&name, "it is not a bundle"))? {
                tree.push(leaf(entry), |_, _, _| {});
                entries.push(entry.to_vec());
            }
        }
        if tree.root() != checkpoint.root {
            return Err(damaged("tile", "its entries and hashes do not lead to the checkpoint"));
        }
        Ok(Self { tree, entries, ..Self::default() })
    }

    /// A log that was not closed: the journal says what came after the full tiles.
    fn from_journal(
        directory: &Directory,
        keys: &AuditKeys,
        bytes: &[u8],
        published: Option<&Checkpoint>,
    ) -> Result<Self, AuditError> {
        let journal = Journal::read(bytes).ok_or_else(|| damaged(JOURNAL, "it does not begin as one"))?;
        let mut dropped_bytes = match journal.tail {
            Tail::Clean => 0,
            Tail::Torn(bytes) | Tail::Garbled(bytes) => bytes,
            Tail::Damaged => return Err(damaged(JOURNAL, "a batch in it was altered")),
        };
        let (mut records, end) = (journal.records, journal.end);
        let before = tree_at(directory, journal.base)?;
        // The signature under the last batch covers all before it. If it is not good, that batch may have been torn,
        // unless something follows it; the one before was acknowledged and must be good.
        let mut tree = before.clone();
        let mut last_good = false;
        for torn in [false, true] {
            if torn {
                let Some(record) = records.pop().filter(|_| dropped_bytes == 0) else { break };
                dropped_bytes = end - record.position;
            }
            tree = before.clone();
            for entry in records.iter().flat_map(|record| &record.entries) {
                tree.push(leaf(entry), |_, _, _| {});
            }
            last_good = records.last().is_some_and(|record| keys.is_signed(&tree, &record.signature));
            if last_good {
                break;
            }
        }
        if !last_good {
            return Err(damaged(
                JOURNAL,
                "its signature is not that of its entries and the tiles before them",
            ));
        }
        // A checkpoint is published before the journal after it is begun, and the journal reaches beyond it.
        let checkpoint = published.ok_or_else(|| damaged(CHECKPOINT, "it is missing"))?;
        let is_published = |tree: &Tree| tree.size() == checkpoint.size && tree.root() == checkpoint.root;
        let entries: Vec<&[u8]> = records.into_iter().flat_map(|record| record.entries).collect();
        let mut tiles = full_bundles(before.size() / WIDTH, entries.iter().copied())?;
        let mut rebuilt = before;
        let mut leads = is_published(&rebuilt);
        for entry in &entries {
            rebuilt.push(leaf(entry), |level, index, hashes| {
                tiles.push((Tile::full(Kind::Hashes(level), index), hashes.as_flattened().to_vec()));
            });
            leads |= is_published(&rebuilt);
        }
        if !leads {
            return Err(damaged(JOURNAL, "it does not lead to the published checkpoint"));
        }
        let full = entries.len() - tree.edge().first().map_or(0, Vec::len);
        let entries = entries.into_iter().skip(full).map(<[u8]>::to_vec).collect();
        Ok(Self { tree, tiles, entries, dropped_bytes })
    }
}

/// Writes the checkpoint of `tree` and the partial tiles that go with it, and makes all durable; `before` is the size
/// that was published before.
fn publish(
    directory: &mut Directory,
    keys: &AuditKeys,
    tree: &Tree,
    recent: &[Vec<u8>],
    before: Option<u64>,
) -> Result<(), AuditError> {
    let mut tiles = Vec::new();
    for tile in Tile::partials(tree.size()) {
        let bytes = match tile.kind {
            Kind::Entries => bundle_of(recent)?,
            Kind::Hashes(level) => {
                let hashes = tree.edge().get(usize::from(level));
                hashes.map(|hashes| hashes.as_flattened().to_vec()).unwrap_or_default()
            }
        };
        // Its name, too, must be durable before a checkpoint is: once the log is closed this tile is the only place
        // of its entries. Whoever wrote it may have been killed before seeing to that.
        directory.unsynced(&tile.path());
        if directory.read(&tile.path())?.is_none_or(|found| found != bytes) {
            tiles.push((tile, bytes));
        }
    }
    let changed = before != Some(tree.size()) || !tiles.is_empty();
    directory.write_tiles(&tiles, || Ok(()))?;
    // Tiles before the checkpoint that promises them.
    directory.sync()?;
    if !changed {
        return Ok(());
    }
    directory.write(CHECKPOINT, &[keys.note(tree).as_bytes()])?;
    directory.sync()?;
    // If a crash comes first, tiles stay that are true and no longer needed.
    for tile in Tile::partials(before.unwrap_or(0)) {
        if Tile::partial(tile.kind, tree.size()) != Some(tile) {
            directory.remove_partial(tile)?;
        }
    }
    Ok(())
}

/// The full bundles among `entries`, which begin with the first of bundle `first`.
fn full_bundles<'a>(
    first: u64,
    entries: impl Iterator<Item = &'a [u8]>,
) -> Result<Vec<(Tile, Vec<u8>)>, AuditError> {
    let mut bundles = Vec::new();
    let (mut bundle, mut index) = (Vec::new(), first);
    for (number, entry) in (1..).zip(entries) {
        layout::put_entry(&mut bundle, entry).ok_or(AuditError::TooLarge)?;
        if number % WIDTH == 0 {
            bundles.push((Tile::full(Kind::Entries, index), std::mem::take(&mut bundle)));
            index += 1;
        }
    }
    Ok(bundles)
}

/// The checkpoint that outsiders may have seen.
fn published(directory: &Directory, keys: &AuditKeys) -> Result<Option<Checkpoint>, AuditError> {
    let Some(note) = directory.read(CHECKPOINT)? else { return Ok(None) };
    match keys.verifier().open(&note) {
        Ok(checkpoint) if checkpoint.origin == keys.origin() => Ok(Some(checkpoint)),
        Ok(_) => Err(AuditError::OtherKey),
        Err(NoteError::Unsigned) => Err(damaged(CHECKPOINT, "it is not signed by the key of this log")),
        Err(NoteError::Malformed) => Err(damaged(CHECKPOINT, "it is not a signed checkpoint")),
    }
}

/// The tree of the first `size` entries, a multiple of 256, from full tiles.
fn tree_at(directory: &Directory, size: u64) -> Result<Tree, AuditError> {
    let edge = (0..8).map(|level| match Tile::partial(Kind::Hashes(level), size) {
        Some(tile) => directory.hashes(level, tile.index, u64::from(tile.width)),
        None => Ok(Vec::new()),
    });
    Ok(Tree::new(size, edge.collect::<Result<_, _>>()?))
}

fn bundle_of(entries: &[Vec<u8>]) -> Result<Vec<u8>, AuditError> {
    let mut bundle = Vec::new();
    for entry in entries {
        layout::put_entry(&mut bundle, entry).ok_or(AuditError::TooLarge)?;
    }
    Ok(bundle)
}

fn damaged(file: &str, what: &'static str) -> AuditError {
    AuditError::Damaged { file: file.to_owned(), what }
}
