//! What an expression finds, and the way from an element to those below it.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::decimal::Decimal;
use super::quantity::Quantity;
use super::temporal::Temporal;
use super::types::{Namespace, TypeName};
use crate::ResourceType;
use crate::definitions::{self, Definition};
use crate::element::{self, Kind, Occurrence};
use crate::primitive::Primitive;

/// One item of a collection: an element of a resource, or a value that was computed or written in the expression.
#[derive(Clone)]
pub enum Item<'v> {
    /// An element with its FHIR type.
    Element(Element<'v>),
    /// True or false.
    Boolean(bool),
    /// A whole number.
    Integer(i64),
    /// A number with a fraction.
    Decimal(Decimal),
    /// Text.
    String(Text<'v>),
    /// A date, perhaps not all of it.
    Date(Temporal),
    /// A date with a time, perhaps not all of it.
    DateTime(Temporal),
    /// A time of day.
    Time(Temporal),
    /// A number with a unit.
    Quantity(Box<Quantity<'v>>),
    /// What `type()` gives.
    Type {
        /// `FHIR` or `System`.
        namespace: &'static str,
        /// Such as `Patient` or `String`.
        name: &'static str,
    },
}

/// An element of a resource, or the resource itself.
#[derive(Clone, Copy)]
pub struct Element<'v> {
    /// What stands in JSON; a primitive may have only what extends it.
    value: Option<&'v Value>,
    /// What extends a primitive: the value of `_name`.
    sibling: Option<&'v Value>,
    kind: Kind,
}

impl fmt::Debug for Item<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Item(..)")
    }
}

impl fmt::Debug for Element<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Element(..)")
    }
}

/// Text that is never copied: it stands in a resource or an expression, or several items share it.
#[derive(Clone)]
pub enum Text<'v> {
    /// It stands elsewhere.
    Borrowed(&'v str),
    /// It was made.
    Made(Arc<str>),
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Made(text) => text,
        }
    }
}

impl<'v> From<&'v str> for Text<'v> {
    fn from(text: &'v str) -> Self {
        Self::Borrowed(text)
    }
}

impl From<String> for Text<'_> {
    fn from(text: String) -> Self {
        Self::Made(text.into())
    }
}

impl<'v> Item<'v> {
    /// A resource. What is none that R4 knows has no elements.
    pub fn resource(resource: &'v Value) -> Self {
        let definition = element::definition_of(resource).unwrap_or_else(definitions::nothing);
        Self::Element(Element { value: Some(resource), sibling: None, kind: Kind::Complex(definition) })
    }

    /// A resource of which only the type is known.
    pub(super) fn unresolved(resource_type: ResourceType) -> Option<Self> {
        let kind = Kind::Complex(resource_type.definition()?);
        Some(Self::Element(Element { value: None, sibling: None, kind }))
    }

    /// An object that is known to be of a complex type.
    pub(crate) fn complex(value: &'v Value, definition: &'static Definition) -> Self {
        Self::Element(Element { value: Some(value), sibling: None, kind: Kind::Complex(definition) })
    }

