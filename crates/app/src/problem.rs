//! What goes wrong, and how it is answered: the one place where a status and an outcome are chosen.
//!
//! A problem's words are ours alone. Nothing of a request or a record is repeated in them.

use std::fmt::Write as _;

use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::json;
use ward_base::ResourceId;
use ward_fhir::json::{JsonError, JsonErrorKind};
use ward_fhir::outcome::{Issue, IssueCode, operation_outcome};
use ward_fhir::terminology::{Fault, TerminologyError};
use ward_monitor::event;
use ward_store::StoreError;
use ward_transport::BodyError;

use crate::reply::Reply;

/// Why a request is not done.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    issues: Vec<Issue>,
    header: Option<(HeaderName, &'static str)>,
    /// Whose data it is about, for the audit log alone.
    patients: Box<[ResourceId]>,
}

/// How an error is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// An `OperationOutcome`.
    Fhir,
    /// `{"error", "error_description"}`.
    Plain,
}

impl Problem {
    fn new(status: StatusCode, code: IssueCode, words: impl Into<String>) -> Self {
        Self { status, issues: vec![Issue::error(code, words)], header: None, patients: Box::default() }
    }

    fn with(mut self, name: HeaderName, value: &'static str) -> Self {
        self.header = Some((name, value));
        self
    }

    /// The same, about these patients.
    #[must_use]
    pub(crate) fn about(mut self, patients: Vec<ResourceId>) -> Self {
        self.patients = patients.into();
        self
    }

    /// Whose data it is about.
    pub(crate) fn patients(&self) -> &[ResourceId] {
        &self.patients
    }

    /// The status that goes out.
    pub(crate) const fn status(&self) -> StatusCode {
        self.status
    }

    /// What is wrong, for an answer that reports it among others.
    pub(crate) fn into_issues(self) -> Vec<Issue> {
        self.issues
    }

    /// The first of the words, for an answer that has room for one line.
    pub(crate) fn words(&self) -> String {
        self.issues.first().map(line).unwrap_or_default()
    }

    /// No token, or one that is not good (any more).
    pub(crate) fn unauthenticated() -> Self {
        let words = "sign in: the request needs an access token that has not ended, in the header `Authorization: Bearer`";
        Self::new(StatusCode::UNAUTHORIZED, IssueCode::Login, words).with(header::WWW_AUTHENTICATE, "Bearer")
    }

    /// A known caller who may not.
    pub(crate) fn forbidden(reason: &'static str) -> Self {
        Self::new(StatusCode::FORBIDDEN, IssueCode::Forbidden, format!("not allowed: {reason}"))
    }

