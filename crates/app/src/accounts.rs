//! `/ward/users` and `/ward/clients`: people and service accounts.

use http::StatusCode;
use serde_json::{Value, json};
use ward_audit::Class;
use ward_base::ResourceId;
use ward_fhir::outcome::IssueCode;
use ward_identity::totp::TotpSecret;
use ward_identity::{
    ClientKeys, ClientRecord, EnrolmentRecord, Holder, Permission, Role, Scopes, SessionRecord, UserRecord,
    Username, token,
};
use ward_store::{RecordKind, Transaction};
use ward_transport::RequestBody;

use crate::authenticate::{client, decode, encode, user};
use crate::call::Call;
use crate::problem::Problem;
use crate::reply::Reply;

const NAME_CHARACTERS_MAX: usize = 200;

/// `GET /ward/users`: everyone, and the service accounts.
pub(crate) async fn list(call: &mut Call) -> Result<Reply, Problem> {
    call.doing(Class::Privilege, "list-accounts", None);
    call.authenticate().await?;
    call.permit(Permission::ManageUsers, None)?;
    let answer =
        call.app
            .store
            .read(|session| {
                let mut users = Vec::new();
                for (_, record) in session.records(RecordKind::User)? {
                    let user: UserRecord = decode(&record)?;
                    users.push((user.created, json!({
                    "id": user.id, "username": user.username.as_str(), "display_name": user.display_name,
                    "roles": user.roles.iter().map(|role| role.name()).collect::<Vec<_>>(),
                    "enrolled": user.credentials.is_some(), "disabled": user.disabled,
                })));
                }
                let mut clients = Vec::new();
                for (_, record) in session.records(RecordKind::Client)? {
                    let client: ClientRecord = decode(&record)?;
                    clients.push((
                        client.created,
                        json!({
                            "id": client.id, "name": client.name, "scopes": client.scopes.to_string(),
                            "disabled": client.disabled,
                        }),
                    ));
                }
                users.sort_by_key(|(created, _)| *created);
                clients.sort_by_key(|(created, _)| *created);
                let values =
                    |list: Vec<(_, Value)>| list.into_iter().map(|(_, value)| value).collect::<Vec<_>>();
                Ok::<_, Problem>(json!({"users": values(users), "clients": values(clients)}))
            })
            .await?;
    Ok(Reply::json(StatusCode::OK, &answer))
}

/// `POST /ward/users`: invites somebody, or invites them again with a new link.
pub(crate) async fn add_user(call: &mut Call, body: RequestBody) -> Result<Reply, Problem> {
    call.doing(Class::Privilege, "invite-user", None);
    call.authenticate().await?;
    call.permit(Permission::ManageUsers, None)?;
    let asked = call.json(body).await?;
    let username = text(&asked, "username")?;
    let username = Username::parse(username).map_err(|error| malformed(&error.to_string()))?;
    let display_name = text(&asked, "display_name")?.to_owned();
    let roles = roles(&asked)?;
    call.intend().await?;
    let random = &*call.app.random;
    let (token, key) = token::new_token(random);
    let enrolment_secret = TotpSecret::new(random);
    let (id, now) = (ResourceId::random(random), call.now);
    let id = call
        .app
        .store
        .write(move |transaction| {
            let known = transaction.record(RecordKind::Username, username.as_str())?;
            let user = match known.map(|id| String::from_utf8_lossy(&id).into_owned()) {
                None => {
                    let user =
                        UserRecord::invited(&id, username.clone(), display_name.clone(), roles.clone(), now);
                    transaction.put_record(
                        RecordKind::Username,
                        username.as_str(),
                        user.id.as_bytes(),
                        None,
                    )?;
                    user
                }
                Some(id) => {
                    let user = user(transaction, &id)?.ok_or_else(Problem::internal)?;
                    if user.credentials.is_some() {
                        return Err(Problem::duplicate(
                            "somebody has this user name and has enrolled already",
                        ));
                    }
                    UserRecord { display_name: display_name.clone(), roles: roles.clone(), ..user }
                }
            };
            put_user(transaction, &user)?;
            withdraw_invitations(transaction, &user.id)?;
            let enrolment = EnrolmentRecord::new(user.id.clone(), enrolment_secret.clone(), now);
            let record = encode(&enrolment)?;
            transaction.put_record(RecordKind::Enrolment, &key, &record, Some(enrolment.expires))?;
            Ok(user.id)
        })
        .await?;
    call.app.sessions.forget_all();
    let token = std::str::from_utf8(token.expose()).map_err(|_| Problem::internal())?;
    Ok(Reply::json(StatusCode::CREATED, &json!({"id": id, "enrolment_token": token})))
}

