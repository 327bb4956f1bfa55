//! The order of search results.

use std::cmp::Ordering;

use ward_base::Timestamp;
use ward_fhir::search::{Extracted, Query, SearchParameter, SearchValue, normalize_string};

use crate::{Position, StoreError, position};

/// A sort key: bytes that compare as the values do. `None` for a resource without a value, which comes last.
pub(crate) type Key = Vec<Option<Vec<u8>>>;

/// The order of results.
#[derive(Clone)]
pub(crate) enum Order {
    /// As they were first stored.
    Stored,
    /// By last change; those of one moment as they were first stored, or the other way round.
    Updated {
        /// Newest first.
        newest_first: bool,
    },
    /// By parameters, then as they were first stored.
    Parameters(Vec<(&'static SearchParameter, bool)>),
}

impl Order {
    pub(crate) fn of(query: &Query) -> Self {
        match query.sort.as_slice() {
            [] => Self::Stored,
            [only] if only.parameter.code == "_lastUpdated" => {
                Self::Updated { newest_first: only.descending }
            }
            several => {
                Self::Parameters(several.iter().map(|sort| (sort.parameter, sort.descending)).collect())
            }
        }
    }

    /// A resource's key.
    pub(crate) fn key(&self, extracted: &[Extracted], id: &str, updated: Timestamp) -> Key {
        match self {
            Self::Stored => Vec::new(),
            Self::Updated { .. } => vec![Some(number(updated.micros()))],
            Self::Parameters(parameters) => parameters
                .iter()
                .map(|(parameter, descending)| match parameter.code {
                    "_id" => Some(id.as_bytes().to_vec()),
                    "_lastUpdated" => Some(number(updated.micros())),
                    _ => {
                        let own = extracted.iter().filter(|one| std::ptr::eq(one.parameter, *parameter));
                        let values = own.filter_map(|one| bytes(&one.value));
                        if *descending { values.max() } else { values.min() }
                    }
                })
                .collect(),
        }
    }

    /// Compares two resources.
    pub(crate) fn compare(&self, (a, a_rid): (&Key, i64), (b, b_rid): (&Key, i64)) -> Ordering {
        match self {
            Self::Stored => a_rid.cmp(&b_rid),
            Self::Updated { newest_first: false } => (a, a_rid).cmp(&(b, b_rid)),
            Self::Updated { newest_first: true } => (b, b_rid).cmp(&(a, a_rid)),
            Self::Parameters(parameters) => {
                let keys = a.iter().zip(b).zip(parameters).map(|((a, b), (_, descending))| match (a, b) {
                    (Some(a), Some(b)) if *descending => b.cmp(a),
                    (Some(a), Some(b)) => a.cmp(b),
                    (Some(_), None) => Ordering::Less,
                    (None, Some(_)) => Ordering::Greater,
                    (None, None) => Ordering::Equal,
                });
                keys.fold(Ordering::Equal, Ordering::then).then(a_rid.cmp(&b_rid))
            }
        }
    }

    /// The position after a resource.
    pub(crate) fn position(&self, key: &Key, rid: i64, updated: Timestamp) -> Position {
        match self {
            Self::Stored => position::of_rid(rid),
            Self::Updated { .. } => position::of_moment(updated.micros(), rid),
            Self::Parameters(_) => position::of_sorted(key, rid),
        }
    }

    /// The key and resource of [`Order::position`].
    pub(crate) fn place(&self, position: &Position) -> Result<(Key, i64), StoreError> {
        match self {
            Self::Stored => Ok((Vec::new(), position::rid(position)?)),
            Self::Updated { .. } => {
                let (updated, rid) = position::moment(position)?;
                Ok((vec![Some(number(updated))], rid))
            }
            Self::Parameters(parameters) => position::sorted(position, parameters.len()),
        }
    }
}

/// Of a value, as much as orders it; what is alike so far stands in the order in which it was stored. Keys travel in
/// paging links.
const KEY_BYTES_MAX: usize = 256;

/// Bytes in the order of the values.
fn bytes(value: &SearchValue) -> Option<Vec<u8>> {
    let mut bytes = match value {
        SearchValue::Token { system, code, .. } => {
            let code = code.as_deref()?.as_bytes();
            [code, &[0], system.as_deref().unwrap_or_default().as_bytes()].concat()
        }
        SearchValue::String(text) => normalize_string(text).into_bytes(),
        SearchValue::Uri(uri) => uri.clone().into_bytes(),
        SearchValue::Reference { resource_type, id, url, .. } => match (id, url) {
            (Some(id), _) => {
                [resource_type.map_or("", |of| of.name()).as_bytes(), b"/", id.as_bytes()].concat()
            }
            (None, Some(url)) => url.clone().into_bytes(),
            (None, None) => return None,
        },
        SearchValue::Date { start, .. } => number(*start),
        SearchValue::Number { low, .. } | SearchValue::Quantity { low, .. } => float(*low),
        SearchValue::Identifier { .. }
        | SearchValue::Words(_)
        | SearchValue::Place(..)
        | SearchValue::Composite(_) => return None,
    };
    bytes.truncate(KEY_BYTES_MAX);
    Some(bytes)
}

fn number(number: i64) -> Vec<u8> {
    (number ^ i64::MIN).to_be_bytes().to_vec()
}

fn float(number: f64) -> Vec<u8> {
    // Flipped so that the bits of negative numbers order as the numbers do; zero has one form.
    let bits = (number + 0.0).to_bits();
    let flipped = if bits >> 63 == 1 { !bits } else { bits | 1 << 63 };
    flipped.to_be_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_order_as_numbers_do() {
        assert!([i64::MIN, -5, 0, 7, i64::MAX].map(number).is_sorted());
        let floats = [f64::NEG_INFINITY, -2.5, -1e-300, 0.0, 1e-300, 2.0, f64::INFINITY];
        assert!(floats.map(float).is_sorted());
        assert_eq!(float(-0.0), float(0.0));
    }
}
