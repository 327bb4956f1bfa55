//! Evaluation: paths, operators and their three truths.

use std::cell::Cell;
use std::cmp::Ordering;

use super::decimal::Decimal;
use super::equality::{self, Distinct};
use super::item::{Item, Text};
use super::quantity::{Quantity, UNIT_BYTES_MAX};
use super::syntax::{Expression, Operator, Step, Variable};
use super::{Context, EvaluateError, ITEMS_MAX, TEXT_BYTES_MAX};

pub(super) type Items<'v> = Vec<Item<'v>>;
pub(super) type Evaluated<T> = Result<T, EvaluateError>;

/// What `expression` finds from `focus` on.
pub(super) fn evaluate<'v>(
    expression: &'v Expression,
    focus: Item<'v>,
    context: &Context<'v>,
    budget: &Budget,
) -> Evaluated<Items<'v>> {
    let origin = [focus];
    let evaluator = Evaluator { context, origin: &origin, budget };
    evaluator.expression(expression, &Scope { focus: &origin, index: None, total: &[] })
}

/// How much may still be done.
pub(crate) struct Budget(Cell<u64>);

impl Budget {
    pub(crate) const fn of(steps: u64) -> Self {
        Self(Cell::new(steps))
    }

    /// Allows for more, but never for more than `most`.
    pub(crate) fn add(&self, steps: u64, most: u64) {
        self.0.set(self.0.get().saturating_add(steps).min(most));
    }

    pub(crate) fn spend(&self, steps: usize) -> Evaluated<()> {
        let steps = u64::try_from(steps).unwrap_or(u64::MAX);
        let left = self.0.get().checked_sub(steps).ok_or(EvaluateError::TooCostly)?;
        self.0.set(left);
        Ok(())
    }

    /// For looking at, or making, so many bytes of text.
    pub(super) fn spend_text(&self, bytes: usize) -> Evaluated<()> {
        self.spend(1 + bytes / 64)
    }

    /// For text that is made and may not be longer than is accepted.
    pub(super) fn text(&self, bytes: usize) -> Evaluated<()> {
        if bytes > TEXT_BYTES_MAX {
            return Err(EvaluateError::TooCostly);
        }
        self.spend_text(bytes)
    }

    /// Whether a collection of so many items may have one more.
    pub(super) fn room(&self, items: usize) -> Evaluated<()> {
        if items < ITEMS_MAX { self.spend(1) } else { Err(EvaluateError::TooCostly) }
    }
}

/// What an expression is evaluated in: `$this`, `$index` and `$total`.
#[derive(Clone, Copy)]
pub(super) struct Scope<'s, 'v> {
    pub(super) focus: &'s [Item<'v>],
    pub(super) index: Option<usize>,
    pub(super) total: &'s [Item<'v>],
}

pub(super) struct Evaluator<'e, 'v> {
    pub(super) context: &'e Context<'v>,
    /// Where the evaluation began: `%context`.
    origin: &'e [Item<'v>],
    pub(super) budget: &'e Budget,
}

