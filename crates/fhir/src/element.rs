//! The way down in JSON: where the elements of an object stand, a primitive together with what extends it
//! (<https://hl7.org/fhir/R4/json.html#primitive>).

use serde_json::{Map, Value};

use crate::definitions::{self, Definition, Element, ElementType};
use crate::primitive::Primitive;

/// The type of an element.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Primitive(Primitive),
    Xhtml,
    /// A resource, a complex type or a part of either.
    Complex(&'static Definition),
}

/// An element that is there: one item of an array, or what stands there alone.
pub(crate) struct Occurrence<'v> {
    pub(crate) element: &'static Element,
    /// What stands in JSON; a primitive may have only what extends it.
    pub(crate) value: Option<&'v Value>,
    /// What extends a primitive: the value of `_name`.
    pub(crate) sibling: Option<&'v Value>,
    pub(crate) kind: Kind,
    /// Where it stands in its array.
    pub(crate) index: Option<usize>,
}

/// Gives the elements of this name, in any of the forms of a choice, to `found`; says how many places were looked at.
/// The name of a form of a choice is not that of an element.
pub(crate) fn named<'v>(
    object: &'v Map<String, Value>,
    definition: &'static Definition,
    name: &str,
    mut found: impl FnMut(Occurrence<'v>),
) -> usize {
    match definition.element(name) {
        Some(element) if element.choice => 1,
        Some(element) => {
            let sibling = match element.of {
                ElementType::Primitive(_) => sibling(object, name),
                _ => None,
            };
            each(element, object.get(name), sibling, &mut found)
        }
        None => {
            let Some(number) = definition.number(name) else { return 1 };
            let mut looked = object.len();
            for (key, value) in object {
                let plain = key.strip_prefix('_');
                let Some(element) = definition.element(plain.unwrap_or(key)) else { continue };
                if element.number != number {
                    continue;
                }
                looked += match plain {
                    None => each(element, Some(value), sibling(object, key), &mut found),
                    Some(plain) if !object.contains_key(plain) => {
                        each(element, None, Some(value), &mut found)
                    }
                    Some(_) => 0,
                };
            }
            looked
        }
    }
}

/// Gives all elements to `found`; says how many places were looked at.
pub(crate) fn all<'v>(
    object: &'v Map<String, Value>,
    definition: &'static Definition,
    mut found: impl FnMut(Occurrence<'v>),
) -> usize {
    let mut looked = object.len();
    for (key, value) in object {
        if let Some(element) = definition.element(key) {
            let sibling = match element.of {
                ElementType::Primitive(_) => sibling(object, key),
                _ => None,
            };
            looked += each(element, Some(value), sibling, &mut found);
        } else if let Some(plain) = key.strip_prefix('_')
            && let Some(element) = definition.element(plain)
            && !object.contains_key(plain)
        {
            looked += each(element, None, Some(value), &mut found);
        }
    }
    looked
}

/// What defines a resource; nothing if it is none that R4 knows.
pub(crate) fn definition_of(resource: &Value) -> Option<&'static Definition> {
    definitions::resource(resource.get("resourceType")?.as_str()?)
}

/// The value of `_name`.
fn sibling<'v>(object: &'v Map<String, Value>, name: &str) -> Option<&'v Value> {
    // To look through few is quicker than to put the name together.
    if object.len() > 32 {
        return object.get(&format!("_{name}"));
    }
    object.iter().find(|(key, _)| key.strip_prefix('_') == Some(name)).map(|(_, value)| value)
}

/// Each item of an array for itself.
fn each<'v>(
    element: &'static Element,
    value: Option<&'v Value>,
    sibling: Option<&'v Value>,
    found: &mut impl FnMut(Occurrence<'v>),
) -> usize {
    if !matches!(value, Some(Value::Array(_))) && !matches!(sibling, Some(Value::Array(_))) {
        one(element, value, sibling, None, found);
        return 1;
    }
    let items =
        |value: Option<&'v Value>| value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let (values, siblings) = (items(value), items(sibling));
    let length = values.len().max(siblings.len());
    for index in 0..length {
        one(element, values.get(index), siblings.get(index), Some(index), found);
    }
    length
}

fn one<'v>(
    element: &'static Element,
    value: Option<&'v Value>,
    sibling: Option<&'v Value>,
    index: Option<usize>,
    found: &mut impl FnMut(Occurrence<'v>),
) {
    let value = value.filter(|value| !value.is_null());
    let sibling = sibling.filter(|sibling| sibling.is_object());
    let kind = match element.of {
        ElementType::Primitive(primitive) => Kind::Primitive(primitive),
        ElementType::Xhtml => Kind::Xhtml,
        ElementType::Complex(id) => Kind::Complex(definitions::definition(id)),
        // What is no resource has no elements; validation says so.
        ElementType::Resource => match value.and_then(definition_of) {
            Some(definition) => Kind::Complex(definition),
            None => return,
        },
    };
    if value.is_some() || sibling.is_some() {
        found(Occurrence { element, value, sibling, kind, index });
    }
}
