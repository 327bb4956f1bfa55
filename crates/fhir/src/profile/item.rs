//! The resource's side: elements with their types, and the way down.

use serde_json::{Map, Value};

use crate::definitions::{self, Codes, Definition, Element, ElementType};
use crate::fhirpath;
use crate::primitive::Primitive;

/// An element of a resource, or the resource itself.
#[derive(Clone, Copy)]
pub(super) struct Item<'v> {
    /// What stands in JSON; a primitive may have only what extends it.
    pub(super) value: Option<&'v Value>,
    /// What extends a primitive: the value of `_name`.
    pub(super) sibling: Option<&'v Value>,
    pub(super) kind: Kind,
    /// Where it stands in its array.
    pub(super) index: Option<usize>,
    /// Its place among those of its name that are there.
    pub(super) position: usize,
    /// Whether the specification leaves a choice of its type.
    pub(super) is_choice: bool,
    /// The codes to which the specification binds it, if they are in its tables.
    pub(super) codes: Option<Codes>,
}

#[derive(Clone, Copy)]
pub(super) enum Kind {
    Primitive(Primitive),
    Xhtml,
    Complex(&'static Definition),
}

/// Types of which there is no definition, because others are kinds of them.
pub(super) const ABSTRACT: &[&str] = &["Resource", "DomainResource", "Element", "BackboneElement"];

impl<'v> Item<'v> {
    /// A resource; nothing if it is none that R4 knows.
    pub(super) fn resource(value: &'v Value) -> Option<Self> {
        let definition = definitions::resource(value.get("resourceType")?.as_str()?)?;
        Some(Self {
            value: Some(value),
            sibling: None,
            kind: Kind::Complex(definition),
            index: None,
            position: 0,
            is_choice: true,
            codes: None,
        })
    }

    /// The resource's type, if it is a resource.
    pub(super) fn resource_type(&self) -> Option<&'static Definition> {
        match self.kind {
            Kind::Complex(definition) => definitions::resource(definition.path),
            _ => None,
        }
    }

    /// Whether the item is of the type called `code`, or of a kind of it.
    pub(super) fn is(&self, code: &str) -> bool {
        let definition = match self.kind {
            Kind::Primitive(primitive) => {
                return code == "Element" || Primitive::parse(code) == Some(primitive);
            }
            Kind::Xhtml => return matches!(code, "xhtml" | "Element"),
            Kind::Complex(definition) => definition,
        };
        let is_resource = self.resource_type().is_some();
        match code {
            "Resource" => is_resource,
            "DomainResource" => is_resource && !matches!(definition.path, "Bundle" | "Binary" | "Parameters"),
            "Element" => !is_resource,
            "BackboneElement" => definition.path.contains('.'),
            _ => definition.path == code,
        }
    }

    /// The item as FHIRPath sees it, if it is an object.
    pub(super) fn focus(&self) -> Option<fhirpath::Item<'v>> {
        match self.kind {
            Kind::Complex(definition) => Some(fhirpath::Item::complex(self.value?, definition)),
            _ => None,
        }
    }

    /// What defines the elements below.
    pub(super) fn definition(&self) -> &'static Definition {
        match self.kind {
            Kind::Complex(definition) => definition,
            _ => definitions::element(),
        }
    }

    /// The object in which the elements below stand.
    fn object(&self) -> Option<&'v Map<String, Value>> {
        match self.kind {
            Kind::Complex(_) => self.value?.as_object(),
            _ => self.sibling?.as_object(),
        }
    }

    /// How much work it is to look for what is below.
    pub(super) fn width(&self) -> usize {
        self.object().map_or(0, Map::len)
    }

    /// The elements of this name, in any of the forms of a choice.
    pub(super) fn children(&self, name: &str) -> Vec<Self> {
        let mut found = Vec::new();
        let Some(object) = self.object() else { return found };
        let definition = self.definition();
        if let Some(element) = definition.element(name).filter(|element| !element.choice) {
            let sibling = match element.of {
                ElementType::Primitive(_) => sibling(object, name),
                _ => None,
            };
            push(element, object.get(name), sibling, &mut found);
            return found;
        }
        let Some(number) = definition.number(name) else { return found };
        for (key, value) in object {
            let plain = key.strip_prefix('_');
            let Some(element) = definition.element(plain.unwrap_or(key)) else { continue };
            if element.number != number {
                continue;
            }
            match plain {
                None => push(element, Some(value), sibling(object, key), &mut found),
                Some(plain) if !object.contains_key(plain) => push(element, None, Some(value), &mut found),
                Some(_) => {}
            }
        }
        found
    }
}

