//! The table of settings: from it come parsing, defaults, bounds and `ward.example.toml`.

/// One setting.
pub(super) struct Key {
    /// `section.name`.
    pub(super) path: &'static str,
    pub(super) kind: Kind,
    /// What it does, for the example file.
    pub(super) about: &'static str,
}

/// What a setting's value looks like, with its default and its bounds.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Text {
        default: &'static str,
    },
    /// The name of a log, as C2SP signed-note has it.
    Name {
        default: &'static str,
    },
    Address {
        default: &'static str,
    },
    Number {
        default: u64,
        minimum: u64,
        maximum: u64,
    },
    Flag {
        default: bool,
    },
    Hosts {
        default: &'static [&'static str],
    },
    /// `https://host[:port]`, any number of them; none unless the operator names some.
    Origins,
}

const fn number(default: u64, minimum: u64, maximum: u64) -> Kind {
    Kind::Number { default, minimum, maximum }
}

pub(super) const KEYS: &[Key] = &[
    Key {
        path: "listener.address",
        kind: Kind::Address { default: "127.0.0.1:8443" },
        about: "Where the public HTTPS listener waits. There is no plaintext port.",
    },
    Key {
        path: "listener.hosts",
        kind: Kind::Hosts { default: &["localhost", "127.0.0.1"] },
        about: "Host names under which the stack is reached; requests for any other are refused.\nThe first one stands in links. Host names must not carry PHI.",
    },
    Key {
        path: "listener.certificate",
        kind: Kind::Text { default: "" },
        about: "PEM file with the public certificate chain. Empty: one is issued by a private authority,\nwhose root certificate is `listener-authority.pem` in the data directory.",
    },
    Key {
        path: "listener.private_key",
        kind: Kind::Text { default: "" },
        about: "PEM file (PKCS#8) with the private key of that certificate, readable by its owner only.",
    },
    Key {
        path: "data.directory",
        kind: Kind::Text { default: "ward-data" },
        about: "Where everything is kept: the keystore, the encrypted database, the audit log, the logs.",
    },
    Key {
        path: "data.tenant",
        kind: Kind::Text { default: "main" },
        about: "The name of the organisation's key space. Bound into every ciphertext: it cannot be changed later.",
    },
    Key {
        path: "database.hosts",
        kind: Kind::Text { default: "" },
        about: "A PostgreSQL server (15 or newer) to hold the database: its host name, or those of a primary and its standbys\nwith commas, tried in this order until one accepts writes. Empty: an encrypted file in the data directory.\nThe connection is TLS 1.3, and a server whose certificate is for another name is refused.",
    },
    Key { path: "database.port", kind: number(5432, 1, 65_535), about: "The port of the PostgreSQL server." },
    Key { path: "database.name", kind: Kind::Text { default: "ward" }, about: "The name of the database." },
    Key {
        path: "database.user",
        kind: Kind::Text { default: "ward" },
        about: "The user to connect as. It makes the tables, so the database should be its own.",
    },
    Key {
        path: "database.password_file",
        kind: Kind::Text { default: "" },
        about: "File with that user's password, readable by its owner only. Empty: the certificate below is enough.\nThe password is shown to nobody: only SCRAM with channel binding is accepted.",
    },
    Key {
        path: "database.authority",
        kind: Kind::Text { default: "" },
        about: "PEM file with the certificates of the authorities that issue the server's. No others are trusted.",
    },
    Key {
        path: "database.certificate",
        kind: Kind::Text { default: "" },
        about: "PEM file with a certificate to show to the server, if it asks for one.",
    },
    Key {
        path: "database.private_key",
        kind: Kind::Text { default: "" },
        about: "PEM file (PKCS#8) with the private key of that certificate, readable by its owner only.",
    },
    Key {
        path: "database.connections",
        kind: number(8, 1, 200),
        about: "Connections for reading, and as many for writing, of each app instance.",
    },
    Key { path: "web.instances", kind: number(2, 1, 16), about: "Processes of the web tier." },
    Key {
        path: "app.accept_client_ids",
        kind: Kind::Flag { default: false },
        about: "Accept ids made by API clients (update-as-create). `ward import` keeps ids in any case.",
    },
    Key {
        path: "app.allow_phi_in_urls",
        kind: Kind::Flag { default: false },
        about: "Compatibility: accept searches by GET whose parameters identify people or tell of their health.\nSuch URLs end up in histories and logs of browsers, proxies and clients. Leave it off unless a client cannot POST.",
    },
    Key {
        path: "app.cached_data_keys",
        kind: number(10_000, 10, 1_000_000),
        about: "How many patients' unwrapped data keys are held in memory at most.",
    },
    Key {
        path: "session.idle_minutes",
        kind: number(15, 1, 60),
        about: "Minutes without a request after which a person is signed out (45 CFR 164.312(a)(2)(iii)).",
    },
    Key {
        path: "session.absolute_hours",
        kind: number(12, 1, 24),
        about: "Hours after which a person must sign in again in any case.",
    },
    Key {
        path: "limits.body_megabytes",
        kind: number(64, 1, 1024),
        about: "The largest request body that is accepted.",
    },
    Key {
        path: "limits.header_kilobytes",
        kind: number(32, 4, 256),
        about: "The largest request head that is accepted.",
    },
    Key {
        path: "limits.body_seconds",
        kind: number(30, 1, 600),
        about: "Seconds a client may pause while it sends a body before the request is ended.",
    },
    Key {
        path: "limits.header_seconds",
        kind: number(10, 1, 120),
        about: "Seconds a client has to send a whole request head.",
    },
    Key {
        path: "limits.connections",
        kind: number(4096, 16, 65_536),
        about: "Open connections at most, a listener.",
    },
    Key { path: "limits.json_depth", kind: number(64, 16, 120), about: "How deep JSON may be nested." },
    Key {
        path: "limits.bundle_entries",
        kind: number(5_000, 1, 100_000),
        about: "Entries of one transaction or batch at most.",
    },
    Key {
        path: "limits.page_size",
        kind: number(1_000, 1, 10_000),
        about: "Entries of one page of search results at most.",
    },
    Key {
        path: "health.interval_milliseconds",
        kind: number(1_000, 100, 60_000),
        about: "Pause between two health checks of a target.",
    },
    Key {
        path: "health.timeout_milliseconds",
        kind: number(2_000, 100, 60_000),
        about: "How long a target may take to answer a health check.",
    },
    Key {
        path: "import.sources",
        kind: Kind::Origins,
        about: "Where `$import` may fetch files from: origins such as [\"https://files.example.org\"], with the port if it is not 443.\nWhat they hold is stored with the ids that it has, so list only hosts that you trust that far. No other is ever\ncalled; empty, every import by reference is refused.",
    },
    Key {
        path: "import.authorities",
        kind: Kind::Text { default: "" },
        about: "PEM file with the certificates of the authorities that issue those hosts'. No others are trusted.",
    },
    Key {
        path: "subscriptions.endpoints",
        kind: Kind::Origins,
        about: "Where FHIR Subscriptions may send notifications: origins such as [\"https://hooks.example.org\"], with the port if\nit is not 443. PHI leaves for them, so list only hosts that an agreement covers. No other is ever called, whatever\na Subscription says; empty, every Subscription is refused. A listed host may be a private or loopback address.",
    },
    Key {
        path: "subscriptions.authorities",
        kind: Kind::Text { default: "" },
        about: "PEM file with the certificates of the authorities that issue those hosts'. No others are trusted.",
    },
    Key {
        path: "subscriptions.retry_milliseconds",
        kind: number(1_000, 10, 3_600_000),
        about: "The wait before a notification that failed is tried again. It doubles with each try, up to an hour.",
    },
    Key {
        path: "subscriptions.tries",
        kind: number(36, 1, 1_000),
        about: "How often a notification is tried, within 24 hours, before its Subscription ends with `error`.",
    },
    Key {
        path: "certificates.lifetime_minutes",
        kind: number(1_440, 2, 43_200),
        about: "How long an instance's certificate is valid. A new key and certificate come at half of that, while running.",
    },
    Key {
        path: "audit.origin",
        kind: Kind::Name { default: "ward.local/audit/app-1" },
        about: "The name of the audit log in its signed checkpoints (C2SP tlog-checkpoint). It cannot be changed later.",
    },
];
