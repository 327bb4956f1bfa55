//! The form of a body inside its ciphertext: JSON text that is served without being parsed again.
//!
//! `id` stays in the text; `meta.versionId` and `meta.lastUpdated` are taken out, and the place where the server's
//! own go in is remembered, together with what stood there when the resource came in. So serving is a
//! decompression and one splice, and export gives back the original, equal as JSON.
//!
//! The text is compressed with a dictionary trained on the FHIR specification's public examples, then padded, then
//! encrypted. Compression cannot leak one patient's secret through another's choice of text: one body holds one
//! resource.

use std::{cell::RefCell, sync::LazyLock};

use serde_json::{Map, Value};
use ward_base::{ResourceId, Timestamp};
use zstd::{
    bulk::{Compressor, Decompressor},
    dict::{DecoderDictionary, EncoderDictionary},
    zstd_safe::CParameter,
};

use crate::StoreError;

/// The format of [`Frame::encode`], which also says which dictionary. A new dictionary is a new format; old ones
/// stay readable.
const FORMAT: u8 = 1;
static DICTIONARY: &[u8] = include_bytes!("../dictionary/r4-1.zdict");
/// Higher levels cost three times as much and save 4% on typical resources.
const LEVEL: i32 = 1;
/// No body is larger. The callers' own limits are lower.
const TEXT_MAX: usize = 256 << 20;

const HAD_META: u8 = 1;
const META_HAS_MORE: u8 = 2;
const DELETED: u8 = 4;

static ENCODER: LazyLock<EncoderDictionary<'static>> =
    LazyLock::new(|| EncoderDictionary::copy(DICTIONARY, LEVEL));
static DECODER: LazyLock<DecoderDictionary<'static>> = LazyLock::new(|| DecoderDictionary::copy(DICTIONARY));

thread_local! {
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// One version's plaintext.
pub(crate) struct Frame {
    pub(crate) id: ResourceId,
    /// The compartments it lies in, the owner first.
    pub(crate) patients: Vec<ResourceId>,
    flags: u8,
    /// Where the server's `meta` members go in.
    splice: usize,
    /// The members `versionId` and `lastUpdated` as they came in.
    original: Vec<u8>,
    text: Vec<u8>,
}

impl Frame {
    /// The normal form of `resource` under the id `id`, which replaces any other.
    pub(crate) fn new(
        resource: &Value,
        id: &ResourceId,
        patients: Vec<ResourceId>,
    ) -> Result<Self, StoreError> {
        let Value::Object(members) = resource else {
            return Err(StoreError::Unstorable);
        };
        let mut writer = Writer { text: Vec::with_capacity(1024), flags: 0, splice: 0, original: Vec::new() };
        writer.resource(members, id)?;
        let Writer { text, flags, splice, original } = writer;
        if text.len() > TEXT_MAX {
            return Err(StoreError::Unstorable);
        }
        Ok(Self { id: id.clone(), patients, flags, splice, original, text })
    }

    /// A deletion.
    pub(crate) fn deletion(id: ResourceId, patients: Vec<ResourceId>) -> Self {
        Self { id, patients, flags: DELETED, splice: 0, original: Vec::new(), text: Vec::new() }
    }

    pub(crate) fn deleted(&self) -> bool {
        self.flags & DELETED != 0
    }

    /// The text as clients get it. Empty for a deletion.
    pub(crate) fn served(&self, version: u64, updated: Timestamp) -> Vec<u8> {
        if self.deleted() {
            return Vec::new();
        }
        let members = format!("\"versionId\":\"{version}\",\"lastUpdated\":\"{}\"", updated.to_instant());
        if self.flags & HAD_META != 0 {
            self.spliced(members.as_bytes())
        } else {
            self.spliced(format!(",\"meta\":{{{members}}}").as_bytes())
        }
    }

    /// The text without the server's own `meta` members: enough to check a search.
    pub(crate) fn text(&self) -> &[u8] {
        &self.text
    }

    /// The text as it came in, with an `id`.
    pub(crate) fn original(&self) -> Vec<u8> {
        self.spliced(&self.original)
    }

    fn spliced(&self, members: &[u8]) -> Vec<u8> {
        let comma = self.flags & META_HAS_MORE != 0 && !members.is_empty();
        let (before, after) = self.text.split_at_checked(self.splice).unwrap_or((&self.text, &[]));
        let mut text = Vec::with_capacity(self.text.len() + members.len() + 1);
        text.extend_from_slice(before);
        text.extend_from_slice(members);
        if comma {
            text.push(b',');
        }
        text.extend_from_slice(after);
        text
    }

    /// The padded plaintext: what is encrypted.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, StoreError> {
        let mut frame = Vec::with_capacity(self.text.len() / 2 + 256);
        frame.extend_from_slice(&[FORMAT, self.flags]);
        push_id(&mut frame, &self.id, None);
        push_number(&mut frame, self.patients.len());
        for patient in &self.patients {
            push_id(&mut frame, patient, Some(&self.id));
        }
        push_number(&mut frame, self.splice);
        push_bytes(&mut frame, &self.original);
        push_number(&mut frame, self.text.len());
        push_bytes(&mut frame, &compress(&self.text)?);
        frame.resize(padded(frame.len()), 0);
        Ok(frame)
    }

    /// Reads what [`Frame::encode`] wrote.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let mut reader = Reader(bytes);
        if reader.byte()? != FORMAT {
            return Err(StoreError::Corrupt);
        }
        let flags = reader.byte()?;
        let id = reader.id(None)?;
        let count = reader.number()?;
        let patients = (0..count).map(|_| reader.id(Some(&id))).collect::<Result<Vec<_>, _>>()?;
        let splice = reader.number()?;
        let original = reader.bytes()?.to_vec();
        let length = reader.number()?;
        let text = decompress(reader.bytes()?, length)?;
        Ok(Self { id, patients, flags, splice, original, text })
    }
}

