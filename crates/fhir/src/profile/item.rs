//! The resource's side: elements with their types, and the way down.

use serde_json::{Map, Value};

use crate::definitions::{self, Codes, Definition, ElementType};
use crate::element::{self, Kind};
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

/// Types of which there is no definition, because others are kinds of them.
pub(super) const ABSTRACT: &[&str] = &["Resource", "DomainResource", "Element", "BackboneElement"];

impl<'v> Item<'v> {
    /// A resource; nothing if it is none that R4 knows.
    pub(super) fn resource(value: &'v Value) -> Option<Self> {
        let definition = element::definition_of(value)?;
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
        element::named(object, self.definition(), name, |one| {
            found.push(Item {
                value: one.value,
                sibling: one.sibling,
                kind: one.kind,
                index: one.index,
                position: found.len(),
                is_choice: one.element.choice || one.element.of == ElementType::Resource,
                codes: one.element.codes,
            });
        });
        found
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
