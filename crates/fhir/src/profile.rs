//! Validation of resources against profiles: StructureDefinitions that constrain a type, a data type or an extension
//! (<https://hl7.org/fhir/R4/profiling.html>, <https://hl7.org/fhir/R4/elementdefinition.html>).
//!
//! It says what a profile demands beyond the specification, and nothing that [`crate::validate`] says: whoever wants
//! both asks both. Looked at are how often elements and slices are there, the types of choices, fixed values and
//! patterns, lengths and bounds, slices, the profiles of data types and extensions, the types that literal references
//! refer to, rules stated as FHIRPath, and required and extensible bindings. `mustSupport` and the like say something
//! of systems, nothing of resources.
//!
//! What cannot be looked at is said, as information: value sets that are not here or cannot be worked out, slices that
//! are told apart by what a reference leads to or by profile. A profile that is not here, or cannot be understood, is
//! an error: nobody can say that a resource conforms to it.
//!
//! A profile with a snapshot stands for itself. One with a differential only is read on top of its base.
//!
//! Profiles and resources may both be hostile: what a profile may have is bounded here, and one validation has so many
//! steps, whatever it draws on. Issues name elements by the specification's names, and slices, rules and profiles as
//! definitions name them; never a value or an unknown name of the resource.

mod binding;
mod check;
mod compile;
mod item;
mod library;
mod pattern;
mod slicing;
#[cfg(test)]
mod tests;
mod tree;

use std::cell::RefCell;
use std::sync::Arc;

use serde_json::Value;

use crate::definitions;
use crate::fhirpath::CompileError;
use crate::outcome::{Issue, IssueCode};
use crate::primitive::Primitive;
use crate::terminology;

/// The most elements of one profile.
pub const ELEMENTS_MAX: usize = 4_000;
/// How deep elements of a profile may stand.
pub const ELEMENT_DEPTH_MAX: usize = 32;
/// The most values within one fixed value or pattern.
pub const DEMAND_VALUES_MAX: usize = 1_000;
/// The deepest nesting of one.
pub const DEMAND_DEPTH_MAX: usize = 16;
/// The most rules of one profile, beyond those of the specification.
pub const RULES_MAX: usize = 500;
/// The most regular expressions in the rules of one profile: each takes milliseconds to compile.
pub const REGULAR_EXPRESSIONS_MAX: usize = 50;
/// How many profiles may be based on each other.
pub const BASES_MAX: usize = 16;
/// The most StructureDefinitions that one validation draws on.
pub const DEFINITIONS_MAX: usize = 200;
/// The deepest place in a resource that is looked at.
pub const DEPTH_MAX: usize = 100;
/// The most issues that are told.
pub const ISSUES_MAX: usize = 50;
/// The most steps of one validation: an element or a rule that is looked at takes some.
pub const STEPS_MAX: u64 = 4_000_000;

/// The longest name or words of a definition that an issue repeats, in bytes.
const NAME_BYTES_MAX: usize = 400;

const SPECIFIED: &str = "http://hl7.org/fhir/StructureDefinition/";

/// Kinds of types that are no types of their own.
const KINDS_OF_QUANTITY: &[&str] = &["SimpleQuantity", "MoneyQuantity"];

/// Where definitions come from.
pub trait Definitions: terminology::Definitions {
    /// The StructureDefinition with this URL and, if one is named, this version. It is not asked for the types of the
    /// specification itself.
    ///
    /// # Errors
    /// What keeps it from being read; that there is none is no error.
    fn structure_definition(
        &mut self,
        url: &str,
        version: Option<&str>,
    ) -> Result<Option<Arc<Value>>, Self::Error>;
}

/// A profile that has been understood.
#[derive(Clone, Debug)]
pub struct Profile {
    /// What it is called in issues: the last part of its URL.
    label: Box<str>,
    type_name: Box<str>,
    base: Option<Box<str>>,
    nodes: Vec<tree::Node>,
    /// What compiling it takes of the steps of a validation.
    cost: usize,
}

/// Why a StructureDefinition is no profile that can be checked. Whoever wrote it is at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{kind}", element.as_ref().map(|id| format!("element `{id}`: ")).unwrap_or_default())]
pub struct ProfileError {
    /// The id of the element, if it is about one.
    pub element: Option<String>,
    /// What is wrong.
    pub kind: ProfileErrorKind,
}

