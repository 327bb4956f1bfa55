//! A made-up population: the same seed gives the same people, byte for byte. None of them exists.
//!
//! `ward up --demo` shows them, tests and benches load them, and `ward population` prints them as NDJSON.

mod clinical;
mod names;

use serde_json::{Value, json};
use ward_base::Timestamp;

/// SplitMix64 (Steele, Lea, Flood 2014): small, fast, repeatable. Not for secrets.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: i64, high: i64) -> i64 {
        let span = u64::try_from(high.saturating_sub(low)).unwrap_or(0).saturating_add(1);
        low.saturating_add(i64::try_from(self.next() % span.max(1)).unwrap_or(0))
    }

    /// True `percent` times in a hundred.
    fn chance(&mut self, percent: i64) -> bool {
        self.between(1, 100) <= percent
    }

    /// One of `choices`, which is never empty.
    fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        let last = i64::try_from(choices.len()).unwrap_or(1) - 1;
        &choices[usize::try_from(self.between(0, last.max(0))).unwrap_or(0)]
    }

    /// A version 4 UUID.
    fn uuid(&mut self) -> String {
        let (high, low) = (self.next(), self.next());
        format!(
            "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
            high >> 32,
            (high >> 16) & 0xffff,
            high & 0xfff,
            (low >> 48) & 0x3fff | 0x8000,
            low & 0xffff_ffff_ffff
        )
    }
}

/// A day, counted from 1970-01-01.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Day(i64);

impl Day {
    /// `YYYY-MM-DD`.
    fn text(self) -> String {
        let midnight = Timestamp(0).plus_seconds(self.0 * 86_400).to_instant();
        midnight.split('T').next().unwrap_or_default().to_owned()
    }

    /// The day at a time of day, UTC.
    fn at(self, hour: i64, minute: i64) -> String {
        format!("{}T{hour:02}:{minute:02}:00Z", self.text())
    }
}

/// The last day of made-up history: 2026-06-30. Fixed, so that a seed always gives the same bytes.
const TODAY: Day = Day(20_634);

/// The practitioners and the organization that everyone else refers to.
pub(crate) fn staff(dice: &mut Dice) -> Vec<Value> {
    let organization = dice.uuid();
    let mut resources = vec![json!({
        "resourceType": "Organization", "id": organization, "active": true, "name": "Larkspur Community Clinic",
        "telecom": [{"system": "phone", "value": "555-0100"}],
    })];
    for _ in 0..8 {
        let (given, family) = (*dice.pick(names::GIVEN_FEMALE), *dice.pick(names::FAMILY));
        resources.push(json!({
            "resourceType": "Practitioner", "id": dice.uuid(), "active": true,
            "name": [{"use": "official", "family": family, "given": [given], "prefix": ["Dr."]}],
        }));
    }
    resources
}

/// One patient's whole record; the Patient comes first. `staff` is what [`staff`] gave.
pub(crate) fn patient(dice: &mut Dice, staff: &[Value]) -> Vec<Value> {
    let id = dice.uuid();
    let female = dice.chance(51);
    let given = *dice.pick(if female { names::GIVEN_FEMALE } else { names::GIVEN_MALE });
    let middle = *dice.pick(if female { names::GIVEN_FEMALE } else { names::GIVEN_MALE });
    let family = *dice.pick(names::FAMILY);
    let birth = Day(TODAY.0 - dice.between(30, 32_000));
    let (city, state, postal) = *dice.pick(names::PLACES);
    let mut person = json!({
        "resourceType": "Patient", "id": id, "active": true,
        "identifier": [{
            "use": "usual",
            "type": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "MR"}]},
            "system": "urn:oid:2.16.840.1.113883.19.5", "value": format!("{:08}", dice.between(1, 99_999_999)),
        }],
        "name": [{"use": "official", "family": family, "given": [given, middle]}],
        "telecom": [{"system": "phone", "use": "home", "value": format!("555-01{:02}", dice.between(0, 99))}],
        "gender": if female { "female" } else { "male" },
        "birthDate": birth.text(),
        "address": [{
            "use": "home", "line": [format!("{} {}", dice.between(1, 9999), dice.pick(names::STREETS))],
            "city": city, "state": state, "postalCode": postal, "country": "US",
        }],
    });
    if let (Some(object), Some(organization)) = (person.as_object_mut(), clinical::reference(staff.first())) {
        object.insert("managingOrganization".to_owned(), organization);
    }
    let mut resources = vec![person];
    clinical::record(dice, &id, birth, staff, &mut resources);
    resources
}

/// A whole population, staff first.
pub(crate) fn people(seed: u64, count: u64) -> impl Iterator<Item = Value> {
    let mut dice = Dice::new(seed);
    let staff = staff(&mut dice);
    let first = staff.clone();
    first.into_iter().chain((0..count).flat_map(move |_| patient(&mut dice, &staff)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_people_and_they_are_valid() {
        let first: Vec<Value> = people(7, 20).collect();
        assert_eq!(first, people(7, 20).collect::<Vec<_>>());
        assert_ne!(first, people(8, 20).collect::<Vec<_>>());
        for resource in &first {
            let issues = ward_fhir::validate::resource(resource);
            assert!(issues.is_empty(), "{issues:?} in {resource}");
        }
    }

    #[test]
    fn days_are_civil_dates() {
        assert_eq!(Day(0).text(), "1970-01-01");
        assert_eq!(TODAY.text(), "2026-06-30");
        assert_eq!(Day(11_016).text(), "2000-02-29");
    }
}
