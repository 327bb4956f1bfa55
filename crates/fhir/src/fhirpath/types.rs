//! The types of FHIR and of FHIRPath itself, and which is a kind of which.

use crate::definitions;
use crate::element::Kind;
use crate::primitive::Primitive;

/// A type that an expression names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TypeName {
    /// The namespace, if the expression says which.
    pub(super) namespace: Option<Namespace>,
    pub(super) name: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Namespace {
    Fhir,
    System,
}

/// The types of FHIRPath itself.
const SYSTEM: &[&str] =
    &["Any", "Boolean", "String", "Integer", "Decimal", "Date", "DateTime", "Time", "Quantity"];

/// Types of FHIR that others are kinds of and that no table has.
const ABSTRACT: &[&str] = &["Resource", "DomainResource", "Element", "BackboneElement", "xhtml"];

/// The primitive types' names.
const PRIMITIVES: &[Primitive] = &[
    Primitive::Boolean,
    Primitive::Integer,
    Primitive::PositiveInt,
    Primitive::UnsignedInt,
    Primitive::Decimal,
    Primitive::String,
    Primitive::Markdown,
    Primitive::Code,
    Primitive::Id,
    Primitive::Uri,
    Primitive::Url,
    Primitive::Canonical,
    Primitive::Oid,
    Primitive::Uuid,
    Primitive::Date,
    Primitive::DateTime,
    Primitive::Instant,
    Primitive::Time,
    Primitive::Base64Binary,
];

impl TypeName {
    /// The type called `name`; nothing if there is none in that namespace, or in either if none is given.
    pub(super) fn parse(namespace: Option<&str>, name: &str) -> Option<Self> {
        let fhir = || {
            let written = ABSTRACT.iter().find(|one| **one == name).copied();
            let primitive = || PRIMITIVES.iter().map(|one| primitive_name(*one)).find(|one| *one == name);
            let defined = || definitions::by_path(name).map(|one| one.path);
            written.or_else(primitive).or_else(defined)
        };
        let system = || SYSTEM.iter().find(|one| **one == name).copied();
        Some(match namespace {
            Some("FHIR") => Self { namespace: Some(Namespace::Fhir), name: fhir()? },
            Some(_) => Self { namespace: Some(Namespace::System), name: system()? },
            None => Self { namespace: None, name: fhir().or_else(system)? },
        })
    }

    /// Whether it may be a type of this namespace.
    pub(super) fn within(self, namespace: Namespace) -> bool {
        self.namespace.is_none_or(|own| own == namespace)
    }
}

impl Kind {
    /// The name of the type; a part of a type is a `BackboneElement`, or an `Element` within a data type.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Primitive(primitive) => primitive_name(primitive),
            Self::Xhtml => "xhtml",
            Self::Complex(definition) => match definition.path.split_once('.') {
                None => definition.path,
                Some((owner, _)) if definitions::resource(owner).is_some() => "BackboneElement",
                Some(_) => "Element",
            },
        }
    }

    /// Whether this is the type called `name` or a kind of it.
    pub(super) fn is(self, name: &str) -> bool {
        let mut own = Some(self.name());
        while let Some(one) = own {
            if one == name {
                return true;
            }
            own = parent(one);
        }
        false
    }
}

/// What the type is a kind of.
fn parent(name: &str) -> Option<&'static str> {
    Some(match name {
        "Resource" | "Element" => return None,
        "DomainResource" | "Bundle" | "Binary" | "Parameters" => "Resource",
        "code" | "id" | "markdown" => "string",
        "url" | "canonical" | "oid" | "uuid" => "uri",
        "positiveInt" | "unsignedInt" => "integer",
        "Age" | "Count" | "Distance" | "Duration" | "MoneyQuantity" | "SimpleQuantity" => "Quantity",
        "Timing" | "Dosage" | "ElementDefinition" => "BackboneElement",
        _ if definitions::resource(name).is_some() => "DomainResource",
        _ => "Element",
    })
}

pub(super) fn primitive_name(primitive: Primitive) -> &'static str {
    match primitive {
        Primitive::Boolean => "boolean",
        Primitive::Integer => "integer",
        Primitive::PositiveInt => "positiveInt",
        Primitive::UnsignedInt => "unsignedInt",
        Primitive::Decimal => "decimal",
        Primitive::String => "string",
        Primitive::Markdown => "markdown",
        Primitive::Code => "code",
        Primitive::Id => "id",
        Primitive::Uri => "uri",
        Primitive::Url => "url",
        Primitive::Canonical => "canonical",
        Primitive::Oid => "oid",
        Primitive::Uuid => "uuid",
        Primitive::Date => "date",
        Primitive::DateTime => "dateTime",
        Primitive::Instant => "instant",
        Primitive::Time => "time",
        Primitive::Base64Binary => "base64Binary",
    }
}
