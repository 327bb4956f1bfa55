//! Decimal numbers with 28 digits after the point at most, exact in sums and products.

use std::cmp::Ordering;
use std::fmt;

/// The most digits after the point (<https://hl7.org/fhirpath/N1/#decimal> asks for eight).
const SCALE_MAX: u8 = 28;

/// The longest text of a number, in bytes: what is longer is nobody's measurement.
const NUMBER_BYTES_MAX: usize = 100;

/// A decimal number; `1.0` and `1` are equal and look different.
#[derive(Clone, Copy)]
pub struct Decimal {
    mantissa: i128,
    /// Digits after the point.
    scale: u8,
}

impl fmt::Debug for Decimal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Decimal(..)")
    }
}

impl Decimal {
    /// Reads what JSON or FHIRPath takes for a number. Digits after the 28th of the fraction are dropped; what is too
    /// large for some 38 digits, longer than any number need be, or of which nothing would be left, is nothing.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > NUMBER_BYTES_MAX {
            return None;
        }
        let (number, exponent) = match text.split_once(['e', 'E']) {
            Some((number, exponent)) => {
                (number, exponent.strip_prefix('+').unwrap_or(exponent).parse().ok()?)
            }
            None => (text, 0_i32),
        };
        let (negative, digits) = match number.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, number.strip_prefix('+').unwrap_or(number)),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) {
            return None;
        }
        let (mut mantissa, mut scale) = (0_i128, 0_i32);
        for digit in whole.bytes() {
            mantissa = push_digit(mantissa, digit)?;
        }
        for digit in fraction.bytes().take(usize::from(SCALE_MAX)) {
            mantissa = push_digit(mantissa, digit)?;
            scale += 1;
        }
        scale = scale.checked_sub(exponent)?;
        if mantissa == 0 {
            scale = scale.clamp(0, i32::from(SCALE_MAX));
        }
        while scale < 0 {
            mantissa = mantissa.checked_mul(10)?;
            scale += 1;
        }
        if scale > i32::from(SCALE_MAX) {
            mantissa /= power_of_ten(u8::try_from(scale - i32::from(SCALE_MAX)).ok()?)?;
            if mantissa == 0 {
                return None;
            }
        }
        let scale = u8::try_from(scale).unwrap_or(SCALE_MAX).min(SCALE_MAX);
        Some(Self { mantissa: if negative { -mantissa } else { mantissa }, scale })
    }

    /// A whole number.
    pub const fn whole(number: i64) -> Self {
        Self { mantissa: number as i128, scale: 0 }
    }

    pub(super) fn add(self, other: Self) -> Option<Self> {
        let (left, right, scale) = self.align(other)?;
        Some(Self { mantissa: left.checked_add(right)?, scale })
    }

    pub(super) fn subtract(self, other: Self) -> Option<Self> {
        self.add(other.negate()?)
    }

    pub(super) fn multiply(self, other: Self) -> Option<Self> {
        let mantissa = self.mantissa.checked_mul(other.mantissa)?;
        Some(Self { mantissa, scale: self.scale + other.scale }.shortened())
    }

    /// The quotient, rounded towards zero after as many digits as fit, 16 at most; nothing by zero.
    pub(super) fn divide(self, other: Self) -> Option<Self> {
        let divisor = other.mantissa;
        if divisor == 0 {
            return None;
        }
        let mut dividend = self.mantissa;
        let mut scale = i32::from(self.scale) - i32::from(other.scale);
        while scale < 16 {
            match dividend.checked_mul(10) {
                Some(longer) => dividend = longer,
                None => break,
            }
            scale += 1;
        }
        let mut mantissa = dividend.checked_div(divisor)?;
        while scale > 0 && mantissa % 10 == 0 {
            mantissa /= 10;
            scale -= 1;
        }
        while scale < 0 {
            mantissa = mantissa.checked_mul(10)?;
            scale += 1;
        }
        Some(Self { mantissa, scale: u8::try_from(scale).ok()? }.shortened())
    }

    /// The whole part of the quotient.
    pub(super) fn divide_whole(self, other: Self) -> Option<Self> {
        let (left, right, _) = self.align(other)?;
        Some(Self { mantissa: left.checked_div(right)?, scale: 0 })
    }

    /// What the division to a whole number leaves.
    pub(super) fn remainder(self, other: Self) -> Option<Self> {
        let (left, right, scale) = self.align(other)?;
        Some(Self { mantissa: left.checked_rem(right)?, scale })
    }

    pub(super) fn negate(self) -> Option<Self> {
        Some(Self { mantissa: self.mantissa.checked_neg()?, ..self })
    }

    pub(super) fn absolute(self) -> Option<Self> {
        Some(Self { mantissa: self.mantissa.checked_abs()?, ..self })
    }

    /// Rounded to `digits` after the point, halves away from zero.
    pub(super) fn round(self, digits: u8) -> Self {
        if self.scale <= digits {
            return self;
        }
        let unit = power_of_ten(self.scale - digits).unwrap_or(i128::MAX);
        let (quotient, rest) = (self.mantissa / unit, self.mantissa % unit);
        let up = if rest.abs() >= unit - rest.abs() { self.mantissa.signum() } else { 0 };
        Self { mantissa: quotient + up, scale: digits }
    }

    /// Rounded towards zero, down or up.
    pub(super) fn whole_part(self, towards: Ordering) -> i128 {
        let unit = power_of_ten(self.scale).unwrap_or(i128::MAX);
        match towards {
            Ordering::Less => self.mantissa.div_euclid(unit),
            Ordering::Equal => self.mantissa / unit,
            Ordering::Greater => {
                self.mantissa.div_euclid(unit) + i128::from(self.mantissa.rem_euclid(unit) != 0)
            }
        }
    }

    /// Without zeros at the end of the fraction.
    pub(super) fn normalized(mut self) -> Self {
        while self.scale > 0 && self.mantissa % 10 == 0 {
            self.mantissa /= 10;
            self.scale -= 1;
        }
        self
    }

    pub(super) const fn scale(self) -> u8 {
        self.scale
    }

    pub(super) const fn mantissa(self) -> i128 {
        self.mantissa
    }

    /// The nearest number that the processor knows.
    pub fn to_f64(self) -> f64 {
        self.to_string().parse().unwrap_or(f64::NAN)
    }

    pub(super) fn from_f64(number: f64) -> Option<Self> {
        if number.is_finite() { Self::parse(&format!("{number}")) } else { None }
    }

    /// Both mantissas at one scale.
    fn align(self, other: Self) -> Option<(i128, i128, u8)> {
        let scale = self.scale.max(other.scale);
        let stretched = |one: Self| one.mantissa.checked_mul(power_of_ten(scale - one.scale)?);
        Some((stretched(self)?, stretched(other)?, scale))
    }

    fn shortened(mut self) -> Self {
        while self.scale > SCALE_MAX {
            self.mantissa /= 10;
            self.scale -= 1;
        }
        self
    }
}

