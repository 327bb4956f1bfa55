//! Which instances there are, who may call whom, and the identity of each. Pure but for reading and sealing the
//! authorities' keys: the supervisor carries out what stands here.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::Value;
use ward_base::{Clock as _, InstanceId, Secret, SystemClock, SystemRandom, Tier};
use ward_transport::control::{Bootstrap, Target, Update};
use ward_transport::{CertificateAuthority, IdentityMaterial, SpkiPin};

use zeroize::Zeroizing;

use crate::config::Config;
use crate::custody::{self, Custody};

/// The name of the public certificate's key pair in reports.
const EDGE: InstanceId = InstanceId { tier: Tier::PublicEdge, number: 1 };
const INTERNAL: InstanceId = InstanceId { tier: Tier::InternalEdge, number: 1 };
const APP: InstanceId = InstanceId { tier: Tier::App, number: 1 };

/// The whole stack on paper.
pub(super) struct Plan {
    config: Config,
    data: PathBuf,
    authority: CertificateAuthority,
    listener_authority: Option<CertificateAuthority>,
    listener: IdentityMaterial,
    trust: PathBuf,
    members: BTreeMap<InstanceId, Member>,
    root: Secret,
    database: Option<ward_app::DatabaseConfig>,
    subscriptions: ward_app::SubscriptionsConfig,
    imports: ward_app::SourcesConfig,
    sticky_key: Secret,
    handle_key: Secret,
    operator_jwks: Value,
    /// A caller that the app tier accepts besides its balancer; for `ward bench` alone.
    bench: Option<IdentityMaterial>,
    started: std::time::Instant,
}

struct Member {
    address: SocketAddr,
    identity: IdentityMaterial,
    /// The key it had before, still accepted until the new one is in use everywhere.
    retiring: Option<SpkiPin>,
}

