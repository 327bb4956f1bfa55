//! `OperationOutcome` and its issues (<https://hl7.org/fhir/R4/operationoutcome.html>).

use serde_json::{Map, Value};

/// How bad an issue is (<https://hl7.org/fhir/R4/valueset-issue-severity.html>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The action could not be carried out at all, and no more was looked at.
    Fatal,
    /// The action failed because of this.
    Error,
    /// The action succeeded; something may be wrong all the same.
    Warning,
    /// Nothing is wrong.
    Information,
}

impl Severity {
    /// The code in FHIR.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Fatal => "fatal",
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Information => "information",
        }
    }
}

macro_rules! issue_codes {
    ($($variant:ident = $code:literal: $doc:literal,)*) => {
        /// What kind of issue it is (<https://hl7.org/fhir/R4/valueset-issue-type.html>).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum IssueCode { $(#[doc = $doc] $variant,)* }

        impl IssueCode {
            /// The code in FHIR.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }
        }

        #[cfg(test)]
        const ALL_CODES: &[IssueCode] = &[$(IssueCode::$variant,)*];
    };
}

issue_codes! {
    Invalid = "invalid": "The content is invalid against the specification or a profile.",
    Structure = "structure": "The structure is wrong: syntax, unknown element, wrong JSON type.",
    Required = "required": "A required element is missing.",
    Value = "value": "An element's value is invalid.",
    Invariant = "invariant": "A rule of the specification is broken.",
    Security = "security": "An authentication, authorization or permission issue.",
    Login = "login": "The client must authenticate.",
    Unknown = "unknown": "The user or system could not be authenticated.",
    Expired = "expired": "The session has ended and must be renewed.",
    Forbidden = "forbidden": "The user may not do this.",
    Suppressed = "suppressed": "Some information was not or may not be given.",
    Processing = "processing": "Processing failed, and no other code fits.",
    NotSupported = "not-supported": "The interaction, operation, resource or profile is not supported.",
    Duplicate = "duplicate": "An attempt was made to create a duplicate.",
    MultipleMatches = "multiple-matches": "A conditional interaction matched more than one resource.",
    NotFound = "not-found": "What was referred to is not there.",
    Deleted = "deleted": "What was referred to has been deleted.",
    TooLong = "too-long": "The content is longer than the server takes.",
    CodeInvalid = "code-invalid": "A code or system could not be understood, or is not in the value set.",
    Extension = "extension": "An extension is not acceptable.",
    TooCostly = "too-costly": "The operation was stopped to protect the server's resources.",
    BusinessRule = "business-rule": "The content did not pass a business rule.",
    Conflict = "conflict": "The content conflicts with what is stored, for example an edit of an old version.",
    Transient = "transient": "A transient failure; the same request may succeed later.",
    LockError = "lock-error": "A resource or record lock failed.",
    NoStore = "no-store": "The persistent store is not available.",
    Exception = "exception": "An unexpected internal error.",
    Timeout = "timeout": "An internal timeout occurred.",
    Incomplete = "incomplete": "Not all that was asked for could be given.",
    Throttled = "throttled": "The client sends too many requests.",
    Informational = "informational": "Information that has nothing to do with success or failure.",
}

/// One issue. Never holds a value or an unknown name out of the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// How bad it is.
    pub severity: Severity,
    /// What kind it is.
    pub code: IssueCode,
    /// What a person reads: our own words and the specification's names, nothing of the input.
    pub diagnostics: String,
    /// Where it is, as a simple FHIRPath such as `Patient.name[0].given[1]`.
    pub expression: Option<String>,
}

impl Issue {
    /// An error with no place.
    pub fn error(code: IssueCode, diagnostics: impl Into<String>) -> Self {
        Self { severity: Severity::Error, code, diagnostics: diagnostics.into(), expression: None }
    }

    /// A warning with no place.
    pub fn warning(code: IssueCode, diagnostics: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, diagnostics) }
    }

    /// The same issue at `expression`.
    #[must_use]
    pub fn at(self, expression: impl Into<String>) -> Self {
        Self { expression: Some(expression.into()), ..self }
    }

    /// Whether the request must fail because of this.
    pub fn is_error(&self) -> bool {
        matches!(self.severity, Severity::Fatal | Severity::Error)
    }
}

/// An `OperationOutcome` of `issues`. R4 demands at least one; for none it says that all is well.
pub fn operation_outcome(issues: &[Issue]) -> Value {
    let all_well =
        [Issue { severity: Severity::Information, ..Issue::error(IssueCode::Informational, "no issues") }];
    let issues = if issues.is_empty() { &all_well } else { issues };
    let mut outcome = Map::new();
    outcome.insert("resourceType".to_owned(), "OperationOutcome".into());
    outcome.insert("issue".to_owned(), issues.iter().map(issue_value).collect());
    Value::Object(outcome)
}

fn issue_value(issue: &Issue) -> Value {
    let mut object = Map::new();
    object.insert("severity".to_owned(), issue.severity.code().into());
    object.insert("code".to_owned(), issue.code.code().into());
    if !issue.diagnostics.is_empty() {
        object.insert("diagnostics".to_owned(), issue.diagnostics.as_str().into());
    }
    if let Some(expression) = &issue.expression {
        object.insert("expression".to_owned(), Value::Array(vec![expression.as_str().into()]));
    }
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_is_a_valid_resource() {
        let issues: Vec<Issue> =
            ALL_CODES.iter().map(|code| Issue::warning(*code, "words").at("Patient.name[0]")).collect();
        assert_eq!(crate::validate::resource(&operation_outcome(&issues)), []);
        assert_eq!(crate::validate::resource(&operation_outcome(&[])), []);
    }
}
