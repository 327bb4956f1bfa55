//! The journal: what was acknowledged and is not in full tiles yet.
//!
//! ```text
//! magic (21) | base (8) | check (12)                entries from number `base` on, a multiple of 256
//! record*    length (4) | check (12) | body | 0xff  one a batch
//! body       count (4) | entry* | masked signature (64)
//! entry      length (2) | bytes                     as in a bundle
//! room       zeros                                  for records to come
//! ```
//!
//! All numbers are big-endian. The checks bind a length to its place, so that a damaged length is not taken for a
//! record that was cut off. The signature is the one under the checkpoint of the tree with all entries up to here,
//! exclusive-or a hash of the rest of the record: **it exists only as long as every entry it covers does**. So a
//! record torn by a loss of power, which recovery drops, never leaves a signature behind that the log would
//! contradict later.
//!
//! A record is appended with one write and one `fdatasync`, and the next one only after that. So only the last one
//! can be torn, and whatever stands before an intact record was acknowledged.
//!
//! A flush of a file that grows must also write the file system's own journal, which takes twice the time; so a record
//! is written into room that is there already. It ends in a byte that is not zero: where the zeros at the end of the
//! file begin, what was written ends, whole or torn.
//!
//! The first version of the format (`/1`) had neither that byte nor room. It is read, and no longer written.

use aws_lc_rs::digest::{Context, SHA256, digest};

use crate::layout::{put_entry, take_entry};

const MAGIC: &[u8; 21] = b"ward-audit-journal/2\n";
const MAGIC_WITHOUT_ROOM: &[u8; 21] = b"ward-audit-journal/1\n";
const CHECK: usize = 12;
const HEADER: usize = MAGIC.len() + 8 + CHECK;
const RECORD_HEADER: usize = 4 + CHECK;
const SIGNATURE: usize = 64;
/// The last byte of a record. No flip of one bit makes it a zero.
const END: u8 = 0xff;
/// Zeros that are written ahead at once.
pub(crate) const ROOM: usize = 256 << 10;
/// Bytes of one record.
pub(crate) const RECORD_MAX: usize = 64 << 20;

/// One batch.
pub(crate) struct Record<'a> {
    /// Where it begins in the file.
    pub(crate) position: usize,
    pub(crate) entries: Vec<&'a [u8]>,
    /// Good only if it verifies.
    pub(crate) signature: [u8; SIGNATURE],
}

/// What stands after the last record that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tail {
    /// Nothing.
    Clean,
    /// The beginning of a record, or zeros: an append that never finished. So many bytes.
    Torn(usize),
    /// Bytes that no unfinished append of this program leaves, unless the power failed. So many bytes.
    Garbled(usize),
    /// Damaged, and a later record stands after it: this was acknowledged once.
    Damaged,
}

/// A journal, taken apart. Nothing of it is verified.
pub(crate) struct Journal<'a> {
    pub(crate) base: u64,
    pub(crate) records: Vec<Record<'a>>,
    pub(crate) tail: Tail,
    /// Where what was written ends, and room begins.
    pub(crate) end: usize,
}

/// The bytes that begin a journal.
pub(crate) fn header(base: u64) -> Vec<u8> {
    let mut header = MAGIC.to_vec();
    header.extend_from_slice(&base.to_be_bytes());
    let check = check(&[&header]);
    header.extend_from_slice(&check);
    header
}

/// A batch, ready to be appended to the journal of `base` at `position`. `None` if it is too large.
pub(crate) fn record<'a>(
    base: u64,
    position: u64,
    entries: impl ExactSizeIterator<Item = &'a [u8]>,
    signature: &[u8; SIGNATURE],
) -> Option<Vec<u8>> {
    let mut body = u32::try_from(entries.len()).ok()?.to_be_bytes().to_vec();
    for entry in entries {
        put_entry(&mut body, entry)?;
        if body.len() > RECORD_MAX - SIGNATURE {
            return None;
        }
    }
    let length = u32::try_from(body.len() + SIGNATURE).ok()?.to_be_bytes();
    let mask = mask(&length, &body);
    let mut record = length.to_vec();
    record.extend_from_slice(&record_check(base, position, length));
    record.extend_from_slice(&body);
    record.extend(signature.iter().zip(mask).map(|(byte, mask)| byte ^ mask));
    record.push(END);
    Some(record)
}