impl<'v> Evaluator<'_, 'v> {
    pub(super) fn expression(
        &self,
        expression: &'v Expression,
        scope: &Scope<'_, 'v>,
    ) -> Evaluated<Items<'v>> {
        self.budget.spend(1)?;
        match expression {
            Expression::Focus => self.copy(scope.focus),
            Expression::Index => {
                let index = scope.index.and_then(|index| i64::try_from(index).ok());
                Ok(index.map(Item::Integer).into_iter().collect())
            }
            Expression::Total => self.copy(scope.total),
            Expression::Nothing => Ok(Vec::new()),
            Expression::Literal(item) => Ok(vec![item.clone()]),
            Expression::Variable(variable) => self.variable(variable),
            Expression::Negate(operand) => self.negate(operand, scope),
            Expression::Binary(operator, left, right) => self.binary(*operator, left, right, scope),
            Expression::Path(start, steps) => match (&**start, steps.split_first()) {
                // The focus need not be copied to take the first step from it.
                (Expression::Focus, Some((first, rest))) => {
                    let found = self.step(first, scope.focus, scope)?;
                    self.steps(rest, found, scope)
                }
                _ => {
                    let found = self.expression(start, scope)?;
                    self.steps(steps, found, scope)
                }
            },
        }
    }

    fn copy(&self, items: &[Item<'v>]) -> Evaluated<Items<'v>> {
        self.budget.spend(items.len())?;
        Ok(items.to_vec())
    }

    fn steps(&self, steps: &'v [Step], mut found: Items<'v>, scope: &Scope<'_, 'v>) -> Evaluated<Items<'v>> {
        for step in steps {
            found = self.step(step, &found, scope)?;
        }
        Ok(found)
    }

    fn step(&self, step: &'v Step, input: &[Item<'v>], scope: &Scope<'_, 'v>) -> Evaluated<Items<'v>> {
        if matches!(step, Step::Start(..) | Step::As(_) | Step::OfType(_) | Step::Call(_)) {
            self.budget.spend(input.len())?;
        }
        match step {
            Step::Child(name) => self.children(input, name),
            Step::Start(name, of_type) => {
                // The name of the type that a path begins with stands for what it begins at.
                if let Some(of_type) = of_type {
                    let same: Items<'v> = input.iter().filter(|item| item.is(*of_type)).cloned().collect();
                    if !same.is_empty() {
                        return Ok(same);
                    }
                }
                self.children(input, name)
            }
            Step::Index(index) => {
                let index = self.expression(index, scope)?;
                let Some(index) = integer(&index)? else { return Ok(Vec::new()) };
                let found = usize::try_from(index).ok().and_then(|index| input.get(index));
                Ok(found.cloned().into_iter().collect())
            }
            Step::Is(name) => match input {
                [] => Ok(Vec::new()),
                [item] => Ok(vec![Item::Boolean(item.is(*name))]),
                _ => Err(EvaluateError::NotSingle),
            },
            Step::As(name) | Step::OfType(name) => {
                Ok(input.iter().filter(|item| item.is(*name)).cloned().collect())
            }
            Step::Call(call) => self.call(call, input, scope),
        }
    }

    pub(super) fn children(&self, input: &[Item<'v>], name: &str) -> Evaluated<Items<'v>> {
        let mut found = Vec::new();
        for item in input {
            self.budget.spend(item.child(name, &mut found))?;
            self.budget.room(found.len())?;
        }
        Ok(found)
    }

    fn variable(&self, variable: &'v Variable) -> Evaluated<Items<'v>> {
        match variable {
            Variable::Resource => Ok(vec![Item::resource(self.context.resource)]),
            Variable::RootResource => Ok(vec![Item::resource(self.context.root_resource)]),
            Variable::Context => self.copy(self.origin),
            Variable::Constant(text) => Ok(vec![Item::String(Text::Borrowed(text))]),
            Variable::Other(name) => {
                let found = self.context.variables.iter().find(|(own, _)| **own == **name);
                self.copy(&found.ok_or(EvaluateError::UnknownVariable)?.1)
            }
        }
    }

    fn negate(&self, operand: &'v Expression, scope: &Scope<'_, 'v>) -> Evaluated<Items<'v>> {
        let operand = self.expression(operand, scope)?;
        let Some(item) = single(&operand)? else { return Ok(Vec::new()) };
        let negated = match item.system() {
            Some(Item::Integer(number)) => number.checked_neg().map(Item::Integer),
            Some(Item::Decimal(number)) => number.negate().map(Item::Decimal),
            Some(Item::Quantity(quantity)) => quantity
                .value
                .negate()
                .map(|value| Item::Quantity(Box::new(Quantity { value, unit: quantity.unit }))),
            _ => return Err(EvaluateError::WrongType),
        };
        Ok(negated.into_iter().collect())
    }

    fn binary(
        &self,
        operator: Operator,
        left: &'v Expression,
        right: &'v Expression,
        scope: &Scope<'_, 'v>,
    ) -> Evaluated<Items<'v>> {
        let budget = self.budget;
        let truth = |truth: Option<bool>| Ok(truth.map(Item::Boolean).into_iter().collect());
        let left = self.expression(left, scope)?;
        if matches!(operator, Operator::And | Operator::Or | Operator::Xor | Operator::Implies) {
            let left = boolean(&left)?;
            // What the left side decides alone needs no right side.
            let decided = match (operator, left) {
                (Operator::And, Some(false)) => Some(false),
                (Operator::Or, Some(true)) | (Operator::Implies, Some(false)) => Some(true),
                _ => None,
            };
            if decided.is_some() {
                return truth(decided);
            }
            let right = boolean(&self.expression(right, scope)?)?;
            return truth(match operator {
                Operator::And => both(left, right),
                Operator::Or => both(left.map(|left| !left), right.map(|right| !right)).map(|both| !both),
                Operator::Implies => both(left, right.map(|right| !right)).map(|both| !both),
                _ => left.zip(right).map(|(left, right)| left != right),
            });
        }
        let right = self.expression(right, scope)?;
        match operator {
            Operator::Equal => truth(equality::all_equal(&left, &right, budget)?),
            Operator::NotEqual => truth(equality::all_equal(&left, &right, budget)?.map(|equal| !equal)),
            Operator::Equivalent => truth(Some(equality::all_equivalent(&left, &right, budget)?)),
            Operator::NotEquivalent => truth(Some(!equality::all_equivalent(&left, &right, budget)?)),
            Operator::Less | Operator::LessOrEqual | Operator::Greater | Operator::GreaterOrEqual => {
                let (Some(left), Some(right)) = (single(&left)?, single(&right)?) else { return truth(None) };
                truth(equality::compare(left, right, budget)?.map(|ordering| match operator {
                    Operator::Less => ordering == Ordering::Less,
                    Operator::LessOrEqual => ordering != Ordering::Greater,
                    Operator::Greater => ordering == Ordering::Greater,
                    _ => ordering != Ordering::Less,
                }))
            }
            Operator::In => truth(self.member(&left, &right)?),
            Operator::Contains => truth(self.member(&right, &left)?),
            Operator::Union => {
                let mut union = Distinct::of(&left, budget)?;
                for item in right {
                    union.insert(item, budget)?;
                }
                Ok(union.items)
            }
            Operator::Concatenate => {
                let (left, right) = (text(&left)?.unwrap_or_default(), text(&right)?.unwrap_or_default());
                budget.text(left.len() + right.len())?;
                Ok(vec![Item::String(format!("{left}{right}").into())])
            }
            _ => {
                let (Some(left), Some(right)) = (single(&left)?, single(&right)?) else {
                    return Ok(Vec::new());
                };
                let (Some(left), Some(right)) = (left.system(), right.system()) else {
                    return Err(EvaluateError::WrongType);
                };
                Ok(self.arithmetic(operator, left, right)?.into_iter().collect())
            }
        }
    }

    /// Whether the only item of `item` is one of `items`.
    fn member(&self, item: &[Item<'v>], items: &[Item<'v>]) -> Evaluated<Option<bool>> {
        let Some(item) = single(item)? else { return Ok(None) };
        for other in items {
            if equality::equal(item, other, self.budget)? == Some(true) {
                return Ok(Some(true));
            }
        }
        Ok(Some(false))
    }

    fn arithmetic(&self, operator: Operator, left: Item<'v>, right: Item<'v>) -> Evaluated<Option<Item<'v>>> {
        Ok(match (left, right) {
            (Item::Integer(left), Item::Integer(right)) => match operator {
                Operator::Add => left.checked_add(right).map(Item::Integer),
                Operator::Subtract => left.checked_sub(right).map(Item::Integer),
                Operator::Multiply => left.checked_mul(right).map(Item::Integer),
                Operator::Div => left.checked_div(right).map(Item::Integer),
                Operator::Mod => left.checked_rem(right).map(Item::Integer),
                _ => Decimal::whole(left).divide(Decimal::whole(right)).map(Item::Decimal),
            },
            (Item::String(left), Item::String(right)) if operator == Operator::Add => {
                self.budget.text(left.len() + right.len())?;
                Some(Item::String(format!("{}{}", &*left, &*right).into()))
            }
            (Item::Quantity(left), Item::Quantity(right)) => self.quantities(operator, &left, &right)?,
            (Item::Quantity(left), right) => match equality::number(&right) {
                Some(value) => self.quantities(operator, &left, &Quantity { value, unit: "1".into() })?,
                None => return Err(EvaluateError::WrongType),
            },
            (Item::Date(date), Item::Quantity(quantity)) => moved(operator, date, &quantity)?.map(Item::Date),
            (Item::DateTime(moment), Item::Quantity(quantity)) => {
                moved(operator, moment, &quantity)?.map(Item::DateTime)
            }
            (Item::Time(time), Item::Quantity(quantity)) => moved(operator, time, &quantity)?.map(Item::Time),
            (left, Item::Quantity(right)) => match equality::number(&left) {
                Some(value) => self.quantities(operator, &Quantity { value, unit: "1".into() }, &right)?,
                None => return Err(EvaluateError::WrongType),
            },
            (left, right) => {
                let (Some(left), Some(right)) = (equality::number(&left), equality::number(&right)) else {
                    return Err(EvaluateError::WrongType);
                };
                match operator {
                    Operator::Div => left
                        .divide_whole(right)
                        .and_then(|whole| i64::try_from(whole.mantissa()).ok())
                        .map(Item::Integer),
                    Operator::Add => left.add(right).map(Item::Decimal),
                    Operator::Subtract => left.subtract(right).map(Item::Decimal),
                    Operator::Multiply => left.multiply(right).map(Item::Decimal),
                    Operator::Mod => left.remainder(right).map(Item::Decimal),
                    _ => left.divide(right).map(Item::Decimal),
                }
            }
        })
    }

    fn quantities(
        &self,
        operator: Operator,
        left: &Quantity<'v>,
        right: &Quantity<'v>,
    ) -> Evaluated<Option<Item<'v>>> {
        let quantity = |value: Option<Decimal>, unit: Text<'v>| {
            Ok(value.map(|value| Item::Quantity(Box::new(Quantity { value, unit }))))
        };
        // Each product is as long as both units.
        let combined = |between: char| {
            let length = left.unit.len() + 1 + right.unit.len();
            if length > UNIT_BYTES_MAX {
                return Err(EvaluateError::TooCostly);
            }
            self.budget.text(length)?;
            Ok(Text::from(format!("{}{between}{}", &*left.unit, &*right.unit)))
        };
        match operator {
            Operator::Add | Operator::Subtract => {
                let combine = |left: Decimal, right: Decimal| match operator {
                    Operator::Add => left.add(right),
                    _ => left.subtract(right),
                };
                // The sum is in the left unit; in another it would have to be converted back.
                if *left.unit == *right.unit {
                    quantity(combine(left.value, right.value), left.unit.clone())
                } else {
                    Ok(None)
                }
            }
            Operator::Multiply => {
                let unit = match (&*left.unit, &*right.unit) {
                    (_, "1") => left.unit.clone(),
                    ("1", _) => right.unit.clone(),
                    _ => combined('.')?,
                };
                quantity(left.value.multiply(right.value), unit)
            }
            Operator::Divide if *right.unit == *"1" => {
                quantity(left.value.divide(right.value), left.unit.clone())
            }
            Operator::Divide => match left.align(right) {
                Some((left, right)) => quantity(left.divide(right), "1".into()),
                None => quantity(left.value.divide(right.value), combined('/')?),
            },
            _ => Err(EvaluateError::WrongType),
        }
    }
}

