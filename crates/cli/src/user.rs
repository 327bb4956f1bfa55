//! `ward user`: people and service accounts.

use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::operator::Operator;
use crate::output::{self, Format};

/// People and service accounts of the running stack.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum User {
    /// Add a person; prints the one-time link with which they choose a password and a second factor.
    Add {
        /// The name to sign in with. Opaque names are best: it is stored sealed and never logged.
        username: String,
        /// The name shown to colleagues.
        #[arg(long, default_value = "")]
        display_name: String,
        /// What they may do.
        #[arg(long = "role", required = true, value_parser = ["administrator", "clinician", "auditor"])]
        roles: Vec<String>,
    },
    /// Add a service account that signs in with an asymmetric key (OAuth 2.0 client credentials, private_key_jwt).
    AddClient {
        /// What it is called in lists and in the audit log's sealed part.
        name: String,
        /// Its public key or keys as a JWK set (RS384 or ES384).
        #[arg(long, value_name = "FILE")]
        jwks: PathBuf,
        /// SMART scopes, separated by spaces.
        #[arg(long, default_value = "system/*.rs")]
        scopes: String,
    },
    /// End somebody's access at once: sessions and tokens are gone, and signing in is refused.
    Disable {
        /// A user name, or the id of a service account.
        account: String,
    },
    /// Give back the access that `disable` took.
    Enable {
        /// A user name, or the id of a service account.
        account: String,
    },
    /// List people and service accounts.
    List,
}

impl User {
    pub(crate) async fn run(self, operator: &mut Operator, format: Format) -> anyhow::Result<()> {
        match self {
            Self::Add { username, display_name, roles } => {
                let shown = if display_name.is_empty() { username.clone() } else { display_name };
                let request = json!({"username": username, "display_name": shown, "roles": roles});
                let answer = operator.call("POST", "/ward/users", &request).await?;
                let token =
                    answer.get("enrolment_token").and_then(Value::as_str).context("no token given")?;
                let link = format!("{}/enrol/{token}", operator.origin());
                match format {
                    Format::Json => output::json(&json!({"enrolment_link": link})),
                    Format::Text => output::line(format!("Enrol here once, within 24 hours:\n  {link}")),
                }
            }
            Self::AddClient { name, jwks, scopes } => {
                let text = std::fs::read_to_string(&jwks)
                    .with_context(|| format!("cannot read `{}`", jwks.display()))?;
                let jwks: Value = serde_json::from_str(&text).context("the key file is not JSON")?;
                let request = json!({"name": name, "scopes": scopes, "jwks": jwks});
                let answer = operator.call("POST", "/ward/clients", &request).await?;
                let id = answer.get("client_id").and_then(Value::as_str).context("no client id given")?;
                match format {
                    Format::Json => output::json(&json!({
                        "client_id": id, "token_endpoint": format!("{}/oauth/token", operator.origin()),
                    })),
                    Format::Text => output::line(format!(
                        "client_id       {id}\ntoken endpoint  {}/oauth/token",
                        operator.origin()
                    )),
                }
            }
            Self::Disable { account } => set_disabled(operator, &account, true, format).await?,
            Self::Enable { account } => set_disabled(operator, &account, false, format).await?,
            Self::List => {
                let users = operator.call("GET", "/ward/users", &Value::Null).await?;
                if format == Format::Json {
                    output::json(&users);
                    return Ok(());
                }
                let empty = Vec::new();
                let text = |user: &Value, name: &str| {
                    user.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
                };
                let rows: Vec<Vec<String>> = users
                    .get("users")
                    .and_then(Value::as_array)
                    .unwrap_or(&empty)
                    .iter()
                    .map(|user| {
                        let roles = user.get("roles").and_then(Value::as_array).unwrap_or(&empty);
                        let roles: Vec<&str> = roles.iter().filter_map(Value::as_str).collect();
                        let enrolled = user.get("enrolled").and_then(Value::as_bool) == Some(true);
                        vec![
                            text(user, "username"),
                            text(user, "display_name"),
                            roles.join(", "),
                            state(user, if enrolled { "enrolled" } else { "invited" }).to_owned(),
                        ]
                    })
                    .collect();
                output::raw(&output::table(&["USERNAME", "NAME", "ROLES", "STATE"], &rows));
                let rows: Vec<Vec<String>> = users
                    .get("clients")
                    .and_then(Value::as_array)
                    .unwrap_or(&empty)
                    .iter()
                    .map(|client| {
                        let own = |name| text(client, name);
                        vec![own("id"), own("name"), own("scopes"), state(client, "good").to_owned()]
                    })
                    .collect();
                if !rows.is_empty() {
                    output::raw(&format!(
                        "\n{}",
                        output::table(&["CLIENT ID", "NAME", "SCOPES", "STATE"], &rows)
                    ));
                }
            }
        }
        Ok(())
    }
}

fn state<'a>(account: &Value, otherwise: &'a str) -> &'a str {
    if account.get("disabled").and_then(Value::as_bool) == Some(true) { "disabled" } else { otherwise }
}

async fn set_disabled(
    operator: &mut Operator,
    account: &str,
    disabled: bool,
    format: Format,
) -> anyhow::Result<()> {
    let request = json!({"account": account, "disabled": disabled});
    let answer = operator.call("POST", "/ward/accounts", &request).await?;
    if format == Format::Json {
        output::json(&answer);
    } else if disabled {
        let ended = answer.get("sessions_ended").and_then(Value::as_u64).unwrap_or(0);
        output::line(format!("disabled; {ended} sessions and tokens ended"));
    } else {
        output::line("enabled");
    }
    Ok(())
}
