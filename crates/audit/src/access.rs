//! An entry of the log as its reader gets it.

use std::borrow::Cow;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ward_base::{Phi, RequestId, ResourceId, Timestamp};
use ward_keys::open_small;

use crate::entry::{Actor, Class, Outcome};
use crate::format::{Encoded, Sealed, VERSION, binding};
use crate::{AuditError, AuditKeys};

/// One entry of the log, opened for a reader who may see it. Holds PHI: it cannot be printed or serialised.
#[derive(Clone, PartialEq, Eq)]
pub struct Access {
    /// The entry's number in the log, from 0.
    pub index: u64,
    /// The entry's own id, a ULID.
    pub id: String,
    /// When it happened.
    pub time: Timestamp,
    /// The request that it belongs to.
    pub request: RequestId,
    /// What kind of event it is.
    pub class: Class,
    /// What was done.
    pub action: String,
    /// What became of it.
    pub outcome: Outcome,
    /// Who did it.
    pub actor: Actor,
    /// The roles that the actor acted in.
    pub roles: Vec<String>,
    /// The second factor, if one was given.
    pub mfa: Option<String>,
    /// The purpose of use.
    pub purpose: Option<String>,
    /// The version of the policy that allowed or refused it.
    pub policy_version: u32,
    /// The FHIR type that was asked for.
    pub resource_type: Option<String>,
    /// Rows returned or changed, by the event as a whole.
    pub rows: u32,
    /// The HTTP status of the answer.
    pub status: Option<u16>,
    /// If the event touched too many patients for one entry: which of its entries this is, from 1, and of how many.
    pub part: Option<(u32, u32)>,
    /// The patients whose data was touched.
    pub patients: Vec<ResourceId>,
    /// The resource that was named: type, id, version.
    pub resource: Option<(String, ResourceId, Option<u64>)>,
    /// Where the request came from.
    pub address: Option<Phi<IpAddr>>,
    /// What the client called itself.
    pub user_agent: Option<Phi<String>>,
    /// The query.
    pub query: Option<Phi<String>>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Access(..)")
    }
}

impl Access {
    /// Reads entry `index` and opens its sealed part.
    pub(crate) fn open(keys: &AuditKeys, index: u64, entry: &[u8]) -> Result<Self, AuditError> {
        let damaged = || AuditError::Damaged {
            file: crate::layout::Tile::full(crate::layout::Kind::Entries, index / 256).path(),
            what: "an entry is not in a format known here",
        };
        let encoded: Encoded<'_> = serde_json::from_slice(entry).map_err(|_| damaged())?;
        let id = ulid::Ulid::from_string(&encoded.id).map_err(|_| damaged())?;
        let request = RequestId::parse(&encoded.request).ok_or_else(damaged)?;
        let time = Timestamp(encoded.time);
        if encoded.v != VERSION {
            return Err(damaged());
        }
        let unopened = || AuditError::Sealed { index };
        let plain = match &encoded.sealed {
            Some(text) => {
                let sealed = URL_SAFE_NO_PAD.decode(text.as_bytes()).map_err(|_| unopened())?;
                open_small(&keys.sealing(time), &binding(id, time), &sealed).map_err(|_| unopened())?
            }
            None => b"{}".to_vec(),
        };
        let sealed: Sealed<'_> = serde_json::from_slice(&plain).map_err(|_| unopened())?;
        let resource_id = |text: &str| ResourceId::parse(text).map_err(|_| unopened());
        Ok(Self {
            index,
            id: encoded.id.into_owned(),
            time,
            request,
            class: encoded.class,
            action: encoded.action.into_owned(),
            outcome: encoded.outcome,
            actor: match (encoded.user, encoded.client) {
                (Some(id), _) => Actor::User(id.into_owned()),
                (None, Some(id)) => Actor::Client(id.into_owned()),
                (None, None) => Actor::Anonymous,
            },
            roles: encoded.roles.into_iter().map(Cow::into_owned).collect(),
            mfa: encoded.mfa.map(Cow::into_owned),
            purpose: encoded.purpose.map(Cow::into_owned),
            policy_version: encoded.policy,
            resource_type: encoded.resource_type.map(Cow::into_owned),
            rows: encoded.rows,
            status: encoded.status,
            part: encoded.part,
            patients: sealed.patients.iter().map(|id| resource_id(id)).collect::<Result<_, _>>()?,
            resource: match sealed.resource {
                Some((kind, id, version)) => Some((kind.into_owned(), resource_id(&id)?, version)),
                None => None,
            },
            address: sealed.address.map(Phi::new),
            user_agent: sealed.agent.map(|text| Phi::new(text.into_owned())),
            query: sealed.query.map(|text| Phi::new(text.into_owned())),
        })
    }
}
