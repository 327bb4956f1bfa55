//! The functions `toX` and `convertsToX` (<https://hl7.org/fhirpath/N1/#conversion>).

use super::decimal::Decimal;
use super::evaluate::{Budget, Evaluated};
use super::item::{Item, Text};
use super::quantity::Quantity;
use super::syntax::Function;
use super::temporal::{Kind, Temporal};

/// What to convert to, and whether only to say if that can be done.
#[derive(Clone, Copy)]
pub(super) struct Target {
    to: Type,
    asks: bool,
}

#[derive(Clone, Copy)]
enum Type {
    Boolean,
    Date,
    DateTime,
    Decimal,
    Integer,
    Quantity,
    String,
    Time,
}

/// The target of a function that converts.
pub(super) fn target(function: Function) -> Option<Target> {
    use Function as F;
    let (to, asks) = match function {
        F::ToBoolean => (Type::Boolean, false),
        F::ConvertsToBoolean => (Type::Boolean, true),
        F::ToDate => (Type::Date, false),
        F::ConvertsToDate => (Type::Date, true),
        F::ToDateTime => (Type::DateTime, false),
        F::ConvertsToDateTime => (Type::DateTime, true),
        F::ToDecimal => (Type::Decimal, false),
        F::ConvertsToDecimal => (Type::Decimal, true),
        F::ToInteger => (Type::Integer, false),
        F::ConvertsToInteger => (Type::Integer, true),
        F::ToQuantity => (Type::Quantity, false),
        F::ConvertsToQuantity => (Type::Quantity, true),
        F::ToString => (Type::String, false),
        F::ConvertsToString => (Type::String, true),
        F::ToTime => (Type::Time, false),
        F::ConvertsToTime => (Type::Time, true),
        _ => return None,
    };
    Some(Target { to, asks })
}

/// The item converted, or whether it can be; a quantity only if it has `unit`, where one is given.
pub(super) fn convert<'v>(
    target: Target,
    item: &Item<'v>,
    unit: Option<&str>,
    budget: &Budget,
) -> Evaluated<Option<Item<'v>>> {
    budget.spend_text(item.text().map_or(0, str::len))?;
    let converted = item.system().and_then(|item| match target.to {
        Type::Boolean => to_boolean(&item).map(Item::Boolean),
        Type::Date => to_date(&item).map(Item::Date),
        Type::DateTime => to_date_time(&item).map(Item::DateTime),
        Type::Decimal => to_decimal(&item).map(Item::Decimal),
        Type::Integer => to_integer(&item).map(Item::Integer),
        Type::Quantity => to_quantity(&item)
            .filter(|quantity| unit.is_none_or(|unit| *quantity.unit == *unit))
            .map(|quantity| Item::Quantity(Box::new(quantity))),
        Type::String => to_string(&item).map(Item::String),
        Type::Time => to_time(&item).map(Item::Time),
    });
    Ok(if target.asks { Some(Item::Boolean(converted.is_some())) } else { converted })
}

fn to_boolean(item: &Item<'_>) -> Option<bool> {
    match item {
        Item::Boolean(truth) => Some(*truth),
        Item::Integer(0) => Some(false),
        Item::Integer(1) => Some(true),
        Item::Decimal(number) if *number == Decimal::whole(0) => Some(false),
        Item::Decimal(number) if *number == Decimal::whole(1) => Some(true),
        Item::String(text) => {
            let is = |word: &&str| text.eq_ignore_ascii_case(word);
            if ["true", "t", "yes", "y", "1", "1.0"].iter().any(is) {
                Some(true)
            } else {
                ["false", "f", "no", "n", "0", "0.0"].iter().any(is).then_some(false)
            }
        }
        _ => None,
    }
}

fn to_integer(item: &Item<'_>) -> Option<i64> {
    match item {
        Item::Integer(number) => Some(*number),
        Item::Boolean(truth) => Some(i64::from(*truth)),
        Item::String(text) => text.parse::<i32>().ok().map(i64::from),
        _ => None,
    }
}

fn to_decimal(item: &Item<'_>) -> Option<Decimal> {
    match item {
        Item::Integer(number) => Some(Decimal::whole(*number)),
        Item::Decimal(number) => Some(*number),
        Item::Boolean(truth) => Some(Decimal::whole(i64::from(*truth))),
        Item::String(text) if !text.contains(['e', 'E']) => Decimal::parse(text),
        _ => None,
    }
}

fn to_date(item: &Item<'_>) -> Option<Temporal> {
    match item {
        Item::Date(date) => Some(*date),
        Item::DateTime(moment) => Some(moment.date_part()),
        Item::String(text) => match Temporal::scan(text)? {
            (Kind::Date | Kind::DateTime, value, length) if length == text.len() => Some(value.date_part()),
            _ => None,
        },
        _ => None,
    }
}

fn to_date_time(item: &Item<'_>) -> Option<Temporal> {
    match item {
        Item::Date(value) | Item::DateTime(value) => Some(*value),
        Item::String(text) => Temporal::date_time(text),
        _ => None,
    }
}

fn to_time(item: &Item<'_>) -> Option<Temporal> {
    match item {
        Item::Time(time) => Some(*time),
        Item::String(text) => Temporal::time(text.strip_prefix('T').unwrap_or(text)),
        _ => None,
    }
}

fn to_string<'v>(item: &Item<'v>) -> Option<Text<'v>> {
    let made = match item {
        Item::String(text) => return Some(text.clone()),
        Item::Boolean(truth) => truth.to_string(),
        Item::Integer(number) => number.to_string(),
        Item::Decimal(number) => number.to_string(),
        Item::Date(value) | Item::DateTime(value) | Item::Time(value) => value.to_string(),
        Item::Quantity(quantity) if Quantity::is_calendar_word(&quantity.unit) => {
            format!("{} {}", quantity.value, &*quantity.unit)
        }
        Item::Quantity(quantity) => format!("{} '{}'", quantity.value, &*quantity.unit),
        Item::Element(_) | Item::Type { .. } => return None,
    };
    Some(made.into())
}

fn to_quantity<'v>(item: &Item<'v>) -> Option<Quantity<'v>> {
    let plain = |value: Decimal| Quantity { value, unit: "1".into() };
    match item {
        Item::Quantity(quantity) => Some((**quantity).clone()),
        Item::Integer(_) | Item::Decimal(_) | Item::Boolean(_) => to_decimal(item).map(plain),
        Item::String(text) => {
            let end = text.find(|letter: char| !matches!(letter, '0'..='9' | '.' | '+' | '-'));
            let (number, unit) = text.split_at(end.unwrap_or(text.len()));
            let value = Decimal::parse(number)?;
            let unit = unit.trim_start();
            if unit.is_empty() {
                return Some(plain(value));
            }
            let quoted = unit.strip_prefix('\'').and_then(|unit| unit.strip_suffix('\''));
            let known = quoted.or_else(|| Quantity::is_calendar_word(unit).then_some(unit));
            known.and_then(|unit| Quantity::with(value, unit.to_owned().into()))
        }
        _ => None,
    }
}

/// The text that `toString()` gives; for tests.
#[cfg(test)]
pub(super) fn text<'v>(item: &Item<'v>) -> Option<Text<'v>> {
    item.system().and_then(|item| to_string(&item))
}
