//! Time as a tree of nodes, so that "overlaps this range" becomes "has one of these tokens".
//!
//! The smallest node is a day; each level above holds eight of the level below: 1, 8, 64, 512 and 4096 days. A value
//! stores its *cover* (the fewest nodes that together hold it, [`Role::Cover`]) and the nodes above those
//! ([`Role::Above`]). A range asks for its own cover in both roles (values that reach into those nodes) and for the
//! nodes above as covers (values that are wider than a node of the range).
//!
//! Covers may be too wide, never too narrow: every hit is decrypted and checked again, so rounding costs a
//! read, not an answer. Days before 1850 count as its first, days from 2119 on as the last.

use std::collections::BTreeSet;

/// A node: its level and its number within it.
pub(crate) type Node = (u8, u32);

/// How a value stands to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// The node is in the value's cover.
    Cover,
    /// The node is above one in the value's cover.
    Above,
}

const MICROS_PER_DAY: i64 = 86_400_000_000;
/// 1850-01-01 as days since 1970-01-01.
const FIRST_DAY: i64 = -43_829;
/// 24 nodes of the highest level.
const DAYS: i64 = 24 << (3 * HIGHEST as i64);
const HIGHEST: u8 = 4;
/// Months and years need few; an open end needs about a dozen.
const VALUE_NODES_MAX: usize = 14;
const RANGE_NODES_MAX: usize = 48;

/// What a value from `start` to `end` (microseconds, exclusive) stores, from `lowest` level up.
pub(crate) fn stored(start: i64, end: i64, lowest: u8) -> Vec<(Role, Node)> {
    let cover = cover(start, end, lowest, VALUE_NODES_MAX);
    let mut nodes = BTreeSet::new();
    for node in &cover {
        nodes.insert((Role::Cover, *node));
        nodes.extend(above(*node).map(|node| (Role::Above, node)));
    }
    nodes.into_iter().collect()
}

/// What a range from `start` to `end` asks for. A value overlaps only if it stores one of these.
pub(crate) fn asked(start: i64, end: i64, lowest: u8) -> Vec<(Role, Node)> {
    let cover = cover(start, end, lowest, RANGE_NODES_MAX);
    let mut nodes = BTreeSet::new();
    for node in &cover {
        nodes.insert((Role::Cover, *node));
        // Nothing is below the lowest level, so nothing has such a node above its cover.
        if node.0 > lowest {
            nodes.insert((Role::Above, *node));
        }
        nodes.extend(above(*node).map(|node| (Role::Cover, node)));
    }
    nodes.into_iter().collect()
}

fn above((level, number): Node) -> impl Iterator<Item = Node> {
    (level + 1..=HIGHEST).map(move |higher| (higher, number >> (3 * (higher - level))))
}

/// The fewest nodes that hold the range, or a wider range where that takes more than `nodes_max`.
fn cover(start: i64, end: i64, lowest: u8, nodes_max: usize) -> Vec<Node> {
    let day = |micros: i64| (micros.div_euclid(MICROS_PER_DAY) - FIRST_DAY).clamp(0, DAYS - 1);
    let first = day(start);
    let last = day(end.saturating_sub(1)).max(first);
    let mut level = lowest;
    loop {
        let nodes = minimal(first >> (3 * level), last >> (3 * level), level);
        if nodes.len() <= nodes_max || level >= HIGHEST {
            return nodes;
        }
        level += 1;
    }
}

/// The fewest nodes for `first..=last`, counted in nodes of `level`.
fn minimal(mut first: i64, last: i64, level: u8) -> Vec<Node> {
    let mut nodes = Vec::new();
    while first <= last {
        let mut up = 0;
        while level + up < HIGHEST {
            let size = 1i64 << (3 * (up + 1));
            if first % size != 0 || first + size - 1 > last {
                break;
            }
            up += 1;
        }
        nodes.push((level + up, u32::try_from(first >> (3 * up)).unwrap_or(u32::MAX)));
        first += 1i64 << (3 * up);
    }
    nodes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: i64 = MICROS_PER_DAY;

    fn meet(value: (i64, i64), range: (i64, i64), lowest: u8) -> bool {
        let stored = stored(value.0, value.1, lowest);
        asked(range.0, range.1, lowest).iter().any(|node| stored.contains(node))
    }

    #[test]
    fn an_instant_is_one_node_and_those_above() {
        assert_eq!(stored(5 * DAY + 1, 5 * DAY + 2, 0).len(), 5);
        assert!(meet((5 * DAY + 1, 5 * DAY + 2), (5 * DAY, 6 * DAY), 0));
        assert!(!meet((5 * DAY + 1, 5 * DAY + 2), (6 * DAY, 7 * DAY), 0));
        assert!(!meet((5 * DAY + 1, 5 * DAY + 2), (6 * DAY, i64::MAX), 0));
    }

    #[test]
    fn open_ends_and_long_ranges_stay_small() {
        assert!(stored(18_000 * DAY, i64::MAX, 0).len() < 24);
        assert!(stored(i64::MIN, i64::MAX, 0).len() <= 24);
        assert!(asked(18_003 * DAY, i64::MAX, 0).len() < 80);
        assert!(asked(18_003 * DAY, 18_400 * DAY, 0).len() < 60);
    }

    fn moment() -> impl Strategy<Value = i64> {
        prop_oneof![
            Just(i64::MIN),
            Just(i64::MAX),
            any::<i64>(),
            -1000 * DAY..30_000 * DAY,
            10_000 * DAY..10_100 * DAY
        ]
    }

    proptest! {
        #[test]
        fn whatever_overlaps_meets(a in moment(), b in moment(), c in moment(), d in moment(), lowest in 0..3u8) {
            let (value, range) = ((a.min(b), a.max(b)), (c.min(d), c.max(d)));
            prop_assume!(value.0 < value.1 && range.0 < range.1);
            if value.0 < range.1 && range.0 < value.1 {
                prop_assert!(meet(value, range, lowest));
            }
        }

        #[test]
        fn what_lies_days_apart_does_not_meet(a in 0..30_000i64, length in 0..3i64, gap in 2..9000i64) {
            let value = (a * DAY, (a + length) * DAY + 1);
            let from = (a + length + gap) * DAY;
            prop_assert!(!meet(value, (from, from + DAY), 0));
        }
    }
}
