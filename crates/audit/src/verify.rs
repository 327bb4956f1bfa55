use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use ward_base::Timestamp;

use crate::VerifyError;
use crate::files::{self, CHECKPOINT, INDEX, JOURNAL, KEY, TEMPORARY};
use crate::format::Outline;
use crate::journal::{Journal, Tail};
use crate::layout::{self, Kind, Tile};
use crate::merkle::{Hash, Tree, WIDTH, leaf};
use crate::note::{Checkpoint, NoteError, VerifierKey};

/// Attempts to see a directory whole that is being written.
const ATTEMPTS: u32 = 20;
const ATTEMPTS_MISSING: u32 = 3;

/// What was proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The number of entries.
    pub entries: u64,
    /// The Merkle root over all of them.
    pub root: [u8; 32],
    /// The name of the log, which is the name of its key.
    pub origin: String,
    /// The time of the first entry.
    pub first: Option<Timestamp>,
    /// The time of the last entry.
    pub last: Option<Timestamp>,
    /// Bytes at the end of the journal of an append that never finished, and so was never acknowledged.
    pub torn_bytes: usize,
}

/// Proves the log in `directory`, from its bytes alone: every entry hashes into the tiles, the tiles into the root of
/// a checkpoint, and the key signed it; no file is missing and none is too many. After a crash the same is proven of
/// the journal, so that everything that was acknowledged is covered. A log that is being written is proven up to
/// about now. The index is passed over: nothing follows from it.
///
/// `key` is the verifier key from a trusted place. Without it the one in the directory is taken, which proves that
/// the log is consistent and not who wrote it. What nobody can see from the directory alone is that the newest entries
/// were cut off together with every trace of them: compare with a checkpoint that was kept elsewhere.
pub fn verify(directory: &Path, key: Option<&str>) -> Result<Verified, VerifyError> {
    let snapshot = Snapshot::take(directory)?;
    let stored = snapshot.key.strip_suffix('\n').and_then(VerifierKey::parse);
    let stored = stored.ok_or_else(|| altered(KEY, "it is not a verifier key"))?;
    if let Some(key) = key {
        let key = VerifierKey::parse(key.trim()).ok_or(VerifyError::Key)?;
        if key != stored {
            return Err(VerifyError::OtherKey);
        }
    }
    let checkpoint = stored.open(&snapshot.checkpoint).map_err(|error| match error {
        NoteError::Malformed => altered(CHECKPOINT, "it is not a signed checkpoint"),
        NoteError::Unsigned => altered(CHECKPOINT, "it is not signed by the key of this log"),
    })?;
    if checkpoint.origin != stored.name() {
        return Err(altered(CHECKPOINT, "it names another log than its key does"));
    }
    let journal = match &snapshot.journal {
        Some(bytes) => {
            Some(Journal::read(bytes).ok_or_else(|| altered(JOURNAL, "it does not begin as one"))?)
        }
        None => None,
    };
    Proof::new(directory, &stored, &checkpoint, journal.as_ref(), &snapshot)?.run()
}

/// The small and the changing files, all of one moment.
struct Snapshot {
    key: String,
    checkpoint: Vec<u8>,
    journal: Option<Vec<u8>>,
    /// The full tiles and bundles that are there.
    full: BTreeSet<Tile>,
    /// The partial ones, with their bytes, by the full one that they become.
    partial: BTreeMap<Tile, Vec<Partial>>,
}

type Partial = (Tile, Vec<u8>);

impl Snapshot {
    fn take(directory: &Path) -> Result<Self, VerifyError> {
        let mut attempt = 1;
        loop {
            let before = moment(directory);
            let taken = Self::read(directory);
            // A file may go between being listed and being read; one that is really missing stays missing.
            let settled = before == moment(directory) && (taken.is_ok() || attempt >= ATTEMPTS_MISSING);
            if settled || attempt >= ATTEMPTS {
                return taken;
            }
            attempt += 1;
        }
    }