struct Writer {
    text: Vec<u8>,
    flags: u8,
    splice: usize,
    original: Vec<u8>,
}

impl Writer {
    fn resource(&mut self, members: &Map<String, Value>, id: &ResourceId) -> Result<(), StoreError> {
        self.text.push(b'{');
        let has_id = members.contains_key("id");
        if !has_id && !members.contains_key("resourceType") {
            self.id(id);
        }
        let has_meta = members.contains_key("meta");
        for (name, value) in members {
            match (name.as_str(), value) {
                ("id", _) => self.id(id),
                ("meta", Value::Object(meta)) => self.meta(meta)?,
                ("meta", _) => return Err(StoreError::Unstorable),
                _ => self.member(name, value)?,
            }
            if name == "resourceType" && !has_id {
                self.id(id);
            }
            if !has_meta && self.splice == 0 && (name == "id" || name == "resourceType" && !has_id) {
                self.splice = self.text.len();
            }
        }
        if !has_meta && self.splice == 0 {
            self.splice = self.text.len();
        }
        self.text.push(b'}');
        Ok(())
    }

    fn id(&mut self, id: &ResourceId) {
        self.separate();
        self.text.extend_from_slice(b"\"id\":\"");
        self.text.extend_from_slice(id.as_str().as_bytes());
        self.text.push(b'"');
    }

    fn meta(&mut self, meta: &Map<String, Value>) -> Result<(), StoreError> {
        self.flags |= HAD_META;
        self.separate();
        self.text.extend_from_slice(b"\"meta\":{");
        self.splice = self.text.len();
        for (name, value) in meta {
            if matches!(name.as_str(), "versionId" | "lastUpdated") {
                if !self.original.is_empty() {
                    self.original.push(b',');
                }
                write_member(&mut self.original, name, value)?;
            } else {
                self.flags |= META_HAS_MORE;
                self.member(name, value)?;
            }
        }
        self.text.push(b'}');
        Ok(())
    }

    fn member(&mut self, name: &str, value: &Value) -> Result<(), StoreError> {
        self.separate();
        write_member(&mut self.text, name, value)
    }

    fn separate(&mut self) {
        if self.text.last() != Some(&b'{') {
            self.text.push(b',');
        }
    }
}