/// What is wrong with a StructureDefinition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProfileErrorKind {
    /// It is another resource.
    #[error("it is no StructureDefinition")]
    NoDefinition,
    /// It defines a type, or a logical model.
    #[error("it is no profile: its `derivation` must be `constraint`")]
    NoConstraint,
    /// There is no such type in R4.
    #[error("it names a type that R4 does not have")]
    UnknownType,
    /// It is for another type than its base.
    #[error("it is for another type than its base")]
    OtherType,
    /// Neither `snapshot` nor `differential` has an element.
    #[error("it has no elements")]
    NoElements,
    /// More than [`ELEMENTS_MAX`].
    #[error("it has more than {ELEMENTS_MAX} elements")]
    TooManyElements,
    /// Deeper than [`ELEMENT_DEPTH_MAX`].
    #[error("it stands deeper than {ELEMENT_DEPTH_MAX} elements")]
    TooDeep,
    /// More than [`DEMAND_VALUES_MAX`] values, or deeper than [`DEMAND_DEPTH_MAX`].
    #[error("its fixed value or pattern is larger than is accepted")]
    TooLarge,
    /// More than [`RULES_MAX`] rules or [`REGULAR_EXPRESSIONS_MAX`] regular expressions.
    #[error("it has more than {RULES_MAX} rules, or {REGULAR_EXPRESSIONS_MAX} regular expressions in them")]
    TooManyRules,
    /// Something in it is not as FHIR defines it.
    #[error("it is not as FHIR defines it")]
    Malformed,
    /// The type has no element at this path.
    #[error("the type has no such element")]
    UnknownElement,
    /// The path of a discriminator, or its type, is none that FHIR allows.
    #[error("a discriminator cannot be understood")]
    Discriminator,
    /// A rule's expression cannot be compiled.
    #[error("a rule cannot be understood: {0}")]
    Rule(CompileError),
    /// What it is based on is not here.
    #[error(
        "the profile that it is based on is not loaded: store its StructureDefinition, or one with a snapshot"
    )]
    UnknownBase,
    /// It is based on itself, or on more than [`BASES_MAX`] others.
    #[error("it is based on itself, or on more than {BASES_MAX} other profiles")]
    Circular,
}

impl Profile {
    /// Compiles a StructureDefinition that constrains a type: its snapshot or, without one, its differential alone.
    ///
    /// # Errors
    /// Any [`ProfileErrorKind`]; nothing of a profile is left out because it is not understood.
    pub fn compile(definition: &Value) -> Result<Self, ProfileError> {
        compile::compile(definition, None)
    }

    /// The same, with a differential on top of the profile on which it is based.
    ///
    /// # Errors
    /// As for [`Profile::compile`].
    pub fn compile_upon(definition: &Value, base: &Self) -> Result<Self, ProfileError> {
        compile::compile(definition, Some(base))
    }

    /// The type that it constrains.
    pub fn type_name(&self) -> &str {
        &self.type_name
    }

    /// The profile without which this one is a part only, because it was compiled from its differential alone.
    pub fn missing_base(&self) -> Option<&str> {
        self.base.as_deref()
    }

    fn node(&self, id: tree::NodeId) -> &tree::Node {
        static NOTHING: std::sync::LazyLock<tree::Node> = std::sync::LazyLock::new(tree::Node::default);
        // Only places that there are, are handed out.
        self.nodes.get(id).unwrap_or(&NOTHING)
    }
}

/// Every issue that `resource` has with each of `profiles`, canonical URLs with or without a version: errors first, at
/// most [`ISSUES_MAX`]. It conforms to all if none is an error, and it is valid against the specification.
///
/// # Errors
/// What keeps a definition from being read.
pub fn validate<D: Definitions>(
    resource: &Value,
    profiles: &[&str],
    definitions: &mut D,
) -> Result<Vec<Issue>, D::Error> {
    let definitions = RefCell::new(definitions);
    let Some(mut validator) = check::Validator::new(resource, &definitions) else {
        return Ok(vec![Issue::error(IssueCode::Structure, "this is no resource of FHIR R4")]);
    };
    validator.all(profiles)?;
    Ok(validator.issues())
}

/// The type of the specification that this canonical URL or code names.
fn specified(name: &str) -> Option<&str> {
    let name = name.split('|').next().unwrap_or_default();
    let name = name.strip_prefix(SPECIFIED).unwrap_or(name);
    let is_type = item::ABSTRACT.contains(&name)
        || KINDS_OF_QUANTITY.contains(&name)
        || name == "xhtml"
        || Primitive::parse(name).is_some()
        || (!name.contains('.') && definitions::by_path(name).is_some());
    is_type.then_some(name)
}

/// Whether this canonical URL is that of a type of the specification.
fn is_specified(canonical: &str) -> bool {
    canonical.starts_with(SPECIFIED) && specified(canonical).is_some()
}

/// As much of a name or words of a definition as issues repeat.
fn shortened(text: &str) -> &str {
    text.get(..text.floor_char_boundary(NAME_BYTES_MAX)).unwrap_or(text)
}
