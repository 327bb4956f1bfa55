use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::AuditError;
use crate::layout::{self, Kind, Tile};
use crate::merkle::{Hash, WIDTH, root_of};

pub(crate) const CHECKPOINT: &str = "checkpoint";
pub(crate) const KEY: &str = "key.txt";
pub(crate) const JOURNAL: &str = "journal";
pub(crate) const INDEX: &str = "index";
/// Where files are before they are whole and durable.
pub(crate) const TEMPORARY: &str = "temporary";

/// Files made durable at the same time; most filesystems then do it with one flush of the disk.
const THREADS: usize = 8;

/// A log's directory, held by one writer. Files appear in it whole and durable or not at all.
pub(crate) struct Directory {
    path: PathBuf,
    /// Holds the lock.
    handle: File,
    /// Directories whose entries are not durable yet.
    unsynced: BTreeSet<PathBuf>,
}

impl Directory {
    /// Makes the directory if it is not there, and locks it.
    pub(crate) fn lock(path: &Path) -> Result<Self, AuditError> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| failed(".", source))?;
        let handle = File::open(path).map_err(|source| failed(".", source))?;
        match handle.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(AuditError::InUse),
            Err(TryLockError::Error(source)) => return Err(failed(".", source)),
        }
        if let Some(parent) = path.parent() {
            // Of the directory's own name: best effort, since the parent need not be ours to open.
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            let _ = File::open(parent).and_then(|parent| parent.sync_all());
        }
        Ok(Self { path: path.to_owned(), handle, unsynced: BTreeSet::new() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, AuditError> {
        read(&self.path, name).map_err(|source| failed(name, source))
    }

    /// Writes a file: its content is durable before its name is there. The name itself is durable after
    /// [`Directory::sync`].
    pub(crate) fn write(&mut self, name: &str, parts: &[&[u8]]) -> Result<File, AuditError> {
        self.try_write(name, parts).map_err(|source| failed(name, source))
    }

    fn try_write(&mut self, name: &str, parts: &[&[u8]]) -> io::Result<File> {
        let temporary = self.path.join(TEMPORARY).join("0");
        let file = write_durably(&temporary, parts)?;
        self.place(&temporary, name)?;
        Ok(file)
    }

    /// Writes tiles like [`Directory::write`] and does `meanwhile` while the disk is busy with them. Their names appear
    /// only after that has succeeded.
    pub(crate) fn write_tiles<T>(
        &mut self,
        tiles: &[(Tile, Vec<u8>)],
        meanwhile: impl FnOnce() -> Result<T, AuditError>,
    ) -> Result<T, AuditError> {
        let place = self.path.join(TEMPORARY);
        let files: Vec<(PathBuf, &[u8])> = (0..)
            .zip(tiles)
            .map(|(number, (_, bytes))| (place.join(format!("{number}")), bytes.as_slice()))
            .collect();
        let share = files.len().div_ceil(THREADS).max(1);
        let (result, written) = std::thread::scope(|scope| {
            let mut threads = Vec::new();
            let mut left = Vec::new();
            for files in files.chunks(share) {
                match std::thread::Builder::new().spawn_scoped(scope, || write_each(files)) {
                    Ok(thread) => threads.push(thread),
                    Err(_) => left.push(files),
                }
            }
            let result = meanwhile();
            let mut written = left.into_iter().try_for_each(write_each);
            for thread in threads {
                written =
                    written.and(thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked"))));
            }
            (result, written)
        });
        let result = result?;
        written.map_err(|source| failed("tile", source))?;
        for ((temporary, _), (tile, _)) in files.iter().zip(tiles) {
            let name = tile.path();
            self.place(temporary, &name).map_err(|source| failed(&name, source))?;
        }
        Ok(result)
    }

    /// Gives a file that is whole and durable its name.
    fn place(&mut self, temporary: &Path, name: &str) -> io::Result<()> {
        let target = self.path.join(name);
        let parent = target.parent().unwrap_or(&self.path);
        if !parent.is_dir() {
            DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        }
        std::fs::rename(temporary, &target)?;
        self.unsynced(name);
        Ok(())
    }

    /// Empties the place for files on their way, as a crash may have left some, or takes it away.
    pub(crate) fn clear_temporary(&mut self, keep: bool) -> Result<(), AuditError> {
        let place = self.path.join(TEMPORARY);
        let cleared = match std::fs::remove_dir_all(&place) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ if keep => DirBuilder::new().mode(0o700).create(&place),
            _ => Ok(()),
        };
        cleared.map_err(|source| failed(TEMPORARY, source))
    }

    /// Takes note that a name is not durable yet, nor, perhaps, those of the directories it stands in: a process that
    /// was killed may have made them.
    pub(crate) fn unsynced(&mut self, name: &str) {
        let directories = Path::new(name).ancestors().skip(1).filter(|path| !path.as_os_str().is_empty());
        self.unsynced.extend(directories.map(|directory| self.path.join(directory)));
    }

    /// Removes a file, if it is there.
    pub(crate) fn remove(&mut self, name: &str) -> Result<(), AuditError> {
        match std::fs::remove_file(self.path.join(name)) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(failed(name, source)),
        }
    }

    /// Removes a partial tile, and its directory if it was the only one.
    pub(crate) fn remove_partial(&mut self, tile: Tile) -> Result<(), AuditError> {
        let name = tile.path();
        self.remove(&name)?;
        if let Some(directory) = self.path.join(&name).parent() {
            // It may hold another partial tile.
            let _ = std::fs::remove_dir(directory);
        }
        Ok(())
    }

    /// Makes every name that was written or removed durable.
    pub(crate) fn sync(&mut self) -> Result<(), AuditError> {
        let synced = self.unsynced.iter().try_for_each(|directory| File::open(directory)?.sync_all());
        synced.and_then(|()| self.handle.sync_all()).map_err(|source| failed(".", source))?;
        self.unsynced.clear();
        Ok(())
    }

    /// The first `width` hashes of a tile, from its file if it is full. A tile that is not full is put together from
    /// the full tiles below it, so that no partial tile need be trusted to be there.
    pub(crate) fn hashes(&self, level: u8, index: u64, width: u64) -> Result<Vec<Hash>, AuditError> {
        let name = Tile::full(Kind::Hashes(level), index).path();
        if let Some(bytes) = self.read(&name)? {
            let mut found = layout::hashes(&bytes, WIDTH)
                .ok_or(AuditError::Damaged { file: name, what: "it is not a full tile" })?;
            found.truncate(usize::try_from(width).unwrap_or(usize::MAX));
            return Ok(found);
        }
        let Some(below) = level.checked_sub(1) else {
            return Err(AuditError::Damaged { file: name, what: "it is missing" });
        };
        (0..width)
            .map(|number| {
                let child = Tile::full(Kind::Hashes(below), index * WIDTH + number).path();
                let bytes = self.read(&child)?;
                let found = bytes.and_then(|bytes| layout::hashes(&bytes, WIDTH));
                let found = found
                    .ok_or(AuditError::Damaged { file: child, what: "it is missing or not a full tile" })?;
                Ok(root_of(&found))
            })
            .collect()
    }
}

fn write_each(files: &[(PathBuf, &[u8])]) -> io::Result<()> {
    files.iter().try_for_each(|(path, bytes)| write_durably(path, &[bytes]).map(drop))
}

fn write_durably(path: &Path, parts: &[&[u8]]) -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    for part in parts {
        file.write_all(part)?;
    }
    file.sync_data()?;
    Ok(file)
}

/// The bytes of a file; `None` if there is none.
pub(crate) fn read(directory: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
    match std::fs::read(directory.join(name)) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) fn failed(name: &str, source: io::Error) -> AuditError {
    AuditError::Io { file: name.to_owned(), source }
}
