//! Places in a resource: how they are found and how what stands there is changed.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::value::New;
use super::{NO_ELEMENT, NO_LIST, Problem, THE_RESOURCE, TOO_COSTLY, TOO_DEEP, UNKNOWN_ELEMENT};
use crate::definitions::{self, Definition, Element, ElementType};
use crate::element::definition_of;
use crate::fhirpath::{Budget, RESOURCE_DEPTH_MAX};

/// One step down in JSON.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Property(String),
    Item(usize),
}

/// An object in the resource.
pub(super) struct Place {
    pub(super) path: Vec<Step>,
    pub(super) definition: &'static Definition,
}

/// An element in the resource; the resource itself has no key.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// The way to the object that has it.
    pub(super) path: Vec<Step>,
    /// Of that object.
    pub(super) definition: &'static Definition,
    /// The name in JSON, without `_`.
    pub(super) key: String,
    /// The place in the list, if it is an item of one.
    pub(super) index: Option<usize>,
}

impl Target {
    pub(super) fn element(&self) -> Result<&'static Element, Problem> {
        if self.key.is_empty() {
            return Err(THE_RESOURCE);
        }
        self.definition.element(&self.key).ok_or(UNKNOWN_ELEMENT)
    }

    /// The object that the element is; what extends it if it is primitive.
    pub(super) fn inside(&self, resource: &mut Value) -> Result<Place, Problem> {
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
                at(resource, &inner).and_then(|value| definition_of(value)).ok_or(UNKNOWN_ELEMENT)?
            }
            ElementType::Primitive(_) => {
                let length = List::at(resource, self)?.length;
                let sibling = format!("_{}", self.key);
                let extends = object_at(resource, &self.path)?.entry(&*sibling);
                let extends = extends.or_insert_with(|| match self.index {
                    Some(_) => Value::Array(Vec::new()),
                    None => Value::Object(Map::new()),
                });
                if let (Some(index), Value::Array(items)) = (self.index, extends) {
                    items.resize(length, Value::Null);
                    if let Some(item) = items.get_mut(index).filter(|item| item.is_null()) {
                        *item = Value::Object(Map::new());
                    }
                }
                path.push(Step::Property(sibling));
                definitions::element()
            }
            ElementType::Xhtml => return Err(UNKNOWN_ELEMENT),
        };
        path.extend(self.index.map(Step::Item));
        Ok(Place { path, definition })
    }

    pub(super) fn delete(&self, resource: &mut Value) -> Result<(), Problem> {
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

    pub(super) fn replace(&self, resource: &mut Value, value: &Value) -> Result<(), Problem> {
        let element = self.element()?;
        let new = New::of(self.definition, element, value, RESOURCE_DEPTH_MAX)?;
        if let Some(index) = self.index {
            return List::at(resource, self)?.change(
                resource,
                |items| set(items, index, new.value),
                |items| set(items, index, new.sibling),
            );
        }
        let object = object_at(resource, &self.path)?;
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
pub(super) struct List {
    pub(super) path: Vec<Step>,
    pub(super) definition: &'static Definition,
    pub(super) key: String,
    pub(super) length: usize,
}

impl List {
    /// The list of which `found` is every item.
    pub(super) fn of(resource: &mut Value, found: &[Target]) -> Result<Self, Problem> {
        let first = found.first().ok_or(NO_LIST)?;
        let all = found
            .iter()
            .enumerate()
            .all(|(index, one)| one.index == Some(index) && one.key == first.key && one.path == first.path);
        let list = Self::at(resource, first)?;
        if all && list.length == found.len() { Ok(list) } else { Err(NO_LIST) }
    }

    /// The list that an element is an item of. Some of its items may have nothing but what extends them.
    fn at(resource: &mut Value, item: &Target) -> Result<Self, Problem> {
        let object = object_at(resource, &item.path)?;
        let length = length(object, &item.key).max(length(object, &format!("_{}", item.key)));
        Ok(Self { path: item.path.clone(), definition: item.definition, key: item.key.clone(), length })
    }

    pub(super) fn element(&self) -> Result<&'static Element, Problem> {
        self.definition.element(&self.key).ok_or(UNKNOWN_ELEMENT)
    }

    /// Changes the list, and in the same way what extends it, of which nothing is left if it is null throughout.
    pub(super) fn change(
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

/// How many items stand at this name.
pub(super) fn length(object: &Map<String, Value>, key: &str) -> usize {
    object.get(key).and_then(Value::as_array).map_or(0, Vec::len)
}

/// Looks for values in the resource by where they are in memory.
pub(super) struct Finder<'b> {
    /// Positions in `found`.
    wanted: HashMap<*const Value, Vec<usize>>,
    pub(super) found: Vec<Option<Target>>,
    /// Where it stands.
    path: Vec<Step>,
    budget: &'b Budget,
}

impl<'b> Finder<'b> {
    /// For so many items.
    pub(super) fn new(wanted: HashMap<*const Value, Vec<usize>>, items: usize, budget: &'b Budget) -> Self {
        Self { wanted, found: vec![None; items], path: Vec::new(), budget }
    }

    /// A resource, or an object below, of this definition.
    pub(super) fn value(
        &mut self,
        value: &Value,
        definition: &'static Definition,
        depth_left: usize,
    ) -> Result<(), Problem> {
        let depth_left = depth_left.checked_sub(1).ok_or(TOO_DEEP)?;
        if self.path.is_empty() {
            self.note(value, definition, "", None)?;
        }
        for (key, below) in value.as_object().into_iter().flatten() {
            let name = key.strip_prefix('_').unwrap_or(key);
            self.spend(1)?;
            let Some(element) = definition.element(name) else { continue };
            let items = below.as_array().map(Vec::as_slice);
            for (index, item) in items.unwrap_or(std::slice::from_ref(below)).iter().enumerate() {
                let index = items.map(|_| index);
                self.note(item, definition, name, index)?;
                if self.wanted.is_empty() {
                    return Ok(());
                }
                let length = self.path.len();
                self.path.push(Step::Property(key.clone()));
                self.path.extend(index.map(Step::Item));
                let inner = match element.of {
                    _ if name != key => Some(definitions::element()),
                    ElementType::Complex(id) => Some(definitions::definition(id)),
                    ElementType::Resource => definition_of(item),
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

    fn note(
        &mut self,
        value: &Value,
        definition: &'static Definition,
        key: &str,
        index: Option<usize>,
    ) -> Result<(), Problem> {
        self.spend(1)?;
        for position in self.wanted.remove(&std::ptr::from_ref(value)).into_iter().flatten() {
            self.spend(self.path.len())?;
            if let Some(found) = self.found.get_mut(position) {
                *found = Some(Target { path: self.path.clone(), definition, key: key.to_owned(), index });
            }
        }
        Ok(())
    }

    fn spend(&self, steps: usize) -> Result<(), Problem> {
        self.budget.spend(steps).map_err(|_| TOO_COSTLY)
    }
}

fn at<'v>(resource: &'v mut Value, path: &[Step]) -> Option<&'v mut Value> {
    path.iter().try_fold(resource, |value, step| match step {
        Step::Property(name) => value.get_mut(name),
        Step::Item(index) => value.get_mut(*index),
    })
}

pub(super) fn object_at<'v>(
    resource: &'v mut Value,
    path: &[Step],
) -> Result<&'v mut Map<String, Value>, Problem> {
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
