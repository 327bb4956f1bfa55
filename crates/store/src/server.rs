//! A connection to a PostgreSQL server.
//!
//! Each connection belongs to one thread, which drives it itself: no other thread is woken for a round trip. It is
//! TLS 1.3 to a server whose certificate the given authorities issued for the host name asked for, or none.
//! The password is given to nobody else: only SCRAM bound to that very TLS channel is accepted.
//!
//! The transaction begins with its first statement, in one round trip if that only reads. A connection that was lost is
//! made anew for the next transaction.

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Poll, ready},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::{net::lookup_host, runtime::Runtime, task::JoinSet, time::timeout};
use tokio_postgres::{
    AsyncMessage, Client, Config, SimpleQueryMessage, Statement,
    config::{ChannelBinding, SslMode, TargetSessionAttrs},
    error::SqlState,
    types::{IsNull, ToSql, Type},
};
use tokio_postgres_rustls::MakeRustlsConnect;
use ward_base::{Clock, Secret};
use zeroize::Zeroizing;

use crate::{
    StoreError,
    connection::{Parameter, Row},
    sql,
};

/// For each address of a server, until it is ready for statements.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(3);
/// Longer than the server's own limit of a statement, so that this is reached only if the server is gone, or waits for
/// a standby before it answers a commit.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(40);
/// Rows of one statement that are held together, in bytes; twice what a page may have.
pub(crate) const ROWS_BYTES_MAX: usize = 32 << 20;

const MIGRATION_TIME_MAX: Duration = Duration::from_secs(120);

/// A PostgreSQL server and how to be known to it.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Host names or addresses with ports, tried in this order until one accepts writes. The certificate must be for
    /// the one that is asked for.
    pub hosts: Vec<(String, u16)>,
    /// The name of the database.
    pub database: String,
    /// The user. It needs the right to make tables in the database's default schema.
    pub user: String,
    /// The user's password, unless the certificate is enough for the server.
    pub password: Option<Secret>,
    /// Certificates of the authorities that are trusted to know the server, PEM. No others are.
    pub authorities_pem: String,
    /// The client's own certificate, if the server asks for one.
    pub client: Option<ClientIdentity>,
    /// How many writes run at once.
    pub writers: usize,
}

/// A client certificate with its key.
#[derive(Clone, Debug)]
pub struct ClientIdentity {
    /// The chain, end entity first, PEM.
    pub certificate_pem: String,
    /// The private key, PEM.
    pub private_key_pem: Secret,
}

/// What a connection is set to right after it was made.
///
/// Every statement of ours has an index; plans that ignore it come from statistics that do not know the future. A
/// server may be set to wait for standbys in ways that are its own affair, but not to promise what it did not write.
pub(crate) const SESSION: &str = "
SET statement_timeout = '30s';
SET lock_timeout = '5s';
SET idle_in_transaction_session_timeout = '60s';
SET plan_cache_mode = force_generic_plan;
SET enable_seqscan = off;
SET enable_bitmapscan = off;
SET jit = off;
SET client_min_messages = warning;
SELECT set_config('synchronous_commit', 'on', false)
WHERE current_setting('synchronous_commit') IN ('off', 'local')";

/// The moment at which the server started: another server, and one that was restored, has another.
const ORIGIN: &str = "SELECT (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint";

/// What a transaction is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// One snapshot.
    Read,
    /// One snapshot, for operations that read what they name: resources and records by their keys.
    ///
    /// Whatever of it is there is locked as it is read (`FOR UPDATE`), and who finds it changed since the snapshot runs
    /// again. Whatever is not there and is then made collides in a unique index, and who comes second runs again. So
    /// nothing that such an operation read and built upon is changed by another before its commit, and of several at
    /// once each could as well have run alone, in the order of their commits. Only those that touch the same wait for
    /// each other, which `SERIALIZABLE` cannot promise: it judges by pages of indexes, and a large transaction would
    /// never get through among many small ones.
    Write,
    /// As if it ran alone, or not at all: for operations that also read what they do not name, by a search or a list.
    /// What is not found cannot be locked. Two of these never both build on not seeing each other's writes; one of
    /// these and one of the others may run at once, for the other has read nothing that this one writes, and so comes
    /// after it.
    WriteAlone,
    /// A migration. What it must not do at once with others is guarded by a unique row.
    Migrate,
}

