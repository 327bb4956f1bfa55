//! The values of a patch, in the form in which they will stand in the resource.

use serde_json::{Map, Value};

use super::target::{Step, length, object_at};
use super::{
    NO_VALUE, Problem, THERE_ALREADY, TOO_DEEP, UNKNOWN_ELEMENT, WRONG_FORM, name_of, parts, value_of,
};
use crate::definitions::{self, Definition, Element, ElementType};

/// Adds a value to the object at `path`.
pub(super) fn add(
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
        let sibling = format!("_{}", element.key);
        let before = length(object, &element.key).max(length(object, &sibling));
        append(object, &element.key, before, new.value);
        append(object, &sibling, before, new.sibling);
        return Ok(());
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

/// Adds the item after so many to a list, which there is none of as long as all its items are null.
fn append(object: &mut Map<String, Value>, key: &str, before: usize, item: Value) {
    match object.get_mut(key) {
        Some(Value::Array(items)) => {
            items.resize(before, Value::Null);
            items.push(item);
        }
        _ if item.is_null() => {}
        _ => {
            let mut items = vec![Value::Null; before];
            items.push(item);
            object.insert(key.to_owned(), Value::Array(items));
        }
    }
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
pub(super) struct New {
    pub(super) key: String,
    pub(super) value: Value,
    /// What extends it; null if nothing does.
    pub(super) sibling: Value,
}

impl New {
    /// The value of a parameter as that of `element`.
    pub(super) fn of(
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

    pub(super) fn put(self, object: &mut Map<String, Value>) {
        if !self.sibling.is_null() {
            object.insert(format!("_{}", self.key), self.sibling);
        }
        if !self.value.is_null() {
            object.insert(self.key, self.value);
        }
    }
}
