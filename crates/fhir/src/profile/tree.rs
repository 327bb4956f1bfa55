//! A compiled profile: its elements as a tree, each with what the profile demands of it.

use std::sync::Arc;

use serde_json::Value;

use crate::definitions::Definition;
use crate::fhirpath::Expression;
use crate::outcome::Severity;

/// The place of an element in [`super::Profile`].
pub(super) type NodeId = usize;

/// The element for the resource or data type itself.
pub(super) const ROOT: NodeId = 0;

/// What a profile says of an element, or of a slice of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    /// By their names without `[x]`.
    pub(super) children: Vec<(Box<str>, NodeId)>,
    /// In the order of the profile.
    pub(super) slices: Vec<(Box<str>, NodeId)>,
    pub(super) slicing: Option<Slicing>,
    pub(super) min: usize,
    /// Without a number, as many as one likes.
    pub(super) max: Option<usize>,
    /// Any type of the element, if there is none.
    pub(super) types: Vec<Type>,
    pub(super) fixed: Option<Arc<Value>>,
    pub(super) pattern: Option<Arc<Value>>,
    /// In characters.
    pub(super) max_length: Option<usize>,
    pub(super) bounds: Vec<Bound>,
    pub(super) bindings: Vec<Binding>,
    pub(super) constraints: Vec<Arc<Constraint>>,
    /// The element whose children are those of this one too.
    pub(super) content: Option<NodeId>,
    /// What the element may be by the specification.
    pub(super) kinds: Kinds,
    /// Whether there is a fixed value or a pattern at it or below, in what is no slice or must be there.
    pub(super) is_demanding: bool,
}

/// The definitions in which the children of an element are looked up.
#[derive(Clone, Debug)]
pub(super) enum Kinds {
    /// Any resource: known only when it is there.
    Any,
    /// One for each type that the element may have.
    Known(Vec<&'static Definition>),
}

impl Default for Kinds {
    fn default() -> Self {
        Self::Known(Vec::new())
    }
}

/// A type that an element may have (`ElementDefinition.type`).
#[derive(Clone, Debug)]
pub(super) struct Type {
    pub(super) code: Box<str>,
    /// Of which the element conforms to one at least.
    pub(super) profiles: Vec<Box<str>>,
    /// What a reference may refer to.
    pub(super) targets: Vec<Box<str>>,
}

/// How the items of an element are told apart (`ElementDefinition.slicing`).
#[derive(Clone, Debug)]
pub(super) struct Slicing {
    pub(super) discriminators: Vec<Discriminator>,
    pub(super) ordered: bool,
    pub(super) rules: Rules,
}

/// Whether there may be items that are in no slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rules {
    Open,
    OpenAtEnd,
    Closed,
}

/// What an item must have to be in a slice.
#[derive(Clone, Debug)]
pub(super) struct Discriminator {
    pub(super) kind: DiscriminatorKind,
    /// From the item on; none is the item itself.
    pub(super) steps: Vec<Step>,
}

/// <https://hl7.org/fhir/R4/valueset-discriminator-type.html>
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DiscriminatorKind {
    /// `value` and `pattern`, which mean the same.
    Value,
    Exists,
    Type,
    Profile,
}

/// A step of a discriminator's path, of which there are few kinds
/// (<https://hl7.org/fhir/R4/profiling.html#discriminator>).
#[derive(Clone, Debug)]
pub(super) enum Step {
    Child(Box<str>),
    Extension(Box<str>),
    OfType(Box<str>),
    Resolve,
}

/// The least or the greatest value.
#[derive(Clone, Debug)]
pub(super) struct Bound {
    pub(super) is_least: bool,
    /// An `Extension` with the bound for its value, so that FHIRPath knows its type.
    pub(super) holder: Arc<Value>,
}

/// Which codes an element may have.
#[derive(Clone, Debug)]
pub(super) struct Binding {
    /// Else it is extensible, and a code that is not among them may still be right.
    pub(super) is_required: bool,
    /// Without it, nobody can look at it.
    pub(super) value_set: Option<Box<str>>,
}

/// A rule in FHIRPath.
#[derive(Debug)]
pub(super) struct Constraint {
    pub(super) key: Box<str>,
    pub(super) severity: Severity,
    pub(super) human: Box<str>,
    pub(super) expression: Expression,
}

impl Node {
    /// The slice of this name.
    pub(super) fn slice(&self, name: &str) -> Option<NodeId> {
        self.slices.iter().find(|(own, _)| **own == *name).map(|(_, id)| *id)
    }

    /// The child of this name without `[x]`.
    pub(super) fn child(&self, name: &str) -> Option<NodeId> {
        self.children.iter().find(|(own, _)| **own == *name).map(|(_, id)| *id)
    }
}
