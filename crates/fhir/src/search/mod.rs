//! Search: the standard parameters of every type, the values they find in a resource, the grammar of a query, and
//! whether a resource matches it (<https://hl7.org/fhir/R4/search.html>).
//!
//! Nothing here knows an index. A store finds candidates in its own way and asks [`Query::matches`] for the truth.

mod added;
mod expression;
mod extract;
mod filter_expression;
mod grammar;
mod matching;
mod members;
mod parameters;
mod query;
mod url;
mod value;

pub use added::Added;
pub use extract::{Extracted, SearchValue, extract, extract_for, extract_parameter, normalize_string};
pub use grammar::{Handling, compartment, parse};
pub use members::read_for;
pub use parameters::{Component, ParameterKind, Parameters, SearchParameter, parameter, parameters, parent};
pub use query::{
    Compartment, Filter, FilterValue, Include, Link, Modifier, Prefix, Query, Sort, Summary, TokenSystem,
    Total,
};
pub use url::allowed_in_url;
