//! `/session`: how people sign in, stay signed in and sign out, and how they accept an invitation.
//!
//! The web tier alone asks here: its gateway does not pass these paths on. A wrong password is answered like a right
//! one, with a challenge that no code meets, so that nobody can try out passwords without the second factor.

use http::StatusCode;
use serde_json::{Value, json};
use ward_audit::{Actor, Class};
use ward_base::{Secret, Timestamp};
use ward_fhir::outcome::IssueCode;
use ward_identity::lockout::{self, Failures, Lock};
use ward_identity::{
    ChallengeRecord, Credentials, EnrolmentRecord, Holder, Mfa, SessionRecord, UserRecord, password, token,
    totp,
};
use ward_store::{RecordKind, Transaction};
use ward_transport::RequestBody;
use zeroize::Zeroizing;

use std::time::Duration;

use tokio::sync::SemaphorePermit;

use crate::accounts::{put_user, withdraw_invitations};
use crate::authenticate::{Account, decode, encode, put_session, user};
use crate::call::Call;
use crate::problem::Problem;
use crate::reply::Reply;

/// How long somebody waits for a turn at hashing.
const TURN_WAIT: Duration = Duration::from_secs(5);
const USERNAME_CHARACTERS_MAX: usize = 256;

/// `GET /session`: who is signed in, and for how long.
pub(crate) async fn me(call: &mut Call) -> Result<Reply, Problem> {
    call.doing(Class::Authentication, "session", None);
    call.authenticate().await?;
    let (found, _) = call.session()?;
    let Account::User(user) = &found.account else { return Err(Problem::forbidden("this is for people")) };
    Ok(Reply::json(
        StatusCode::OK,
        &json!({
            "username": user.username.as_str(), "display_name": user.display_name,
            "roles": user.roles.iter().map(|role| role.name()).collect::<Vec<_>>(),
            "expires_in": found.session.remaining_seconds(call.now),
        }),
    ))
}

/// `POST /session/sign-in`: `{"username", "password"}` to `{"challenge"}`.
pub(crate) async fn sign_in(call: &mut Call, body: RequestBody) -> Result<Reply, Problem> {
    call.doing(Class::Authentication, "sign-in", None);
    let asked = call.json(body).await?;
    call.refresh();
    let username = typed(field(&asked, "username")?);
    let presented = secret(&asked, "password")?;
    let now = call.now;
    let turn = turn(call).await?;
    call.intend().await?;
    let name = username.clone();
    let known = call
        .app
        .store
        .write(move |transaction| {
            if failures(transaction, &name, now)?.1 != Lock::Open {
                return Err(Problem::locked());
            }
            // Counted before it is looked at, so that attempts at once are not faster than the count, and taken back
            // by the second factor alone, so that the lock does not tell which password was right.
            count_failure(transaction, &name, now)?;
            let id = transaction.record(RecordKind::Username, &name)?;
            id.map(|id| user(transaction, &String::from_utf8_lossy(&id))).transpose().map(Option::flatten)
        })
        .await?;
    // The same work for a name that nobody has.
    let phc = known
        .as_ref()
        .and_then(|user| user.credentials.as_ref())
        .map_or_else(|| password::nobody().to_owned(), |credentials| credentials.password_phc.clone());
    let fits = tokio::task::spawn_blocking(move || password::verify(&phc, &presented))
        .await
        .map_err(|_| Problem::internal())?;
    drop(turn);
    if let Some(user) = &known {
        call.entry.actor = Actor::User(user.id.clone());
    }
    let user = known.filter(|user| fits && !user.disabled && user.credentials.is_some());
    call.refused_unsaid = user.is_none();
    let (challenge, key) = token::new_token(&*call.app.random);
    let record = ChallengeRecord::new(user.map(|user| user.id), username, call.now);
    call.app
        .store
        .write(move |transaction| {
            let encoded = encode(&record)?;
            Ok::<_, Problem>(transaction.put_record(
                RecordKind::Challenge,
                &key,
                &encoded,
                Some(record.expires),
            )?)
        })
        .await?;
    Ok(Reply::json(StatusCode::OK, &json!({"challenge": words(&challenge)?})))
}

