//! `fixed[x]` and `pattern[x]` (<https://hl7.org/fhir/R4/elementdefinition.html#ElementDefinition.pattern[x]>).

use serde_json::{Number, Value};

use crate::fhirpath::{Budget, Decimal, EvaluateError};

/// How a value must agree with that of a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Agreement {
    /// It is the same: `fixed[x]`.
    Exact,
    /// It has at least all of that: `pattern[x]`.
    AtLeast,
}

/// Whether `value` agrees with what a profile `demands`. Numbers are compared as numbers: `1.0` is `1`.
pub(super) fn agrees(
    value: &Value,
    demanded: &Value,
    agreement: Agreement,
    budget: &Budget,
) -> Result<bool, EvaluateError> {
    budget.spend(1)?;
    match (value, demanded) {
        (Value::Object(value), Value::Object(demanded)) => {
            if agreement == Agreement::Exact && value.len() != demanded.len() {
                return Ok(false);
            }
            for (key, demanded) in demanded {
                let Some(value) = value.get(key) else { return Ok(false) };
                if !agrees(value, demanded, agreement, budget)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        (Value::Array(values), Value::Array(demanded)) if agreement == Agreement::Exact => {
            if values.len() != demanded.len() {
                return Ok(false);
            }
            for (value, demanded) in values.iter().zip(demanded) {
                if !agrees(value, demanded, agreement, budget)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        (Value::Array(values), Value::Array(demanded)) => {
            for demanded in demanded {
                let mut found = false;
                for value in values {
                    if agrees(value, demanded, agreement, budget)? {
                        found = true;
                        break;
                    }
                }
                if !found {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        (Value::Number(value), Value::Number(demanded)) => Ok(same_number(value, demanded)),
        (Value::String(value), Value::String(demanded)) => {
            budget.spend(demanded.len() / 64)?;
            Ok(value == demanded)
        }
        _ => Ok(value == demanded),
    }
}

fn same_number(one: &Number, two: &Number) -> bool {
    one.as_str() == two.as_str()
        || Decimal::parse(one.as_str())
            .zip(Decimal::parse(two.as_str()))
            .is_some_and(|(one, two)| one.cmp(&two).is_eq())
}