impl<'a> Journal<'a> {
    /// Takes a journal apart; `None` if these bytes do not begin one.
    pub(crate) fn read(bytes: &'a [u8]) -> Option<Self> {
        let base = Self::base(bytes)?;
        let ending: &[u8] = if bytes.starts_with(MAGIC) { &[END] } else { &[] };
        let end = if ending.is_empty() { bytes.len() } else { without_room(bytes) };
        let mut records = Vec::new();
        let mut position = HEADER;
        let tail = loop {
            let rest = bytes.get(position..end).unwrap_or_default();
            if rest.is_empty() {
                break Tail::Clean;
            }
            match take_record(base, position, rest, ending) {
                Taken::Record(record, length) => {
                    records.push(record);
                    position += length;
                }
                Taken::CutOff => break Tail::Torn(rest.len()),
                Taken::Damaged if rest.iter().all(|byte| *byte == 0) => break Tail::Torn(rest.len()),
                Taken::Damaged if later_record(base, position, rest) => break Tail::Damaged,
                Taken::Damaged => break Tail::Garbled(rest.len()),
            }
        };
        Some(Self { base, records, tail, end })
    }

    /// The number of the first entry of a journal that begins with these bytes.
    pub(crate) fn base(bytes: &[u8]) -> Option<u64> {
        let (named, rest) = bytes.split_at_checked(HEADER - CHECK)?;
        let base = named.strip_prefix(MAGIC).or_else(|| named.strip_prefix(MAGIC_WITHOUT_ROOM))?;
        let base = u64::from_be_bytes(*base.first_chunk()?);
        (rest.starts_with(&check(&[named])) && base.is_multiple_of(256)).then_some(base)
    }
}

/// Where the zeros at the end of a journal begin.
fn without_room(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1).max(HEADER)
}

enum Taken<'a> {
    Record(Record<'a>, usize),
    CutOff,
    Damaged,
}

fn take_record<'a>(base: u64, position: usize, rest: &'a [u8], ending: &[u8]) -> Taken<'a> {
    let Some((header, after)) = rest.split_at_checked(RECORD_HEADER) else { return Taken::CutOff };
    let Some(length) = record_length(base, position, header) else { return Taken::Damaged };
    let Some((body, after)) = after.split_at_checked(length) else { return Taken::CutOff };
    if after.len() < ending.len() {
        return Taken::CutOff;
    }
    match take_body(header, body).filter(|_| after.starts_with(ending)) {
        Some((entries, signature)) => {
            Taken::Record(Record { position, entries, signature }, RECORD_HEADER + length + ending.len())
        }
        None => Taken::Damaged,
    }
}

fn take_body<'a>(header: &[u8], body: &'a [u8]) -> Option<(Vec<&'a [u8]>, [u8; SIGNATURE])> {
    let (named, masked) = body.split_last_chunk::<SIGNATURE>()?;
    let (count, mut rest) = named.split_first_chunk::<4>()?;
    let mut entries = Vec::new();
    for _ in 0..u32::from_be_bytes(*count) {
        let (entry, after) = take_entry(rest)?;
        entries.push(entry);
        rest = after;
    }
    let mut signature = mask(header.first_chunk()?, named);
    for (byte, masked) in signature.iter_mut().zip(masked) {
        *byte ^= masked;
    }
    rest.is_empty().then_some((entries, signature))
}

/// Whether the header of a record stands anywhere in `rest`, but at its beginning. No entry can pretend to: the check
/// has 96 bits over the place, and no writer of entries chooses bytes of an entry freely (they are JSON).
fn later_record(base: u64, position: usize, rest: &[u8]) -> bool {
    rest.windows(RECORD_HEADER)
        .enumerate()
        .skip(1)
        .any(|(offset, header)| record_length(base, position + offset, header).is_some())
}

fn record_length(base: u64, position: usize, header: &[u8]) -> Option<usize> {
    let (length, check) = header.split_first_chunk::<4>()?;
    let whole = (4 + SIGNATURE..=RECORD_MAX).contains(&(u32::from_be_bytes(*length) as usize));
    let good = whole && check == record_check(base, position as u64, *length);
    good.then_some(u32::from_be_bytes(*length) as usize)
}

