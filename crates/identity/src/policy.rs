//! The access policy: deny, unless a rule below allows.

use crate::op::Who;
use crate::{Mfa, Op, Role};

/// Raised with every change of a rule; it stands in each audit entry.
pub const POLICY_VERSION: u32 = 4;

/// What somebody wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Permission {
    /// Make a resource.
    Create,
    /// Read a resource or one version of it.
    Read,
    /// Change a resource.
    Update,
    /// Change parts of a resource: what a patch tests and gives back is read.
    Patch,
    /// Delete a resource.
    Delete,
    /// Search a type (or, without a type, all of them).
    Search,
    /// Read the history of one resource.
    History,
    /// Read the history of a type (or, without a type, of all).
    TypeHistory,
    /// Take all resources of a type along (Bulk Data). Not for people: nobody takes everything home in a browser.
    BulkExport,
    /// Have files of resources of a type fetched and stored, ids and all (Bulk Data). Not for people either.
    BulkImport,
    /// Load resources in bulk, ids and all.
    Import,
    /// Get everything out.
    Export,
    /// See who has looked at a patient's record.
    ReadAccesses,
    /// See the whole audit log's state.
    ReadAudit,
    /// Add, list and change people.
    ManageUsers,
    /// Add, list and change service accounts.
    ManageClients,
    /// See how the search index is doing, and replace its key.
    ManageIndex,
}

impl Permission {
    /// Every permission.
    pub const ALL: [Self; 17] = [
        Self::Create,
        Self::Read,
        Self::Update,
        Self::Patch,
        Self::Delete,
        Self::Search,
        Self::History,
        Self::TypeHistory,
        Self::BulkExport,
        Self::BulkImport,
        Self::Import,
        Self::Export,
        Self::ReadAccesses,
        Self::ReadAudit,
        Self::ManageUsers,
        Self::ManageClients,
        Self::ManageIndex,
    ];

    const fn is_interaction(self) -> bool {
        !matches!(
            self,
            Self::Import
                | Self::Export
                | Self::ReadAccesses
                | Self::ReadAudit
                | Self::ManageUsers
                | Self::ManageClients
                | Self::ManageIndex
        )
    }
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Go on.
    Allow,
    /// Refuse. The reason is for the audit log and for a caller who is known; it names nothing of theirs.
    Deny(&'static str),
}

impl Decision {
    /// Whether it is [`Decision::Allow`].
    pub const fn is_allowed(self) -> bool {
        matches!(self, Self::Allow)
    }
}

/// Decides whether `op` may do `permission` on `resource_type`; `None` means on every type at once, or that the
/// permission is not about a type.
///
/// Roles add up. A client without a role lives by its scopes; the house's own client needs both its role (for
/// what only the house does) and its scopes (for what any client does).
pub fn decide(op: &Op, permission: Permission, resource_type: Option<&str>) -> Decision {
    match &op.who {
        Who::User { mfa: Mfa::Password, .. } => Decision::Deny("a second factor is needed"),
        Who::User { roles, .. } => {
            let allowed = roles.iter().any(|role| role_allows(*role, permission, resource_type));
            if allowed { Decision::Allow } else { Decision::Deny("no role of the user allows it") }
        }
        Who::Client { scopes, .. } if permission.is_interaction() => {
            let allowed = scopes.allow(permission, resource_type);
            if allowed { Decision::Allow } else { Decision::Deny("no scope of the client allows it") }
        }
        Who::Client { roles, .. } => {
            let allowed = roles.iter().any(|role| role_allows(*role, permission, resource_type));
            if allowed { Decision::Allow } else { Decision::Deny("no role of the client allows it") }
        }
    }
}

fn role_allows(role: Role, permission: Permission, resource_type: Option<&str>) -> bool {
    use Permission as P;
    let reads = matches!(permission, P::Read | P::Search | P::History | P::TypeHistory);
    // Everything at once includes records and audit events, so no single kind covers it.
    let kind = resource_type.filter(|_| permission.is_interaction()).map(Kind::of);
    match role {
        Role::Clinician => match kind {
            Some(Kind::Record) => reads || matches!(permission, P::Create | P::Update | P::Patch),
            Some(Kind::Directory | Kind::Definition) => reads,
            Some(Kind::Audit) => false,
            None => permission == P::ReadAccesses,
        },
        Role::Administrator => match kind {
            Some(Kind::Directory | Kind::Definition) => {
                reads || matches!(permission, P::Create | P::Update | P::Patch | P::Delete)
            }
            Some(Kind::Record | Kind::Audit) => false,
            None => matches!(permission, P::ManageUsers | P::ManageClients),
        },
        Role::Auditor => match kind {
            Some(Kind::Audit) => reads,
            Some(_) => false,
            None => matches!(permission, P::ReadAudit | P::ReadAccesses),
        },
        Role::Operator => {
            kind.is_none()
                && matches!(
                    permission,
                    P::Import
                        | P::Export
                        | P::ReadAudit
                        | P::ReadAccesses
                        | P::ManageUsers
                        | P::ManageClients
                        | P::ManageIndex
                )
        }
    }
}

/// What a resource type is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Who did what.
    Audit,
    /// How FHIR itself is used here: definitions and terminology.
    Definition,
    /// People and places of the house, no patient.
    Directory,
    /// Everything else. What is not known to be harmless is a record.
    Record,
}

