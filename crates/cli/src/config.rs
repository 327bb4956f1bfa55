//! `ward.toml`: one file, every key documented in one table, every problem reported at once with its line.

mod keys;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use keys::{KEYS, Key, Kind};

/// All settings of one host, checked.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    values: BTreeMap<&'static str, Value>,
}

#[derive(Clone, Debug, PartialEq)]
enum Value {
    Text(String),
    Number(u64),
    Flag(bool),
    List(Vec<String>),
}

/// One thing wrong with a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Problem {
    /// Counted from 1.
    pub(crate) line: usize,
    /// What is wrong and what to do.
    pub(crate) message: String,
}

impl Config {
    /// Reads `path`, or gives the defaults if `path` is `None`.
    ///
    /// Fails with every problem of the file, each on a line of its own.
    pub(crate) fn load(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(Self::defaults()) };
        let text = std::fs::read_to_string(path)
            .map_err(|error| anyhow::anyhow!("cannot read `{}`: {error}", path.display()))?;
        Self::parse(&text).map_err(|problems| {
            let lines: Vec<String> = problems
                .iter()
                .map(|problem| format!("  {}:{}: {}", path.display(), problem.line, problem.message))
                .collect();
            anyhow::anyhow!(
                "{} problem{} in the configuration; nothing was started:\n{}",
                lines.len(),
                if lines.len() == 1 { "" } else { "s" },
                lines.join("\n")
            )
        })
    }

    /// What holds when no file says otherwise.
    pub(crate) fn defaults() -> Self {
        Self { values: KEYS.iter().map(|key| (key.path, key.kind.default())).collect() }
    }

    /// Checks a whole file.
    pub(crate) fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        let line_at =
            |offset: usize| text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1;
        let (table, errors) = DeTable::parse_recoverable(text);
        let mut problems: Vec<Problem> = errors
            .iter()
            .map(|error| Problem {
                line: error.span().map_or(1, |span| line_at(span.start)),
                message: error.message().to_owned(),
            })
            .collect();
        let mut config = Self::defaults();
        for (section, body) in table.get_ref() {
            let name = section.get_ref();
            let DeValue::Table(entries) = body.get_ref() else {
                problems.push(Problem {
                    line: line_at(section.span().start),
                    message: format!(
                        "`{name}` stands outside any section; settings belong under a [section]"
                    ),
                });
                continue;
            };
            for (key, value) in entries {
                let line = line_at(key.span().start);
                let path = format!("{name}.{}", key.get_ref());
                match KEYS.iter().find(|known| known.path == path) {
                    None => problems.push(Problem { line, message: unknown(&path) }),
                    Some(known) => match known.kind.read(value) {
                        Ok(value) => {
                            config.values.insert(known.path, value);
                        }
                        Err(message) => {
                            problems.push(Problem { line, message: format!("`{path}` {message}") });
                        }
                    },
                }
            }
        }
        if config.certificate().is_some() != config.private_key().is_some() {
            problems.push(Problem {
                line: 1,
                message: "`listener.certificate` and `listener.private_key` must be set together".to_owned(),
            });
        }
        problems.extend(
            config.database_problems().map(|message| Problem { line: 1, message: message.to_owned() }),
        );
        for (hosts, authorities) in [
            ("subscriptions.endpoints", "subscriptions.authorities"),
            ("import.sources", "import.authorities"),
        ] {
            if !config.list(hosts).is_empty() && config.path(authorities).is_none() {
                let message = format!("`{hosts}` needs `{authorities}`, to know the hosts by");
                problems.push(Problem { line: 1, message });
            }
        }
        problems.sort();
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.text("listener.address").parse().unwrap_or_else(|_| SocketAddr::from(([127, 0, 0, 1], 8443)))
    }

    pub(crate) fn hosts(&self) -> &[String] {
        self.list("listener.hosts")
    }

    pub(crate) fn certificate(&self) -> Option<PathBuf> {
        self.path("listener.certificate")
    }

    pub(crate) fn private_key(&self) -> Option<PathBuf> {
        self.path("listener.private_key")
    }

    pub(crate) fn data_directory(&self) -> PathBuf {
        PathBuf::from(self.text("data.directory"))
    }

    /// The names of the PostgreSQL server, in the order in which they are tried; none if there is a file instead.
    pub(crate) fn database_hosts(&self) -> Vec<&str> {
        self.text("database.hosts").split(',').map(str::trim).filter(|host| !host.is_empty()).collect()
    }

    pub(crate) fn database_name(&self) -> &str {
        self.text("database.name")
    }

    pub(crate) fn database_user(&self) -> &str {
        self.text("database.user")
    }

    pub(crate) fn database_password_file(&self) -> Option<PathBuf> {
        self.path("database.password_file")
    }

    pub(crate) fn database_authority(&self) -> Option<PathBuf> {
        self.path("database.authority")
    }

    /// Certificate and private key to show to the server.
    pub(crate) fn database_identity(&self) -> Option<(PathBuf, PathBuf)> {
        self.path("database.certificate").zip(self.path("database.private_key"))
    }

    fn database_problems(&self) -> impl Iterator<Item = &'static str> {
        let is_set = |name| self.path(name).is_some();
        let server = !self.database_hosts().is_empty();
        let (certificate, key) = (is_set("database.certificate"), is_set("database.private_key"));
        [
            (certificate != key, "`database.certificate` and `database.private_key` must be set together"),
            (
                server && !is_set("database.authority"),
                "`database.hosts` needs `database.authority`, to know the server by",
            ),
            (
                server && !is_set("database.password_file") && !certificate,
                "`database.hosts` needs `database.password_file` or `database.certificate`",
            ),
        ]
        .into_iter()
        .filter_map(|(wrong, message)| wrong.then_some(message))
    }

    /// The origins that files are imported from.
    pub(crate) fn import_sources(&self) -> &[String] {
        self.list("import.sources")
    }

    pub(crate) fn import_authorities(&self) -> Option<PathBuf> {
        self.path("import.authorities")
    }

    /// The origins that Subscriptions may send to.
    pub(crate) fn subscription_endpoints(&self) -> &[String] {
        self.list("subscriptions.endpoints")
    }

    pub(crate) fn subscription_authorities(&self) -> Option<PathBuf> {
        self.path("subscriptions.authorities")
    }

    pub(crate) fn tenant(&self) -> &str {
        self.text("data.tenant")
    }

    pub(crate) fn audit_origin(&self) -> &str {
        self.text("audit.origin")
    }

    /// `name` is one of the numeric keys of the table.
    pub(crate) fn number(&self, name: &str) -> u64 {
        match self.values.get(name) {
            Some(Value::Number(number)) => *number,
            _ => 0,
        }
    }

    /// `name` is one of the yes-or-no keys of the table.
    pub(crate) fn flag(&self, name: &str) -> bool {
        matches!(self.values.get(name), Some(Value::Flag(true)))
    }

    fn text(&self, name: &str) -> &str {
        match self.values.get(name) {
            Some(Value::Text(text)) => text,
            _ => "",
        }
    }

    fn list(&self, name: &str) -> &[String] {
        match self.values.get(name) {
            Some(Value::List(list)) => list,
            _ => &[],
        }
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        Some(self.text(name)).filter(|text| !text.is_empty()).map(PathBuf::from)
    }

    /// Replaces what the command line may say in place of the file.
    pub(crate) fn with_command_line(mut self, data: Option<&Path>, listen: Option<SocketAddr>) -> Self {
        if let Some(data) = data {
            self.values.insert("data.directory", Value::Text(data.display().to_string()));
        }
        if let Some(listen) = listen {
            self.values.insert("listener.address", Value::Text(listen.to_string()));
        }
        self
    }
}

