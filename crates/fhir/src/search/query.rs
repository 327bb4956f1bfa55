//! What a search asks for, once it is understood.

use std::collections::HashSet;
use std::sync::Arc;

use super::parameters::{ParameterKind, SearchParameter, parent};
use crate::ResourceType;

/// A query, understood. Its values are PHI.
#[derive(Clone)]
pub struct Query {
    /// What is searched.
    pub resource_type: ResourceType,
    /// All of them must match.
    pub filters: Vec<Filter>,
    /// Conditions on other resources, all of which must hold.
    pub links: Vec<Link>,
    /// Of each of these, one must be met. They are of the same type, and ask nothing of order or shape.
    pub alternatives: Vec<Vec<Self>>,
    /// None of these may be met. They are of the same type, and ask nothing of order or shape.
    pub exclusions: Vec<Self>,
    /// Only what is in it, if one is named.
    pub compartment: Option<Compartment>,
    /// What to give along with the matches.
    pub includes: Vec<Include>,
    /// The types that may be given along; all, if it is not said. What is of another type leads nowhere either.
    pub visible: Option<Arc<HashSet<ResourceType>>>,
    /// So many resources may be examined; as many as the store allows, if it is not said.
    pub effort: Option<usize>,
    /// The order; empty means the store's own, which never changes.
    pub sort: Vec<Sort>,
    /// The page size that was asked for.
    pub count: Option<u32>,
    /// Whether to count all matches.
    pub total: Total,
    /// Which part of each resource to give.
    pub summary: Summary,
    /// Only these top-level elements, if any are named.
    pub elements: Vec<String>,
}

impl Query {
    /// A query for everything of a type.
    pub const fn all(resource_type: ResourceType) -> Self {
        Self {
            resource_type,
            filters: Vec::new(),
            links: Vec::new(),
            alternatives: Vec::new(),
            exclusions: Vec::new(),
            compartment: None,
            includes: Vec::new(),
            visible: None,
            effort: None,
            sort: Vec::new(),
            count: None,
            total: Total::None,
            summary: Summary::False,
            elements: Vec::new(),
        }
    }

    /// Whether it is for everything of its type.
    pub fn is_all(&self) -> bool {
        self.filters.is_empty()
            && self.links.is_empty()
            && self.compartment.is_none()
            && self.branches().next().is_none()
    }

    /// The queries that it is made of beside its own conditions: its alternatives and exclusions.
    pub fn branches(&self) -> impl Iterator<Item = &Self> {
        self.alternatives.iter().flatten().chain(&self.exclusions)
    }

    /// Every query within it: those that its links lead to, and its branches.
    pub fn inner(&self) -> impl Iterator<Item = &Self> {
        self.links.iter().flat_map(Link::queries).chain(self.branches())
    }

    /// As [`Query::inner`], to change them.
    pub fn inner_mut(&mut self) -> impl Iterator<Item = &mut Self> {
        let linked = self.links.iter_mut().flat_map(Link::queries_mut);
        linked.chain(self.alternatives.iter_mut().flatten()).chain(&mut self.exclusions)
    }

    /// Whether it asks something of other resources.
    pub fn asks_of_others(&self) -> bool {
        !self.links.is_empty() || self.branches().any(Self::asks_of_others)
    }

    /// Every parameter whose values are needed to say whether a resource matches, and where it stands.
    pub fn parameters(&self) -> Vec<&'static SearchParameter> {
        let mut all = Vec::new();
        self.collect_parameters(&mut all);
        all
    }

    fn collect_parameters(&self, all: &mut Vec<&'static SearchParameter>) {
        let followed = self.links.iter().filter_map(|link| match link {
            Link::Chain { parameter, .. } => Some(*parameter),
            Link::Has { .. } | Link::List(_) => None,
        });
        let belonging =
            self.compartment.iter().flat_map(|compartment| compartment.parameters.iter().copied());
        let filtered = self.filters.iter().map(|filter| filter.parameter);
        let sorted = self.sort.iter().map(|sort| sort.parameter);
        for parameter in filtered.chain(followed).chain(belonging).chain(sorted) {
            if !all.iter().any(|known| std::ptr::eq(*known, parameter)) {
                all.push(parameter);
            }
        }
        self.branches().for_each(|branch| branch.collect_parameters(all));
    }
}

