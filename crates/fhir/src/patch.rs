//! FHIRPath Patch (<https://hl7.org/fhir/R4/fhirpatch.html>): a `Parameters` resource that says what to change where.
//!
//! The result is a resource only in shape: whoever stores it validates it. Issues name the operation by its place and
//! say what to do; they hold nothing of the resource, the paths or the values.

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::definitions::{self, Definition, Element, ElementType};
use crate::fhirpath::{Budget, Context, Expression, Item, RESOURCE_DEPTH_MAX};
use crate::outcome::{Issue, IssueCode};

/// The most operations in one patch.
pub const OPERATIONS_MAX: usize = 1000;

/// How much all paths of a patch may do together, in the steps of [`crate::fhirpath::STEPS_MAX`].
const PATH_STEPS_MAX: u64 = 3_000_000;

/// `resource` with every operation of `parameters` done, one after the other.
///
/// Nothing is changed if there is an issue: of the operations that cannot be understood all are told, of those that
/// cannot be done the first. To delete what is not there succeeds; to add what is there already, or to change
/// something where a path finds nothing or several things, fails.
pub fn fhirpath_patch(resource: &Value, parameters: &Value) -> Result<Value, Vec<Issue>> {
    let operations = operations(parameters)?;
    let mut patched = resource.clone();
    let budget = Budget::of(PATH_STEPS_MAX);
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

fn operations(parameters: &Value) -> Result<Vec<Operation<'_>>, Vec<Issue>> {
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
        match Operation::read(position, parameter) {
            Ok(operation) => operations.push(operation),
            Err(issue) => issues.push(issue),
        }
    }
    if issues.is_empty() { Ok(operations) } else { Err(issues) }
}

impl<'p> Operation<'p> {
    fn read(position: usize, parameter: &'p Value) -> Result<Self, Issue> {
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
        let path = Expression::compile(path).map_err(|error| {
            let diagnostics = format!("operation {}: the path: {error}", position + 1);
            Issue::error(IssueCode::Invalid, diagnostics).at(place(position))
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
                    E::TooCostly => (IssueCode::TooCostly, "the path needs more work than is accepted"),
                    E::TooDeep => TOO_DEEP,
                    E::NotSingle => SEVERAL,
                    _ => (IssueCode::Invalid, "the path cannot be evaluated"),
                }
            })?;
        let definition = resource_definition(resource).ok_or(UNKNOWN_ELEMENT)?;
        let mut wanted: HashMap<*const Value, Vec<usize>> = HashMap::new();
        for (position, item) in items.iter().enumerate() {
            let Item::Element(element) = item else { return Err(NO_ELEMENT) };
            let value = item.json().or(element.sibling()).ok_or(NO_ELEMENT)?;
            wanted.entry(value).or_default().push(position);
        }
        let mut finder = Finder { wanted, found: vec![None; items.len()], path: Vec::new() };
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

/// One step down in JSON.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Property(String),
    Item(usize),
}

/// An object in the resource.
struct Place {
    path: Vec<Step>,
    definition: &'static Definition,
}

/// An element in the resource; the resource itself has no key.
#[derive(Clone, Debug)]
struct Target {
    /// The way to the object that has it.
    path: Vec<Step>,
    /// Of that object.
    definition: &'static Definition,
    /// The name in JSON, without `_`.
    key: String,
    /// The place in the list, if it is an item of one.
    index: Option<usize>,
}