fn unknown(path: &str) -> String {
    let nearest = KEYS.iter().min_by_key(|key| distance(key.path, path));
    match nearest {
        Some(key) if distance(key.path, path) <= 4 => {
            format!("`{path}` is not a setting; did you mean `{}`?", key.path)
        }
        _ => format!("`{path}` is not a setting; `ward config` lists them all"),
    }
}

/// Levenshtein distance, for suggestions.
fn distance(left: &str, right: &str) -> usize {
    let mut previous: Vec<usize> = (0..=right.len()).collect();
    for (row, from) in left.bytes().enumerate() {
        let mut current = vec![row + 1];
        for (column, to) in right.bytes().enumerate() {
            let change = previous.get(column).map_or(0, |cost| cost + usize::from(from != to));
            let delete = previous.get(column + 1).map_or(0, |cost| cost + 1);
            let insert = current.last().map_or(0, |cost| cost + 1);
            current.push(change.min(delete).min(insert));
        }
        previous = current;
    }
    previous.last().copied().unwrap_or(0)
}

impl Kind {
    fn default(self) -> Value {
        match self {
            Self::Text { default } | Self::Name { default } | Self::Address { default } => {
                Value::Text(default.to_owned())
            }
            Self::Number { default, .. } => Value::Number(default),
            Self::Flag { default } => Value::Flag(default),
            Self::Hosts { default } => Value::List(default.iter().map(|item| (*item).to_owned()).collect()),
            Self::Origins => Value::List(Vec::new()),
        }
    }