    fn read(directory: &Path) -> Result<Self, VerifyError> {
        let mut tiles = Vec::new();
        for (name, kind) in list(directory, "")? {
            match (name.as_str(), kind) {
                (CHECKPOINT | KEY | JOURNAL, Found::File) | (INDEX | TEMPORARY, Found::Directory) => {}
                ("tile", Found::Directory) => walk(directory, "tile", &mut tiles)?,
                _ => return Err(VerifyError::Surplus { directory: ".".to_owned() }),
            }
        }
        let mut full = BTreeSet::new();
        let mut partial: BTreeMap<Tile, Vec<Partial>> = BTreeMap::new();
        for tile in tiles {
            if tile.is_full() {
                full.insert(tile);
            } else {
                let bytes = demand(directory, &tile.path())?;
                partial.entry(Tile::full(tile.kind, tile.index)).or_default().push((tile, bytes));
            }
        }
        // The journal last: it then knows of every tile that was found.
        let key = String::from_utf8(demand(directory, KEY)?);
        Ok(Self {
            key: key.map_err(|_| altered(KEY, "it is not text"))?,
            checkpoint: demand(directory, CHECKPOINT)?,
            journal: read_journal(directory)?,
            full,
            partial,
        })
    }
}

/// The journal as it was at some moment. Who reads while a writer fills its room may meet the end of a record without
/// its beginning; so it is read until what was read is still there when it is read again.
fn read_journal(directory: &Path) -> Result<Option<Vec<u8>>, VerifyError> {
    let mut bytes = read(directory, JOURNAL)?;
    for _ in 1..ATTEMPTS {
        let Some(written) = bytes.as_deref().and_then(|found| found.get(..Journal::read(found)?.end)) else {
            break;
        };
        let again = read(directory, JOURNAL)?;
        if again.as_deref().is_some_and(|again| again.starts_with(written)) {
            break;
        }
        bytes = again;
    }
    Ok(bytes)
}