impl Target {
    fn element(&self) -> Result<&'static Element, Problem> {
        if self.key.is_empty() {
            return Err(THE_RESOURCE);
        }
        self.definition.element(&self.key).ok_or(UNKNOWN_ELEMENT)
    }

    /// The object that the element is; what extends it if it is primitive.
    fn inside(&self, resource: &mut Value) -> Result<Place, Problem> {
        if self.key.is_empty() {
            return Ok(Place { path: Vec::new(), definition: self.definition });
        }
        let element = self.element()?;
        let mut path = self.path.clone();
        let definition = match element.of {
            ElementType::Complex(id) => {
                path.push(Step::Property(self.key.clone()));
                definitions::definition(id)
            }
            ElementType::Resource => {
                path.push(Step::Property(self.key.clone()));
                let inner: Vec<Step> = path.iter().cloned().chain(self.index.map(Step::Item)).collect();
                at(resource, &inner).and_then(|value| resource_definition(value)).ok_or(UNKNOWN_ELEMENT)?
            }
            ElementType::Primitive(_) => {
                let object = object_at(resource, &self.path)?;
                let length = object.get(&self.key).and_then(Value::as_array).map_or(0, Vec::len);
                let sibling = format!("_{}", self.key);
                let extends = object.entry(&*sibling).or_insert_with(|| match self.index {
                    Some(_) => Value::Array(vec![Value::Null; length]),
                    None => Value::Object(Map::new()),
                });
                if let (Some(index), Value::Array(items)) = (self.index, extends)
                    && let Some(item) = items.get_mut(index)
                    && item.is_null()
                {
                    *item = Value::Object(Map::new());
                }
                path.push(Step::Property(sibling));
                definitions::element()
            }
            ElementType::Xhtml => return Err(UNKNOWN_ELEMENT),
        };
        path.extend(self.index.map(Step::Item));
        Ok(Place { path, definition })
    }

    fn delete(&self, resource: &mut Value) -> Result<(), Problem> {
        self.element()?;
        let object = object_at(resource, &self.path)?;
        let sibling = format!("_{}", self.key);
        for key in [&self.key, &sibling] {
            match (self.index, object.get_mut(key)) {
                (Some(index), Some(Value::Array(items))) if index < items.len() => {
                    items.remove(index);
                    if items.iter().all(Value::is_null) {
                        object.shift_remove(key);
                    }
                }
                (None, Some(_)) => drop(object.shift_remove(key)),
                _ => {}
            }
        }
        remove_empty(resource, &self.path);
        Ok(())
    }

    fn replace(&self, resource: &mut Value, value: &Value) -> Result<(), Problem> {
        let element = self.element()?;
        let new = New::of(self.definition, element, value, RESOURCE_DEPTH_MAX)?;
        let object = object_at(resource, &self.path)?;
        if let Some(index) = self.index {
            let length = object.get(&self.key).and_then(Value::as_array).map_or(0, Vec::len);
            return List {
                path: self.path.clone(),
                definition: self.definition,
                key: self.key.clone(),
                length,
            }
            .change(
                resource,
                |items| set(items, index, new.value),
                |items| set(items, index, new.sibling),
            );
        }
        // The new form of a choice stands where the old one stood.
        let sibling = format!("_{}", self.key);
        let place = object.keys().position(|key| *key == self.key || *key == sibling).unwrap_or(object.len());
        let old = std::mem::take(object);
        for (position, (key, value)) in old.into_iter().enumerate() {
            if position == place {
                new.clone().put(object);
            }
            if key != self.key && key != sibling {
                object.insert(key, value);
            }
        }
        Ok(())
    }
}

fn set(items: &mut [Value], index: usize, value: Value) {
    if let Some(item) = items.get_mut(index) {
        *item = value;
    }
}

/// A list in the resource, all of it.
struct List {
    path: Vec<Step>,
    definition: &'static Definition,
    key: String,
    length: usize,
}

impl List {
    /// The list of which `found` is every item.
    fn of(resource: &mut Value, found: &[Target]) -> Result<Self, Problem> {
        let first = found.first().ok_or(NO_LIST)?;
        let all = found
            .iter()
            .enumerate()
            .all(|(index, one)| one.index == Some(index) && one.key == first.key && one.path == first.path);
        let object = object_at(resource, &first.path)?;
        let length = |key: &str| object.get(key).and_then(Value::as_array).map_or(0, Vec::len);
        let length = length(&first.key).max(length(&format!("_{}", first.key)));
        if !all || length != found.len() {
            return Err(NO_LIST);
        }
        Ok(Self { path: first.path.clone(), definition: first.definition, key: first.key.clone(), length })
    }

