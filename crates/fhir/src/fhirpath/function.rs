//! The functions of collections, and the way to all others.

use std::cmp::Ordering;

use serde_json::Value;

use super::convert;
use super::decimal::Decimal;
use super::equality::{self, Distinct};
use super::evaluate::{Evaluated, Evaluator, Items, Scope, boolean, integer, single, text};
use super::item::{Element, Item};
use super::quantity::Quantity;
use super::syntax::{Call, Expression, Function};
use super::temporal::Temporal;
use super::{EvaluateError, RESOURCE_DEPTH_MAX, Resolved};
use crate::element::Kind;
use crate::{definitions, narrative, validate};

/// Validating a value, each of those below counted for itself, is as much work as this many steps.
const VALIDATION_STEPS: usize = 8;

impl<'v> Evaluator<'_, 'v> {
    pub(super) fn call(
        &self,
        call: &'v Call,
        input: &[Item<'v>],
        scope: &Scope<'_, 'v>,
    ) -> Evaluated<Items<'v>> {
        use Function as F;
        self.budget.spend(1)?;
        let first = call.arguments.first().unwrap_or(&Expression::Nothing);
        let truth = |truth: bool| Ok(vec![Item::Boolean(truth)]);
        match call.function {
            F::Empty => truth(input.is_empty()),
            F::Exists if call.arguments.is_empty() => truth(!input.is_empty()),
            F::Exists => self
                .each(input, first, scope, |_, found| Ok(boolean(&found)? == Some(true)))
                .map(|some| vec![Item::Boolean(some)]),
            F::All => {
                let broken = self.each(input, first, scope, |_, found| Ok(boolean(&found)? != Some(true)))?;
                truth(!broken)
            }
            F::AllTrue => truth(truths(input)?.all(|truth| truth)),
            F::AnyTrue => truth(truths(input)?.any(|truth| truth)),
            F::AllFalse => truth(truths(input)?.all(|truth| !truth)),
            F::AnyFalse => truth(truths(input)?.any(|truth| !truth)),
            F::Count => Ok(vec![Item::Integer(i64::try_from(input.len()).unwrap_or(i64::MAX))]),
            F::Distinct => Ok(Distinct::of(input, self.budget)?.items),
            F::IsDistinct => {
                let mut distinct = Distinct::default();
                for item in input {
                    if !distinct.insert(item.clone(), self.budget)? {
                        return truth(false);
                    }
                }
                truth(true)
            }
            F::Where => {
                let mut kept = Vec::new();
                self.each(input, first, scope, |item, found| {
                    if boolean(&found)? == Some(true) {
                        kept.push(item.clone());
                    }
                    Ok(false)
                })?;
                Ok(kept)
            }
            F::Select => {
                let mut all = Vec::new();
                self.each(input, first, scope, |_, found| self.append(&mut all, found).map(|()| false))?;
                Ok(all)
            }
            F::Repeat => self.repeat(input, first, scope),
            F::Aggregate => {
                let mut total = match call.arguments.get(1) {
                    Some(start) => self.expression(start, scope)?,
                    None => Vec::new(),
                };
                for (index, item) in input.iter().enumerate() {
                    let focus = std::slice::from_ref(item);
                    total = self.expression(first, &Scope { focus, index: Some(index), total: &total })?;
                }
                Ok(total)
            }
            F::First => Ok(input.first().cloned().into_iter().collect()),
            F::Last => Ok(input.last().cloned().into_iter().collect()),
            F::Single => Ok(single(input)?.cloned().into_iter().collect()),
            F::Tail => Ok(part(input, 1, usize::MAX)),
            F::Skip | F::Take => {
                let count = integer(&self.expression(first, scope)?)?;
                let count = count.map_or(Ok(0), usize::try_from).unwrap_or(0);
                let (from, length) = if call.function == F::Skip { (count, usize::MAX) } else { (0, count) };
                Ok(part(input, from, length))
            }
            F::Intersect | F::Exclude => {
                let other = Distinct::of(&self.expression(first, scope)?, self.budget)?;
                let mut kept = Distinct::default();
                let mut all = Vec::new();
                for item in input {
                    let common = other.contains(item, self.budget)?;
                    if call.function == F::Intersect && common {
                        kept.insert(item.clone(), self.budget)?;
                    } else if call.function == F::Exclude && !common {
                        all.push(item.clone());
                    }
                }
                Ok(if call.function == F::Intersect { kept.items } else { all })
            }
            F::Union => {
                let mut union = Distinct::of(input, self.budget)?;
                for item in self.expression(first, scope)? {
                    union.insert(item, self.budget)?;
                }
                Ok(union.items)
            }
            F::Combine => {
                let mut all = input.to_vec();
                self.append(&mut all, self.expression(first, scope)?)?;
                Ok(all)
            }
            F::SubsetOf | F::SupersetOf => {
                let other = self.expression(first, scope)?;
                let (small, large) =
                    if call.function == F::SubsetOf { (input, &*other) } else { (&*other, input) };
                let large = Distinct::of(large, self.budget)?;
                for item in small {
                    if !large.contains(item, self.budget)? {
                        return truth(false);
                    }
                }
                truth(true)
            }
            F::Iif => {
                // The whole input is what the branches are about, even if it is empty.
                let inner = Scope { focus: input, ..*scope };
                let branch = match boolean(&self.expression(first, &inner)?)? {
                    Some(true) => call.arguments.get(1),
                    _ => call.arguments.get(2),
                };
                branch.map_or(Ok(Vec::new()), |branch| self.expression(branch, &inner))
            }
            F::Not => Ok(boolean(input)?.map(|truth| Item::Boolean(!truth)).into_iter().collect()),
            F::Children => self.children_of(input),
            F::Descendants => {
                let (mut all, mut level) = (Vec::new(), self.children_of(input)?);
                while !level.is_empty() {
                    let next = self.children_of(&level)?;
                    self.append(&mut all, level)?;
                    level = next;
                }
                Ok(all)
            }
            F::Trace => {
                self.expression(first, scope)?;
                Ok(input.to_vec())
            }
            F::Now | F::Today | F::TimeOfDay => {
                let now = self.context.now.and_then(Temporal::moment).ok_or(EvaluateError::NoClock)?;
                Ok(vec![match call.function {
                    F::Now => Item::DateTime(now),
                    F::Today => Item::Date(now.date_part()),
                    _ => Item::Time(now.time_part()),
                }])
            }
            F::Type => Ok(input.iter().map(Item::type_item).collect()),
            F::Extension | F::HasExtension => {
                let url = self.expression(first, scope)?;
                let url = text(&url)?;
                let all = self.extensions(input, url)?;
                if call.function == F::Extension { Ok(all) } else { truth(!all.is_empty()) }
            }
            F::HasValue => truth(matches!(input, [item] if is_primitive(item) && has_value(item))),
            F::GetValue => match input {
                [item] if is_primitive(item) => Ok(item.system().into_iter().collect()),
                _ => Ok(Vec::new()),
            },
            F::Resolve => self.resolve(input),
            F::HtmlChecks => {
                let fine = |item: &Item<'_>| item.text().is_some_and(|text| narrative::check(text).is_ok());
                for item in input {
                    self.budget.spend_text(item.text().map_or(0, str::len))?;
                }
                truth(input.iter().all(fine))
            }
            F::MemberOf => {
                let url = self.expression(first, scope)?;
                let (Some(item), Some(url)) = (single(input)?, text(&url)?) else { return Ok(Vec::new()) };
                let name =
                    url.split('|').next().and_then(|url| url.strip_prefix("http://hl7.org/fhir/ValueSet/"));
                // A table of codes without their systems says nothing of a Coding.
                match (name.and_then(definitions::codes), item.text()) {
                    (Some(codes), Some(code)) => truth(codes.contain(code)),
                    _ => Err(EvaluateError::NotKnown),
                }
            }
            F::ConformsTo => {
                let url = self.expression(first, scope)?;
                let (Some(item), Some(url)) = (single(input)?, text(&url)?) else { return Ok(Vec::new()) };
                let name = url
                    .split('|')
                    .next()
                    .and_then(|url| url.strip_prefix("http://hl7.org/fhir/StructureDefinition/"));
                let name = name.and_then(|name| super::types::TypeName::parse(Some("FHIR"), name));
                let name = name.ok_or(EvaluateError::NotKnown)?;
                if !item.is(name) {
                    return truth(false);
                }
                item.json().map_or(Ok(()), |resource| self.weigh(resource, RESOURCE_DEPTH_MAX))?;
                truth(item.json().is_some_and(|resource| {
                    resource.get("resourceType").is_none() || validate::structure(resource).is_empty()
                }))
            }
            F::Comparable => {
                let other = self.expression(first, scope)?;
                let (Some(one), Some(two)) = (single(input)?, single(&other)?) else { return Ok(Vec::new()) };
                match (one.system(), two.system()) {
                    (Some(Item::Quantity(one)), Some(Item::Quantity(two))) => {
                        truth(one.compare(&two).is_some())
                    }
                    _ => Err(EvaluateError::WrongType),
                }
            }
            F::Abs
            | F::Ceiling
            | F::Exp
            | F::Floor
            | F::Ln
            | F::Log
            | F::Power
            | F::Round
            | F::Sqrt
            | F::Truncate => {
                let argument = self.expression(first, scope)?;
                let Some(item) = single(input)? else { return Ok(Vec::new()) };
                let number = item.system().ok_or(EvaluateError::WrongType)?;
                let argument = match single(&argument)? {
                    Some(item) => {
                        let number = item.system().as_ref().and_then(equality::number);
                        Some(number.ok_or(EvaluateError::WrongType)?)
                    }
                    None if matches!(call.function, F::Log | F::Power) => return Ok(Vec::new()),
                    None => None,
                };
                Ok(math(call.function, number, argument)?.into_iter().collect())
            }
            _ => match convert::target(call.function) {
                Some(target) => {
                    let unit = self.expression(first, scope)?;
                    let unit = text(&unit)?;
                    let Some(item) = single(input)? else { return Ok(Vec::new()) };
                    Ok(convert::convert(target, item, unit, self.budget)?.into_iter().collect())
                }
                None => self.text_function(call, input, scope),
            },
        }
    }

    /// Evaluates `expression` for each item, until `take` says that it is enough; whether it did.
    fn each(
        &self,
        input: &[Item<'v>],
        expression: &'v Expression,
        scope: &Scope<'_, 'v>,
        mut take: impl FnMut(&Item<'v>, Items<'v>) -> Evaluated<bool>,
    ) -> Evaluated<bool> {
        for (index, item) in input.iter().enumerate() {
            let inner = Scope { focus: std::slice::from_ref(item), index: Some(index), total: scope.total };
            if take(item, self.expression(expression, &inner)?)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn append(&self, all: &mut Items<'v>, more: Items<'v>) -> Evaluated<()> {
        self.budget.room(all.len() + more.len())?;
        self.budget.spend(more.len())?;
        all.extend(more);
        Ok(())
    }

    fn children_of(&self, input: &[Item<'v>]) -> Evaluated<Items<'v>> {
        let mut found = Vec::new();
        for item in input {
            self.budget.spend(item.children(&mut found))?;
            self.budget.room(found.len())?;
        }
        Ok(found)
    }

    /// What `projection` finds, and finds in what it found, each once.
    fn repeat(
        &self,
        input: &[Item<'v>],
        projection: &'v Expression,
        scope: &Scope<'_, 'v>,
    ) -> Evaluated<Items<'v>> {
        let mut found = Distinct::default();
        let mut next = 0;
        let mut queue = input.to_vec();
        while let Some(item) = queue.get(next).cloned() {
            let inner = Scope { focus: &[item], index: Some(next), total: scope.total };
            next += 1;
            for item in self.expression(projection, &inner)? {
                if found.insert(item.clone(), self.budget)? {
                    queue.push(item);
                }
            }
        }
        Ok(found.items)
    }

    /// Charges for validating a resource.
    fn weigh(&self, value: &Value, depth_left: usize) -> Evaluated<()> {
        let depth_left = depth_left.checked_sub(1).ok_or(EvaluateError::TooDeep)?;
        self.budget.spend(VALIDATION_STEPS)?;
        match value {
            Value::String(text) => self.budget.spend_text(text.len()),
            Value::Array(items) => items.iter().try_for_each(|item| self.weigh(item, depth_left)),
            Value::Object(object) => object.iter().try_for_each(|(key, value)| {
                self.budget.spend_text(key.len())?;
                self.weigh(value, depth_left)
            }),
            _ => Ok(()),
        }
    }

    /// The extensions with this address.
    fn extensions(&self, input: &[Item<'v>], url: Option<&str>) -> Evaluated<Items<'v>> {
        let mut found = self.children(input, "extension")?;
        let Some(url) = url else { return Ok(Vec::new()) };
        self.budget.spend(found.len().saturating_mul(1 + url.len() / 64))?;
        let of = |item: &Item<'v>| item.json()?.get("url")?.as_str();
        found.retain(|item| of(item) == Some(url));
        Ok(found)
    }

    fn resolve(&self, input: &[Item<'v>]) -> Evaluated<Items<'v>> {
        let mut found = Vec::new();
        for item in input {
            let reference = match item.text() {
                Some(text) => Some(text),
                None => item.json().and_then(|reference| reference.get("reference")).and_then(Value::as_str),
            };
            let Some(reference) = reference else { continue };
            if let Some(id) = reference.strip_prefix('#') {
                let root = self.context.root_resource;
                let contained = root.get("contained").and_then(Value::as_array);
                self.budget.spend((1 + contained.map_or(0, Vec::len)).saturating_mul(1 + id.len() / 64))?;
                let named = |one: &&Value| one.get("id").and_then(Value::as_str) == Some(id);
                let one =
                    if id.is_empty() { Some(root) } else { contained.into_iter().flatten().find(named) };
                found.extend(one.map(Item::resource));
                continue;
            }
            self.budget.spend_text(reference.len())?;
            found.extend(match self.context.resolver.and_then(|resolver| resolver(reference)) {
                Some(Resolved::Resource(resource)) => Some(Item::resource(resource)),
                Some(Resolved::Type(resource_type)) => Item::unresolved(resource_type),
                None => None,
            });
        }
        Ok(found)
    }
}

fn part<'v>(input: &[Item<'v>], from: usize, length: usize) -> Items<'v> {
    input.iter().skip(from).take(length).cloned().collect()
}

/// The items as booleans, which they must be.
fn truths(input: &[Item<'_>]) -> Evaluated<impl Iterator<Item = bool>> {
    let truths: Option<Vec<bool>> = input.iter().map(Item::boolean).collect();
    truths.map(Vec::into_iter).ok_or(EvaluateError::WrongType)
}

fn has_value(item: &Item<'_>) -> bool {
    !matches!(item, Item::Element(element) if element.value().is_none())
}

fn is_primitive(item: &Item<'_>) -> bool {
    let complex = |element: &Element<'_>| matches!(element.kind(), Kind::Complex(_));
    !matches!(item, Item::Element(element) if complex(element))
}

fn math<'v>(function: Function, number: Item<'v>, argument: Option<Decimal>) -> Evaluated<Option<Item<'v>>> {
    use Function as F;
    if let (F::Abs, Item::Quantity(quantity)) = (function, &number) {
        let value = quantity.value.absolute();
        return Ok(
            value.map(|value| Item::Quantity(Box::new(Quantity { value, unit: quantity.unit.clone() })))
        );
    }
    let value = equality::number(&number).ok_or(EvaluateError::WrongType)?;
    let whole = |towards: Ordering| i64::try_from(value.whole_part(towards)).ok().map(Item::Integer);
    let real = |result: f64| Decimal::from_f64(result).map(Item::Decimal);
    Ok(match function {
        F::Abs => match number {
            Item::Integer(number) => number.checked_abs().map(Item::Integer),
            _ => value.absolute().map(Item::Decimal),
        },
        F::Ceiling => whole(Ordering::Greater),
        F::Floor => whole(Ordering::Less),
        F::Truncate => whole(Ordering::Equal),
        F::Exp => real(value.to_f64().exp()),
        F::Ln => real(value.to_f64().ln()),
        F::Sqrt => real(value.to_f64().sqrt()),
        F::Log => argument.and_then(|base| real(value.to_f64().ln() / base.to_f64().ln())),
        F::Power => match (&number, argument) {
            (Item::Integer(base), Some(exponent)) if exponent.scale() == 0 && exponent.mantissa() >= 0 => {
                u32::try_from(exponent.mantissa())
                    .ok()
                    .and_then(|exponent| base.checked_pow(exponent))
                    .map(Item::Integer)
            }
            (_, Some(exponent)) => real(value.to_f64().powf(exponent.to_f64())),
            (_, None) => None,
        },
        F::Round => {
            let digits = argument.map_or(0, |digits| digits.whole_part(Ordering::Equal));
            let digits = u8::try_from(digits).map_err(|_| EvaluateError::WrongType)?;
            Some(Item::Decimal(value.round(digits)))
        }
        _ => None,
    })
}