    /// A token with scopes that are not to be had. Told to OAuth clients as `invalid_scope`.
    pub(crate) fn scope_refused(words: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, IssueCode::Forbidden, words)
    }

    /// Another way to a token than the one there is. Told to OAuth clients as `unsupported_grant_type`.
    pub(crate) fn unsupported_grant() -> Self {
        Self::new(
            StatusCode::NOT_IMPLEMENTED,
            IssueCode::NotSupported,
            "`grant_type` must be client_credentials",
        )
    }

    /// No such path.
    pub(crate) fn no_such_path() -> Self {
        Self::new(StatusCode::NOT_FOUND, IssueCode::NotFound, "there is nothing at this address")
    }

    /// No such resource type.
    pub(crate) fn no_such_type() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            IssueCode::NotSupported,
            "this is not a resource type of FHIR R4; names are case-sensitive",
        )
    }

    /// No such resource, or none that the caller may see.
    pub(crate) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, IssueCode::NotFound, "no resource of this type has this id")
    }

    /// It was deleted.
    pub(crate) fn gone() -> Self {
        Self::new(
            StatusCode::GONE,
            IssueCode::Deleted,
            "the resource was deleted; its history is still there",
        )
    }

    /// The address is right, the method is not.
    pub(crate) fn method_not_allowed(allow: &'static str) -> Self {
        let words = format!("this method is not possible at this address; possible: {allow}");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, IssueCode::NotSupported, words).with(header::ALLOW, allow)
    }

    /// An update of what is not there, by a client that may not choose ids.
    pub(crate) fn no_update_as_create() -> Self {
        let words = "no resource has this id, and ids are made by the server here: create it by POST \
                     (or set `app.accept_client_ids`)";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, IssueCode::NotSupported, words)
            .with(header::ALLOW, "GET, DELETE")
    }

    /// The answer cannot be given in a form that the client takes.
    pub(crate) fn not_acceptable() -> Self {
        let words = "answers are given as application/fhir+json only";
        Self::new(StatusCode::NOT_ACCEPTABLE, IssueCode::NotSupported, words)
    }

    /// The body is in a form that is not read.
    pub(crate) fn unsupported_media_type(expected: &'static str) -> Self {
        let words = format!("the body must be sent as {expected}, with that Content-Type");
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, IssueCode::NotSupported, words)
    }

    /// The request makes no sense as it is.
    pub(crate) fn malformed(code: IssueCode, words: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, words)
    }

    /// Everything that is wrong with a query.
    pub(crate) fn bad_query(issues: Vec<Issue>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, issues, header: None, patients: Box::default() }
    }

    /// Everything that is wrong with a resource.
    pub(crate) fn invalid(issues: Vec<Issue>) -> Self {
        Self { status: StatusCode::UNPROCESSABLE_ENTITY, issues, header: None, patients: Box::default() }
    }

    /// What a client asked to hold does not.
    pub(crate) fn precondition_failed() -> Self {
        let words = "the resource has another version by now; read it, apply the change to that version, and send it again";
        Self::new(StatusCode::PRECONDITION_FAILED, IssueCode::Conflict, words)
    }

    /// A condition that cannot be read.
    pub(crate) fn not_a_condition() -> Self {
        Self::malformed(IssueCode::Value, "`If-None-Exist` must be search parameters, written as in a URL")
    }

    /// An operation whose parameters would put PHI into a URL (R3a).
    pub(crate) fn phi_in_operation() -> Self {
        let words = "parameters that tell of people must not stand in a URL: send them by POST to the same address, as a \
                     Parameters resource";
        Self::new(StatusCode::BAD_REQUEST, IssueCode::Security, words)
    }

    /// A condition in a URL that would put PHI there (R3a).
    pub(crate) fn phi_in_condition() -> Self {
        let words = "a condition that identifies people or tells of their health must not stand in a URL: send the \
                     request as an entry of a transaction or batch, where it stands in the body";
        Self::new(StatusCode::BAD_REQUEST, IssueCode::Security, words)
    }

    /// A condition that does not say which resource is meant.
    pub(crate) fn several_match() -> Self {
        let words = "the condition matches more than one resource; nothing was changed; make it more precise";
        Self::new(StatusCode::PRECONDITION_FAILED, IssueCode::MultipleMatches, words)
    }

    /// A condition that finds nothing where something must be.
    pub(crate) fn nothing_matches() -> Self {
        let words = "the condition matches no resource";
        Self::new(StatusCode::NOT_FOUND, IssueCode::NotFound, words)
    }

    /// The id in the resource is not the one that the condition finds, or none at all.
    pub(crate) fn other_id() -> Self {
        let words = "the id in the resource is not the id of what the condition finds; leave it out, or mend the condition";
        Self::malformed(IssueCode::Invalid, words)
    }

    /// A reference that searches, and finds nothing or several.
    pub(crate) fn reference_finds(count: usize) -> Self {
        let words = "a reference that searches, such as `Patient?identifier=…`, must find one resource; nothing was changed";
        let code = if count == 0 { IssueCode::NotFound } else { IssueCode::MultipleMatches };
        Self::new(StatusCode::PRECONDITION_FAILED, code, words)
    }

    /// Whether it is [`Problem::raced`].
    pub(crate) fn is_race(&self) -> bool {
        self.status == StatusCode::CONFLICT
            && self.issues.iter().any(|issue| issue.code == IssueCode::Conflict)
    }

    /// Two entries of a transaction whose conditions find the same resource.
    pub(crate) fn same_resource() -> Self {
        let words = "two entries write the same resource; send them in two transactions";
        Self::malformed(IssueCode::Duplicate, words)
    }

    /// What a condition finds kept changing.
    pub(crate) fn raced() -> Self {
        let words = "others changed the same resources at the same time; nothing was changed; send it again";
        Self::new(StatusCode::CONFLICT, IssueCode::Conflict, words)
    }

    /// It is there already.
    pub(crate) fn duplicate(words: &'static str) -> Self {
        Self::new(StatusCode::CONFLICT, IssueCode::Duplicate, words)
    }

    /// A compartment search for a type that is in no compartment of the kind.
    pub(crate) fn not_in_compartment() -> Self {
        let words = "resources of this type are never in a compartment of this kind";
        Self::new(StatusCode::NOT_FOUND, IssueCode::NotSupported, words)
    }

    /// A search by GET that would put PHI into a URL (R3a). `place` is the address after the base.
    pub(crate) fn phi_in_url(place: &str) -> Self {
        let slash = if place.is_empty() { "" } else { "/" };
        let words = format!(
            "search parameters that identify people or tell of their health must not stand in a URL: send \
             `POST [base]/{place}{slash}_search` with the same parameters as \
             `Content-Type: application/x-www-form-urlencoded`"
        );
        Self::new(StatusCode::BAD_REQUEST, IssueCode::Security, words)
    }

    /// A paging link that was altered, has ended, or belongs to somebody else.
    pub(crate) fn bad_cursor() -> Self {
        let words = "this paging link is not good: it was altered, is more than a day old, or was given to another \
                     account; start the search again";
        Self::new(StatusCode::BAD_REQUEST, IssueCode::Value, words)
    }

    /// An import by reference that was given up; what was stored before stays.
    pub(crate) fn import_failed(words: &str) -> Self {
        let words = format!("{words}; what was imported before stays; mend that and send the manifest again");
        Self::new(StatusCode::BAD_GATEWAY, IssueCode::Incomplete, words)
    }

    /// Larger than is taken.
    pub(crate) fn too_large(words: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, IssueCode::TooLong, words)
    }

    /// Too many attempts.
    pub(crate) fn locked() -> Self {
        let words = "too many attempts failed; wait 15 minutes";
        Self::new(StatusCode::TOO_MANY_REQUESTS, IssueCode::Throttled, words).with(header::RETRY_AFTER, "900")
    }

    /// Nobody is called so.
    pub(crate) fn no_such_account() -> Self {
        let words =
            "nobody has this user name, and no service account this id; `ward user list` names them all";
        Self::new(StatusCode::NOT_FOUND, IssueCode::NotFound, words)
    }

    /// Too much of the same at once.
    pub(crate) fn busy() -> Self {
        let words = "too many sign in at this moment; try again in a few seconds";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, IssueCode::Throttled, words).with(header::RETRY_AFTER, "5")
    }

    /// A credential, code or link that does not fit. Which of them is not said.
    pub(crate) fn bad_credential() -> Self {
        let words = "this is not right, was used before, or has ended";
        Self::new(StatusCode::UNAUTHORIZED, IssueCode::Unknown, words)
    }

    /// The audit log cannot be written, so nothing is answered.
    pub(crate) fn audit_unavailable() -> Self {
        let words = "the audit log cannot be written, so nothing was answered; try again shortly";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, IssueCode::Transient, words).with(header::RETRY_AFTER, "5")
    }

    /// Something here is broken, and a person must look.
    pub(crate) fn internal() -> Self {
        let words = "something failed here; it was logged under the request's id";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, IssueCode::Exception, words)
    }

    /// A question about codes that the definitions that are here do not answer.
    fn unanswerable(fault: Fault) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, fault.code(), fault.to_string())
    }

    /// The same problem within an entry of a Bundle.
    #[must_use]
    pub(crate) fn at_entry(mut self, index: usize) -> Self {
        for issue in &mut self.issues {
            let place = issue.expression.take();
            let inner = place.map(|place| format!(" ({place})")).unwrap_or_default();
            issue.diagnostics = format!("Bundle.entry[{index}]{inner}: {}", issue.diagnostics);
            issue.expression = Some(format!("Bundle.entry[{index}]"));
        }
        self
    }

    /// The answer.
    pub(crate) fn reply(&self, form: Form) -> Reply {
        let mut reply = match form {
            Form::Fhir => Reply::fhir(self.status, operation_outcome(&self.issues).to_string().into_bytes()),
            Form::Plain => {
                let words: Vec<String> = self.issues.iter().map(line).collect();
                let code = self.issues.first().map_or("exception", |issue| issue.code.code());
                Reply::json(self.status, &json!({"error": code, "error_description": words.join("; ")}))
            }
        };
        if let Some((name, value)) = &self.header {
            reply.header(name.clone(), HeaderValue::from_static(value));
        }
        reply
    }
}