impl Mode {
    const fn begin(self) -> &'static str {
        match self {
            Self::Read => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
            Self::Write => "BEGIN ISOLATION LEVEL REPEATABLE READ",
            Self::WriteAlone => "BEGIN ISOLATION LEVEL SERIALIZABLE",
            Self::Migrate => {
                "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '60s'; SET LOCAL statement_timeout = 0"
            }
        }
    }
}

/// Why a transaction cannot be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Another transaction came in between, or the server went away before the commit was asked for: nothing was
    /// done, and it may succeed when it is run again.
    Again,
    /// It reads what it does not name, and must run again in [`Mode::WriteAlone`].
    Alone,
    /// Anything else.
    Failed,
}

/// A connection, made when it is needed.
pub(crate) struct Server {
    options: Arc<ServerOptions>,
    tls: MakeRustlsConnect,
    runtime: OnceCell<Runtime>,
    live: RefCell<Option<Live>>,
    state: Cell<State>,
    /// Whether the transaction changed anything, or tried to.
    wrote: Cell<bool>,
    fault: Cell<Option<Fault>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// No transaction.
    Idle,
    /// One begins with the next statement.
    Begins(Mode),
    /// Inside one.
    Begun(Mode),
}

/// A connection that was made.
struct Live {
    client: Client,
    origin: i64,
    statements: RefCell<HashMap<&'static str, Statement>>,
    /// Set when the server warned of something, and with it said that it did less than was asked for.
    warned: Arc<AtomicBool>,
    /// Whether a commit was not answered in time. The server may wait for a standby as long as that is away: whoever
    /// left it waiting and connected anew would soon have no connections left.
    commits: Cell<bool>,
    /// Ends with this.
    driver: JoinSet<()>,
}

impl Server {
    /// Does not connect yet. Fails if a certificate or the key cannot be read.
    pub(crate) fn new(options: Arc<ServerOptions>) -> Result<Self, StoreError> {
        Ok(Self {
            tls: MakeRustlsConnect::new(tls(&options)?),
            options,
            runtime: OnceCell::new(),
            live: RefCell::new(None),
            state: Cell::new(State::Idle),
            wrote: Cell::new(false),
            fault: Cell::new(None),
        })
    }

    /// Which server the connection leads to, if there is one.
    pub(crate) fn origin(&self) -> Option<i64> {
        self.live.borrow().as_ref().map(|live| live.origin)
    }

    /// Why the current transaction cannot be committed, if it cannot.
    pub(crate) const fn fault(&self) -> Option<Fault> {
        self.fault.get()
    }

    /// Lets a transaction begin with the next statement.
    pub(crate) fn begin(&self, mode: Mode) {
        self.state.set(State::Begins(mode));
        self.wrote.set(false);
        self.fault.set(None);
    }

    /// Called before a write transaction reads what it does not name. Fails if it is too late for that.
    pub(crate) fn isolate(&self) -> Result<(), StoreError> {
        match self.state.get() {
            State::Begins(Mode::Write) => self.state.set(State::Begins(Mode::WriteAlone)),
            State::Begun(Mode::Write) => {
                self.fault.set(self.fault.get().or(Some(Fault::Alone)));
                return Err(StoreError::Unavailable);
            }
            _ => {}
        }
        Ok(())
    }