impl Plan {
    /// Lays out the stack of `config`: opens or makes the authorities, chooses free loopback ports, issues the
    /// first certificates.
    pub(super) fn new(
        config: &Config,
        data: &Path,
        custody: &Custody,
        operator_jwks: Value,
    ) -> anyhow::Result<Self> {
        let authority = open_authority(custody, "authority.json", "Ward internal authority")?;
        let lifetime = lifetime_seconds(config);
        let (listener_authority, listener, trust) = listener(config, data, custody)?;
        let instances = std::iter::once(EDGE)
            .chain(
                (1..=config.number("web.instances"))
                    .map(|number| InstanceId { tier: Tier::Web, number: u16::try_from(number).unwrap_or(1) }),
            )
            .chain([INTERNAL, APP]);
        let mut members = BTreeMap::new();
        let mut held = Vec::new();
        for instance in instances {
            // Held until all are chosen, so that no port is given twice.
            let socket = if instance == EDGE {
                listen(config.address())?
            } else {
                TcpListener::bind(("127.0.0.1", 0)).context("no free port on loopback")?
            };
            let address = socket.local_addr()?;
            held.push(socket);
            let identity = issue(&authority, instance, lifetime)?;
            members.insert(instance, Member { address, identity, retiring: None });
        }
        Ok(Self {
            config: config.clone(),
            data: data.to_owned(),
            authority,
            listener_authority,
            listener,
            trust,
            members,
            root: custody.root(),
            database: database(config)?,
            subscriptions: subscriptions(config)?,
            imports: imports(config)?,
            sticky_key: Secret::new(SystemRandom::bytes::<32>().to_vec()),
            handle_key: Secret::new(SystemRandom::bytes::<32>().to_vec()),
            operator_jwks,
            bench: None,
            started: std::time::Instant::now(),
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.config.address()
    }

    pub(super) fn host(&self) -> &str {
        self.config.hosts().first().map_or("localhost", String::as_str)
    }

    /// PEM file with the certificates that the public listener's chain leads to.
    pub(super) fn trust(&self) -> &Path {
        &self.trust
    }

    pub(super) fn data(&self) -> &Path {
        &self.data
    }

    /// Everyone with their address, back ends first: the order to start in.
    pub(super) fn members(&self) -> Vec<(InstanceId, SocketAddr)> {
        let mut members: Vec<_> =
            self.members.iter().map(|(instance, member)| (*instance, member.address)).collect();
        members.sort_by_key(|(instance, _)| std::cmp::Reverse(*instance));
        members
    }

    /// The tier whose instances alone may call `tier`.
    const fn caller(tier: Tier) -> Option<Tier> {
        match tier {
            Tier::App => Some(Tier::InternalEdge),
            Tier::InternalEdge => Some(Tier::Web),
            Tier::Web => Some(Tier::PublicEdge),
            Tier::PublicEdge | Tier::Supervisor => None,
        }
    }

    /// The tier that `tier` alone may call, and the name of that target group.
    const fn callee(tier: Tier) -> Option<(Tier, &'static str)> {
        match tier {
            Tier::PublicEdge => Some((Tier::Web, "web")),
            Tier::Web => Some((Tier::InternalEdge, "internal-edge")),
            Tier::InternalEdge => Some((Tier::App, "app")),
            Tier::App | Tier::Supervisor => None,
        }
    }

    /// The keys of those who may call `tier`.
    fn callers(&self, tier: Tier) -> Vec<SpkiPin> {
        let Some(caller) = Self::caller(tier) else { return Vec::new() };
        let bench =
            self.bench.as_ref().filter(|_| tier == Tier::App).and_then(|identity| identity.pin().ok());
        self.of(caller).flat_map(|(_, member)| member.pins()).chain(bench).collect()
    }

    /// Lets `ward bench` call the app tier past its balancer, and leaves it the identity to do so.
    pub(super) fn open_for_bench(&mut self) -> anyhow::Result<()> {
        let instance = InstanceId { tier: Tier::InternalEdge, number: u16::MAX };
        let identity = issue(&self.authority, instance, lifetime_seconds(&self.config))?;
        let app = self.members.get(&APP).context("no app instance")?;
        let file = Bootstrap {
            instance,
            identity: identity.clone(),
            authority_pem: self.authority.certificate_pem().to_owned(),
            listen: app.address,
            clients: app.pins(),
            config: (),
        };
        let text = zeroize::Zeroizing::new(serde_json::to_vec(&file)?);
        custody::write_private(&self.data.join(crate::bench::IDENTITY_FILE), &text)?;
        self.bench = Some(identity);
        Ok(())
    }

    fn targets(&self, tier: Tier) -> Vec<Target> {
        self.of(tier)
            .map(|(instance, member)| Target { instance, address: member.address, pins: member.pins() })
            .collect()
    }

    fn of(&self, tier: Tier) -> impl Iterator<Item = (InstanceId, &Member)> {
        self.members
            .iter()
            .filter(move |(instance, _)| instance.tier == tier)
            .map(|(instance, member)| (*instance, member))
    }

    /// What `instance` must know of the others now: who may call it, and whom it calls.
    pub(super) fn policy(&self, instance: InstanceId) -> Vec<Update> {
        let mut updates = Vec::new();
        if Self::caller(instance.tier).is_some() {
            updates.push(Update::Clients(self.callers(instance.tier)));
        }
        if let Some((callee, group)) = Self::callee(instance.tier) {
            updates.push(Update::Targets { group: group.to_owned(), targets: self.targets(callee) });
        }
        updates
    }

    /// The first line for a new process of `instance`: its identity, its peers and no secret it does not need.
    pub(super) fn bootstrap(&self, instance: InstanceId) -> anyhow::Result<Zeroizing<String>> {
        let member = self.members.get(&instance).context("no such instance")?;
        let clients = self.callers(instance.tier);
        let line = match instance.tier {
            Tier::PublicEdge | Tier::InternalEdge => {
                serde_json::to_string(&self.fill(instance, member, clients, self.edge(instance.tier)))
            }
            Tier::Web => serde_json::to_string(&self.fill(instance, member, clients, self.web())),
            Tier::App => serde_json::to_string(&self.fill(instance, member, clients, self.app())),
            Tier::Supervisor => anyhow::bail!("the supervisor is not started by itself"),
        };
        Ok(Zeroizing::new(line?))
    }

    fn fill<C>(
        &self,
        instance: InstanceId,
        member: &Member,
        clients: Vec<SpkiPin>,
        config: C,
    ) -> Bootstrap<C> {
        Bootstrap {
            instance,
            identity: member.identity.clone(),
            authority_pem: self.authority.certificate_pem().to_owned(),
            listen: member.address,
            clients,
            config,
        }
    }

    fn edge(&self, tier: Tier) -> ward_edge::EdgeConfig {
        let public = tier == Tier::PublicEdge;
        let (callee, group) = Self::callee(tier).unwrap_or((Tier::App, "app"));
        let config = &self.config;
        ward_edge::EdgeConfig {
            public,
            listener_certificate: public.then(|| self.listener.clone()),
            group: ward_edge::TargetGroup {
                name: group.to_owned(),
                targets: self.targets(callee),
                health: ward_edge::HealthCheck {
                    path: "/healthz".to_owned(),
                    interval_ms: config.number("health.interval_milliseconds"),
                    timeout_ms: config.number("health.timeout_milliseconds"),
                    ..Default::default()
                },
            },
            sticky: public.then(|| hex::encode(self.sticky_key.expose())),
            limits: ward_edge::EdgeLimits {
                request_bytes: config.number("limits.body_megabytes") << 20,
                header_bytes: usize::try_from(config.number("limits.header_kilobytes") << 10)
                    .unwrap_or(usize::MAX),
                connections: usize::try_from(config.number("limits.connections")).unwrap_or(usize::MAX),
                header_read_timeout_ms: config.number("limits.header_seconds") * 1_000,
                body_read_timeout_ms: config.number("limits.body_seconds") * 1_000,
                ..Default::default()
            },
            public_hosts: if public { self.public_hosts() } else { Vec::new() },
        }
    }

    /// Every host name with and without the port.
    fn public_hosts(&self) -> Vec<String> {
        let port = self.config.address().port();
        let hosts = self.config.hosts().iter().map(|host| crate::client::in_url(host));
        hosts.flat_map(|host| [format!("{host}:{port}"), host]).collect()
    }

    fn public_origin(&self) -> String {
        crate::client::origin(self.host(), self.config.address().port())
    }

    /// A new key and certificate for `instance`, its old key kept among the accepted ones. The certificate is
    /// to be sent only after everyone knows the new key.
    pub(super) fn rotate(&mut self, instance: InstanceId) -> anyhow::Result<Update> {
        let identity = issue(&self.authority, instance, lifetime_seconds(&self.config))?;
        let member = self.members.get_mut(&instance).context("no such instance")?;
        member.retiring = Some(member.identity.pin()?);
        member.identity = identity.clone();
        Ok(Update::Identity(identity))
    }

    /// Forgets the key that `instance` had before its rotation.
    pub(super) fn retire(&mut self, instance: InstanceId) {
        if let Some(member) = self.members.get_mut(&instance) {
            member.retiring = None;
        }
    }

    /// A new certificate for the public listener; none if an outside one is configured.
    pub(super) fn rotate_listener(&mut self) -> anyhow::Result<Option<Update>> {
        let Some(authority) = &self.listener_authority else { return Ok(None) };
        self.listener = authority.issue_listener(self.config.hosts(), lifetime_seconds(&self.config))?;
        Ok(Some(Update::ListenerCertificate(self.listener.clone())))
    }

    /// How long an identity is used: half of its certificate's life.
    pub(super) fn rotation_interval(&self) -> std::time::Duration {
        std::time::Duration::from_secs(lifetime_seconds(&self.config).unsigned_abs() / 2)
    }

    /// Since when this plan holds.
    pub(super) fn age(&self) -> std::time::Duration {
        self.started.elapsed()
    }
}

impl Member {
    fn pins(&self) -> Vec<SpkiPin> {
        self.identity.pin().into_iter().chain(self.retiring).collect()
    }
}

fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => anyhow::anyhow!(
            "address in use: another program listens on {address}; use --listen or listener.address"
        ),
        _ => anyhow::anyhow!("cannot listen on {address}: {error}; use --listen or listener.address"),
    })
}

