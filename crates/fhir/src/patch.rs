//! FHIRPath Patch (<https://hl7.org/fhir/R4/fhirpatch.html>): a `Parameters` resource that says what to change where.
//!
//! The result is a resource only in shape: whoever stores it validates it. Issues name the operation by its place and
//! say what to do; they hold nothing of the resource, the paths or the values.

mod target;
mod value;

use std::collections::HashMap;

use serde_json::Value;

use self::target::{Finder, List, Place, Target};
use self::value::{New, add};
use crate::element::definition_of;
use crate::fhirpath::{Budget, CompileErrorKind, Context, Expression, Item, RESOURCE_DEPTH_MAX};
use crate::outcome::{Issue, IssueCode};

/// The most operations in one patch.
const OPERATIONS_MAX: usize = 1000;

/// How much all paths of a patch may take together, to be compiled and to be followed, in the steps of
/// [`crate::fhirpath::STEPS_MAX`].
const PATH_STEPS_MAX: u64 = 3_000_000;

/// `resource` with every operation of `parameters` done, one after the other.
///
/// Nothing is changed if there is an issue: of the operations that cannot be understood all are told, of those that
/// cannot be done, or take too much work to be understood, the first. To delete what is not there succeeds; to add what is there already, or to change
/// something where a path finds nothing or several things, fails.
pub fn fhirpath_patch(resource: &Value, parameters: &Value) -> Result<Value, Vec<Issue>> {
    let budget = Budget::of(PATH_STEPS_MAX);
    let operations = operations(parameters, &budget)?;
    let mut patched = resource.clone();
    for operation in &operations {
        operation.apply(&mut patched, &budget).map_err(|problem| vec![operation.issue(problem)])?;
    }
    Ok(patched)
}

/// What is wrong, and in which kind of way.
type Problem = (IssueCode, &'static str);

const NO_TYPE: Problem =
    (IssueCode::Value, "`type` must be one of the codes add, insert, delete, replace and move");
const NO_PATH: Problem = (IssueCode::Required, "`path` must be a text in FHIRPath");
const NO_NAME: Problem = (IssueCode::Required, "`name` must be the name of the element to add");
const NO_VALUE: Problem = (IssueCode::Required, "`value` must have a value or parts");
const NO_INDEX: Problem = (IssueCode::Required, "`index` must be a whole number from 0");
const NO_MOVE: Problem = (IssueCode::Required, "`source` and `destination` must be whole numbers from 0");
const NOT_FOUND: Problem = (IssueCode::NotFound, "the path finds nothing; what it names must be there");
const SEVERAL: Problem =
    (IssueCode::MultipleMatches, "the path finds several elements; it must find one, by an index perhaps");
const NO_ELEMENT: Problem =
    (IssueCode::Processing, "the path must find elements of the resource, not what is computed from them");
const THE_RESOURCE: Problem =
    (IssueCode::Processing, "the path finds the resource itself, which can only be added to");
const NO_LIST: Problem = (
    IssueCode::Processing,
    "the path must find every item of one list, and only those; to begin a list, use the type add",
);
const OUTSIDE: Problem = (IssueCode::Value, "the list is shorter than that; positions count from 0");
const THERE_ALREADY: Problem =
    (IssueCode::Processing, "the element is there already and may be there once; use the type replace");
const UNKNOWN_ELEMENT: Problem = (IssueCode::Structure, "the specification has no such element there");
const WRONG_FORM: Problem = (IssueCode::Structure, "the element does not take a value of that type");
const TOO_COSTLY: Problem = (IssueCode::TooCostly, "the path needs more work than is accepted");
const TOO_DEEP: Problem = (IssueCode::TooCostly, "nested deeper than is accepted");

/// An operation that has been understood.
struct Operation<'p> {
    /// From 0.
    position: usize,
    path: Expression,
    action: Action<'p>,
}