impl Kind {
    fn of(resource_type: &str) -> Self {
        match resource_type {
            "AuditEvent" => Self::Audit,
            "ActivityDefinition"
            | "CapabilityStatement"
            | "ChargeItemDefinition"
            | "CodeSystem"
            | "CompartmentDefinition"
            | "ConceptMap"
            | "EventDefinition"
            | "Evidence"
            | "EvidenceVariable"
            | "ExampleScenario"
            | "GraphDefinition"
            | "ImplementationGuide"
            | "Library"
            | "Measure"
            | "MessageDefinition"
            | "NamingSystem"
            | "ObservationDefinition"
            | "OperationDefinition"
            | "PlanDefinition"
            | "Questionnaire"
            | "ResearchDefinition"
            | "ResearchElementDefinition"
            | "SearchParameter"
            | "SpecimenDefinition"
            | "StructureDefinition"
            | "StructureMap"
            | "TerminologyCapabilities"
            | "TestReport"
            | "TestScript"
            | "ValueSet" => Self::Definition,
            "Endpoint"
            | "HealthcareService"
            | "InsurancePlan"
            | "Location"
            | "Organization"
            | "OrganizationAffiliation"
            | "Practitioner"
            | "PractitionerRole" => Self::Directory,
            _ => Self::Record,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ClientKeys, ClientRecord, Holder, Request, Scopes, SessionRecord, UserRecord, Username};
    use ward_base::{RequestId, SystemClock, SystemRandom, Timestamp};

    const TYPES: [Option<&str>; 7] = [
        None,
        Some("Patient"),
        Some("Observation"),
        Some("Practitioner"),
        Some("ValueSet"),
        Some("AuditEvent"),
        Some("NoSuchType"),
    ];

    fn request() -> Request {
        Request { id: RequestId::new(&SystemClock, &SystemRandom), now: Timestamp(1), purpose: None }
    }

    fn user(roles: &[Role], mfa: Mfa) -> Op {
        let user = UserRecord {
            id: "u".to_owned(),
            username: Username::parse("u").unwrap(),
            display_name: String::new(),
            roles: roles.to_vec(),
            created: Timestamp(0),
            disabled: false,
            credentials: None,
        };
        let holder = Holder::User { id: "u".to_owned(), mfa };
        Op::for_session(&SessionRecord::start(holder, Timestamp(0), 900, 900), &user, request()).unwrap()
    }

    fn client(roles: &[Role], scopes: &str) -> Op {
        let scopes = Scopes::parse(scopes).unwrap();
        let client = ClientRecord {
            id: "c".to_owned(),
            name: String::new(),
            scopes: scopes.clone(),
            keys: ClientKeys::default(),
            roles: roles.to_vec(),
            created: Timestamp(0),
            disabled: false,
        };
        let holder = Holder::Client { id: "c".to_owned(), scopes };
        Op::for_client(&SessionRecord::start(holder, Timestamp(0), 0, 300), &client, request()).unwrap()
    }

    /// The whole policy as one picture: a change of any rule is a change of this file.
    #[test]
    fn the_matrix_is_as_agreed() {
        use std::fmt::Write as _;
        let mut callers: Vec<(String, Op)> =
            Role::ALL.iter().map(|role| (role.name().to_owned(), user(&[*role], Mfa::Totp))).collect();
        callers.push(("no role".to_owned(), user(&[], Mfa::Totp)));
        callers.push(("every role, password alone".to_owned(), user(&Role::ALL, Mfa::Password)));
        for (roles, scopes) in [
            (&[][..], "system/*.cruds"),
            (&[][..], "system/*.rs"),
            (&[][..], "system/Observation.cr"),
            (&[Role::Operator][..], "system/*.cruds"),
        ] {
            let role = if roles.is_empty() { "client" } else { "operator client" };
            callers.push((format!("{role} {scopes}"), client(roles, scopes)));
        }
        let mut matrix = String::new();
        for (name, op) in &callers {
            let _ = writeln!(matrix, "{name}");
            for resource_type in TYPES {
                let allowed: Vec<String> = Permission::ALL
                    .iter()
                    .filter(|permission| resource_type.is_none() || permission.is_interaction())
                    .filter(|permission| decide(op, **permission, resource_type).is_allowed())
                    .map(|permission| format!("{permission:?}"))
                    .collect();
                let list = if allowed.is_empty() { "-".to_owned() } else { allowed.join(" ") };
                let _ = writeln!(matrix, "  {:<12} {list}", resource_type.unwrap_or("(all)"));
            }
        }
        expect_test::expect_file!["../tests/policy_matrix.txt"].assert_eq(&matrix);
    }

    #[test]
    fn roles_add_up() {
        let both = user(&crate::FIRST_ADMINISTRATOR_ROLES, Mfa::Totp);
        assert!(decide(&both, Permission::ManageUsers, None).is_allowed());
        assert!(decide(&both, Permission::Create, Some("Observation")).is_allowed());
        assert!(!decide(&both, Permission::ReadAudit, None).is_allowed());
    }
}