fn record_check(base: u64, position: u64, length: [u8; 4]) -> [u8; CHECK] {
    check(&[b"record", &base.to_be_bytes(), &position.to_be_bytes(), &length])
}

fn check(parts: &[&[u8]]) -> [u8; CHECK] {
    let mut check = [0; CHECK];
    check.copy_from_slice(digest(&SHA256, &parts.concat()).as_ref().split_at(CHECK).0);
    check
}

/// 64 bytes that are known only to whoever has every byte of the record.
fn mask(length: &[u8; 4], body: &[u8]) -> [u8; SIGNATURE] {
    let mut context = Context::new(&SHA256);
    context.update(length);
    context.update(body);
    let whole = context.finish();
    let mut mask = [0; SIGNATURE];
    for (half, number) in mask.chunks_exact_mut(32).zip([0_u8, 1]) {
        half.copy_from_slice(digest(&SHA256, &[whole.as_ref(), &[number]].concat()).as_ref());
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn journal(batches: &[Vec<Vec<u8>>]) -> (Vec<u8>, Vec<usize>) {
        let mut bytes = header(512);
        let mut ends = vec![bytes.len()];
        for (number, batch) in (1_u8..).zip(batches) {
            let entries = batch.iter().map(Vec::as_slice);
            bytes.extend(record(512, bytes.len() as u64, entries, &[number; SIGNATURE]).unwrap());
            ends.push(bytes.len());
        }
        (bytes, ends)
    }

    fn batches() -> impl Strategy<Value = Vec<Vec<Vec<u8>>>> {
        let entry = prop::collection::vec(any::<u8>(), 0..40);
        prop::collection::vec(prop::collection::vec(entry, 0..4), 1..5)
    }

    proptest! {
        #[test]
        fn batches_come_back(batches in batches()) {
            let (bytes, _) = journal(&batches);
            let read = Journal::read(&bytes).unwrap();
            prop_assert_eq!((read.base, read.tail), (512, Tail::Clean));
            prop_assert_eq!(read.records.len(), batches.len());
            for (number, (record, batch)) in (1_u8..).zip(read.records.iter().zip(&batches)) {
                prop_assert_eq!(&record.entries, batch);
                prop_assert_eq!(record.signature, [number; SIGNATURE]);
            }
        }

        #[test]
        fn a_cut_is_torn_and_never_damaged(
            batches in batches(),
            at in any::<prop::sample::Index>(),
            room in prop_oneof![Just(0_usize), 1_usize..200],
        ) {
            let (bytes, ends) = journal(&batches);
            let at = ends[0] + at.index(bytes.len() - ends[0] + 1);
            let mut bytes = bytes[..at].to_vec();
            bytes.resize(at + room, 0);
            let read = Journal::read(&bytes).unwrap();
            let whole = ends.iter().filter(|end| **end <= at).count() - 1;
            prop_assert_eq!(read.records.len(), whole);
            let written = without_room(&bytes);
            prop_assert_eq!(read.end, written);
            let rest = written - ends[whole];
            prop_assert_eq!(read.tail, if rest == 0 { Tail::Clean } else { Tail::Torn(rest) });
        }

        #[test]
        fn no_signature_survives_a_change_of_its_batch(
            batches in batches(),
            at in any::<prop::sample::Index>(),
            bit in 0_u8..8,
        ) {
            let (mut bytes, ends) = journal(&batches);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let Some(read) = Journal::read(&bytes) else {
                prop_assert!(at < ends[0]);
                return Ok(());
            };
            let hit = ends.iter().filter(|end| **end <= at).count() - 1;
            for (number, record) in read.records.iter().enumerate() {
                let kept = record.signature == [u8::try_from(number).unwrap() + 1; SIGNATURE];
                prop_assert_eq!(kept, number != hit, "record {}", number);
            }
            if read.records.len() <= hit {
                let last = hit + 1 == batches.len();
                prop_assert_eq!(matches!(read.tail, Tail::Damaged), !last);
            }
        }

        #[test]
        fn no_bytes_panic(start in 0_usize..60, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut all = header(0);
            all.truncate(start);
            all.extend(bytes);
            if let Some(journal) = Journal::read(&all) {
                prop_assert!(journal.records.is_empty());
            }
        }
    }
}