enum Action<'p> {
    Add { name: &'p str, value: &'p Value },
    Insert { index: usize, value: &'p Value },
    Delete,
    Replace { value: &'p Value },
    Move { source: usize, destination: usize },
}

fn operations<'p>(parameters: &'p Value, budget: &Budget) -> Result<Vec<Operation<'p>>, Vec<Issue>> {
    let refused = |words: &str| vec![Issue::error(IssueCode::Structure, words)];
    if parameters.get("resourceType").and_then(Value::as_str) != Some("Parameters") {
        return Err(refused("a FHIRPath Patch must be a `Parameters` resource"));
    }
    let all = match parameters.get("parameter") {
        None => &[],
        Some(Value::Array(all)) if all.len() <= OPERATIONS_MAX => all.as_slice(),
        Some(Value::Array(_)) => {
            let words = format!("a patch may have {OPERATIONS_MAX} operations at most");
            return Err(vec![Issue::error(IssueCode::TooCostly, words)]);
        }
        Some(_) => return Err(refused("`parameter` must be an array")),
    };
    let (mut operations, mut issues) = (Vec::new(), Vec::new());
    for (position, parameter) in all.iter().enumerate() {
        match Operation::read(position, parameter, budget) {
            Ok(operation) => operations.push(operation),
            Err(issue) if issue.code == IssueCode::TooCostly => return Err(vec![issue]),
            Err(issue) => issues.push(issue),
        }
    }
    if issues.is_empty() { Ok(operations) } else { Err(issues) }
}

impl<'p> Operation<'p> {
    fn read(position: usize, parameter: &'p Value, budget: &Budget) -> Result<Self, Issue> {
        let told = |problem| issue(position, problem);
        if name_of(parameter) != Some("operation") {
            return Err(told((IssueCode::Value, "every parameter must have the name `operation`")));
        }
        let parts = || parts(parameter);
        let known = ["type", "path", "name", "value", "index", "source", "destination"];
        let is_odd = |(index, part): (usize, &Value)| {
            let name = name_of(part).unwrap_or_default();
            !known.contains(&name) || parts().take(index).any(|other| name_of(other) == Some(name))
        };
        // More parts than names cannot each have a name of their own.
        if parts().count() > known.len() || parts().enumerate().any(is_odd) {
            let words =
                "its parts must be some of type, path, name, value, index, source and destination, each once";
            return Err(told((IssueCode::Structure, words)));
        }
        let part = |name: &str| parts().find(|part| name_of(part) == Some(name));
        let text = |name: &str| part(name).and_then(value_of).and_then(|(_, value)| value.as_str());
        let number = |name: &str| {
            let number = part(name).and_then(value_of).and_then(|(_, value)| value.as_u64());
            number.and_then(|number| usize::try_from(number).ok())
        };
        let value = || part("value").ok_or(told(NO_VALUE));
        let path = text("path").ok_or(told(NO_PATH))?;
        let path = Expression::compile_within(path, budget).map_err(|error| {
            let code = match error.kind {
                CompileErrorKind::TooManyPatterns => IssueCode::TooCostly,
                _ => IssueCode::Invalid,
            };
            let diagnostics = format!("operation {}: the path: {error}", position + 1);
            Issue::error(code, diagnostics).at(place(position))
        })?;
        let action = match text("type") {
            Some("add") => Action::Add { name: text("name").ok_or(told(NO_NAME))?, value: value()? },
            Some("insert") => {
                Action::Insert { index: number("index").ok_or(told(NO_INDEX))?, value: value()? }
            }
            Some("delete") => Action::Delete,
            Some("replace") => Action::Replace { value: value()? },
            Some("move") => Action::Move {
                source: number("source").ok_or(told(NO_MOVE))?,
                destination: number("destination").ok_or(told(NO_MOVE))?,
            },
            _ => return Err(told(NO_TYPE)),
        };
        Ok(Self { position, path, action })
    }