    fn read(self, value: &Spanned<DeValue<'_>>) -> Result<Value, String> {
        match (self, value.get_ref()) {
            (Self::Text { .. }, DeValue::String(text)) => Ok(Value::Text(text.to_string())),
            (Self::Name { .. }, DeValue::String(text)) => {
                let forbidden = |letter: char| letter.is_whitespace() || letter.is_control() || letter == '+';
                if text.is_empty() || text.contains(forbidden) {
                    Err("must be a name without spaces and `+`, such as \"clinic.example/audit\"".to_owned())
                } else {
                    Ok(Value::Text(text.to_string()))
                }
            }
            (Self::Text { .. } | Self::Name { .. }, _) => Err("must be text in quotes".to_owned()),
            (Self::Address { default }, DeValue::String(text)) => text
                .parse::<SocketAddr>()
                .map(|address| Value::Text(address.to_string()))
                .map_err(|_| format!("must be an address and port such as \"{default}\"")),
            (Self::Address { default }, _) => {
                Err(format!("must be an address and port in quotes, such as \"{default}\""))
            }
            (Self::Flag { .. }, DeValue::Boolean(flag)) => Ok(Value::Flag(*flag)),
            (Self::Flag { .. }, _) => Err("must be true or false".to_owned()),
            (Self::Number { minimum, maximum, .. }, DeValue::Integer(number)) => {
                u64::from_str_radix(number.as_str(), number.radix())
                    .ok()
                    .filter(|number| (minimum..=maximum).contains(number))
                    .map(Value::Number)
                    .ok_or_else(|| format!("must be a whole number from {minimum} to {maximum}"))
            }
            (Self::Number { minimum, maximum, .. }, _) => {
                Err(format!("must be a whole number from {minimum} to {maximum}"))
            }
            (Self::Hosts { .. }, DeValue::Array(items)) if !items.is_empty() => items
                .iter()
                .map(|item| match item.get_ref() {
                    DeValue::String(text) => host(text),
                    _ => None,
                })
                .collect::<Option<Vec<_>>>()
                .map(Value::List)
                .ok_or_else(|| HOSTS_WANTED.to_owned()),
            (Self::Hosts { .. }, _) => Err(HOSTS_WANTED.to_owned()),
            (Self::Origins, DeValue::Array(items)) => items
                .iter()
                .map(|item| match item.get_ref() {
                    DeValue::String(text) => origin(text),
                    _ => None,
                })
                .collect::<Option<Vec<_>>>()
                .map(Value::List)
                .ok_or_else(|| ORIGINS_WANTED.to_owned()),
            (Self::Origins, _) => Err(ORIGINS_WANTED.to_owned()),
        }
    }
}

const HOSTS_WANTED: &str = "must be a list of host names without ports, such as [\"localhost\", \"::1\"]";

const ORIGINS_WANTED: &str = "must be a list of `https://host` or `https://host:port` without a path, such as \
     [\"https://hooks.example.org\"]";

/// An origin as the app tier compares it: in lower case and without the usual port.
fn origin(text: &str) -> Option<String> {
    let uri: http::Uri = text.parse().ok()?;
    let bare = uri.path_and_query().is_none_or(|path| path == "/") && !text.contains(['#', '?']);
    ward_transport::Origin::of(&uri).filter(|_| bare).map(|origin| origin.to_string())
}

/// A host name or address; an IPv6 address may come in brackets and goes without.
fn host(text: &str) -> Option<String> {
    let text = text.trim_matches(['[', ']']);
    let address = !text.contains(':') || text.parse::<std::net::Ipv6Addr>().is_ok();
    (address && !text.is_empty()).then(|| text.to_owned())
}

