//! What is equal, equivalent, more or less, and collections in which nothing stands twice.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use serde_json::Value;

use super::decimal::Decimal;
use super::evaluate::Budget;
use super::item::Item;
use super::{EvaluateError, RESOURCE_DEPTH_MAX};

/// Whether two items are equal (`=`); nothing if that is not known.
pub(super) fn equal(
    left: &Item<'_>,
    right: &Item<'_>,
    budget: &Budget,
) -> Result<Option<bool>, EvaluateError> {
    budget.spend(1)?;
    if let (Item::Type { namespace, name }, Item::Type { namespace: others, name: other }) = (left, right) {
        return Ok(Some((namespace, name) == (others, other)));
    }
    let (Some(own), Some(other)) = (left.system(), right.system()) else {
        return structurally(left, right, false, budget).map(Some);
    };
    Ok(match (&own, &other) {
        (Item::Boolean(one), Item::Boolean(two)) => Some(one == two),
        (Item::String(one), Item::String(two)) => {
            budget.spend_text(one.len().min(two.len()))?;
            Some(**one == **two)
        }
        (Item::Quantity(one), Item::Quantity(two)) => one.compare(two).map(Ordering::is_eq),
        _ => match (temporal(&own), temporal(&other)) {
            (Some(one), Some(two)) if one.is_time() != two.is_time() => Some(false),
            (Some(one), Some(two)) => one.compare(two).map(Ordering::is_eq),
            (None, None) => match (number(&own), number(&other)) {
                (Some(one), Some(two)) => Some(one == two),
                _ => Some(mixed(&own, &other)),
            },
            _ => Some(false),
        },
    })
}

/// A quantity without a unit and a number.
fn mixed(one: &Item<'_>, other: &Item<'_>) -> bool {
    match (one, other) {
        (Item::Quantity(quantity), plain) | (plain, Item::Quantity(quantity)) => {
            *quantity.unit == *"1" && number(plain) == Some(quantity.value)
        }
        _ => false,
    }
}