    /// Makes what the transaction did last. Resolves after it is durable, on the standbys too that the server waits
    /// for.
    ///
    /// [`Fault::Again`] says that nothing was stored, [`Fault::Failed`] that something may have been.
    pub(crate) fn commit(&self) -> Result<(), Fault> {
        if let Some(fault) = self.fault.get() {
            self.roll_back();
            return Err(fault);
        }
        let State::Begun(mode) = self.state.replace(State::Idle) else { return Ok(()) };
        // Of what was only read, there is nothing to be uncertain about.
        let lost = if self.wrote.get() { Fault::Failed } else { Fault::Again };
        let mut live = self.live.borrow_mut();
        let Some(known) = live.as_ref() else { return Err(lost) };
        known.warned.store(false, Ordering::Relaxed);
        match self.wait(known.client.batch_execute("COMMIT")) {
            // Who stops the server's wait for a standby gets a success and a warning.
            Some(Ok(())) if self.wrote.get() && known.warned.load(Ordering::Relaxed) => Err(Fault::Failed),
            Some(Ok(())) => Ok(()),
            Some(Err(error)) if is_race(&error) => Err(Fault::Again),
            None if mode != Mode::Read => {
                known.commits.set(true);
                Err(lost)
            }
            Some(Err(_)) | None => {
                *live = None;
                Err(lost)
            }
        }
    }

    /// Undoes what the transaction did.
    pub(crate) fn roll_back(&self) {
        let State::Begun(_) = self.state.replace(State::Idle) else { return };
        let mut live = self.live.borrow_mut();
        if let Some(known) = live.as_ref()
            && !matches!(self.wait(known.client.batch_execute("ROLLBACK")), Some(Ok(())))
        {
            *live = None;
        }
    }