fn lifetime_seconds(config: &Config) -> i64 {
    i64::try_from(config.number("certificates.lifetime_minutes")).unwrap_or(1440) * 60
}

impl Plan {
    fn web(&self) -> ward_web::WebConfig {
        ward_web::WebConfig {
            public_origin: self.public_origin(),
            upstream: self.targets(Tier::InternalEdge),
            handle_key: hex::encode(self.handle_key.expose()),
            idle_seconds: self.config.number("session.idle_minutes") * 60,
        }
    }

    fn app(&self) -> ward_app::AppConfig {
        let config = &self.config;
        let number = |name: &str| config.number(name);
        ward_app::AppConfig {
            directory: self.data.join("app"),
            database: self.database.clone(),
            tenant: config.tenant().to_owned(),
            root_key: hex::encode(self.root.expose()).into(),
            public_origin: self.public_origin(),
            operator_jwks: self.operator_jwks.clone(),
            audit_origin: config.audit_origin().to_owned(),
            accept_client_ids: config.flag("app.accept_client_ids"),
            allow_phi_in_urls: config.flag("app.allow_phi_in_urls"),
            cached_data_keys: usize::try_from(number("app.cached_data_keys")).unwrap_or(usize::MAX),
            idle_seconds: seconds(number("session.idle_minutes"), 60),
            absolute_seconds: seconds(number("session.absolute_hours"), 3600),
            limits: ward_app::AppLimits {
                body_bytes: number("limits.body_megabytes") << 20,
                json_depth: usize::try_from(number("limits.json_depth")).unwrap_or(usize::MAX),
                bundle_entries: usize::try_from(number("limits.bundle_entries")).unwrap_or(usize::MAX),
                page_size: u32::try_from(number("limits.page_size")).unwrap_or(u32::MAX),
            },
            subscriptions: self.subscriptions.clone(),
            imports: self.imports.clone(),
        }
    }
}