impl PartialEq for Decimal {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Decimal {}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        match self.align(*other) {
            Some((left, right, _)) => left.cmp(&right),
            // Too far apart to be brought to one scale: the whole parts, then the fractions, each exact.
            None => {
                let whole = self.whole_part(Ordering::Less).cmp(&other.whole_part(Ordering::Less));
                whole.then_with(|| {
                    let fraction = |one: &Self| {
                        let unit = power_of_ten(one.scale).unwrap_or(i128::MAX);
                        Self { mantissa: one.mantissa.rem_euclid(unit), scale: one.scale }
                    };
                    match fraction(self).align(fraction(other)) {
                        Some((left, right, _)) => left.cmp(&right),
                        None => Ordering::Equal,
                    }
                })
            }
        }
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.mantissa < 0 { "-" } else { "" };
        let width = usize::from(self.scale) + 1;
        let digits = format!("{:0>width$}", self.mantissa.unsigned_abs());
        let (whole, fraction) = digits.split_at(digits.len() - usize::from(self.scale));
        let point = if fraction.is_empty() { "" } else { "." };
        write!(formatter, "{sign}{whole}{point}{fraction}")
    }
}

fn push_digit(mantissa: i128, digit: u8) -> Option<i128> {
    mantissa.checked_mul(10)?.checked_add(i128::from(digit - b'0'))
}

fn power_of_ten(exponent: u8) -> Option<i128> {
    10_i128.checked_pow(exponent.into())
}
