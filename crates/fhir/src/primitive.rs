//! The primitive types' formats (<https://hl7.org/fhir/R4/datatypes.html#primitive>), checked by hand: it is on
//! the way of every write.

use serde_json::Value;

/// A primitive type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Primitive {
    Boolean,
    Integer,
    PositiveInt,
    UnsignedInt,
    Decimal,
    String,
    Markdown,
    Code,
    Id,
    Uri,
    Url,
    Canonical,
    Oid,
    Uuid,
    Date,
    DateTime,
    Instant,
    Time,
    Base64Binary,
}

impl Primitive {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "boolean" => Self::Boolean,
            "integer" => Self::Integer,
            "positiveInt" => Self::PositiveInt,
            "unsignedInt" => Self::UnsignedInt,
            "decimal" => Self::Decimal,
            "string" => Self::String,
            "markdown" => Self::Markdown,
            "code" => Self::Code,
            "id" => Self::Id,
            "uri" => Self::Uri,
            "url" => Self::Url,
            "canonical" => Self::Canonical,
            "oid" => Self::Oid,
            "uuid" => Self::Uuid,
            "date" => Self::Date,
            "dateTime" => Self::DateTime,
            "instant" => Self::Instant,
            "time" => Self::Time,
            "base64Binary" => Self::Base64Binary,
            _ => return None,
        })
    }

    /// What it must look like, in words.
    pub(crate) const fn expectation(self) -> &'static str {
        match self {
            Self::Boolean => "must be true or false, without quotes",
            Self::Integer => "must be a whole number of 32 bits, without quotes",
            Self::PositiveInt => "must be a whole number from 1, without quotes",
            Self::UnsignedInt => "must be a whole number from 0, without quotes",
            Self::Decimal => "must be a number, without quotes",
            Self::String | Self::Markdown => "must be text that is not empty and has no control characters",
            Self::Code => "must be a code: text without blanks around it or two in a row",
            Self::Id => "must be an id: 1 to 64 of A-Z, a-z, 0-9, `-` and `.`",
            Self::Uri | Self::Url | Self::Canonical => "must be a URI: text without blanks",
            Self::Oid => "must be an OID such as urn:oid:1.2.3",
            Self::Uuid => "must be a UUID such as urn:uuid:c757873d-ec9a-4326-a141-556f43239520",
            Self::Date => "must be a date: YYYY, YYYY-MM or YYYY-MM-DD",
            Self::DateTime => {
                "must be a date, or a date with time and zone such as 2015-02-07T13:28:17-05:00"
            }
            Self::Instant => "must be a moment with seconds and zone such as 2015-02-07T13:28:17.239+02:00",
            Self::Time => "must be a time of day: hh:mm:ss",
            Self::Base64Binary => "must be base64",
        }
    }

    /// Whether a JSON value has this type and format.
    pub(crate) fn accepts(self, value: &Value) -> bool {
        match (self, value) {
            (Self::Boolean, Value::Bool(_)) => true,
            (Self::Integer, Value::Number(number)) => whole(number, i64::from(i32::MIN)),
            (Self::PositiveInt, Value::Number(number)) => whole(number, 1),
            (Self::UnsignedInt, Value::Number(number)) => whole(number, 0),
            (Self::Decimal, Value::Number(_)) => true,
            (Self::Boolean | Self::Integer | Self::PositiveInt | Self::UnsignedInt | Self::Decimal, _) => {
                false
            }
            (_, Value::String(text)) => self.accepts_text(text),
            _ => false,
        }
    }

    /// Whether a JSON value could have this type, were its format right.
    pub(crate) fn has_json_type_of(self, value: &Value) -> bool {
        match self {
            Self::Boolean => value.is_boolean(),
            Self::Integer | Self::PositiveInt | Self::UnsignedInt | Self::Decimal => value.is_number(),
            _ => value.is_string(),
        }
    }

    /// Whether a text has the format. Blanks are those of ASCII, as `\s` has it in the dialect in which the specification writes its patterns.
    pub(crate) fn accepts_text(self, text: &str) -> bool {
        match self {
            Self::String | Self::Markdown => {
                (text.as_bytes().first().is_some_and(u8::is_ascii_graphic) || !text.trim().is_empty())
                    && no_byte_below(text, b' ', |byte| !matches!(byte, b'\n' | b'\r' | b'\t'))
            }
            Self::Code => {
                let blank = |byte: &u8| byte.is_ascii_whitespace();
                let mut after_blank = true;
                let single = text.bytes().all(|byte| {
                    let allowed = !blank(&byte) || (byte == b' ' && !after_blank);
                    after_blank = blank(&byte);
                    allowed
                });
                single && !after_blank
            }
            Self::Id => {
                let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
                (1..=64).contains(&text.len()) && text.bytes().all(allowed)
            }
            Self::Uri | Self::Url | Self::Canonical => {
                !text.is_empty() && no_byte_below(text, b' ' + 1, |byte| byte.is_ascii_whitespace())
            }
            Self::Oid => text.strip_prefix("urn:oid:").is_some_and(|rest| {
                rest.starts_with(['0', '1', '2'])
                    && rest.split('.').all(|arc| {
                        !arc.is_empty()
                            && arc.bytes().all(|byte| byte.is_ascii_digit())
                            && (arc.len() == 1 || !arc.starts_with('0'))
                    })
            }),
            Self::Uuid => text.strip_prefix("urn:uuid:").is_some_and(|rest| {
                rest.len() == 36
                    && rest.bytes().enumerate().all(|(position, byte)| match position {
                        8 | 13 | 18 | 23 => byte == b'-',
                        _ => byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase(),
                    })
            }),
            Self::Date => Moment::parse(text).is_some_and(|moment| moment.precision <= Precision::Day),
            Self::DateTime => Moment::parse(text)
                .is_some_and(|moment| moment.precision <= Precision::Day || moment.precision.is_exact(text)),
            Self::Instant => Moment::parse(text).is_some_and(|moment| moment.precision.is_exact(text)),
            Self::Time => time(text).is_some_and(|(_, rest)| rest.is_empty()),
            Self::Base64Binary => base64(text),
            _ => false,
        }
    }
}