fn seconds(number: u64, unit: u64) -> u32 {
    u32::try_from(number.saturating_mul(unit)).unwrap_or(u32::MAX)
}

/// A private authority whose key is sealed in the data directory.
fn open_authority(custody: &Custody, file: &str, name: &str) -> anyhow::Result<CertificateAuthority> {
    if let Some(kept) = custody.load(file)? {
        return Ok(CertificateAuthority::from_pem(&kept)?);
    }
    let authority = CertificateAuthority::create(name, SystemClock.now())?;
    custody.save(file, &authority.to_pem())?;
    Ok(authority)
}

fn issue(
    authority: &CertificateAuthority,
    instance: InstanceId,
    lifetime: i64,
) -> anyhow::Result<IdentityMaterial> {
    authority.issue(instance, lifetime).with_context(|| format!("cannot issue a certificate for {instance}"))
}

/// The public listener's certificate: the configured one, or one of a private authority of its own (apart from
/// the internal one, so that whoever trusts it in a browser trusts nothing inside).
fn listener(
    config: &Config,
    data: &Path,
    custody: &Custody,
) -> anyhow::Result<(Option<CertificateAuthority>, IdentityMaterial, PathBuf)> {
    if let (Some(certificate), Some(key)) = (config.certificate(), config.private_key()) {
        let certificate = certificate.canonicalize().with_context(|| cannot_read(&certificate))?;
        let identity = read_identity(&certificate, &key)?;
        return Ok((None, identity, certificate));
    }
    let authority = open_authority(custody, "listener-authority.json", "Ward listener authority")?;
    let trust = data.join("listener-authority.pem");
    std::fs::write(&trust, authority.certificate_pem())?;
    let identity = authority.issue_listener(config.hosts(), lifetime_seconds(config))?;
    Ok((Some(authority), identity, trust))
}

/// The PostgreSQL server of the configuration, with what its files hold.
fn database(config: &Config) -> anyhow::Result<Option<ward_app::DatabaseConfig>> {
    let number = |name: &str| config.number(name);
    let port = u16::try_from(number("database.port")).unwrap_or(5432);
    let hosts: Vec<(String, u16)> =
        config.database_hosts().into_iter().map(|host| (host.to_owned(), port)).collect();
    let Some(authority) = config.database_authority().filter(|_| !hosts.is_empty()) else { return Ok(None) };
    let password = config.database_password_file().map(|path| read_private(&path)).transpose()?;
    let identity = config.database_identity();
    Ok(Some(ward_app::DatabaseConfig {
        hosts,
        name: config.database_name().to_owned(),
        user: config.database_user().to_owned(),
        password: password.map(|text| text.trim_end_matches(['\r', '\n']).to_owned().into()),
        authorities_pem: std::fs::read_to_string(&authority).with_context(|| cannot_read(&authority))?,
        certificate: identity.map(|(certificate, key)| read_identity(&certificate, &key)).transpose()?,
        connections: usize::try_from(number("database.connections")).unwrap_or(1),
    }))
}

/// Where files are imported from.
fn imports(config: &Config) -> anyhow::Result<ward_app::SourcesConfig> {
    Ok(ward_app::SourcesConfig {
        sources: config.import_sources().to_vec(),
        authorities_pem: authorities(config.import_authorities())?,
    })
}

/// What a file of authorities holds, if one is named.
fn authorities(path: Option<PathBuf>) -> anyhow::Result<String> {
    let text = path.map(|path| std::fs::read_to_string(&path).with_context(|| cannot_read(&path)));
    Ok(text.transpose()?.unwrap_or_default())
}

/// Who may be notified.
fn subscriptions(config: &Config) -> anyhow::Result<ward_app::SubscriptionsConfig> {
    Ok(ward_app::SubscriptionsConfig {
        endpoints: config.subscription_endpoints().to_vec(),
        authorities_pem: authorities(config.subscription_authorities())?,
        retry_ms: config.number("subscriptions.retry_milliseconds"),
        tries: u32::try_from(config.number("subscriptions.tries")).unwrap_or(u32::MAX),
    })
}

fn read_identity(certificate: &Path, key: &Path) -> anyhow::Result<IdentityMaterial> {
    let certificate_pem = std::fs::read_to_string(certificate).with_context(|| cannot_read(certificate))?;
    Ok(IdentityMaterial { certificate_pem, private_key_pem: read_private(key)? })
}

/// Reads a file that only its owner can read.
fn read_private(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let mut file = File::open(path).with_context(|| cannot_read(path))?;
    custody::check_private(&file, path)?;
    let mut text = Zeroizing::new(String::new());
    file.read_to_string(&mut text).with_context(|| cannot_read(path))?;
    Ok(text)
}

fn cannot_read(path: &Path) -> String {
    format!("cannot read `{}`", path.display())
}