/// `POST /session/second-factor`: `{"challenge", "code"}` to `{"session", "expires_in"}`.
///
/// What goes wrong is answered alike, and counted alike, whether or not the password was right.
pub(crate) async fn second_factor(call: &mut Call, body: RequestBody) -> Result<Reply, Problem> {
    call.doing(Class::Authentication, "second-factor", None);
    let asked = call.json(body).await?;
    call.refresh();
    let key = token::storage_key(field(&asked, "challenge")?).ok_or_else(Problem::bad_credential)?;
    let code = Zeroizing::new(field(&asked, "code")?.to_owned());
    let now = call.now;
    let (session, session_key) = token::new_token(&*call.app.random);
    let settings = &call.app.settings;
    let (idle, absolute) = (settings.idle_seconds, settings.absolute_seconds);
    call.intend().await?;
    let outcome = call
        .app
        .store
        .write(move |transaction| {
            let Some(record) = transaction.record(RecordKind::Challenge, &key)? else {
                return Ok(Met::Wrong(None));
            };
            let challenge: ChallengeRecord = decode(&record)?;
            if !challenge.is_live(now) {
                return Ok(Met::Wrong(None));
            }
            if failures(transaction, &challenge.username, now)?.1 != Lock::Open {
                return Err(Problem::locked());
            }
            let known = challenge.user.as_deref().map(|id| user(transaction, id)).transpose()?.flatten();
            let Some(user) = known.and_then(|user| met(user, &code, now)) else {
                count_failure(transaction, &challenge.username, now)?;
                let (user, expires) = (challenge.user.clone(), challenge.expires);
                let record = encode(&challenge.after_failure())?;
                transaction.put_record(RecordKind::Challenge, &key, &record, Some(expires))?;
                return Ok(Met::Wrong(user));
            };
            transaction.delete_record(RecordKind::Challenge, &key)?;
            transaction.delete_record(RecordKind::SignInFailures, &challenge.username)?;
            put_user(transaction, &user)?;
            let holder = Holder::User { id: user.id.clone(), mfa: Mfa::Totp };
            let record = SessionRecord::start(holder, now, idle, absolute);
            put_session(transaction, &session_key, &record)?;
            Ok(Met::Right(user.id, record.remaining_seconds(now)))
        })
        .await?;
    match outcome {
        Met::Right(user, expires_in) => {
            call.entry.actor = Actor::User(user);
            call.entry.mfa = Some(Mfa::Totp.name());
            Ok(Reply::json(StatusCode::OK, &json!({"session": words(&session)?, "expires_in": expires_in})))
        }
        Met::Wrong(user) => {
            if let Some(user) = user {
                call.entry.actor = Actor::User(user);
            }
            Err(Problem::bad_credential())
        }
    }
}

/// A turn at hashing. Who would wait for long is told to come back instead.
async fn turn(call: &Call) -> Result<SemaphorePermit<'_>, Problem> {
    match tokio::time::timeout(TURN_WAIT, call.app.hashing.acquire()).await {
        Ok(Ok(turn)) => Ok(turn),
        _ => Err(Problem::busy()),
    }
}

/// A user name as failures are counted under it. Nobody has a longer one.
fn typed(username: &str) -> String {
    username.trim().to_lowercase().chars().take(USERNAME_CHARACTERS_MAX).collect()
}

enum Met {
    /// Whose session it is, and its seconds.
    Right(String, u32),
    /// Whose challenge it was, if anybody's.
    Wrong(Option<String>),
}

/// The person with the code's step noted, if the code is good and was not used before.
fn met(mut user: UserRecord, code: &str, now: Timestamp) -> Option<UserRecord> {
    if user.disabled {
        return None;
    }
    let credentials = user.credentials.as_mut()?;
    let step = totp::verify(&credentials.totp_secret, code, now, credentials.totp_last_step)?;
    credentials.totp_last_step = Some(step);
    Some(user)
}

/// `POST /session/sign-out`.
pub(crate) async fn sign_out(call: &mut Call) -> Result<Reply, Problem> {
    call.doing(Class::Authentication, "sign-out", None);
    call.authenticate().await?;
    let key = call.session()?.1.to_owned();
    call.intend().await?;
    let stored = key.clone();
    call.app
        .store
        .write(move |transaction| {
            transaction.delete_record(RecordKind::Session, &stored)?;
            // What has expired goes along.
            transaction.purge_expired()?;
            Ok::<_, Problem>(())
        })
        .await?;
    call.app.sessions.forget(&key);
    Ok(Reply::json(StatusCode::OK, &json!({})))
}

/// `POST /session/enrolment`: `{"token"}` to what the person invited has to see.
pub(crate) async fn enrolment(call: &mut Call, body: RequestBody) -> Result<Reply, Problem> {
    call.doing(Class::Authentication, "open-invitation", None);
    let asked = call.json(body).await?;
    let key = token::storage_key(field(&asked, "token")?).ok_or_else(Problem::not_found)?;
    let now = call.now;
    let (enrolment, user) = call
        .app
        .store
        .read(move |session| {
            let record = session.record(RecordKind::Enrolment, &key)?.ok_or_else(Problem::not_found)?;
            let enrolment: EnrolmentRecord = decode(&record)?;
            let user = user(session, &enrolment.user)?.filter(|_| enrolment.is_live(now));
            Ok::<_, Problem>((enrolment, user.ok_or_else(Problem::not_found)?))
        })
        .await?;
    call.entry.actor = Actor::User(user.id.clone());
    let uri = enrolment.totp_secret.otpauth_uri("Ward", user.username.as_str());
    Ok(Reply::json(
        StatusCode::OK,
        &json!({
            "username": user.username.as_str(), "totp_secret": enrolment.totp_secret.to_base32().as_str(),
            "otpauth_uri": uri.as_str(),
        }),
    ))
}

