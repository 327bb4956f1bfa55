//! Quantities and the few conversions of units that are known.

use std::cmp::Ordering;
use std::fmt;

use serde_json::Value;

use super::decimal::Decimal;
use super::item::Text;

/// The longest unit, in bytes: one that is longer is none.
pub(super) const UNIT_BYTES_MAX: usize = 1 << 10;

/// A number with a unit (<https://hl7.org/fhirpath/N1/#quantity>).
#[derive(Clone)]
pub struct Quantity<'v> {
    /// How many.
    pub value: Decimal,
    /// A unit of UCUM, a word of the calendar such as `days`, or, of another system, its address, `|` and the code.
    pub unit: Text<'v>,
}

impl fmt::Debug for Quantity<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Quantity(..)")
    }
}

/// Units of UCUM that can be compared: the dimension, and how many of its base unit it is.
const UNITS: &[(&str, &str, &str)] = &[
    ("kg", "mass", "1000"),
    ("g", "mass", "1"),
    ("mg", "mass", "0.001"),
    ("ug", "mass", "0.000001"),
    ("ng", "mass", "0.000000001"),
    ("[lb_av]", "mass", "453.59237"),
    ("[oz_av]", "mass", "28.349523125"),
    ("km", "length", "1000"),
    ("m", "length", "1"),
    ("dm", "length", "0.1"),
    ("cm", "length", "0.01"),
    ("mm", "length", "0.001"),
    ("um", "length", "0.000001"),
    ("nm", "length", "0.000000001"),
    ("[in_i]", "length", "0.0254"),
    ("[ft_i]", "length", "0.3048"),
    ("L", "volume", "1"),
    ("l", "volume", "1"),
    ("dL", "volume", "0.1"),
    ("dl", "volume", "0.1"),
    ("mL", "volume", "0.001"),
    ("ml", "volume", "0.001"),
    ("uL", "volume", "0.000001"),
    ("wk", "time", "604800"),
    ("d", "time", "86400"),
    ("h", "time", "3600"),
    ("min", "time", "60"),
    ("s", "time", "1"),
    ("ms", "time", "0.001"),
    ("mmol/L", "substance", "1"),
    ("umol/L", "substance", "0.001"),
    ("g/L", "concentration", "1"),
    ("g/dL", "concentration", "10"),
    ("mg/L", "concentration", "0.001"),
    ("mg/dL", "concentration", "0.01"),
];

/// Words of the calendar: one, many, and the unit of UCUM that means the same. A year and a month of the calendar are
/// not always as long as those of UCUM.
const CALENDAR: &[(&str, &str, &str)] = &[
    ("year", "years", "year"),
    ("month", "months", "month"),
    ("week", "weeks", "wk"),
    ("day", "days", "d"),
    ("hour", "hours", "h"),
    ("minute", "minutes", "min"),
    ("second", "seconds", "s"),
    ("millisecond", "milliseconds", "ms"),
];

impl<'v> Quantity<'v> {
    pub(super) fn is_calendar_word(word: &str) -> bool {
        CALENDAR.iter().any(|(one, many, _)| *one == word || *many == word)
    }

    /// The quantity that a FHIR `Quantity` or a kind of it is; nothing if it has no value, a comparator
    /// or no unit that can be one.
    pub(super) fn of_element(element: &'v Value) -> Option<Self> {
        let text = |name: &str| element.get(name).and_then(Value::as_str);
        let Some(Value::Number(number)) = element.get("value") else { return None };
        if element.get("comparator").is_some() {
            return None;
        }
        let (system, unit) = match (text("system"), text("code")) {
            (Some("http://unitsofmeasure.org"), Some(code)) => ("", code),
            (Some(system), Some(code)) => (system, code),
            (_, code) => ("", code.or_else(|| text("unit")).unwrap_or("1")),
        };
        if system.len() + unit.len() >= UNIT_BYTES_MAX {
            return None;
        }
        let unit = if system.is_empty() { Text::Borrowed(unit) } else { format!("{system}|{unit}").into() };
        Some(Self { value: Decimal::parse(number.as_str())?, unit })
    }

    /// This unit, and whether it is short enough to be one.
    pub(super) fn with(value: Decimal, unit: Text<'v>) -> Option<Self> {
        (unit.len() <= UNIT_BYTES_MAX).then_some(Self { value, unit })
    }

    /// The unit of the calendar for arithmetic with dates, if it is one.
    pub(super) fn calendar_unit(&self) -> Option<&'static str> {
        let matches =
            |(one, many, ucum): &&(&'static str, &str, &str)| [one, many, ucum].contains(&&&*self.unit);
        CALENDAR.iter().find(matches).map(|(one, ..)| *one)
    }

    /// The unit in UCUM.
    fn ucum(&self) -> &str {
        let found = CALENDAR.iter().find(|(one, many, _)| [one, many].contains(&&&*self.unit));
        found.map_or(&self.unit, |(.., ucum)| ucum)
    }

    /// Both in one unit; nothing if none is known.
    pub(super) fn align(&self, other: &Quantity<'_>) -> Option<(Decimal, Decimal)> {
        let (own, others) = (self.ucum(), other.ucum());
        if own == others {
            return Some((self.value, other.value));
        }
        let find = |unit: &str| UNITS.iter().find(|(name, ..)| *name == unit);
        let ((_, dimension, factor), (_, other_dimension, other_factor)) = (find(own)?, find(others)?);
        if dimension != other_dimension {
            return None;
        }
        let scaled = |value: Decimal, factor: &str| value.multiply(Decimal::parse(factor)?);
        Some((scaled(self.value, factor)?, scaled(other.value, other_factor)?))
    }

    pub(super) fn compare(&self, other: &Quantity<'_>) -> Option<Ordering> {
        self.align(other).map(|(own, others)| own.cmp(&others))
    }
}