fn write_member(text: &mut Vec<u8>, name: &str, value: &Value) -> Result<(), StoreError> {
    serde_json::to_writer(&mut *text, name).map_err(|_| StoreError::Unstorable)?;
    text.push(b':');
    serde_json::to_writer(text, value).map_err(|_| StoreError::Unstorable)
}

/// The next size bucket: sixteenths of the next power of two, so that at most an eighth is added and a length says
/// little about its content.
fn padded(length: usize) -> usize {
    let step = (length.max(1).next_power_of_two() / 16).max(32);
    length.div_ceil(step) * step
}

fn compress(text: &[u8]) -> Result<Vec<u8>, StoreError> {
    COMPRESSOR.with_borrow_mut(|slot| {
        let compressor = match slot {
            Some(compressor) => compressor,
            None => slot.insert(new_compressor().map_err(|_| StoreError::Unavailable)?),
        };
        compressor.compress(text).map_err(|_| StoreError::Unavailable)
    })
}

fn new_compressor() -> std::io::Result<Compressor<'static>> {
    let mut compressor = Compressor::with_prepared_dictionary(&ENCODER)?;
    // The frame around it knows both, and the encryption authenticates.
    compressor.set_parameter(CParameter::DictIdFlag(false))?;
    compressor.set_parameter(CParameter::ContentSizeFlag(false))?;
    compressor.set_parameter(CParameter::ChecksumFlag(false))?;
    Ok(compressor)
}

fn decompress(bytes: &[u8], length: usize) -> Result<Vec<u8>, StoreError> {
    if length > TEXT_MAX {
        return Err(StoreError::Corrupt);
    }
    DECOMPRESSOR.with_borrow_mut(|slot| {
        let decompressor = match slot {
            Some(decompressor) => decompressor,
            None => slot.insert(
                Decompressor::with_prepared_dictionary(&DECODER).map_err(|_| StoreError::Unavailable)?,
            ),
        };
        let text = decompressor.decompress(bytes, length).map_err(|_| StoreError::Corrupt)?;
        if text.len() == length { Ok(text) } else { Err(StoreError::Corrupt) }
    })
}

/// Tags before an id: the resource's own id, a UUID in 16 bytes, or the length of its text.
const SAME_ID: u8 = 0;
const UUID: u8 = 255;

fn push_id(frame: &mut Vec<u8>, id: &ResourceId, own: Option<&ResourceId>) {
    if own == Some(id) {
        frame.push(SAME_ID);
    } else if let Some(bytes) = uuid_bytes(id.as_str()) {
        frame.push(UUID);
        frame.extend_from_slice(&bytes);
    } else {
        push_bytes(frame, id.as_str().as_bytes());
    }
}