/// What changes when a writer publishes or begins a new journal. Nothing is opened: it may not be a file.
fn moment(directory: &Path) -> [Option<(u64, i64, i64)>; 2] {
    [CHECKPOINT, JOURNAL].map(|name| {
        let found = std::fs::symlink_metadata(directory.join(name)).ok()?;
        // A journal is appended to all the time; what matters is whether it is another one.
        let changed = if name == JOURNAL { (0, 0) } else { (found.mtime(), found.mtime_nsec()) };
        Some((found.ino(), changed.0, changed.1))
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    File,
    Directory,
    Other,
}

fn list(root: &Path, name: &str) -> Result<Vec<(String, Found)>, VerifyError> {
    let failed = |source: io::Error| VerifyError::Io { file: shown(name), source };
    let mut found = Vec::new();
    for item in std::fs::read_dir(root.join(name)).map_err(failed)? {
        let item = item.map_err(failed)?;
        let kind = item.file_type().map_err(failed)?;
        let kind = match (kind.is_file(), kind.is_dir()) {
            (true, _) => Found::File,
            (_, true) => Found::Directory,
            _ => Found::Other,
        };
        let Ok(name) = item.file_name().into_string() else {
            return Err(VerifyError::Surplus { directory: shown(name) });
        };
        found.push((name, kind));
    }
    Ok(found)
}

/// Every tile below `name`; anything else there is too many.
fn walk(root: &Path, name: &str, tiles: &mut Vec<Tile>) -> Result<(), VerifyError> {
    for (child, kind) in list(root, name)? {
        let path = format!("{name}/{child}");
        match kind {
            Found::File => match Tile::parse(&path) {
                Some(tile) => tiles.push(tile),
                None => return Err(VerifyError::Surplus { directory: shown(name) }),
            },
            // A name of ours is short and of few letters; no other is repeated in an error.
            Found::Directory
                if child.len() <= 7
                    && child.bytes().all(|byte| byte.is_ascii_digit() || b"xentris.p".contains(&byte)) =>
            {
                walk(root, &path, tiles)?;
            }
            _ => return Err(VerifyError::Surplus { directory: shown(name) }),
        }
    }
    Ok(())
}

fn shown(name: &str) -> String {
    if name.is_empty() { ".".to_owned() } else { name.to_owned() }
}

/// One walk over all entries, oldest first.
struct Proof<'a> {
    directory: &'a Path,
    key: &'a VerifierKey,
    checkpoint: &'a Checkpoint,
    journal: Option<&'a Journal<'a>>,
    snapshot: &'a Snapshot,
    /// Full tiles up to here must be on the disk; beyond, they follow from the journal and are checked if there.
    on_disk: u64,
    tree: Tree,
    /// The bundle under way, and where in it each of its entries ends.
    bundle: Vec<u8>,
    ends: Vec<usize>,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
}

impl<'a> Proof<'a> {
    fn new(
        directory: &'a Path,
        key: &'a VerifierKey,
        checkpoint: &'a Checkpoint,
        journal: Option<&'a Journal<'a>>,
        snapshot: &'a Snapshot,
    ) -> Result<Self, VerifyError> {
        let size = match journal {
            None => checkpoint.size,
            Some(journal) => {
                let entries: u64 = journal.records.iter().map(|record| record.entries.len() as u64).sum();
                let size = journal.base.saturating_add(entries);
                if !(journal.base..=size).contains(&checkpoint.size) {
                    return Err(altered(JOURNAL, "it does not lead to the checkpoint"));
                }
                size
            }
        };
        let held = snapshot.partial.values().flatten().map(|(tile, _)| tile).chain(&snapshot.full);
        for tile in held {
            if tile.end().is_none_or(|end| end > size) {
                let path = tile.path();
                let directory = path.rsplit_once('/').map_or(".", |(directory, _)| directory).to_owned();
                return Err(VerifyError::Surplus { directory });
            }
        }
        for tile in Tile::partials(checkpoint.size) {
            let held = snapshot.partial.get(&Tile::full(tile.kind, tile.index));
            if !held.is_some_and(|held| held.iter().any(|(held, _)| *held == tile)) {
                return Err(VerifyError::Missing { file: tile.path() });
            }
        }
        Ok(Self {
            directory,
            key,
            checkpoint,
            journal,
            snapshot,
            on_disk: journal.map_or(size, |journal| journal.base),
            tree: Tree::default(),
            bundle: Vec::new(),
            ends: Vec::new(),
            first: None,
            last: None,
        })
    }

    fn run(mut self) -> Result<Verified, VerifyError> {
        self.check_root()?;
        for number in 0..self.on_disk / WIDTH {
            let name = Tile::full(Kind::Entries, number).path();
            let bytes = demand(self.directory, &name)?;
            let entries =
                layout::entries(&bytes, WIDTH).ok_or_else(|| altered(&name, "it is not a full bundle"))?;
            for entry in entries {
                self.push(entry)?;
            }
        }
        let mut torn_bytes = 0;
        match self.journal {
            None => {
                if let Some(tile) = Tile::partial(Kind::Entries, self.on_disk) {
                    let held = self.snapshot.partial.get(&Tile::full(tile.kind, tile.index));
                    let held = held.and_then(|held| held.iter().find(|(held, _)| *held == tile));
                    let entries = held.and_then(|(_, bytes)| layout::entries(bytes, u64::from(tile.width)));
                    for entry in entries.ok_or_else(|| altered(&tile.path(), "it is not such a bundle"))? {
                        self.push(entry)?;
                    }
                }
            }
            Some(journal) => torn_bytes = self.run_journal(journal)?,
        }
        self.check_partials()?;
        if self.tree.size() < self.checkpoint.size {
            return Err(altered(CHECKPOINT, "it is of more entries than there are"));
        }
        Ok(Verified {
            entries: self.tree.size(),
            root: self.tree.root(),
            origin: self.key.name().to_owned(),
            first: self.first,
            last: self.last,
            torn_bytes,
        })
    }

    fn run_journal(&mut self, journal: &Journal<'_>) -> Result<usize, VerifyError> {
        for record in &journal.records {
            for entry in &record.entries {
                self.push(entry)?;
            }
            let head = Checkpoint {
                origin: self.key.name().to_owned(),
                size: self.tree.size(),
                root: self.tree.root(),
            };
            if !self.key.signed(&head.text(), &record.signature) {
                return Err(altered(JOURNAL, "the key of this log did not sign a batch in it"));
            }
        }
        match journal.tail {
            Tail::Clean if journal.records.is_empty() => Err(altered(JOURNAL, "it holds no signature")),
            Tail::Clean => Ok(0),
            Tail::Torn(_) if journal.records.is_empty() => Err(altered(JOURNAL, "it holds no signature")),
            Tail::Torn(bytes) => Ok(bytes),
            Tail::Garbled(_) | Tail::Damaged => Err(altered(
                JOURNAL,
                "a batch in it cannot be read; the power may have failed while it was written",
            )),
        }
    }

    fn push(&mut self, entry: &[u8]) -> Result<(), VerifyError> {
        let number = self.tree.size();
        let name = || Tile::full(Kind::Entries, number / WIDTH).path();
        let outline = Outline::read(entry);
        let outline = outline.ok_or_else(|| altered(&name(), "an entry is not in a format known here"))?;
        let time = Timestamp(outline.time);
        self.first.get_or_insert(time);
        self.last = Some(time);
        layout::put_entry(&mut self.bundle, entry).ok_or_else(|| altered(&name(), "an entry is too long"))?;
        self.ends.push(self.bundle.len());
        let mut full = Vec::new();
        self.tree.push(leaf(entry), |level, index, hashes| {
            full.push((Kind::Hashes(level), index, hashes.as_flattened().to_vec()));
        });
        if self.tree.size().is_multiple_of(WIDTH) {
            let bundle = std::mem::take(&mut self.bundle);
            self.check(Kind::Entries, number / WIDTH, &bundle, WIDTH)?;
            self.ends.clear();
        }
        for (kind, index, bytes) in full {
            self.check(kind, index, &bytes, WIDTH)?;
        }
        self.check_root()
    }

    /// Checks every file that holds this tile, whole or in part, against its `bytes`.
    fn check(&self, kind: Kind, index: u64, bytes: &[u8], width: u64) -> Result<(), VerifyError> {
        let full = Tile::full(kind, index);
        if width == WIDTH {
            let on_disk = full.end().is_some_and(|end| end <= self.on_disk);
            if kind == Kind::Entries && on_disk {
                // These bytes come from that very file.
            } else if self.snapshot.full.contains(&full) {
                if demand(self.directory, &full.path())? != bytes {
                    return Err(altered(&full.path(), "it does not follow from the entries"));
                }
            } else if on_disk {
                return Err(VerifyError::Missing { file: full.path() });
            }
        }
        for (tile, held) in self.snapshot.partial.get(&full).into_iter().flatten() {
            let length = match kind {
                Kind::Entries => self.ends.get(usize::from(tile.width) - 1).copied(),
                Kind::Hashes(_) => Some(usize::from(tile.width) * size_of::<Hash>()),
            };
            if length.and_then(|length| bytes.get(..length)) != Some(held) {
                return Err(altered(&tile.path(), "it does not follow from the entries"));
            }
        }
        Ok(())
    }

    /// Checks the partial tiles at the right edge.
    fn check_partials(&self) -> Result<(), VerifyError> {
        let size = self.tree.size();
        if let Some(tile) = Tile::partial(Kind::Entries, size) {
            self.check(tile.kind, tile.index, &self.bundle, u64::from(tile.width))?;
        }
        for (level, hashes) in (0..).zip(self.tree.edge()) {
            if let Some(tile) = Tile::partial(Kind::Hashes(level), size) {
                self.check(tile.kind, tile.index, hashes.as_flattened(), u64::from(tile.width))?;
            }
        }
        Ok(())
    }

    fn check_root(&self) -> Result<(), VerifyError> {
        if self.tree.size() == self.checkpoint.size && self.tree.root() != self.checkpoint.root {
            return Err(altered(CHECKPOINT, "its root is not that of the entries"));
        }
        Ok(())
    }
}

fn read(directory: &Path, name: &str) -> Result<Option<Vec<u8>>, VerifyError> {
    files::read(directory, name).map_err(|source| VerifyError::Io { file: name.to_owned(), source })
}

fn demand(directory: &Path, name: &str) -> Result<Vec<u8>, VerifyError> {
    read(directory, name)?.ok_or_else(|| VerifyError::Missing { file: name.to_owned() })
}

fn altered(file: &str, what: &'static str) -> VerifyError {
    VerifyError::Altered { file: file.to_owned(), what }
}
