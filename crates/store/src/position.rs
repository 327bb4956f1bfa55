//! Places in ordered answers, as bytes. Each kind has a tag, so that one cannot be used where another belongs.

use crate::{Position, StoreError, sorting::Key};

const VERSION: u8 = 1;
const MOMENT: u8 = 2;
const RID: u8 = 3;
const SORTED: u8 = 4;
const PART: u8 = 5;

/// After a version in a resource's history.
pub(crate) fn of_version(version: u64) -> Position {
    numbers(VERSION, &[i64::try_from(version).unwrap_or(i64::MAX)])
}

/// The version of [`of_version`].
pub(crate) fn version(position: &Position) -> Result<i64, StoreError> {
    let [version] = parse(position, VERSION)?;
    Ok(version)
}

/// After a resource in an answer ordered by time.
pub(crate) fn of_moment(updated: i64, rid: i64) -> Position {
    numbers(MOMENT, &[updated, rid])
}

/// The time and resource of [`of_moment`].
pub(crate) fn moment(position: &Position) -> Result<(i64, i64), StoreError> {
    let [updated, rid] = parse(position, MOMENT)?;
    Ok((updated, rid))
}

/// After a resource in the order in which resources were first stored.
pub(crate) fn of_rid(rid: i64) -> Position {
    numbers(RID, &[rid])
}

/// After a resource in that order, in a part of it that ends with another.
pub(crate) fn of_part(rid: i64, last: i64) -> Position {
    numbers(PART, &[rid, last])
}

/// The resource of [`of_rid`] or [`of_part`].
pub(crate) fn rid(position: &Position) -> Result<i64, StoreError> {
    let [rid] = parse(position, RID).or_else(|_| parse::<2>(position, PART).map(|[rid, _]| [rid]))?;
    Ok(rid)
}

/// The last resource of the part, if it is one.
pub(crate) fn last(position: &Position) -> Option<i64> {
    parse::<2>(position, PART).ok().map(|[_, last]| last)
}

/// After a resource in an answer ordered by `keys`, which are compared as bytes; `None` sorts last.
pub(crate) fn of_sorted(keys: &[Option<Vec<u8>>], rid: i64) -> Position {
    let mut bytes = vec![SORTED];
    bytes.extend_from_slice(&rid.to_be_bytes());
    for key in keys {
        match key {
            None => bytes.push(0),
            Some(key) => {
                bytes.push(1);
                bytes.extend_from_slice(&u32::try_from(key.len()).unwrap_or(u32::MAX).to_be_bytes());
                bytes.extend_from_slice(key);
            }
        }
    }
    Position(bytes)
}

/// The `count` keys and the resource of [`of_sorted`].
pub(crate) fn sorted(position: &Position, count: usize) -> Result<(Key, i64), StoreError> {
    let read = || -> Option<(Key, i64)> {
        let rest = position.0.strip_prefix(&[SORTED])?;
        let (rid, mut rest) = rest.split_first_chunk::<8>()?;
        let mut keys = Vec::new();
        while let Some((present, after)) = rest.split_first() {
            rest = after;
            if *present == 0 {
                keys.push(None);
                continue;
            }
            let (length, after) = rest.split_first_chunk::<4>()?;
            let (key, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
            keys.push(Some(key.to_vec()));
            rest = after;
        }
        (keys.len() == count).then_some((keys, i64::from_be_bytes(*rid)))
    };
    read().ok_or(StoreError::Position)
}

fn numbers(tag: u8, numbers: &[i64]) -> Position {
    let mut bytes = vec![tag];
    for number in numbers {
        bytes.extend_from_slice(&number.to_be_bytes());
    }
    Position(bytes)
}

fn parse<const N: usize>(position: &Position, tag: u8) -> Result<[i64; N], StoreError> {
    let rest = position.0.strip_prefix(&[tag]).ok_or(StoreError::Position)?;
    let (chunks, rest) = rest.as_chunks::<8>();
    let chunks: &[[u8; 8]; N] = chunks.try_into().map_err(|_| StoreError::Position)?;
    if rest.is_empty() { Ok(chunks.map(i64::from_be_bytes)) } else { Err(StoreError::Position) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_position_of_another_kind_is_refused() {
        assert_eq!(moment(&of_moment(-5, 7)), Ok((-5, 7)));
        assert_eq!(rid(&of_moment(-5, 7)), Err(StoreError::Position));
        assert_eq!(version(&of_rid(7)), Err(StoreError::Position));
        assert_eq!((rid(&of_part(3, 9)), last(&of_part(3, 9)), last(&of_rid(3))), (Ok(3), Some(9), None));
        let keys = vec![None, Some(vec![0, 1]), Some(Vec::new())];
        assert_eq!(sorted(&of_sorted(&keys, 9), 3), Ok((keys.clone(), 9)));
        assert_eq!(sorted(&of_sorted(&keys, 9), 2), Err(StoreError::Position));
    }

    proptest! {
        #[test]
        fn hostile_positions_do_not_panic(tag in 0..7u8, mut bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            bytes.insert(0, tag);
            let position = Position::from_bytes(&bytes);
            let _ = (version(&position), moment(&position), rid(&position), sorted(&position, 2));
        }
    }
}