    fn element(&self) -> Result<&'static Element, Problem> {
        self.definition.element(&self.key).ok_or(UNKNOWN_ELEMENT)
    }

    /// Changes the list, and in the same way what extends it, of which nothing is left if it is null throughout.
    fn change(
        &self,
        resource: &mut Value,
        change: impl FnOnce(&mut Vec<Value>),
        change_sibling: impl FnOnce(&mut Vec<Value>),
    ) -> Result<(), Problem> {
        let object = object_at(resource, &self.path)?;
        let sibling = format!("_{}", self.key);
        let mut both = [&self.key, &sibling].map(|key| match object.get_mut(key) {
            Some(Value::Array(items)) => std::mem::take(items),
            _ => Vec::new(),
        });
        let [items, siblings] = &mut both;
        items.resize(self.length, Value::Null);
        siblings.resize(self.length, Value::Null);
        change(items);
        change_sibling(siblings);
        for (key, items) in [&self.key, &sibling].into_iter().zip(both) {
            if items.iter().all(Value::is_null) {
                object.shift_remove(key);
            } else {
                object.insert(key.clone(), Value::Array(items));
            }
        }
        Ok(())
    }
}

fn add(
    resource: &mut Value,
    path: &[Step],
    definition: &'static Definition,
    name: &str,
    value: &Value,
    depth_left: usize,
) -> Result<(), Problem> {
    let element = element_called(definition, name).ok_or(UNKNOWN_ELEMENT)?;
    let new = New::of(definition, element, value, depth_left)?;
    let object = object_at(resource, path)?;
    if element.many {
        let length = |key: &str| object.get(key).and_then(Value::as_array).map_or(0, Vec::len);
        let length = length(&element.key).max(length(&format!("_{}", element.key)));
        let list = List { path: path.to_vec(), definition, key: element.key.to_string(), length };
        return list.change(resource, |items| items.push(new.value), |items| items.push(new.sibling));
    }
    let is_there = |key: &String| {
        let key = key.strip_prefix('_').unwrap_or(key);
        definition.element(key).is_some_and(|other| other.number == element.number)
    };
    if object.keys().any(is_there) {
        return Err(THERE_ALREADY);
    }
    new.put(object);
    Ok(())
}