/// A condition on other resources. Whoever has the resources decides it.
#[derive(Clone)]
pub enum Link {
    /// A chain, `subject.name=…`: a reference of `parameter` leads to a resource that meets one of `targets`, which
    /// are of different types.
    Chain {
        /// The reference that is followed.
        parameter: &'static SearchParameter,
        /// What it leads to.
        targets: Vec<Query>,
    },
    /// `_has:Observation:patient:code=…`: a resource that meets `source` refers to this one by its `parameter`.
    Has {
        /// The reference, a parameter of the source.
        parameter: &'static SearchParameter,
        /// What refers here.
        source: Box<Query>,
    },
    /// `_list`: an entry of one of these lists refers to this one.
    List(Vec<String>),
}

impl Link {
    /// What the other resources must meet.
    fn queries(&self) -> &[Query] {
        match self {
            Self::Chain { targets, .. } => targets,
            Self::Has { source, .. } => std::slice::from_ref(source),
            Self::List(_) => &[],
        }
    }

    fn queries_mut(&mut self) -> &mut [Query] {
        match self {
            Self::Chain { targets, .. } => targets,
            Self::Has { source, .. } => std::slice::from_mut(source),
            Self::List(_) => &mut [],
        }
    }
}

/// A compartment (<https://hl7.org/fhir/R4/compartmentdefinition.html>): a resource, and what refers to it.
#[derive(Clone)]
pub struct Compartment {
    /// The type of the resource that it is named after.
    pub resource_type: ResourceType,
    /// Its id.
    pub id: String,
    /// The parameters by which a resource of the query's type belongs to it: one of them does.
    pub parameters: Vec<&'static SearchParameter>,
}

/// What to give along with the matches.
#[derive(Clone)]
pub struct Include {
    /// The type whose references are followed.
    pub source: ResourceType,
    /// Which of its references; all of them if none is named.
    pub parameter: Option<&'static SearchParameter>,
    /// Only to resources of this type, if one is named.
    pub target: Option<ResourceType>,
    /// Whether the source is given for the target (`_revinclude`) or the target for the source (`_include`).
    pub reverse: bool,
    /// Whether what was included is looked at as well (`:iterate`).
    pub iterate: bool,
}

impl Include {
    /// All that resources of this type refer to.
    pub const fn references_of(source: ResourceType) -> Self {
        Self { source, parameter: None, target: None, reverse: false, iterate: false }
    }
}

/// One `name=value` of a query.
#[derive(Clone)]
pub struct Filter {
    /// The parameter.
    pub parameter: &'static SearchParameter,
    /// What stands after `:`.
    pub modifier: Option<Modifier>,
    /// One of them must match.
    pub values: Vec<FilterValue>,
}

impl Filter {
    /// For what refers to this resource by `parameter`.
    pub fn referring(parameter: &'static SearchParameter, kind: ResourceType, id: &str) -> Self {
        let target = FilterValue::Reference { resource_type: Some(kind), id: Some(id.to_owned()), url: None };
        Self { parameter, modifier: None, values: vec![target] }
    }

    /// Whether it is about value sets, kinds of codes or hierarchies of resources. Whoever has these puts plain values
    /// in its place; until then it matches nothing.
    pub fn needs_lookup(&self) -> bool {
        match (self.modifier, self.parameter.kind) {
            (Some(Modifier::In | Modifier::NotIn), _) => true,
            (Some(Modifier::Above | Modifier::Below), ParameterKind::Token) => true,
            (Some(Modifier::Above | Modifier::Below), ParameterKind::Reference) => {
                self.parameter.targets.iter().any(|kind| parent(*kind).is_some())
            }
            _ => false,
        }
    }
}

/// What stands after `:` in a parameter's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Modifier {
    /// Exactly this text.
    Exact,
    /// This text anywhere.
    Contains,
    /// There is no value, or there is one.
    Missing,
    /// No value is one of these.
    Not,
    /// By the words for people.
    Text,
    /// By the identifier that a reference carries.
    Identifier,
    /// A reference to this type.
    Type(ResourceType),
    /// By the type of an identifier, its system and its value.
    OfType,
    /// This URI, or one that begins with it; this code, or a kind of it; this resource, or a part of it; this canonical
    /// in a version that begins like this one.
    Below,
    /// This URI, or one that it begins with; this code, or one of which it is a kind; this resource, or one of which it
    /// is a part.
    Above,
    /// A code of these value sets.
    In,
    /// No code of these value sets.
    NotIn,
    /// All of the text or code, whatever its case (`eq` of a filter expression).
    Whole,
    /// There is a value that is another one (`ne` of a filter expression).
    Other,
    /// The end of the text (`ew` of a filter expression).
    End,
    /// By the order of their characters (`gt`, `lt`, `ge` and `le` of a filter expression).
    Ordered(Prefix),
}