    /// The JSON of an element; nothing for what was computed.
    pub fn json(&self) -> Option<&'v Value> {
        match self {
            Self::Element(element) => element.value,
            _ => None,
        }
    }

    /// The type's name without its namespace, such as `HumanName`, `string` or, of what was computed, `String`.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Element(element) => element.kind.name(),
            Self::Boolean(_) => "Boolean",
            Self::Integer(_) => "Integer",
            Self::Decimal(_) => "Decimal",
            Self::String(_) => "String",
            Self::Date(_) => "Date",
            Self::DateTime(_) => "DateTime",
            Self::Time(_) => "Time",
            Self::Quantity(_) => "Quantity",
            Self::Type { .. } => "Any",
        }
    }

    /// The truth that the item is, if it is one.
    pub fn boolean(&self) -> Option<bool> {
        match self {
            Self::Boolean(truth) => Some(*truth),
            Self::Element(Element { value: Some(Value::Bool(truth)), kind: Kind::Primitive(_), .. }) => {
                Some(*truth)
            }
            _ => None,
        }
    }

    /// The text that the item is, if it is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            Self::Element(Element {
                value: Some(Value::String(text)),
                kind: Kind::Primitive(_) | Kind::Xhtml,
                ..
            }) => Some(text),
            _ => None,
        }
    }

    /// The item as a value of FHIRPath itself; nothing for what is complex, or has no value.
    pub(super) fn system(&self) -> Option<Self> {
        match self {
            Self::Element(element) => element.system(),
            Self::Type { .. } => None,
            other => Some(other.clone()),
        }
    }

    /// Whether the item is of a type, or of a kind of it.
    pub(super) fn is(&self, name: TypeName) -> bool {
        match self {
            Self::Element(element) => name.within(Namespace::Fhir) && element.kind.is(name.name),
            _ => name.within(Namespace::System) && (name.name == self.type_name() || name.name == "Any"),
        }
    }

    /// The namespace and name of the type.
    pub(super) fn type_item(&self) -> Self {
        let namespace = if matches!(self, Self::Element(_)) { "FHIR" } else { "System" };
        Self::Type { namespace, name: self.type_name() }
    }

    /// Appends the elements of this name to `out`, and says how many places were looked at.
    pub(super) fn child(&self, name: &str, out: &mut Vec<Item<'v>>) -> usize {
        match self {
            Self::Element(element) => return element.child(name, out),
            Self::Type { namespace, .. } if name == "namespace" => {
                out.push(Self::String(Text::Borrowed(namespace)));
            }
            Self::Type { name: own, .. } if name == "name" => out.push(Self::String(Text::Borrowed(own))),
            _ => {}
        }
        1
    }

    /// Appends all elements below to `out`, and says how many places were looked at.
    pub(super) fn children(&self, out: &mut Vec<Item<'v>>) -> usize {
        match self {
            Self::Element(element) => element.children(out),
            _ => 1,
        }
    }
}

impl<'v> Element<'v> {
    pub(super) const fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) const fn value(&self) -> Option<&'v Value> {
        self.value
    }

    /// What extends a primitive.
    pub(crate) const fn sibling(&self) -> Option<&'v Value> {
        self.sibling
    }

    fn system(&self) -> Option<Item<'v>> {
        let value = self.value?;
        let primitive = match self.kind {
            Kind::Primitive(primitive) => primitive,
            Kind::Xhtml => return value.as_str().map(|text| Item::String(Text::Borrowed(text))),
            Kind::Complex(_) if self.kind.is("Quantity") => {
                return Quantity::of_element(value).map(|quantity| Item::Quantity(Box::new(quantity)));
            }
            Kind::Complex(_) => return None,
        };
        Some(match value {
            Value::Bool(truth) => Item::Boolean(*truth),
            Value::Number(number) => match number.as_i64() {
                Some(whole) if primitive != Primitive::Decimal => Item::Integer(whole),
                _ => Item::Decimal(Decimal::parse(number.as_str())?),
            },
            Value::String(text) => {
                let temporal = match primitive {
                    Primitive::Date => Temporal::date_time(text).map(Item::Date),
                    Primitive::DateTime | Primitive::Instant => Temporal::date_time(text).map(Item::DateTime),
                    Primitive::Time => Temporal::time(text).map(Item::Time),
                    _ => None,
                };
                temporal.unwrap_or(Item::String(Text::Borrowed(text)))
            }
            _ => return None,
        })
    }

    /// The object in which the elements below stand, and what it may have.
    fn object(&self) -> Option<(&'v Map<String, Value>, &'static Definition)> {
        match self.kind {
            Kind::Complex(definition) => Some((self.value?.as_object()?, definition)),
            _ => Some((self.sibling?.as_object()?, definitions::element())),
        }
    }

    fn child(&self, name: &str, out: &mut Vec<Item<'v>>) -> usize {
        let Some((object, definition)) = self.object() else { return 1 };
        element::named(object, definition, name, |found| out.push(Item::Element(found.into())))
    }

    fn children(&self, out: &mut Vec<Item<'v>>) -> usize {
        let Some((object, definition)) = self.object() else { return 1 };
        element::all(object, definition, |found| out.push(Item::Element(found.into())))
    }
}

impl<'v> From<Occurrence<'v>> for Element<'v> {
    fn from(Occurrence { value, sibling, kind, .. }: Occurrence<'v>) -> Self {
        Self { value, sibling, kind }
    }
}