fn whole(number: &serde_json::Number, minimum: i64) -> bool {
    let text = number.as_str();
    let digits = text.strip_prefix('-').unwrap_or(text);
    digits.bytes().all(|byte| byte.is_ascii_digit())
        && number.as_i64().is_some_and(|value| (minimum..=i64::from(i32::MAX)).contains(&value))
}

/// Whether no byte less than `bound`, which is ASCII, is `forbidden`. Eight bytes are looked at together, since long
/// texts are common and such bytes are not.
fn no_byte_below(text: &str, bound: u8, forbidden: impl Fn(u8) -> bool) -> bool {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    let (chunks, rest) = text.as_bytes().as_chunks::<8>();
    let clean = |chunk: &[u8; 8]| {
        let word = u64::from_ne_bytes(*chunk);
        // A borrow may make a byte look small that is not, never the other way round.
        word.wrapping_sub(ONES * u64::from(bound)) & !word & HIGH == 0
            || !chunk.iter().any(|byte| *byte < bound && forbidden(*byte))
    };
    chunks.iter().all(clean) && !rest.iter().any(|byte| *byte < bound && forbidden(*byte))
}

/// What a byte is in base64: a letter, padding, a blank or nothing of it.
static BASE64: [u8; 256] = {
    let mut classes = [OTHER; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = match byte as u8 {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' => LETTER,
            b'=' => PADDING,
            b' ' | b'\n' | b'\r' | b'\t' => BLANK,
            _ => OTHER,
        };
        byte += 1;
    }
    classes
};
const LETTER: u8 = 0;
const PADDING: u8 = 1;
const BLANK: u8 = 2;
const OTHER: u8 = 4;

fn base64(text: &str) -> bool {
    let class = |byte: &u8| BASE64.get(usize::from(*byte)).copied().unwrap_or(OTHER);
    let bytes = text.as_bytes();
    // Nearly all of a long text is letters.
    let (chunks, rest) = bytes.as_chunks::<8>();
    let lettered =
        chunks.iter().take_while(|chunk| chunk.iter().fold(0, |all, byte| all | class(byte)) == LETTER);
    let mut letters = lettered.count() * 8;
    let mut padding = 0_usize;
    for byte in bytes.get(letters..).unwrap_or(rest) {
        match class(byte) {
            LETTER if padding == 0 => letters += 1,
            PADDING => padding += 1,
            BLANK => {}
            _ => return false,
        }
    }
    padding <= 2 && (letters + padding).is_multiple_of(4)
}

/// How exact a moment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Precision {
    Year,
    Month,
    Day,
    Minute,
    Second,
    Fraction,
}

