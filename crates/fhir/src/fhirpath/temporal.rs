//! Dates, times and both, as exact as they were written (<https://hl7.org/fhirpath/N1/#date>).

use std::cmp::Ordering;
use std::fmt;

use ward_base::Timestamp;

use super::decimal::Decimal;
use crate::primitive::day;

/// The longest text that is read, in bytes: a fraction may have digits without end.
const TEXT_MAX: usize = 100;
const SECOND: i128 = 1_000_000_000;
const DAY: i128 = 86_400 * SECOND;

/// A date, a time of day or a date with a time, in the fields that were written. Two are `==` if they were written in
/// the same way; one moment may be written in many.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Temporal {
    /// Year, month, day, hour, minute and nanoseconds of the minute, those that were not written at their least.
    fields: [i64; 6],
    /// Where the written fields begin: 0, or 3 for a time of day.
    first: usize,
    /// Where they end, exclusive.
    end: usize,
    /// Digits of the fraction of a second.
    digits: u8,
    /// Minutes east of UTC.
    zone: Option<i16>,
}

impl fmt::Debug for Temporal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Temporal(..)")
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Date,
    DateTime,
    Time,
}

/// Fields by their place.
const MONTH: usize = 1;
const DATE: usize = 2;
const HOUR: usize = 3;
const SECONDS: usize = 5;

impl Temporal {
    /// The longest beginning of `text` that is a literal without its `@`: what it is, and how long.
    pub(super) fn scan(text: &str) -> Option<(Kind, Self, usize)> {
        let mut value = Self { fields: [1, 1, 1, 0, 0, 0], first: 0, end: 0, digits: 0, zone: None };
        let mut reader = Reader { text, position: 0 };
        if reader.skip("T") {
            value.first = HOUR;
            value.read_time(&mut reader)?;
            return Some((Kind::Time, value, reader.position));
        }
        let mut set = |place: usize, number: i64| {
            if let Some(field) = value.fields.get_mut(place) {
                *field = number;
            }
            value.end = place + 1;
        };
        let year = reader.number(4)?;
        set(0, year);
        if let Some(month) = reader.part("-") {
            set(MONTH, month);
            if let Some(date) = reader.part("-") {
                set(DATE, date);
            }
        }
        let kind = if reader.skip("T") {
            if value.end > DATE && reader.rest().starts_with(|digit: char| digit.is_ascii_digit()) {
                value.read_time(&mut reader)?;
                value.read_zone(&mut reader)?;
            }
            Kind::DateTime
        } else {
            Kind::Date
        };
        value.is_real().then_some((kind, value, reader.position))
    }

    /// Reads a FHIR `date`, `dateTime` or `instant`, all of it.
    pub(super) fn date_time(text: &str) -> Option<Self> {
        if text.len() > TEXT_MAX {
            return None;
        }
        let (kind, value, length) = Self::scan(text)?;
        (length == text.len() && kind != Kind::Time).then_some(value)
    }

    /// Reads a time of day, all of it.
    pub(super) fn time(text: &str) -> Option<Self> {
        if text.len() > TEXT_MAX {
            return None;
        }
        let mut value = Self { fields: [1, 1, 1, 0, 0, 0], first: HOUR, end: HOUR, digits: 0, zone: None };
        let mut reader = Reader { text, position: 0 };
        value.read_time(&mut reader)?;
        (reader.position == text.len()).then_some(value)
    }

    /// The moment, in UTC.
    pub(super) fn moment(now: Timestamp) -> Option<Self> {
        Self::date_time(&now.to_instant())
    }

    /// Whether there is nothing but a date.
    pub(super) const fn is_date(self) -> bool {
        self.first == 0 && self.end <= HOUR
    }

    /// Whether it is a time of day.
    pub(super) const fn is_time(self) -> bool {
        self.first == HOUR
    }

    /// The date alone.
    pub(super) fn date_part(self) -> Self {
        let [year, month, date, ..] = self.fields;
        Self { fields: [year, month, date, 0, 0, 0], end: self.end.min(HOUR), digits: 0, zone: None, ..self }
    }

    /// The time of day alone.
    pub(super) fn time_part(self) -> Self {
        let [.., hour, minute, seconds] = self.fields;
        Self { fields: [1, 1, 1, hour, minute, seconds], first: HOUR, zone: None, ..self }
    }