/// A date or time plus or minus a quantity of time.
fn moved(
    operator: Operator,
    value: super::Temporal,
    quantity: &Quantity<'_>,
) -> Evaluated<Option<super::Temporal>> {
    let amount = match operator {
        Operator::Add => Some(quantity.value),
        Operator::Subtract => quantity.value.negate(),
        _ => return Err(EvaluateError::WrongType),
    };
    let unit = quantity.calendar_unit().ok_or(EvaluateError::WrongType)?;
    Ok(amount.and_then(|amount| value.plus(amount, unit)))
}

fn both(left: Option<bool>, right: Option<bool>) -> Option<bool> {
    match (left, right) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (Some(true), Some(true)) => Some(true),
        _ => None,
    }
}

/// The only item, or none.
pub(super) fn single<'s, 'v>(items: &'s [Item<'v>]) -> Evaluated<Option<&'s Item<'v>>> {
    match items {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        _ => Err(EvaluateError::NotSingle),
    }
}

/// The truth of a collection: a single item that is no boolean is true (singleton evaluation).
pub(super) fn boolean(items: &[Item<'_>]) -> Evaluated<Option<bool>> {
    Ok(single(items)?.map(|item| item.boolean().unwrap_or(true)))
}

pub(super) fn integer(items: &[Item<'_>]) -> Evaluated<Option<i64>> {
    let Some(item) = single(items)? else { return Ok(None) };
    match item.system() {
        Some(Item::Integer(number)) => Ok(Some(number)),
        _ => Err(EvaluateError::WrongType),
    }
}

pub(super) fn text<'s>(items: &'s [Item<'_>]) -> Evaluated<Option<&'s str>> {
    let Some(item) = single(items)? else { return Ok(None) };
    match (item, item.text()) {
        (_, Some(text)) => Ok(Some(text)),
        // A primitive that has only what extends it.
        (Item::Element(_), None) if item.system().is_none() && item.json().is_none() => Ok(None),
        _ => Err(EvaluateError::WrongType),
    }
}