/// The 16 bytes of a UUID in its canonical lower-case form, which gives the same text again.
fn uuid_bytes(text: &str) -> Option<[u8; 16]> {
    if text.len() != 36
        || !text.bytes().all(|b| b == b'-' || b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    {
        return None;
    }
    uuid::Uuid::try_parse(text).ok().map(uuid::Uuid::into_bytes)
}

fn push_bytes(frame: &mut Vec<u8>, bytes: &[u8]) {
    push_number(frame, bytes.len());
    frame.extend_from_slice(bytes);
}

fn push_number(frame: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        frame.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    frame.push(number as u8);
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Result<u8, StoreError> {
        let (first, rest) = self.0.split_first().ok_or(StoreError::Corrupt)?;
        self.0 = rest;
        Ok(*first)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], StoreError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(StoreError::Corrupt)?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<usize, StoreError> {
        let mut number = 0usize;
        for shift in (0..35).step_by(7) {
            let byte = self.byte()?;
            number |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(StoreError::Corrupt)
    }

    fn bytes(&mut self) -> Result<&'a [u8], StoreError> {
        let length = self.number()?;
        self.take(length)
    }

    fn id(&mut self, own: Option<&ResourceId>) -> Result<ResourceId, StoreError> {
        match (self.byte()?, own) {
            (SAME_ID, Some(own)) => Ok(own.clone()),
            (UUID, _) => {
                let bytes = self.take(16)?.try_into().map_err(|_| StoreError::Corrupt)?;
                let mut text = [0; 36];
                let text = uuid::Uuid::from_bytes(bytes).hyphenated().encode_lower(&mut text);
                ResourceId::parse(text).map_err(|_| StoreError::Corrupt)
            }
            (length, _) => {
                let text =
                    std::str::from_utf8(self.take(usize::from(length))?).map_err(|_| StoreError::Corrupt)?;
                ResourceId::parse(text).map_err(|_| StoreError::Corrupt)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn id(text: &str) -> ResourceId {
        ResourceId::parse(text).unwrap()
    }

    fn frame(resource: &Value) -> Frame {
        let patients = vec![id("0d5e1b8a-2f3c-4a5b-8c7d-9e0f1a2b3c4d"), id("p.1")];
        let encoded = Frame::new(resource, &id("p.1"), patients.clone()).unwrap().encode().unwrap();
        let decoded = Frame::decode(&encoded).unwrap();
        assert!(decoded.id == id("p.1") && decoded.patients == patients);
        decoded
    }

    fn value(text: &[u8]) -> Value {
        serde_json::from_slice(text).unwrap()
    }

    #[test]
    fn every_shape_of_meta_is_served_with_ours_and_given_back_with_its_own() {
        for (meta, served_more) in [
            (None, json!({})),
            (Some(json!({})), json!({})),
            (Some(json!({"versionId": "9"})), json!({})),
            (Some(json!({"lastUpdated": "2001-01-01T00:00:00Z", "source": "s"})), json!({"source": "s"})),
            (
                Some(json!({"source": "s", "lastUpdated": "x", "versionId": "a", "tag": []})),
                json!({"source": "s", "tag": []}),
            ),
        ] {
            for base in [
                json!({"resourceType": "Basic", "id": "p.1", "n": 1.00}),
                json!({"id": "p.1", "resourceType": "Basic"}),
                json!({"x": [], "resourceType": "Basic", "y": {"id": "inner", "meta": 1}, "id": "p.1"}),
            ] {
                let mut resource = base.clone();
                if let Some(meta) = &meta {
                    resource["meta"] = meta.clone();
                }
                let frame = frame(&resource);
                assert_eq!(value(&frame.original()), resource);
                let served = value(&frame.served(7, Timestamp(0)));
                let mut expected = base;
                expected["meta"] = json!({"versionId": "7", "lastUpdated": "1970-01-01T00:00:00.000Z"});
                expected["meta"].as_object_mut().unwrap().extend(served_more.as_object().unwrap().clone());
                assert_eq!(served, expected);
            }
        }
    }

    #[test]
    fn the_key_gives_the_id() {
        let made = frame(&json!({"resourceType": "Basic", "code": {}}));
        assert_eq!(made.original(), br#"{"resourceType":"Basic","id":"p.1","code":{}}"#);
        assert_eq!(
            made.served(1, Timestamp(0)),
            br#"{"resourceType":"Basic","id":"p.1","meta":{"versionId":"1","lastUpdated":"1970-01-01T00:00:00.000Z"},"code":{}}"#
        );
        assert_eq!(value(&frame(&json!({"resourceType": "Basic", "id": "other"})).original())["id"], "p.1");
        assert!(Frame::new(&json!([]), &id("a"), Vec::new()).is_err());
        assert!(Frame::new(&json!({"meta": []}), &id("a"), Vec::new()).is_err());
    }

    #[test]
    fn lengths_come_in_buckets() {
        assert_eq!([padded(0), padded(1), padded(32), padded(600), padded(5000)], [0, 32, 32, 640, 5120]);
        for length in 300..10_000 {
            assert!(padded(length) >= length && padded(length) <= length + length / 8 + 32);
        }
    }

    proptest! {
        #[test]
        fn hostile_frames_do_not_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(first) = bytes.first_mut() {
                *first = FORMAT;
            }
            let _ = Frame::decode(&bytes);
        }
    }
}