fn line(issue: &Issue) -> String {
    let mut text = issue.diagnostics.clone();
    if let Some(place) = &issue.expression {
        let _ = write!(text, " (at {place})");
    }
    text
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict => Self::precondition_failed(),
            StoreError::TooCostly => Self::new(
                StatusCode::BAD_REQUEST,
                IssueCode::TooCostly,
                "the search would go through too many resources; add parameters that narrow it down, such as a \
                 patient, a code or a date",
            ),
            StoreError::TooManyParameters => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                IssueCode::TooCostly,
                "there are as many search parameters as the index takes; delete or retire one that is not used, or, if so \
                 many were tried, start the stack again",
            ),
            StoreError::ParameterTaken => Self::duplicate(
                "another active SearchParameter has the same code for the same type; retire it first",
            ),
            StoreError::Position => Self::bad_cursor(),
            StoreError::Unstorable => {
                Self::malformed(IssueCode::Structure, "the resource cannot be stored in this form")
            }
            StoreError::Unavailable => {
                event!(Error, "store.unavailable");
                let words = "the database is not available now; nothing was changed; try again shortly";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, IssueCode::NoStore, words)
                    .with(header::RETRY_AFTER, "5")
            }
            StoreError::Uncertain => {
                event!(Error, "store.commit_uncertain");
                let words = "the database went away before it said whether the change was made; read what is there before \
                             you send it again";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, IssueCode::NoStore, words)
                    .with(header::RETRY_AFTER, "5")
            }
            StoreError::Corrupt => {
                event!(Error, "store.integrity_check_failed");
                let words = "a stored record fails its integrity check and is not given out; restore it from a backup";
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, IssueCode::Exception, words)
            }
            _ => {
                event!(Error, "store.failed");
                Self::internal()
            }
        }
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        Self::unanswerable(fault)
    }
}

