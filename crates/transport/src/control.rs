//! How the supervisor speaks to a tier's process: one JSON object a line.
//!
//! Standard input carries a [`Bootstrap`] and then [`Update`]s; its end means the same as [`Update::Drain`], so that a
//! tier never outlives its supervisor for long. Standard output carries [`Report`]s; standard error is the log. Secrets
//! pass here and nowhere else: not in arguments, not in the environment, not in files.

use std::io::{BufRead, Write as _};
use std::net::SocketAddr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use ward_base::InstanceId;
use ward_monitor::event;
use zeroize::Zeroizing;

use crate::{IdentityMaterial, SpkiPin};

/// The longest line that is read, so that a broken writer cannot fill the memory.
const LINE_BYTES_MAX: u64 = 4 << 20;

/// The first line: all a process of a tier knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bootstrap<C> {
    /// Which instance it is.
    pub instance: InstanceId,
    /// What it proves to other tiers.
    pub identity: IdentityMaterial,
    /// The private authority's certificate.
    pub authority_pem: String,
    /// Where it listens.
    pub listen: SocketAddr,
    /// The keys of those who may call it; not used by the public listener.
    pub clients: Vec<SpkiPin>,
    /// The tier's own settings.
    pub config: C,
}

/// Every further line: what changes while the process runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Update {
    /// A new identity towards other tiers.
    Identity(IdentityMaterial),
    /// A new certificate of the public listener.
    ListenerCertificate(IdentityMaterial),
    /// The keys of those who may call it from now on.
    Clients(Vec<SpkiPin>),
    /// The members of a target group from now on.
    Targets {
        /// The group's name.
        group: String,
        /// Its members.
        targets: Vec<Target>,
    },
    /// Finish what is being answered, take nothing new, and exit.
    Drain,
}

/// A back end that may be called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Which instance it must prove to be.
    pub instance: InstanceId,
    /// Where it listens.
    pub address: SocketAddr,
    /// The keys it may have: one, or two while it changes from one to the next.
    pub pins: Vec<SpkiPin>,
}

/// What a process says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Report {
    /// It listens.
    Ready {
        /// Where.
        address: SocketAddr,
    },
    /// A balancer saw a target's health change.
    Health {
        /// The target group.
        group: String,
        /// The target.
        instance: InstanceId,
        /// Whether requests go to it.
        healthy: bool,
    },
    /// It takes nothing new and will exit.
    Draining,
}

/// The supervisor's first line did not come or was not understood.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Standard input ended or broke before the first line.
    #[error("no first line on standard input; a tier is started by `ward up`")]
    Missing,
    /// It is not the bootstrap of this tier. Says where, never what: the line holds secrets.
    #[error("the first line on standard input is not a bootstrap of this tier (column {column})")]
    Malformed {
        /// Counted from 1.
        column: usize,
    },
}

/// Reads the bootstrap from standard input and goes on reading updates in the background. The channel closes when
/// standard input ends.
pub async fn receive<C>() -> Result<(Bootstrap<C>, mpsc::Receiver<Update>), ControlError>
where
    C: DeserializeOwned + Send + 'static,
{
    let (first, bootstrap) = oneshot::channel();
    let (sender, updates) = mpsc::channel(64);
    // A thread of its own rather than the runtime's standard input: a read that waits there would keep the process
    // from ending after `Drain`.
    std::thread::Builder::new()
        .name("control".to_owned())
        .spawn(move || listen(std::io::stdin().lock(), first, &sender))
        .map_err(|_| ControlError::Missing)?;
    let bootstrap = bootstrap.await.map_err(|_| ControlError::Missing)??;
    Ok((bootstrap, updates))
}

/// Writes a report to standard output. A supervisor that no longer listens is noticed by the end of standard input, so
/// a failed write is not an error here.
pub fn report(report: &Report) {
    if let Ok(mut line) = serde_json::to_vec(report) {
        line.push(b'\n');
        let mut output = std::io::stdout().lock();
        let _ = output.write_all(&line).and_then(|()| output.flush());
    }
}

fn listen<C: DeserializeOwned>(
    mut input: impl BufRead,
    first: oneshot::Sender<Result<Bootstrap<C>, ControlError>>,
    updates: &mpsc::Sender<Update>,
) {
    let mut line = Zeroizing::new(Vec::new());
    if !next_line(&mut input, &mut line) {
        return;
    }
    let bootstrap =
        serde_json::from_slice(&line).map_err(|error| ControlError::Malformed { column: error.column() });
    let understood = bootstrap.is_ok();
    if first.send(bootstrap).is_err() || !understood {
        return;
    }
    while next_line(&mut input, &mut line) {
        match serde_json::from_slice(&line) {
            Ok(update) => {
                if updates.blocking_send(update).is_err() {
                    return;
                }
            }
            Err(error) => event!(Error, "control.update_not_understood", column = error.column()),
        }
    }
}

/// Whether there was a whole line.
fn next_line(input: &mut impl BufRead, line: &mut Zeroizing<Vec<u8>>) -> bool {
    zeroize::Zeroize::zeroize(&mut **line);
    let mut limited = std::io::Read::take(input, LINE_BYTES_MAX);
    limited.read_until(b'\n', line).is_ok() && line.ends_with(b"\n")
}

#[cfg(test)]
mod tests {
    use ward_base::{SystemClock, Tier};

    use super::*;
    use crate::CertificateAuthority;

    const WEB: InstanceId = InstanceId { tier: Tier::Web, number: 1 };

    fn bootstrap() -> Bootstrap<u32> {
        let authority = CertificateAuthority::create("test", ward_base::Clock::now(&SystemClock)).unwrap();
        Bootstrap {
            instance: WEB,
            identity: authority.issue(WEB, 60).unwrap(),
            authority_pem: authority.certificate_pem().to_owned(),
            listen: "127.0.0.1:0".parse().unwrap(),
            clients: vec![],
            config: 7,
        }
    }

    fn heard(input: &str) -> (Option<Result<Bootstrap<u32>, ControlError>>, Vec<Update>) {
        let (first, mut bootstrap) = oneshot::channel();
        let (sender, mut updates) = mpsc::channel(8);
        listen(input.as_bytes(), first, &sender);
        drop(sender);
        (bootstrap.try_recv().ok(), std::iter::from_fn(|| updates.try_recv().ok()).collect())
    }

    #[test]
    fn bootstrap_then_updates() {
        let targets = Update::Targets {
            group: "app".to_owned(),
            targets: vec![Target { instance: WEB, address: "127.0.0.1:1".parse().unwrap(), pins: vec![] }],
        };
        let lines = format!(
            "{}\n{}\nnonsense\n{}\n",
            serde_json::to_string(&bootstrap()).unwrap(),
            serde_json::to_string(&targets).unwrap(),
            serde_json::to_string(&Update::Drain).unwrap(),
        );
        let (first, updates) = heard(&lines);
        assert_eq!(first.unwrap().unwrap().config, 7);
        assert!(
            matches!(updates.as_slice(), [Update::Targets { targets, .. }, Update::Drain] if targets.len() == 1)
        );
    }

    #[test]
    fn a_first_line_that_is_not_whole_is_refused_without_quoting_it() {
        assert!(heard("").0.is_none());
        assert!(heard("{\"cut\":\"secr").0.is_none());
        let error = heard("{\"root_key\":\"secret\"}\n").0.unwrap().unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