impl Precision {
    /// Whether `text`, which has this precision, has seconds and a zone: a search may leave them out, a resource not.
    fn is_exact(self, text: &str) -> bool {
        self > Self::Minute && text.get(19..).is_some_and(|rest| rest.contains(['Z', '+', '-']))
    }
}

/// A FHIR date, dateTime or instant, as the span of time that it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Microseconds since 1970, inclusive.
    pub start: i64,
    /// Microseconds since 1970, exclusive.
    pub end: i64,
    pub(crate) precision: Precision,
}

const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;

impl Moment {
    /// Reads `YYYY[-MM[-DD[Thh:mm[:ss[.f]][zone]]]]`. Without a zone, UTC is taken; a time without seconds or zone
    /// is read for searches, where the specification allows it.
    pub fn parse(text: &str) -> Option<Self> {
        let year = i64::from(number(text.get(..4)?)?);
        if year == 0 {
            return None;
        }
        let rest = text.get(4..)?;
        if rest.is_empty() {
            return Some(Self {
                start: day(year, 1, 1) * DAY,
                end: day(year + 1, 1, 1) * DAY,
                precision: Precision::Year,
            });
        }
        let month = i64::from(number(rest.strip_prefix('-')?.get(..2)?)?);
        let rest = rest.get(3..)?;
        if !(1..=12).contains(&month) {
            return None;
        }
        let (next_year, next_month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
        let next = day(next_year, next_month, 1);
        if rest.is_empty() {
            return Some(Self {
                start: day(year, month, 1) * DAY,
                end: next * DAY,
                precision: Precision::Month,
            });
        }
        let date = i64::from(number(rest.strip_prefix('-')?.get(..2)?)?);
        let rest = rest.get(3..)?;
        let first = day(year, month, 1);
        if date < 1 || first + date > next {
            return None;
        }
        let midnight = (first + date - 1) * DAY;
        if rest.is_empty() {
            return Some(Self { start: midnight, end: midnight + DAY, precision: Precision::Day });
        }
        let clock = rest.strip_prefix('T')?;
        let (micros, precision, zone) = match time(clock) {
            Some((micros, zone)) => {
                let exact = clock.get(8..9) == Some(".");
                (micros, if exact { Precision::Fraction } else { Precision::Second }, zone)
            }
            None => {
                let (hours, minutes) =
                    (number(clock.get(..2)?)?, number(clock.get(2..)?.strip_prefix(':')?.get(..2)?)?);
                if hours > 23 || minutes > 59 {
                    return None;
                }
                (i64::from(hours * 60 + minutes) * 60 * SECOND, Precision::Minute, clock.get(5..)?)
            }
        };
        let start = midnight + micros - offset(zone)?;
        let length = match precision {
            Precision::Minute => 60 * SECOND,
            Precision::Second => SECOND,
            // Milliseconds are what `instant` shows; finer digits narrow it no further.
            _ => 1000,
        };
        Some(Self { start, end: start + length, precision })
    }
}

/// `hh:mm:ss[.f…]` as microseconds, and what follows.
fn time(text: &str) -> Option<(i64, &str)> {
    let hours = number(text.get(..2)?)?;
    let minutes = number(text.get(2..)?.strip_prefix(':')?.get(..2)?)?;
    let seconds = number(text.get(5..)?.strip_prefix(':')?.get(..2)?)?;
    // A leap second is allowed.
    if hours > 23 || minutes > 59 || seconds > 60 {
        return None;
    }
    let mut micros = i64::from((hours * 60 + minutes) * 60 + seconds) * SECOND;
    let mut rest = text.get(8..)?;
    if let Some(fraction) = rest.strip_prefix('.') {
        let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 {
            return None;
        }
        let mut unit = SECOND / 10;
        for digit in fraction.bytes().take(digits) {
            micros += unit * i64::from(digit - b'0');
            unit /= 10;
        }
        rest = fraction.get(digits..)?;
    }
    Some((micros, rest))
}

/// A zone's distance from UTC in microseconds; none given is UTC.
fn offset(zone: &str) -> Option<i64> {
    if zone.is_empty() || zone == "Z" {
        return Some(0);
    }
    let (sign, rest) = match zone.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = rest.split_once(':')?;
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    if rest.len() != 5 || hours > 14 || minutes > 59 {
        return None;
    }
    Some(sign * i64::from(hours * 60 + minutes) * 60 * SECOND)
}

fn number(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Days since 1970-01-01 (civil date to days after Hinnant, "chrono-Compatible Low-Level Date Algorithms").
pub(crate) fn day(year: i64, month: i64, date: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + date - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(primitive: Primitive, good: &[Value], bad: &[Value]) {
        for value in good {
            assert!(primitive.accepts(value), "{primitive:?} {value}");
        }
        for value in bad {
            assert!(!primitive.accepts(value), "{primitive:?} {value}");
        }
    }

    #[test]
    fn formats_are_those_of_the_specification() {
        use Primitive::*;
        check(Boolean, &[json!(true)], &[json!("true"), json!(1)]);
        check(
            Integer,
            &[json!(-5), json!(2_147_483_647)],
            &[json!(2_147_483_648_i64), json!(1.5), json!("1")],
        );
        check(PositiveInt, &[json!(1)], &[json!(0)]);
        check(Decimal, &[json!(1.50)], &[json!("1.5")]);
        check(String, &[json!("a b")], &[json!(""), json!("  "), json!("a\u{1}"), json!(1)]);
        check(
            Code,
            &[json!("a b"), json!("\u{a0}")],
            &[json!(" a"), json!("a "), json!("a\tb"), json!("a  b"), json!("")],
        );
        check(
            Date,
            &[json!("2015"), json!("2015-02"), json!("2016-02-29")],
            &[
                json!("2015-02-29"),
                json!("2015-13"),
                json!("15"),
                json!("2015-02-07T00:00:00Z"),
                json!("2015-2-7"),
            ],
        );
        check(
            DateTime,
            &[json!("2015-02-07T13:28:17-05:00"), json!("2015")],
            &[
                json!("2015-02-07T25:00:00Z"),
                json!("2015-02-07T13:28:17+25:00"),
                json!("2015-02-07 13:28:17Z"),
                json!("2015-02-07T13:28"),
                json!("2015-02-07T13:28Z"),
                json!("2015-02-07T13:28:17"),
            ],
        );
        check(
            Instant,
            &[json!("2015-02-07T13:28:17.239+02:00")],
            &[json!("2015-02-07"), json!("2015-02-07T13:28:17.239")],
        );
        check(Time, &[json!("10:00:00"), json!("10:00:00.5")], &[json!("10:00"), json!("24:00:00")]);
        check(Oid, &[json!("urn:oid:1.2.3")], &[json!("1.2.3"), json!("urn:oid:3.1"), json!("urn:oid:1.02")]);
        check(Uuid, &[json!("urn:uuid:c757873d-ec9a-4326-a141-556f43239520")], &[json!("urn:uuid:1")]);
        check(
            Base64Binary,
            &[json!("QUJD"), json!("QUI="), json!("QUJDQUJDQUJDQUJD\nQUI=\n")],
            &[json!("QUI"), json!("Q=I="), json!("QUJDQUJDQUJDQUJ-"), json!("QUJDQUJD====")],
        );
        check(Uri, &[json!("urn:x")], &[json!("a b"), json!("")]);
    }

    #[test]
    fn forbidden_bytes_are_found_wherever_they_stand() {
        for position in 0..24 {
            for (byte, allowed) in [(b'\n', true), (0x0b, false), (b' ', true), (0x7f, true)] {
                let mut text = vec![b'a'; 24];
                text[position] = byte;
                let text = std::str::from_utf8(&text).unwrap();
                assert_eq!(Primitive::String.accepts_text(text), allowed);
                assert_eq!(Primitive::Uri.accepts_text(text), !matches!(byte, b'\n' | b' '));
            }
        }
        assert!(Primitive::String.accepts_text("ééééééé") && !Primitive::String.accepts_text("ééé\u{1}éééé"));
    }

    #[test]
    fn moments_are_spans() {
        let span = |text| Moment::parse(text).map(|moment| (moment.start, moment.end));
        assert_eq!(span("1970-01-01"), Some((0, DAY)));
        assert_eq!(span("1970"), Some((0, 365 * DAY)));
        assert_eq!(span("1970-01-01T01:00:00+01:00"), Some((0, SECOND)));
        assert_eq!(span("1970-01-01T00:01"), Some((60 * SECOND, 120 * SECOND)));
        assert_eq!(span("1969-12-31T23:59:59.999Z"), Some((-1000, 0)));
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "\\PC{0,30}", near in "[0-9T:.Z+-]{0,30}") {
            for text in [&text, &near] {
                let _ = Moment::parse(text);
                let _ = Primitive::Time.accepts_text(text);
            }
        }
    }
}