impl From<TerminologyError<StoreError>> for Problem {
    fn from(error: TerminologyError<StoreError>) -> Self {
        match error {
            TerminologyError::Fault(fault) => Self::unanswerable(fault),
            TerminologyError::Definitions(error) => error.into(),
        }
    }
}

impl From<JsonError> for Problem {
    fn from(error: JsonError) -> Self {
        match error.kind {
            JsonErrorKind::TooLong => Self::too_large("the body is longer than is accepted"),
            _ => Self::malformed(
                IssueCode::Structure,
                format!("the body is not JSON that is accepted: {error}"),
            ),
        }
    }
}

impl From<BodyError> for Problem {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge => Self::too_large("the body is longer than is accepted; send it in parts"),
            BodyError::TooSlow => Self::new(
                StatusCode::REQUEST_TIMEOUT,
                IssueCode::Timeout,
                "the body came too slowly; send it again",
            ),
            BodyError::Broken => {
                Self::malformed(IssueCode::Incomplete, "the body was cut off; send it again")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_a_valid_outcome_with_words() {
        for problem in [
            Problem::unauthenticated(),
            Problem::forbidden("reason"),
            Problem::gone(),
            Problem::phi_in_url("Patient"),
            Problem::audit_unavailable(),
            Problem::invalid(vec![Issue::error(IssueCode::Value, "words").at("Patient.name[0]")]).at_entry(3),
            Problem::from(StoreError::TooCostly),
            Problem::from(BodyError::TooSlow),
        ] {
            let outcome = operation_outcome(&problem.issues);
            assert_eq!(ward_fhir::validate::resource(&outcome), []);
            assert!(problem.status.as_u16() >= 400 && !problem.words().is_empty());
        }
        let entry =
            Problem::invalid(vec![Issue::error(IssueCode::Value, "words").at("Patient.name[0]")]).at_entry(3);
        assert_eq!(entry.words(), "Bundle.entry[3] (Patient.name[0]): words (at Bundle.entry[3])");
    }
}
