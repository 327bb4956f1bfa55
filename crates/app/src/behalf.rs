//! What the tier does by itself on behalf of an account: with the rights that the account has at that moment, and under
//! its name in the log.

use std::sync::Arc;

use ward_audit::{Actor, Class, Entry, Outcome};
use ward_base::RequestId;
use ward_identity::{Holder, Op, POLICY_VERSION, Purpose, Request, SessionRecord};

use crate::app::App;
use crate::authenticate::{OPERATOR, client, user};
use crate::problem::Problem;

/// How long what is done counts as a session of the account's.
const SESSION_SECONDS: u32 = 60;

/// What the account may do now, as a session of its own; nothing if it is disabled or gone.
pub(crate) async fn op(app: &Arc<App>, holder: &Holder) -> Result<Option<Op>, Problem> {
    let now = app.clock.now();
    let session = SessionRecord::start(holder.clone(), now, 0, SESSION_SECONDS);
    let request =
        Request { id: RequestId::new(&*app.clock, &*app.random), now, purpose: Some(Purpose::System) };
    let (wanted, operator) = (holder.clone(), app.operator.clone());
    let op = app
        .store
        .read(move |records| {
            Ok::<_, Problem>(match &wanted {
                Holder::User { id, .. } => {
                    user(records, id)?.map(|user| Op::for_session(&session, &user, request))
                }
                Holder::Client { id, .. } => {
                    let client = if id == OPERATOR { Some(operator) } else { client(records, id)? };
                    client.map(|client| Op::for_client(&session, &client, request))
                }
            })
        })
        .await?;
    Ok(op.and_then(Result::ok))
}

/// An intent of the account's, to be filled in.
pub(crate) fn intent(app: &App, op: &Op, action: &'static str) -> Entry {
    let mut entry = Entry::new(app.clock.now(), op.request(), Class::Rest, action, Outcome::Intent);
    entry.actor = match (op.user(), op.client()) {
        (Some(user), _) => Actor::User(user.to_owned()),
        (_, Some(client)) => Actor::Client(client.to_owned()),
        _ => Actor::Anonymous,
    };
    entry.mfa = Some(op.mfa().name());
    entry.roles = op.roles().iter().map(|role| role.name()).collect();
    entry.purpose = Some(op.purpose().name());
    entry.policy_version = POLICY_VERSION;
    entry
}