/// `POST /ward/clients`: registers a service account.
pub(crate) async fn add_client(call: &mut Call, body: RequestBody) -> Result<Reply, Problem> {
    call.doing(Class::Privilege, "add-client", None);
    call.authenticate().await?;
    call.permit(Permission::ManageClients, None)?;
    let asked = call.json(body).await?;
    let name = text(&asked, "name")?.to_owned();
    let scopes = Scopes::parse(text(&asked, "scopes")?).map_err(|error| malformed(&error.to_string()))?;
    let keys = asked.get("jwks").ok_or_else(|| malformed("`jwks` is missing"))?;
    let keys = ClientKeys::from_jwks(keys).map_err(|error| malformed(&error.to_string()))?;
    let id = ResourceId::random(&*call.app.random).as_str().to_owned();
    let client = ClientRecord {
        id: id.clone(),
        name,
        scopes,
        keys,
        roles: Vec::new(),
        created: call.now,
        disabled: false,
    };
    call.intend().await?;
    call.app
        .store
        .write(move |transaction| {
            Ok::<_, Problem>(transaction.put_record(
                RecordKind::Client,
                &client.id,
                &encode(&client)?,
                None,
            )?)
        })
        .await?;
    Ok(Reply::json(StatusCode::CREATED, &json!({"client_id": id})))
}

/// `POST /ward/accounts`: `{"account", "disabled"}` ends or restores the access of a person (by user name) or of a
/// service account (by id), at once: sessions and tokens of a disabled account are gone (45 CFR 164.308(a)(3)(ii)(C)).
pub(crate) async fn set_disabled(call: &mut Call, body: RequestBody) -> Result<Reply, Problem> {
    call.doing(Class::Privilege, "set-account-disabled", None);
    call.authenticate().await?;
    call.permit(Permission::ManageUsers, None)?;
    call.permit(Permission::ManageClients, None)?;
    let asked = call.json(body).await?;
    let account = text(&asked, "account")?.to_owned();
    let disabled = asked
        .get("disabled")
        .and_then(Value::as_bool)
        .ok_or_else(|| malformed("`disabled` must be true or false"))?;
    call.entry.action = if disabled { "disable-account" } else { "enable-account" };
    call.intend().await?;
    let ended = call
        .app
        .store
        .write(move |transaction| {
            let id = transaction.record(RecordKind::Username, &account.to_lowercase())?;
            let id = id.map(|id| String::from_utf8_lossy(&id).into_owned());
            let id = if let Some(user) = id.as_deref().map(|id| user(transaction, id)).transpose()?.flatten()
            {
                put_user(transaction, &UserRecord { disabled, ..user.clone() })?;
                user.id
            } else if let Some(client) = client(transaction, &account)? {
                let record = encode(&ClientRecord { disabled, ..client })?;
                transaction.put_record(RecordKind::Client, &account, &record, None)?;
                account.clone()
            } else {
                return Err(Problem::no_such_account());
            };
            if disabled { end_sessions(transaction, &id) } else { Ok(0) }
        })
        .await?;
    call.app.sessions.forget_all();
    Ok(Reply::json(StatusCode::OK, &json!({"disabled": disabled, "sessions_ended": ended})))
}

/// Ends every session and token of an account; says how many.
fn end_sessions(transaction: &mut dyn Transaction, account: &str) -> Result<u64, Problem> {
    let mut ended = 0;
    for (key, record) in transaction.records(RecordKind::Session)? {
        let session: SessionRecord = decode(&record)?;
        let (Holder::User { id, .. } | Holder::Client { id, .. }) = &session.holder;
        if id == account {
            transaction.delete_record(RecordKind::Session, &key)?;
            ended += 1;
        }
    }
    Ok(ended)
}

/// Writes a person's record.
pub(crate) fn put_user(transaction: &mut dyn Transaction, user: &UserRecord) -> Result<(), Problem> {
    Ok(transaction.put_record(RecordKind::User, &user.id, &encode(user)?, None)?)
}

/// Ends every invitation of a person: one link at a time is good.
pub(crate) fn withdraw_invitations(transaction: &mut dyn Transaction, user: &str) -> Result<(), Problem> {
    for (key, record) in transaction.records(RecordKind::Enrolment)? {
        let enrolment: EnrolmentRecord = decode(&record)?;
        if enrolment.user == user {
            transaction.delete_record(RecordKind::Enrolment, &key)?;
        }
    }
    Ok(())
}

fn roles(asked: &Value) -> Result<Vec<Role>, Problem> {
    let names = asked.get("roles").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut roles: Vec<Role> = Vec::new();
    for name in names {
        let role = name.as_str().and_then(Role::parse).filter(|role| Role::OF_PEOPLE.contains(role));
        roles.push(role.ok_or_else(|| malformed("a role must be administrator, clinician or auditor"))?);
    }
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() { Err(malformed("`roles` must name one role at least")) } else { Ok(roles) }
}

fn text<'a>(asked: &'a Value, name: &str) -> Result<&'a str, Problem> {
    let text = asked.get(name).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty());
    match text {
        Some(text) if text.chars().count() <= NAME_CHARACTERS_MAX => Ok(text),
        Some(_) => Err(malformed(&format!("`{name}` has {NAME_CHARACTERS_MAX} characters at most"))),
        None => Err(malformed(&format!("`{name}` is missing"))),
    }
}

fn malformed(words: &str) -> Problem {
    Problem::malformed(IssueCode::Value, words)
}