    /// Which is earlier; nothing if that hangs on what was not written.
    pub(super) fn compare(self, other: Self) -> Option<Ordering> {
        if self.is_time() != other.is_time() {
            return None;
        }
        let (mut left, mut right) = (self, other);
        if self.end > HOUR && other.end > HOUR {
            match (self.zone, other.zone) {
                (Some(_), Some(_)) => (left, right) = (self.in_utc()?, other.in_utc()?),
                (None, None) => {}
                _ => return None,
            }
        }
        let until = left.end.min(right.end);
        let fields = |one: Self| one.fields.into_iter().take(until);
        match fields(left).cmp(fields(right)) {
            Ordering::Equal if left.end != right.end => None,
            ordering => Some(ordering),
        }
    }

    /// Moved by so many of a unit of the calendar; nothing if the year would not have four digits, or the unit is none.
    /// What is finer than what was written is rounded to it, towards zero.
    pub(super) fn plus(self, amount: Decimal, unit: &str) -> Option<Self> {
        let whole = i64::try_from(amount.whole_part(Ordering::Equal)).ok()?;
        let nanoseconds = |unit: i128| {
            let nanoseconds = amount.multiply(Decimal::whole(1_000_000_000))?.whole_part(Ordering::Equal);
            nanoseconds.checked_mul(unit)
        };
        if self.is_time() {
            let moved = match unit {
                "hour" => i128::from(whole).checked_mul(3600 * SECOND)?,
                "minute" => i128::from(whole).checked_mul(60 * SECOND)?,
                "second" => nanoseconds(1)?,
                "millisecond" => nanoseconds(1)? / 1000,
                _ => return None,
            };
            return self.plus_nanoseconds(moved);
        }
        match unit {
            "year" => self.plus_months(whole.checked_mul(12)?),
            "month" => self.plus_months(whole),
            "week" => self.plus_days(whole.checked_mul(7)?),
            "day" => self.plus_days(whole),
            "hour" if self.is_date() => self.plus_days(whole / 24),
            "minute" if self.is_date() => self.plus_days(whole / (24 * 60)),
            "second" if self.is_date() => self.plus_days(whole / 86_400),
            "millisecond" if self.is_date() => self.plus_days(whole / 86_400_000),
            "hour" => self.plus_nanoseconds(i128::from(whole).checked_mul(3600 * SECOND)?),
            "minute" => self.plus_nanoseconds(i128::from(whole).checked_mul(60 * SECOND)?),
            "second" => self.plus_nanoseconds(nanoseconds(1)?),
            "millisecond" => self.plus_nanoseconds(nanoseconds(1)? / 1000),
            _ => None,
        }
    }

    fn plus_months(self, months: i64) -> Option<Self> {
        let [year, month, date, hour, minute, seconds] = self.fields;
        // A year alone moves by whole years.
        let months = if self.end <= MONTH { months / 12 * 12 } else { months };
        let total = (year * 12 + month - 1).checked_add(months)?;
        let (year, month) = (total.div_euclid(12), total.rem_euclid(12) + 1);
        let moved =
            |date: i64| Self { fields: [year, month, date, hour, minute, seconds], ..self }.in_range();
        moved(date)?;
        moved(date.min(days_in_month(year, month)))
    }

    fn plus_days(self, days: i64) -> Option<Self> {
        match self.end {
            0..=MONTH => self.plus_months((days / 365).checked_mul(12)?),
            DATE => self.plus_months(days / 30),
            _ => self.plus_nanoseconds(i128::from(days).checked_mul(DAY)?),
        }
    }

    fn plus_nanoseconds(self, moved: i128) -> Option<Self> {
        let unit = match self.end {
            0..=HOUR => DAY,
            4 => 3600 * SECOND,
            SECONDS => 60 * SECOND,
            _ => 1,
        };
        let [year, month, date, hour, minute, seconds] = self.fields;
        let of_day = i128::from(hour * 60 + minute) * 60 * SECOND + i128::from(seconds);
        let total = of_day.checked_add(moved / unit * unit)?;
        let (days, of_day) = (total.div_euclid(DAY), total.rem_euclid(DAY));
        let (year, month, date) = if self.first == HOUR {
            (year, month, date)
        } else {
            civil(day(year, month, date).checked_add(i64::try_from(days).ok()?)?)?
        };
        let minutes = i64::try_from(of_day / (60 * SECOND)).ok()?;
        let seconds = i64::try_from(of_day % (60 * SECOND)).ok()?;
        let digits =
            (self.digits..9).find(|digits| i128::from(seconds) % 10_i128.pow(9 - u32::from(*digits)) == 0);
        let digits = digits.unwrap_or(9);
        Self { fields: [year, month, date, minutes / 60, minutes % 60, seconds], digits, ..self }.in_range()
    }

    fn in_utc(self) -> Option<Self> {
        let zone = self.zone.unwrap_or(0);
        let full = Self { end: 6, ..self }.plus_nanoseconds(-i128::from(zone) * 60 * SECOND)?;
        Some(Self { end: self.end, zone: Some(0), digits: self.digits, ..full })
    }