/// `POST /session/enrolment/complete`: `{"token", "password", "code"}`.
pub(crate) async fn complete_enrolment(call: &mut Call, body: RequestBody) -> Result<Reply, Problem> {
    call.doing(Class::Authentication, "enrol", None);
    let asked = call.json(body).await?;
    let key = token::storage_key(field(&asked, "token")?).ok_or_else(Problem::not_found)?;
    let chosen = secret(&asked, "password")?;
    let code = Zeroizing::new(field(&asked, "code")?.to_owned());
    call.refresh();
    let now = call.now;
    let turn = turn(call).await?;
    // Looked at before the costly part, and again when it is done.
    let (wanted, given) = (key.clone(), code.clone());
    let check = move |session: &mut dyn ward_store::Session| {
        let record = session.record(RecordKind::Enrolment, &wanted)?.ok_or_else(Problem::not_found)?;
        let enrolment: EnrolmentRecord = decode(&record)?;
        let user = user(session, &enrolment.user)?.filter(|_| enrolment.is_live(now));
        let user = user.ok_or_else(Problem::not_found)?;
        totp::verify(&enrolment.totp_secret, &given, now, None).ok_or_else(|| {
            Problem::malformed(IssueCode::Value, "the code does not fit; wait for the next one")
        })?;
        Ok::<_, Problem>(user.username)
    };
    let username = call.app.store.read(check).await?;
    password::check(&chosen, username.as_str())
        .map_err(|weakness| Problem::malformed(IssueCode::Value, weakness.to_string()))?;
    let random = std::sync::Arc::clone(&call.app.random);
    let password_phc = tokio::task::spawn_blocking(move || password::hash(&chosen, &*random))
        .await
        .map_err(|_| Problem::internal())?;
    drop(turn);
    call.intend().await?;
    let id = call
        .app
        .store
        .write(move |transaction| {
            let record = transaction.record(RecordKind::Enrolment, &key)?.ok_or_else(Problem::not_found)?;
            let enrolment: EnrolmentRecord = decode(&record)?;
            let known = user(transaction, &enrolment.user)?.filter(|_| enrolment.is_live(now));
            let mut user = known.ok_or_else(Problem::not_found)?;
            let step = totp::verify(&enrolment.totp_secret, &code, now, None).ok_or_else(|| {
                Problem::malformed(IssueCode::Value, "the code does not fit; wait for the next one")
            })?;
            user.credentials = Some(Credentials {
                password_phc: password_phc.clone(),
                totp_secret: enrolment.totp_secret,
                totp_last_step: Some(step),
            });
            put_user(transaction, &user)?;
            withdraw_invitations(transaction, &user.id)?;
            Ok::<_, Problem>(user.id)
        })
        .await?;
    call.entry.actor = Actor::User(id);
    Ok(Reply::json(StatusCode::OK, &json!({})))
}

/// The failures counted under a name, and whether they lock it.
fn failures(
    session: &mut (impl ward_store::Session + ?Sized),
    username: &str,
    now: Timestamp,
) -> Result<(Failures, Lock), Problem> {
    let record = session.record(RecordKind::SignInFailures, username)?;
    let failures: Failures = record.map(|record| decode(&record)).transpose()?.unwrap_or_default();
    let lock = lockout::decide(&failures, now);
    Ok((failures, lock))
}

/// Counts one more failure under a name, whether somebody has it or not.
fn count_failure(transaction: &mut dyn Transaction, username: &str, now: Timestamp) -> Result<(), Problem> {
    let failures = failures(transaction, username, now)?.0.after_failure(now);
    let expires = now.plus_seconds(lockout::WINDOW_SECONDS);
    Ok(transaction.put_record(RecordKind::SignInFailures, username, &encode(&failures)?, Some(expires))?)
}

fn field<'a>(asked: &'a Value, name: &'static str) -> Result<&'a str, Problem> {
    asked
        .get(name)
        .and_then(Value::as_str)
        .ok_or_else(|| Problem::malformed(IssueCode::Required, format!("`{name}` is missing")))
}

fn secret(asked: &Value, name: &'static str) -> Result<Secret, Problem> {
    Ok(Secret::new(field(asked, name)?.as_bytes().to_vec()))
}

fn words(token: &Secret) -> Result<&str, Problem> {
    std::str::from_utf8(token.expose()).map_err(|_| Problem::internal())
}