/// The element of this name, which for a choice may be with its type or without.
fn element_called(definition: &'static Definition, name: &str) -> Option<&'static Element> {
    definition.element(name).or_else(|| {
        let number = definition.number(name.strip_suffix("[x]").unwrap_or(name))?;
        definition.elements().iter().find(|element| element.number == number)
    })
}

/// A value that comes in, in the form in which it will stand.
#[derive(Clone)]
struct New {
    key: String,
    value: Value,
    /// What extends it; null if nothing does.
    sibling: Value,
}

impl New {
    /// The value of a parameter as that of `element`.
    fn of(
        definition: &'static Definition,
        element: &Element,
        parameter: &Value,
        depth_left: usize,
    ) -> Result<Self, Problem> {
        let depth_left = depth_left.checked_sub(1).ok_or(TOO_DEEP)?;
        let plain = |value: Value| Self { key: element.key.to_string(), value, sibling: Value::Null };
        if let Some(resource) = parameter.get("resource") {
            let fits = element.of == ElementType::Resource;
            return if fits { Ok(plain(resource.clone())) } else { Err(WRONG_FORM) };
        }
        let object = parameter.as_object().ok_or(NO_VALUE)?;
        let value = value_of(parameter);
        let extends = object.iter().find_map(|(key, value)| Some((key.strip_prefix("_value")?, value)));
        if let Some((kind, _)) = value.or(extends) {
            let key =
                if element.choice { format!("{}{kind}", element.name) } else { element.key.to_string() };
            let target = definition.element(&key).ok_or(WRONG_FORM)?;
            let value = value.map_or(Value::Null, |(_, value)| value.clone());
            let sibling = extends.map_or(Value::Null, |(_, value)| value.clone());
            let is_primitive = matches!(target.of, ElementType::Primitive(_) | ElementType::Xhtml);
            if value.is_null() && sibling.is_null() {
                return Err(NO_VALUE);
            }
            if is_primitive == value.is_object() || (!is_primitive && !sibling.is_null()) {
                return Err(WRONG_FORM);
            }
            return Ok(Self { key, value, sibling });
        }
        // A part of a type has no name of its own, so that its elements are listed.
        let ElementType::Complex(id) = element.of else { return Err(NO_VALUE) };
        let inner = definitions::definition(id);
        let mut made = Value::Object(Map::new());
        for part in parts(parameter) {
            let name = name_of(part).ok_or(UNKNOWN_ELEMENT)?;
            add(&mut made, &[], inner, name, part, depth_left)?;
        }
        let empty = made.as_object().is_none_or(Map::is_empty);
        if empty { Err(NO_VALUE) } else { Ok(plain(made)) }
    }

    fn put(self, object: &mut Map<String, Value>) {
        if !self.sibling.is_null() {
            object.insert(format!("_{}", self.key), self.sibling);
        }
        if !self.value.is_null() {
            object.insert(self.key, self.value);
        }
    }
}

/// Looks for values in the resource by where they are in memory.
struct Finder {
    /// Positions in `found`.
    wanted: HashMap<*const Value, Vec<usize>>,
    found: Vec<Option<Target>>,
    /// Where it stands.
    path: Vec<Step>,
}

impl Finder {
    /// A resource, or an object below, of this definition.
    fn value(
        &mut self,
        value: &Value,
        definition: &'static Definition,
        depth_left: usize,
    ) -> Result<(), Problem> {
        let depth_left = depth_left.checked_sub(1).ok_or(TOO_DEEP)?;
        if self.path.is_empty() {
            self.note(value, definition, "", None);
        }
        for (key, below) in value.as_object().into_iter().flatten() {
            let name = key.strip_prefix('_').unwrap_or(key);
            let Some(element) = definition.element(name) else { continue };
            let items = below.as_array().map(Vec::as_slice);
            for (index, item) in items.unwrap_or(std::slice::from_ref(below)).iter().enumerate() {
                let index = items.map(|_| index);
                self.note(item, definition, name, index);
                let length = self.path.len();
                self.path.push(Step::Property(key.clone()));
                self.path.extend(index.map(Step::Item));
                let inner = match element.of {
                    _ if name != key => Some(definitions::element()),
                    ElementType::Complex(id) => Some(definitions::definition(id)),
                    ElementType::Resource => resource_definition(item),
                    _ => None,
                };
                if let Some(inner) = inner {
                    self.value(item, inner, depth_left)?;
                }
                self.path.truncate(length);
            }
        }
        Ok(())
    }

    fn note(&mut self, value: &Value, definition: &'static Definition, key: &str, index: Option<usize>) {
        for position in self.wanted.get(&std::ptr::from_ref(value)).into_iter().flatten() {
            if let Some(found) = self.found.get_mut(*position) {
                *found = Some(Target { path: self.path.clone(), definition, key: key.to_owned(), index });
            }
        }
    }
}

fn resource_definition(resource: &Value) -> Option<&'static Definition> {
    definitions::resource(resource.get("resourceType")?.as_str()?)
}

fn at<'v>(resource: &'v mut Value, path: &[Step]) -> Option<&'v mut Value> {
    path.iter().try_fold(resource, |value, step| match step {
        Step::Property(name) => value.get_mut(name),
        Step::Item(index) => value.get_mut(*index),
    })
}

fn object_at<'v>(resource: &'v mut Value, path: &[Step]) -> Result<&'v mut Map<String, Value>, Problem> {
    at(resource, path).and_then(Value::as_object_mut).ok_or(NO_ELEMENT)
}

/// Removes the object at `path` if it is empty, and what is empty then, up to the resource.
fn remove_empty(resource: &mut Value, path: &[Step]) {
    let mut path = path;
    while let Some((last, above)) = path.split_last() {
        let is_empty = at(resource, path).is_some_and(|value| match value {
            Value::Object(object) => object.is_empty(),
            Value::Array(items) => items.iter().all(Value::is_null),
            _ => false,
        });
        if !is_empty {
            return;
        }
        let Some(parent) = at(resource, above) else { return };
        match (last, parent) {
            (Step::Property(name), Value::Object(object)) => drop(object.shift_remove(name)),
            // What extends a primitive stands where the primitive does.
            (Step::Item(index), Value::Array(items)) => {
                let is_sibling = matches!(above.last(), Some(Step::Property(name)) if name.starts_with('_'));
                if is_sibling {
                    set(items, *index, Value::Null);
                } else if *index < items.len() {
                    items.remove(*index);
                }
            }
            _ => return,
        }
        path = above;
    }
}

#[cfg(test)]
mod tests;