/// How a value is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefix {
    /// Within the search's precision.
    Equal,
    /// Not that.
    NotEqual,
    /// Below.
    Less,
    /// Above.
    Greater,
    /// Below or equal.
    LessOrEqual,
    /// Above or equal.
    GreaterOrEqual,
    /// Starts after.
    StartsAfter,
    /// Ends before.
    EndsBefore,
    /// About the same.
    Approximately,
    /// What is stored reaches over all of it (`co` of a filter expression).
    Within,
    /// What is stored and it have something in common (`po` of a filter expression).
    Overlapping,
}

/// What a token search says of the system.
#[derive(Clone, PartialEq, Eq)]
pub enum TokenSystem {
    /// Nothing: `code`.
    Any,
    /// There must be none: `|code`.
    None,
    /// This one: `system|code`.
    Is(String),
}

/// One value of a filter. It is PHI, so it cannot be printed.
#[derive(Clone, PartialEq)]
pub enum FilterValue {
    /// `:missing`.
    Missing(bool),
    /// A token; no code means any code of the system.
    Token {
        /// The system.
        system: TokenSystem,
        /// The code.
        code: Option<String>,
    },
    /// `:in` and `:not-in`: a value set by its canonical URL, or as `ValueSet/id`.
    ValueSet(String),
    /// `:text` of a token, and full text; normalised, with a word in it.
    Words(String),
    /// `:of-type` of an identifier: `system|code|value`.
    Identifier {
        /// The system of the identifier's type.
        system: Option<String>,
        /// The code of the identifier's type.
        code: String,
        /// The identifier's value.
        value: String,
    },
    /// A place on the earth, and how far from it, in metres.
    Near {
        /// Degrees north.
        latitude: f64,
        /// Degrees east.
        longitude: f64,
        /// Metres.
        distance: f64,
    },
    /// Text: as it was sent for `:exact`, and otherwise normalised and not empty.
    String(String),
    /// A URI.
    Uri(String),
    /// A reference by type and id on this server, by id alone, or by URL.
    Reference {
        /// The type, if it is named or the parameter has one target only.
        resource_type: Option<ResourceType>,
        /// The id.
        id: Option<String>,
        /// Another server's URL, a canonical or a URN.
        url: Option<String>,
    },
    /// A span of time, microseconds, end exclusive.
    Date {
        /// How to compare.
        prefix: Prefix,
        /// Inclusive.
        start: i64,
        /// Exclusive.
        end: i64,
    },
    /// A number and the range that its digits imply.
    Number {
        /// How to compare.
        prefix: Prefix,
        /// As sent.
        value: f64,
        /// Inclusive.
        low: f64,
        /// Exclusive.
        high: f64,
    },
    /// A quantity.
    Quantity {
        /// How to compare.
        prefix: Prefix,
        /// As sent.
        value: f64,
        /// Inclusive.
        low: f64,
        /// Exclusive.
        high: f64,
        /// The unit's system, if one was sent.
        system: Option<String>,
        /// The unit's code or text, if one was sent.
        code: Option<String>,
    },
    /// One value for each component.
    Composite(Vec<Self>),
}

impl std::fmt::Debug for FilterValue {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("FilterValue(..)")
    }
}

/// One key of the order.
#[derive(Clone)]
pub struct Sort {
    /// By its values.
    pub parameter: &'static SearchParameter,
    /// Largest first.
    pub descending: bool,
}

/// Whether to count all matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Total {
    /// No.
    None,
    /// Exactly.
    Accurate,
}

/// Which part of each resource to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Summary {
    /// All of it.
    False,
    /// The number of matches only.
    Count,
    /// Without the narrative.
    Data,
    /// The narrative and what must be there.
    Text,
    /// What the specification marks as belonging to a summary.
    True,
}

impl Summary {
    /// From the value of `_summary`.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "false" => Self::False,
            "count" => Self::Count,
            "data" => Self::Data,
            "text" => Self::Text,
            "true" => Self::True,
            _ => return None,
        })
    }
}