/// Whether two collections are equal: as many items, each equal to that in its place. Nothing if one is empty.
pub(super) fn all_equal(
    left: &[Item<'_>],
    right: &[Item<'_>],
    budget: &Budget,
) -> Result<Option<bool>, EvaluateError> {
    if left.is_empty() || right.is_empty() {
        return Ok(None);
    }
    if left.len() != right.len() {
        return Ok(Some(false));
    }
    let mut all = Some(true);
    for (one, two) in left.iter().zip(right) {
        match equal(one, two, budget)? {
            Some(true) => {}
            Some(false) => return Ok(Some(false)),
            None => all = None,
        }
    }
    Ok(all)
}

/// Whether two items are much the same (`~`).
pub(super) fn equivalent(left: &Item<'_>, right: &Item<'_>, budget: &Budget) -> Result<bool, EvaluateError> {
    budget.spend(1)?;
    let (Some(own), Some(other)) = (left.system(), right.system()) else {
        return structurally(left, right, true, budget);
    };
    Ok(match (&own, &other) {
        (Item::Boolean(one), Item::Boolean(two)) => one == two,
        (Item::String(one), Item::String(two)) => {
            budget.spend_text(one.len() + two.len())?;
            alike(one, two)
        }
        (Item::Quantity(one), Item::Quantity(two)) => {
            one.align(two).is_some_and(|(one, two)| about_equal(one, two))
        }
        _ => match (temporal(&own), temporal(&other)) {
            (Some(one), Some(two)) => one.compare(two) == Some(Ordering::Equal),
            (None, None) => match (number(&own), number(&other)) {
                (Some(one), Some(two)) => about_equal(one, two),
                _ => mixed(&own, &other),
            },
            _ => false,
        },
    })
}

/// Whether two collections are much the same, in whatever order.
pub(super) fn all_equivalent(
    left: &[Item<'_>],
    right: &[Item<'_>],
    budget: &Budget,
) -> Result<bool, EvaluateError> {
    if left.len() != right.len() {
        return Ok(false);
    }
    let mut taken = vec![false; right.len()];
    'items: for one in left {
        for (two, taken) in right.iter().zip(&mut taken) {
            if !*taken && equivalent(one, two, budget)? {
                *taken = true;
                continue 'items;
            }
        }
        return Ok(false);
    }
    Ok(true)
}

/// Which of two items is less; nothing if that is not known.
pub(super) fn compare(
    left: &Item<'_>,
    right: &Item<'_>,
    budget: &Budget,
) -> Result<Option<Ordering>, EvaluateError> {
    let (Some(own), Some(other)) = (left.system(), right.system()) else {
        return Err(EvaluateError::WrongType);
    };
    match (&own, &other) {
        (Item::String(one), Item::String(two)) => {
            budget.spend_text(one.len().min(two.len()))?;
            Ok(Some((**one).cmp(&**two)))
        }
        (Item::Quantity(one), Item::Quantity(two)) => Ok(one.compare(two)),
        (Item::Quantity(one), two) if *one.unit == *"1" => {
            number(two).map(|two| Some(one.value.cmp(&two))).ok_or(EvaluateError::WrongType)
        }
        (one, Item::Quantity(two)) if *two.unit == *"1" => {
            number(one).map(|one| Some(one.cmp(&two.value))).ok_or(EvaluateError::WrongType)
        }
        _ => match (temporal(&own), temporal(&other)) {
            (Some(one), Some(two)) => Ok(one.compare(two)),
            (None, None) => match (number(&own), number(&other)) {
                (Some(one), Some(two)) => Ok(Some(one.cmp(&two))),
                _ => Err(EvaluateError::WrongType),
            },
            _ => Err(EvaluateError::WrongType),
        },
    }
}

pub(super) fn number(item: &Item<'_>) -> Option<Decimal> {
    match item {
        Item::Integer(number) => Some(Decimal::whole(*number)),
        Item::Decimal(number) => Some(*number),
        _ => None,
    }
}

fn temporal(item: &Item<'_>) -> Option<super::Temporal> {
    match item {
        Item::Date(value) | Item::DateTime(value) | Item::Time(value) => Some(*value),
        _ => None,
    }
}

/// Texts that differ in case and blanks only.
fn alike(one: &str, two: &str) -> bool {
    let words = |text| str::split_whitespace(text).map(str::to_lowercase);
    words(one).eq(words(two))
}

/// Numbers that are equal at the lesser of their precisions.
fn about_equal(one: Decimal, two: Decimal) -> bool {
    let (one, two) = (one.normalized(), two.normalized());
    let scale = one.scale().min(two.scale());
    one.round(scale) == two.round(scale)
}

/// Whether two complex elements are of one type and hold the same.
fn structurally(
    left: &Item<'_>,
    right: &Item<'_>,
    loosely: bool,
    budget: &Budget,
) -> Result<bool, EvaluateError> {
    let (Item::Element(one), Item::Element(two)) = (left, right) else { return Ok(false) };
    let same = |left: Option<&Value>, right: Option<&Value>| match (left, right) {
        (None, None) => Ok(true),
        (Some(left), Some(right)) => same_json(left, right, loosely, RESOURCE_DEPTH_MAX, budget),
        _ => Ok(false),
    };
    Ok(same(one.value(), two.value())? && same(one.sibling(), two.sibling())?)
}

fn same_json(
    left: &Value,
    right: &Value,
    loosely: bool,
    depth_left: usize,
    budget: &Budget,
) -> Result<bool, EvaluateError> {
    budget.spend(1)?;
    if std::ptr::eq(left, right) {
        return Ok(true);
    }
    let depth_left = depth_left.checked_sub(1).ok_or(EvaluateError::TooDeep)?;
    match (left, right) {
        (Value::Object(one), Value::Object(two)) => {
            if one.len() != two.len() {
                return Ok(false);
            }
            for (key, value) in one {
                budget.spend_text(key.len())?;
                let Some(other) = two.get(key) else { return Ok(false) };
                if !same_json(value, other, loosely, depth_left, budget)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        (Value::Array(one), Value::Array(two)) => {
            if one.len() != two.len() {
                return Ok(false);
            }
            for (value, other) in one.iter().zip(two) {
                if !same_json(value, other, loosely, depth_left, budget)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        (Value::Number(one), Value::Number(two)) => {
            budget.spend_text(one.as_str().len().min(two.as_str().len()))?;
            Ok(match (Decimal::parse(one.as_str()), Decimal::parse(two.as_str())) {
                (Some(one), Some(two)) => one == two,
                _ => one == two,
            })
        }
        (Value::String(one), Value::String(two)) => {
            budget.spend_text(if loosely { one.len() + two.len() } else { one.len().min(two.len()) })?;
            Ok(one == two || (loosely && alike(one, two)))
        }
        _ => Ok(left == right),
    }
}

/// A collection of items of which no two are equal, in the order in which they came.
#[derive(Default)]
pub(super) struct Distinct<'v> {
    pub(super) items: Vec<Item<'v>>,
    /// Positions by hash: equal items have equal hashes.
    positions: HashMap<u64, Vec<usize>>,
}

impl<'v> Distinct<'v> {
    pub(super) fn of(items: &[Item<'v>], budget: &Budget) -> Result<Self, EvaluateError> {
        let mut distinct = Self::default();
        for item in items {
            distinct.insert(item.clone(), budget)?;
        }
        Ok(distinct)
    }

    /// Whether it was not there before.
    pub(super) fn insert(&mut self, item: Item<'v>, budget: &Budget) -> Result<bool, EvaluateError> {
        if self.contains(&item, budget)? {
            return Ok(false);
        }
        budget.room(self.items.len())?;
        self.positions.entry(hash(&item, budget)?).or_default().push(self.items.len());
        self.items.push(item);
        Ok(true)
    }

    pub(super) fn contains(&self, item: &Item<'_>, budget: &Budget) -> Result<bool, EvaluateError> {
        for position in self.positions.get(&hash(item, budget)?).into_iter().flatten() {
            if let Some(other) = self.items.get(*position)
                && equal(other, item, budget)? == Some(true)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn hash(item: &Item<'_>, budget: &Budget) -> Result<u64, EvaluateError> {
    let mut hasher = DefaultHasher::new();
    match item.system() {
        Some(Item::Boolean(truth)) => truth.hash(&mut hasher),
        Some(Item::String(text)) => {
            budget.spend_text(text.len())?;
            text.hash(&mut hasher);
        }
        Some(Item::Integer(number)) => hash_number(Decimal::whole(number), &mut hasher),
        Some(Item::Decimal(number)) => hash_number(number, &mut hasher),
        // A quantity of another unit, or a moment in another zone, may be equal.
        Some(_) => {}
        None => {
            if let Item::Element(element) = item
                && let Some(value) = element.value()
            {
                hash_json(value, RESOURCE_DEPTH_MAX, &mut hasher, budget)?;
            }
        }
    }
    Ok(hasher.finish())
}

fn hash_number(number: Decimal, hasher: &mut DefaultHasher) {
    let number = number.normalized();
    (number.mantissa(), number.scale()).hash(hasher);
}

fn hash_json(
    value: &Value,
    depth_left: usize,
    hasher: &mut DefaultHasher,
    budget: &Budget,
) -> Result<(), EvaluateError> {
    budget.spend(1)?;
    let depth_left = depth_left.checked_sub(1).ok_or(EvaluateError::TooDeep)?;
    match value {
        Value::Array(items) => items.iter().try_for_each(|item| hash_json(item, depth_left, hasher, budget)),
        Value::Object(object) => {
            // The order of properties does not matter.
            let mut sum = 0_u64;
            for (key, value) in object {
                let mut own = DefaultHasher::new();
                budget.spend_text(key.len())?;
                key.hash(&mut own);
                hash_json(value, depth_left, &mut own, budget)?;
                sum = sum.wrapping_add(own.finish());
            }
            sum.hash(hasher);
            Ok(())
        }
        Value::String(text) => {
            budget.spend_text(text.len())?;
            text.hash(hasher);
            Ok(())
        }
        // Numbers are equal that look different.
        _ => Ok(()),
    }
}