/// The value of `_name`.
fn sibling<'v>(object: &'v Map<String, Value>, name: &str) -> Option<&'v Value> {
    object.iter().find(|(key, _)| key.strip_prefix('_') == Some(name)).map(|(_, value)| value)
}

/// Appends what stands at an element, each item of an array for itself.
fn push<'v>(
    element: &Element,
    value: Option<&'v Value>,
    sibling: Option<&'v Value>,
    found: &mut Vec<Item<'v>>,
) {
    let many = value.or(sibling).is_some_and(Value::is_array);
    if !many {
        return push_one(element, value, sibling, None, found);
    }
    let items =
        |value: Option<&'v Value>| value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let (values, siblings) = (items(value), items(sibling));
    for index in 0..values.len().max(siblings.len()) {
        push_one(element, values.get(index), siblings.get(index), Some(index), found);
    }
}

fn push_one<'v>(
    element: &Element,
    value: Option<&'v Value>,
    sibling: Option<&'v Value>,
    index: Option<usize>,
    found: &mut Vec<Item<'v>>,
) {
    let value = value.filter(|value| !value.is_null());
    let sibling = sibling.filter(|sibling| sibling.is_object());
    let kind = match element.of {
        ElementType::Primitive(primitive) => Kind::Primitive(primitive),
        ElementType::Xhtml => Kind::Xhtml,
        ElementType::Complex(id) => Kind::Complex(definitions::definition(id)),
        ElementType::Resource => match value.and_then(Item::resource) {
            Some(resource) => resource.kind,
            // Validation against the specification says so.
            None => return,
        },
    };
    if value.is_some() || sibling.is_some() {
        found.push(Item {
            value,
            sibling,
            kind,
            index,
            position: found.len(),
            is_choice: element.choice || element.of == ElementType::Resource,
            codes: element.codes,
        });
    }
}

/// An item, and where it stands: a list through the stack frames, written out only when there is an issue.
#[derive(Clone, Copy)]
pub(super) struct Frame<'f, 'v> {
    pub(super) parent: Option<&'f Frame<'f, 'v>>,
    pub(super) name: &'static str,
    pub(super) item: Item<'v>,
    /// The resource that the item is part of.
    pub(super) resource: &'v Value,
    /// The resource that contains it, or the same.
    pub(super) root: &'v Value,
    pub(super) depth: usize,
}

impl<'v> Frame<'_, 'v> {
    /// Of the resource itself.
    pub(super) fn top(item: Item<'v>, value: &'v Value) -> Self {
        Self { parent: None, name: item.definition().path, item, resource: value, root: value, depth: 0 }
    }

    /// Of an item below.
    pub(super) fn below<'f>(&'f self, name: &'static str, item: Item<'v>) -> Frame<'f, 'v> {
        let (resource, root) = match item.value.filter(|_| item.resource_type().is_some()) {
            Some(own) if name == "contained" => (own, self.root),
            Some(own) => (own, own),
            None => (self.resource, self.root),
        };
        Frame { parent: Some(self), name, item, resource, root, depth: self.depth + 1 }
    }

    /// The place in words, or that of what would stand below.
    pub(super) fn place(&self, below: Option<&str>) -> String {
        let mut place = String::new();
        self.write(&mut place);
        if let Some(name) = below {
            place.push('.');
            place.push_str(name);
        }
        place
    }

    fn write(&self, out: &mut String) {
        if let Some(parent) = self.parent {
            parent.write(out);
            out.push('.');
        }
        out.push_str(self.name);
        if let Some(index) = self.item.index {
            out.push_str(&format!("[{index}]"));
        }
    }
}