/// The text of `ward.example.toml`, made from the table of settings.
pub(crate) fn example() -> String {
    let mut text = String::from(
        "# Every setting of Ward with its default. Copy the lines you want to change into `ward.toml`.\n\
         # Secrets never stand here: the passphrase is asked for, or read from a file or file descriptor.\n",
    );
    let mut section = "";
    for Key { path, kind, about } in KEYS {
        let (group, name) = path.split_once('.').unwrap_or(("", path));
        if group != section {
            text.push_str(&format!("\n[{group}]\n"));
            section = group;
        }
        for line in about.lines() {
            text.push_str(&format!("# {line}\n"));
        }
        let value = match kind.default() {
            Value::Text(text) => format!("{text:?}"),
            Value::Number(number) => number.to_string(),
            Value::Flag(flag) => flag.to_string(),
            Value::List(list) => format!("{list:?}"),
        };
        text.push_str(&format!("{name} = {value}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_file_is_complete_and_equals_the_defaults() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../ward.example.toml");
        let kept = std::fs::read_to_string(path).unwrap();
        assert_eq!(kept, example(), "run `cargo run -- config > ward.example.toml`");
        assert_eq!(Config::parse(&kept).unwrap().values, Config::defaults().values);
    }

    #[test]
    fn every_problem_is_reported_with_its_line() {
        let problems = Config::parse(
            "[listener]\naddress = 5\nhots = [\"a\"]\n\n[web]\ninstances = 0\n[app]\naccept_client_ids = \"yes\"\n[audit]\norigin = \"a b\"\n",
        )
        .unwrap_err();
        let shown: Vec<String> =
            problems.iter().map(|problem| format!("{}: {}", problem.line, problem.message)).collect();
        expect_test::expect![[r#"
            [
                "2: `listener.address` must be an address and port in quotes, such as \"127.0.0.1:8443\"",
                "3: `listener.hots` is not a setting; did you mean `listener.hosts`?",
                "6: `web.instances` must be a whole number from 1 to 16",
                "8: `app.accept_client_ids` must be true or false",
                "10: `audit.origin` must be a name without spaces and `+`, such as \"clinic.example/audit\"",
            ]
        "#]]
        .assert_debug_eq(&shown);
    }
    #[test]
    fn a_server_must_be_known_and_must_know_the_user() {
        let wrong = Config::parse("[database]\nhosts = 'db'\nprivate_key = 'k'\n").unwrap_err();
        let shown: Vec<String> = wrong.into_iter().map(|problem| problem.message).collect();
        expect_test::expect![[r#"
            [
                "`database.certificate` and `database.private_key` must be set together",
                "`database.hosts` needs `database.authority`, to know the server by",
                "`database.hosts` needs `database.password_file` or `database.certificate`",
            ]
        "#]]
        .assert_debug_eq(&shown);
        let text = "[database]\nhosts = 'db-1, db-2'\nauthority = 'a'\npassword_file = 'p'\n";
        assert_eq!(Config::parse(text).unwrap().database_hosts(), ["db-1", "db-2"]);
    }

    #[test]
    fn endpoints_of_subscriptions_are_origins() {
        let parse = |list: &str| {
            Config::parse(&format!("[subscriptions]\nendpoints = {list}\nauthorities = 'a.pem'\n"))
        };
        let list = "['https://Hooks.example:443/', 'https://[::1]:8443', 'https://a.example']";
        assert_eq!(
            parse(list).unwrap().subscription_endpoints(),
            ["https://hooks.example", "https://[::1]:8443", "https://a.example"]
        );
        assert_eq!(parse("[]").unwrap().subscription_endpoints(), [""; 0]);
        for wrong in [
            "['http://a.example']",
            "['a.example']",
            "['https://a.example/path']",
            "['https://me@a.example']",
            "['https://a.example?x']",
            "['https://a.example#x']",
            "['https://a.example:99999']",
            "'https://a.example'",
            "[5]",
        ] {
            assert!(parse(wrong).unwrap_err()[0].message.contains("without a path"), "{wrong}");
        }
        let alone = Config::parse("[subscriptions]\nendpoints = ['https://a.example']\n").unwrap_err();
        assert!(alone[0].message.contains("`subscriptions.authorities`"), "{alone:?}");
    }

    #[test]
    fn hosts_are_names_or_addresses_without_ports() {
        let hosts = |list: &str| Config::parse(&format!("[listener]\nhosts = {list}\n"));
        assert_eq!(
            hosts("['[::1]', '::2', 'clinic.example']").unwrap().hosts(),
            ["::1", "::2", "clinic.example"]
        );
        for wrong in ["[]", "['']", "['localhost:8443']", "[5]", "'localhost'"] {
            assert!(hosts(wrong).unwrap_err()[0].message.contains("host names without ports"), "{wrong}");
        }
    }
}