    pub(crate) fn execute(
        &self,
        statement: &'static str,
        parameters: &[Parameter<'_>],
    ) -> Result<u64, StoreError> {
        self.wrote.set(true);
        self.run(async |live| {
            let statement = live.statement(statement, parameters).await?;
            live.client.execute_raw(&statement, parameters.iter().copied()).await
        })
    }

    /// The rows, up to the one that takes them beyond so many bytes, and whether these are all.
    pub(crate) fn query(
        &self,
        statement: &'static str,
        parameters: &[Parameter<'_>],
        bytes_max: usize,
    ) -> Result<(Vec<tokio_postgres::Row>, bool), StoreError> {
        self.run(async |live| {
            let statement = live.statement(statement, parameters).await?;
            let stream = live.client.query_raw(&statement, parameters.iter().copied()).await?;
            let mut stream = std::pin::pin!(stream);
            let (mut rows, mut bytes) = (Vec::new(), 0_usize);
            while let Some(row) = next(&mut stream).await {
                let row = row?;
                // What is too much is thrown away here, and not left for the next statement to wait for.
                if bytes <= bytes_max {
                    bytes = bytes.saturating_add(row.raw_size_bytes());
                    rows.push(row);
                }
            }
            Ok((rows, bytes <= bytes_max))
        })
    }

    /// Several statements without parameters, for the schema.
    pub(crate) fn batch(&self, statements: &str) -> Result<(), StoreError> {
        self.wrote.set(true);
        self.run(async |live| live.client.batch_execute(statements).await)
    }

    fn run<T>(
        &self,
        mut ask: impl AsyncFnMut(&Live) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, StoreError> {
        if self.fault.get().is_some() {
            return Err(StoreError::Unavailable);
        }
        let mut is_new = self.connect()?;
        loop {
            let mut live = self.live.borrow_mut();
            let Some(known) = live.as_ref() else { return Err(StoreError::Unavailable) };
            let state = self.state.get();
            let asked = async {
                let State::Begins(mode) = state else { return ask(known).await };
                let begin = known.client.batch_execute(mode.begin());
                if self.wrote.get() {
                    // Should the server not begin, it would do this by itself and keep it.
                    begin.await?;
                    return ask(known).await;
                }
                // Both are on their way before either is answered.
                let (begun, answer) = tokio::join!(biased; begin, ask(known));
                begun.and(answer)
            };
            let answer = self.wait(asked);
            if let (State::Begins(mode), Some(Ok(_))) = (state, &answer) {
                self.state.set(State::Begun(mode));
            }
            let error = match answer {
                Some(Ok(answer)) => return Ok(answer),
                Some(Err(error)) => Some(error),
                None => None,
            };
            let lost = error.as_ref().is_none_or(|error| is_lost(error, &known.client));
            if lost {
                *live = None;
                // A connection that was idle while the server went away is found out only now. Nothing was done. Who
                // writes runs again, since it may have sealed with a key that only the server before had.
                if !is_new && error.is_some() && state == State::Begins(Mode::Read) {
                    drop(live);
                    is_new = self.connect()?;
                    continue;
                }
            }
            if let State::Begins(mode) = state {
                self.state.set(State::Begun(mode));
            }
            let again = error.is_some_and(|error| lost || is_race(&error));
            self.fault.set(Some(if again { Fault::Again } else { Fault::Failed }));
            return Err(StoreError::Unavailable);
        }
    }

    /// Makes the connection if there is none; says whether it did.
    fn connect(&self) -> Result<bool, StoreError> {
        let mut live = self.live.borrow_mut();
        if let Some(known) = live.as_ref() {
            // Nothing is answered before the commit is.
            let answered = match known.commits.get() {
                true => self.wait(known.client.batch_execute("")),
                false => Some(Ok(())),
            };
            match answered {
                Some(Ok(())) => {
                    known.commits.set(false);
                    return Ok(false);
                }
                Some(Err(_)) => *live = None,
                None => {
                    self.fault.set(Some(Fault::Failed));
                    return Err(StoreError::Unavailable);
                }
            }
        }
        if let State::Begun(_) = self.state.get() {
            self.fault.set(Some(Fault::Again));
            return Err(StoreError::Unavailable);
        }
        let made = self.runtime()?.block_on(connect(&self.options, &self.tls));
        *live = Some(made.inspect_err(|_| self.fault.set(Some(Fault::Failed)))?);
        Ok(true)
    }

    /// `None` if there was no answer in time.
    fn wait<T>(&self, answer: impl Future<Output = T>) -> Option<T> {
        let runtime = self.runtime().ok()?;
        runtime.block_on(async { timeout(ANSWER_TIME_MAX, answer).await }).ok()
    }

    fn runtime(&self) -> Result<&Runtime, StoreError> {
        if self.runtime.get().is_none() {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|_| StoreError::Unavailable)?;
            let _ = self.runtime.set(runtime);
        }
        self.runtime.get().ok_or(StoreError::Unavailable)
    }
}

impl Live {
    /// The prepared form of a statement.
    async fn statement(
        &self,
        text: &'static str,
        parameters: &[Parameter<'_>],
    ) -> Result<Statement, tokio_postgres::Error> {
        let known = self.statements.borrow().get(text).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let types: Vec<Type> = parameters.iter().map(Parameter::server_type).collect();
        let prepared = self.client.prepare_typed(&sql::for_server(text), &types).await?;
        self.statements.borrow_mut().insert(text, prepared.clone());
        Ok(prepared)
    }
}

/// Brings the schema up to date, one transaction for each step. Several may do so at once: each step begins with a row
/// that only one of them can write, and the others wait for what becomes of it.
pub(crate) fn migrate(server: &Server, clock: &dyn Clock) -> Result<(), StoreError> {
    let started = Instant::now();
    loop {
        server.begin(Mode::Migrate);
        let step = migrate_once(server, clock);
        match (step, server.commit()) {
            (Ok(true), Ok(())) => return Ok(()),
            (Ok(false), Ok(())) => {}
            (Err(error), Ok(())) => return Err(error),
            (_, Err(Fault::Again)) if started.elapsed() < MIGRATION_TIME_MAX => {
                std::thread::sleep(Duration::from_millis(50));
            }
            (Err(error), Err(_)) => return Err(error),
            (Ok(_), Err(_)) => return Err(StoreError::Unavailable),
        }
    }
}

/// The next step; `true` if there was none left.
fn migrate_once(server: &Server, clock: &dyn Clock) -> Result<bool, StoreError> {
    server.batch(&sql::schema_for_server(&sql::MIGRATION_TABLE))?;
    let (rows, _) = server.query(sql::MIGRATION_VERSION, &[], ROWS_BYTES_MAX)?;
    let done = rows.first().ok_or(StoreError::Corrupt).and_then(|row| Row::Server(row).integer(0))?;
    let place = usize::try_from(done).map_err(|_| StoreError::Corrupt)?;
    if place > sql::MIGRATIONS.len() {
        return Err(StoreError::NewerSchema);
    }
    let Some(next) = sql::MIGRATIONS.get(place) else { return Ok(true) };
    server.execute(sql::MIGRATION_DONE, &[(done + 1).into(), clock.now().micros().into()])?;
    server.batch(&sql::schema_for_server(next))?;
    Ok(false)
}

impl Drop for Server {
    fn drop(&mut self) {
        let (Some(runtime), Some(live)) = (self.runtime.get(), self.live.get_mut().take()) else { return };
        let Live { client, mut driver, .. } = live;
        // The server is told, instead of being left with a line that fell silent.
        drop(client);
        runtime.block_on(async {
            let _ = timeout(Duration::from_secs(1), driver.join_next()).await;
        });
    }
}

/// Asks one address after the other for a connection that takes writes. The driver could be given them all, but would
/// wait for one that is silent until there is no time left for the others.
async fn connect(options: &ServerOptions, tls: &MakeRustlsConnect) -> Result<Live, StoreError> {
    let mut failed = StoreError::Unavailable;
    for (host, port) in &options.hosts {
        let Ok(Ok(addresses)) = timeout(CONNECT_TIME_MAX, lookup_host((host.as_str(), *port))).await else {
            continue;
        };
        for address in addresses {
            match timeout(CONNECT_TIME_MAX, connect_to(options, host, address, tls.clone())).await {
                Ok(Ok(live)) => return Ok(live),
                // It says more than that another is away.
                Ok(Err(error)) if failed == StoreError::Unavailable => failed = error,
                Ok(Err(_)) | Err(_) => {}
            }
        }
    }
    Err(failed)
}

/// `host` is what the certificate must be for.
async fn connect_to(
    options: &ServerOptions,
    host: &str,
    address: SocketAddr,
    tls: MakeRustlsConnect,
) -> Result<Live, StoreError> {
    let mut config = Config::new();
    config
        .host(host)
        .hostaddr(address.ip())
        .port(address.port())
        .dbname(&options.database)
        .user(&options.user)
        .application_name("ward")
        .ssl_mode(SslMode::Require)
        .target_session_attrs(TargetSessionAttrs::ReadWrite)
        .tcp_user_timeout(ANSWER_TIME_MAX)
        .keepalives_idle(Duration::from_secs(30))
        .keepalives_interval(Duration::from_secs(5));
    if let Some(password) = &options.password {
        // The driver keeps a copy until this function ends. It is sent as proof only, to the certificate's holder.
        config.password(password.expose()).channel_binding(ChannelBinding::Require);
    }
    let (client, mut connection) = config.connect(tls).await.map_err(|error| refusal(&error))?;
    let warned = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&warned);
    let mut driver = JoinSet::new();
    driver.spawn(std::future::poll_fn(move |context| {
        loop {
            match ready!(connection.poll_message(context)) {
                Some(Ok(AsyncMessage::Notice(notice))) if *notice.code() == SqlState::WARNING => {
                    flag.store(true, Ordering::Relaxed);
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(()),
            }
        }
    }));
    let told = tokio::try_join!(client.batch_execute(SESSION), client.simple_query(ORIGIN));
    let (_, origin) = told.map_err(|error| refusal(&error))?;
    let origin = origin.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
        _ => None,
    });
    Ok(Live {
        client,
        origin: origin.ok_or(StoreError::Unavailable)?,
        statements: RefCell::default(),
        warned,
        commits: Cell::new(false),
        driver,
    })
}

/// Why there is no connection.
fn refusal(error: &tokio_postgres::Error) -> StoreError {
    match error.code().map(SqlState::code) {
        Some(code) if code.starts_with("28") || code.starts_with("3D") => StoreError::Refused,
        Some(_) => StoreError::Unavailable,
        // The driver tells these apart in words only.
        None => {
            let words = error.to_string();
            if words.starts_with("error performing TLS handshake") {
                StoreError::Untrusted
            } else if ["authentication error", "invalid configuration"]
                .iter()
                .any(|kind| words.starts_with(kind))
            {
                StoreError::Refused
            } else {
                StoreError::Unavailable
            }
        }
    }
}

/// TLS 1.3 with the system's one provider, trusting the given authorities alone.
fn tls(options: &ServerOptions) -> Result<ClientConfig, StoreError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(options.authorities_pem.as_bytes()) {
        roots.add(certificate.map_err(|_| StoreError::Settings)?).map_err(|_| StoreError::Settings)?;
    }
    if roots.is_empty() || options.hosts.is_empty() {
        return Err(StoreError::Settings);
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|_| StoreError::Settings)?
        .with_root_certificates(roots);
    let Some(client) = &options.client else { return Ok(config.with_no_client_auth()) };
    let chain = CertificateDer::pem_slice_iter(client.certificate_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| StoreError::Settings)?;
    // The builder would take the key and leave it where it lay.
    let key =
        PrivateKeyDer::from_pem_slice(client.private_key_pem.expose()).map_err(|_| StoreError::Settings)?;
    let key = any_supported_type(&Zeroizing::new(key)).map_err(|_| StoreError::Settings)?;
    let identity = CertifiedKey::new(chain, key);
    identity.keys_match().map_err(|_| StoreError::Settings)?;
    Ok(config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity))))
}