    fn in_range(self) -> Option<Self> {
        let [year, ..] = self.fields;
        (1..=9999).contains(&year).then_some(self)
    }

    fn read_time(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let [_, _, _, hour, minute, seconds] = &mut self.fields;
        *hour = reader.number(2).filter(|hour| *hour < 24)?;
        self.end = 4;
        if let Some(found) = reader.part(":") {
            *minute = found;
            self.end = 5;
            if let Some(found) = reader.part(":") {
                *seconds = found * 1_000_000_000;
                self.end = 6;
                let mut unit = 100_000_000;
                for digit in reader.fraction().bytes() {
                    *seconds += unit * i64::from(digit - b'0');
                    unit /= 10;
                    self.digits = self.digits.saturating_add(1).min(9);
                }
            }
        }
        (*minute < 60 && *seconds < 61_000_000_000).then_some(())
    }

    fn read_zone(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        if reader.skip("Z") {
            self.zone = Some(0);
            return Some(());
        }
        let rest = reader.rest();
        let sign = match rest.as_bytes() {
            [b'+', b'0'..=b'9', ..] => 1,
            [b'-', b'0'..=b'9', ..] => -1,
            _ => return Some(()),
        };
        reader.position += 1;
        let hours = reader.number(2).filter(|hours| *hours <= 14)?;
        let minutes = reader.part(":").filter(|minutes| *minutes < 60)?;
        self.zone = Some(i16::try_from(sign * (hours * 60 + minutes)).ok()?);
        Some(())
    }

    fn is_real(self) -> bool {
        let [year, month, date, ..] = self.fields;
        (1..=9999).contains(&year)
            && (1..=12).contains(&month)
            && (1..=days_in_month(year, month)).contains(&date)
    }
}

impl fmt::Display for Temporal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [year, month, date, hour, minute, seconds] = self.fields;
        if self.first == 0 {
            write!(formatter, "{year:04}")?;
            if self.end > MONTH {
                write!(formatter, "-{month:02}")?;
            }
            if self.end > DATE {
                write!(formatter, "-{date:02}")?;
            }
            if self.end > HOUR {
                formatter.write_str("T")?;
            }
        }
        if self.end > HOUR {
            write!(formatter, "{hour:02}")?;
        }
        if self.end > 4 {
            write!(formatter, ":{minute:02}")?;
        }
        if self.end > SECONDS {
            write!(formatter, ":{:02}", seconds / 1_000_000_000)?;
            if self.digits > 0 {
                let fraction = format!("{:09}", seconds % 1_000_000_000);
                write!(formatter, ".{}", fraction.get(..usize::from(self.digits)).unwrap_or(&fraction))?;
            }
        }
        match self.zone {
            Some(0) => formatter.write_str("Z"),
            Some(zone) => {
                let sign = if zone < 0 { '-' } else { '+' };
                write!(formatter, "{sign}{:02}:{:02}", zone.abs() / 60, zone.abs() % 60)
            }
            None => Ok(()),
        }
    }
}

struct Reader<'t> {
    text: &'t str,
    position: usize,
}

impl<'t> Reader<'t> {
    fn rest(&self) -> &'t str {
        self.text.get(self.position..).unwrap_or_default()
    }

    fn skip(&mut self, expected: &str) -> bool {
        let found = self.rest().starts_with(expected);
        self.position += if found { expected.len() } else { 0 };
        found
    }

    /// Exactly so many digits.
    fn number(&mut self, digits: usize) -> Option<i64> {
        let found = self.rest().get(..digits)?;
        if !found.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        self.position += digits;
        found.parse().ok()
    }

    /// Two digits after a separator; otherwise nothing is read.
    fn part(&mut self, separator: &str) -> Option<i64> {
        let before = self.position;
        let found = self.skip(separator).then(|| self.number(2)).flatten();
        if found.is_none() {
            self.position = before;
        }
        found
    }

    /// The digits after a point, if there are any.
    fn fraction(&mut self) -> &'t str {
        let Some(rest) = self.rest().strip_prefix('.') else { return "" };
        let length = rest.bytes().take_while(u8::is_ascii_digit).count();
        if length > 0 {
            self.position += 1 + length;
        }
        rest.get(..length).unwrap_or_default()
    }
}

fn days_in_month(year: i64, month: i64) -> i64 {
    day(year + month / 12, month % 12 + 1, 1) - day(year, month, 1)
}

/// The date of a day, the other way round from [`day`].
fn civil(day: i64) -> Option<(i64, i64, i64)> {
    let shifted = day.checked_add(719_468)?;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let date = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    Some((year_of_era + era * 400 + i64::from(month <= 2), month, date))
}