    fn issue(&self, problem: Problem) -> Issue {
        issue(self.position, problem)
    }

    fn apply(&self, resource: &mut Value, budget: &Budget) -> Result<(), Problem> {
        let found = self.find(resource, budget)?;
        match &self.action {
            Action::Add { name, value } => {
                let Place { path, definition, .. } = single(&found)?.ok_or(NOT_FOUND)?.inside(resource)?;
                add(resource, &path, definition, name, value, RESOURCE_DEPTH_MAX)
            }
            Action::Insert { index, value } => {
                let list = List::of(resource, &found)?;
                let element = list.element()?;
                let new = New::of(list.definition, element, value, RESOURCE_DEPTH_MAX)?;
                if *index > list.length {
                    return Err(OUTSIDE);
                }
                list.change(
                    resource,
                    |items| items.insert(*index, new.value),
                    |items| {
                        items.insert(*index, new.sibling);
                    },
                )
            }
            Action::Delete => match single(&found)? {
                Some(target) => target.delete(resource),
                None => Ok(()),
            },
            Action::Replace { value } => single(&found)?.ok_or(NOT_FOUND)?.replace(resource, value),
            Action::Move { source, destination } => {
                let list = List::of(resource, &found)?;
                if *source >= list.length || *destination >= list.length {
                    return Err(OUTSIDE);
                }
                let carry = |items: &mut Vec<Value>| {
                    let item = items.remove(*source);
                    items.insert(*destination, item);
                };
                list.change(resource, carry, carry)
            }
        }
    }

    /// The places of what the path finds.
    fn find(&self, resource: &Value, budget: &Budget) -> Result<Vec<Target>, Problem> {
        let context = Context::of(resource);
        let items =
            self.path.evaluate_within(Item::resource(resource), &context, budget).map_err(|error| {
                use crate::fhirpath::EvaluateError as E;
                match error {
                    E::TooCostly => TOO_COSTLY,
                    E::TooDeep => TOO_DEEP,
                    E::NotSingle => SEVERAL,
                    _ => (IssueCode::Invalid, "the path cannot be evaluated"),
                }
            })?;
        let definition = definition_of(resource).ok_or(UNKNOWN_ELEMENT)?;
        let mut wanted: HashMap<*const Value, Vec<usize>> = HashMap::new();
        for (position, item) in items.iter().enumerate() {
            let Item::Element(element) = item else { return Err(NO_ELEMENT) };
            let value = item.json().or(element.sibling()).ok_or(NO_ELEMENT)?;
            wanted.entry(value).or_default().push(position);
        }
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let mut finder = Finder::new(wanted, items.len(), budget);
        finder.value(resource, definition, RESOURCE_DEPTH_MAX)?;
        // A path may lead out of the resource, to a constant for example.
        finder.found.into_iter().collect::<Option<Vec<_>>>().ok_or(NO_ELEMENT)
    }
}

fn issue(position: usize, (code, words): Problem) -> Issue {
    Issue::error(code, format!("operation {}: {words}", position + 1)).at(place(position))
}

fn place(position: usize) -> String {
    format!("Parameters.parameter[{position}]")
}

fn name_of(parameter: &Value) -> Option<&str> {
    parameter.get("name").and_then(Value::as_str)
}

fn parts(parameter: &Value) -> impl Iterator<Item = &Value> {
    parameter.get("part").and_then(Value::as_array).into_iter().flatten()
}

/// The value of a parameter, and its type as it stands in the name of the property.
fn value_of(parameter: &Value) -> Option<(&str, &Value)> {
    let mut properties = parameter.as_object()?.iter();
    properties.find_map(|(key, value)| Some((key.strip_prefix("value")?, value)))
}

fn single(found: &[Target]) -> Result<Option<&Target>, Problem> {
    match found {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        _ => Err(SEVERAL),
    }
}

#[cfg(test)]
mod tests;