async fn next(
    stream: &mut std::pin::Pin<&mut tokio_postgres::RowStream>,
) -> Option<Result<tokio_postgres::Row, tokio_postgres::Error>> {
    std::future::poll_fn(|context| futures_core::Stream::poll_next(stream.as_mut(), context)).await
}

/// Whether another transaction is to blame. Rows that are already there count, since what is unique is looked at
/// before, or made at random: somebody else made them in between.
fn is_race(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| {
        [
            &SqlState::T_R_SERIALIZATION_FAILURE,
            &SqlState::T_R_DEADLOCK_DETECTED,
            &SqlState::LOCK_NOT_AVAILABLE,
            &SqlState::UNIQUE_VIOLATION,
        ]
        .contains(&code)
    })
}

/// Whether the connection is no good any more: closed, about to be, or to a server that does not take writes.
fn is_lost(error: &tokio_postgres::Error, client: &Client) -> bool {
    client.is_closed()
        || error.is_closed()
        || error.code().is_some_and(|code| {
            [
                &SqlState::ADMIN_SHUTDOWN,
                &SqlState::CRASH_SHUTDOWN,
                &SqlState::CANNOT_CONNECT_NOW,
                &SqlState::READ_ONLY_SQL_TRANSACTION,
                &SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
            ]
            .contains(&code)
        })
}

impl Parameter<'_> {
    fn server_type(&self) -> Type {
        match self {
            Self::Integer(_) | Self::OptionalInteger(_) => Type::INT8,
            Self::Bytes(_) => Type::BYTEA,
            Self::Text(_) => Type::TEXT,
            Self::Integers(_) => Type::INT8_ARRAY,
        }
    }
}

type ToSqlResult = Result<IsNull, Box<dyn std::error::Error + Sync + Send>>;

impl ToSql for Parameter<'_> {
    fn to_sql(&self, of: &Type, out: &mut BytesMut) -> ToSqlResult {
        match self {
            Self::Integer(number) => number.to_sql(of, out),
            Self::OptionalInteger(number) => number.to_sql(of, out),
            Self::Bytes(bytes) => bytes.to_sql(of, out),
            Self::Text(text) => text.to_sql(of, out),
            Self::Integers(numbers) => numbers.to_sql(of, out),
        }
    }

    fn accepts(of: &Type) -> bool {
        [Type::INT8, Type::BYTEA, Type::TEXT, Type::INT8_ARRAY].contains(of)
    }

    tokio_postgres::types::to_sql_checked!();
}
