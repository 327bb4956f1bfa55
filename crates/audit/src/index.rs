//! Which entries name which patient. Nothing here is trusted: a segment counts only with its seal, every hit is read
//! again, and what is missing or altered is made anew from the entries.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::hmac;

use crate::files::{INDEX, TEMPORARY};
use crate::format::Token;
use crate::merkle::Hash;

/// Entries that one segment covers.
pub(crate) const SEGMENT: u64 = 16_384;
const RECORD: usize = 24;
const SEAL: usize = 32;

/// Segments of [`SEGMENT`] entries each, in one immutable file each: `seal (32) | (token (16) | entry (8))*`, sorted.
/// The seal is an HMAC, so that a file that leaves an entry out is noticed. The entries since then are in memory.
pub(crate) struct Index {
    directory: PathBuf,
    key: hmac::Key,
    /// Records of entries after the last full segment, as they came.
    recent: Vec<[u8; RECORD]>,
    /// Segments whose seal was checked since the log was opened.
    checked: Mutex<HashSet<u64>>,
}

impl Index {
    pub(crate) fn new(log: &Path, key: hmac::Key) -> Self {
        Self { directory: log.join(INDEX), key, recent: Vec::new(), checked: Mutex::new(HashSet::new()) }
    }

    /// Takes note of an entry and its hash; entries come in order, from the beginning of a segment.
    pub(crate) fn add(&mut self, entry: u64, tokens: &[Token], leaf: &Hash) {
        self.recent.extend(tokens.iter().map(|token| record(*token, entry)));
        if (entry + 1).is_multiple_of(SEGMENT) {
            let mut records = std::mem::take(&mut self.recent);
            // A segment that cannot be written is made anew when it is asked for.
            let _ = self.write(entry / SEGMENT, leaf, &mut records);
        }
    }

    /// The entries of full segment `segment` that name `token`, in order; `None` if the segment is missing or altered.
    pub(crate) fn find(&self, segment: u64, last: &Hash, token: Token) -> Option<Vec<u64>> {
        let file = File::open(self.path(segment)).ok()?;
        let known = self.checked.lock().unwrap_or_else(PoisonError::into_inner).contains(&segment);
        if !known {
            let bytes = std::fs::read(self.path(segment)).ok()?;
            let (seal, records) = bytes.split_at_checked(SEAL)?;
            hmac::verify(&self.key, &sealed(segment, last, records), seal).ok()?;
            self.checked.lock().unwrap_or_else(PoisonError::into_inner).insert(segment);
        }
        search(&file, token).ok()
    }

    /// The recent entries that name `token`, in order.
    pub(crate) fn find_recent(&self, token: Token) -> Vec<u64> {
        self.recent.iter().filter(|record| record.starts_with(&token.0)).map(entry).collect()
    }

    /// Makes a full segment anew from its entries and their tokens, and gives those that name `token`.
    pub(crate) fn rebuild(
        &self,
        segment: u64,
        last: &Hash,
        entries: &[(u64, Vec<Token>)],
        token: Token,
    ) -> Vec<u64> {
        let mut records: Vec<[u8; RECORD]> = entries
            .iter()
            .flat_map(|(entry, tokens)| tokens.iter().map(|token| record(*token, *entry)))
            .collect();
        let _ = self.write(segment, last, &mut records);
        records.iter().filter(|record| record.starts_with(&token.0)).map(entry).collect()
    }

    fn write(&self, segment: u64, last: &Hash, records: &mut [[u8; RECORD]]) -> io::Result<()> {
        // One writer at a time, so that the file has one name before it is whole.
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        checked.remove(&segment);
        records.sort_unstable();
        let records = records.as_flattened();
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        let temporary = self.directory.join(TEMPORARY);
        let mut file =
            File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(hmac::sign(&self.key, &sealed(segment, last, records)).as_ref())?;
        file.write_all(records)?;
        std::fs::rename(&temporary, self.path(segment))
    }

    fn path(&self, segment: u64) -> PathBuf {
        self.directory.join(format!("{segment:09}"))
    }
}

fn record(token: Token, entry: u64) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    let (name, number) = record.split_at_mut(16);
    name.copy_from_slice(&token.0);
    number.copy_from_slice(&entry.to_be_bytes());
    record
}

fn entry(record: &[u8; RECORD]) -> u64 {
    record.last_chunk().map_or(0, |number| u64::from_be_bytes(*number))
}

/// What the seal of a segment is over: its number and the hash of its last entry too, so that one cannot stand for
/// another, nor for the same of a log that was restored and went on differently.
fn sealed(segment: u64, last: &Hash, records: &[u8]) -> Vec<u8> {
    [b"ward/v1/audit-index".as_slice(), &segment.to_be_bytes(), last, records].concat()
}

/// The first record not below the token is found by halving; those after it are read on.
fn search(file: &File, token: Token) -> io::Result<Vec<u64>> {
    let count = file.metadata()?.len().saturating_sub(SEAL as u64) / RECORD as u64;
    let read = |position: u64| {
        let mut record = [0; RECORD];
        file.read_exact_at(&mut record, SEAL as u64 + position * RECORD as u64).map(|()| record)
    };
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low.midpoint(high);
        if read(middle)?.split_at(16).0 < token.0.as_slice() {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    let mut found = Vec::new();
    while low < count {
        let record = read(low)?;
        if !record.starts_with(&token.0) {
            break;
        }
        found.push(entry(&record));
        low += 1;
    }
    Ok(found)
}
