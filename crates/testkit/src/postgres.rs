use std::fs::Permissions;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use ward_base::{Clock as _, SystemClock};
use ward_transport::CertificateAuthority;

/// Where Debian's package has its programs.
const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
/// Nobody but this process and the server can reach either.
const PASSWORD: &str = "for-tests-only-7f3a";
const ADMIN: &str = "admin";
/// The user that owns the databases that are handed out.
const USER: &str = "ward";

/// A PostgreSQL server of its own: TLS 1.3 with a certificate of a private authority, passwords by SCRAM, nothing
/// else answered. Dropped, it is stopped and its directory removed; it also ends when the test's process does.
pub struct Postgres {
    directory: tempfile::TempDir,
    authority: Arc<CertificateAuthority>,
    port: u16,
    tls: bool,
    process: Option<Process>,
}

/// The server under a shell that waits for the end of its input, which comes when this process ends in any way.
struct Process {
    shell: Child,
    _input: ChildStdin,
}

impl Postgres {
    /// The server that the tests of this process share. What it stores is as safe as memory.
    pub fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = shared.upgrade() {
            return running;
        }
        let started = Arc::new(Self::start(
            "fsync = off\nfull_page_writes = off\nlog_statement = 'all'\nlog_parameter_max_length = -1\n\
             log_parameter_max_length_on_error = -1\n",
        ));
        *shared = Arc::downgrade(&started);
        started
    }

    /// A server with these lines of configuration besides.
    pub fn start(configuration: &str) -> Self {
        Self::start_for(&["localhost", "127.0.0.1"], configuration)
    }

    /// A server whose certificate is for these hosts. It listens on 127.0.0.1 in any case.
    pub fn start_for(hosts: &[&str], configuration: &str) -> Self {
        let authority =
            CertificateAuthority::create("Test authority", SystemClock.now()).expect("an authority");
        let mut server = Self::new(Arc::new(authority));
        let data = server.data();
        let password = server.file("password", PASSWORD);
        let mut make = server.command("initdb");
        make.arg("-D").arg(&data).arg("--pwfile").arg(&password);
        make.args(["-U", ADMIN, "-A", "scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]);
        succeed(make);
        server.secure(hosts);
        server.configure(configuration);
        server.start_again();
        server.run("postgres", &format!("CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'"));
        server
    }

    /// A server that answers without TLS alone, as one that pretends to be the real one might.
    pub fn without_tls(mut self) -> Self {
        self.stop();
        self.configure("ssl = off\n");
        let access = "host all all 127.0.0.1/32 scram-sha-256\n";
        std::fs::write(self.data().join("pg_hba.conf"), access).expect("a file");
        self.tls = false;
        self.start_again();
        self
    }

    /// A standby that this server waits for with every commit, of the same authority.
    pub fn synchronous_standby(&self) -> Self {
        let mut standby = Self::new(Arc::clone(&self.authority));
        let source = format!("{} application_name=standby", self.address("postgres", ADMIN));
        let data = standby.data();
        let mut copy = standby.command("pg_basebackup");
        copy.arg("-D").arg(&data).args([
            "-R",
            "-X",
            "stream",
            "--checkpoint=fast",
            "--no-sync",
            "-d",
            &source,
        ]);
        succeed(copy);
        standby.secure(&["localhost", "127.0.0.1"]);
        standby.configure("");
        standby.start_again();
        self.run("postgres", "ALTER SYSTEM SET synchronous_standby_names = 'standby'");
        self.run("postgres", "SELECT pg_reload_conf()");
        let synchronous = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        wait_until("the standby keeps up", || self.run("postgres", synchronous) == "1");
        standby
    }

    /// Makes a standby the one that takes writes.
    pub fn promote(&self) {
        self.run("postgres", "ALTER SYSTEM RESET synchronous_standby_names");
        assert_eq!(self.run("postgres", "SELECT pg_promote()"), "t");
    }

    fn new(authority: Arc<CertificateAuthority>) -> Self {
        let directory = tempfile::Builder::new().prefix("ward-postgres-").tempdir().expect("a directory");
        if let Some((user, group)) = unprivileged() {
            std::os::unix::fs::chown(directory.path(), Some(user), Some(group)).expect("a directory's owner");
        }
        let port =
            TcpListener::bind(("127.0.0.1", 0)).and_then(|socket| socket.local_addr()).expect("a port");
        Self { directory, authority, port: port.port(), tls: true, process: None }
    }

    fn secure(&self, hosts: &[&str]) {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let identity = self.authority.issue_listener(&hosts, 86_400).expect("a certificate");
        self.file("server.pem", &identity.certificate_pem);
        self.file("server.key", &identity.private_key_pem);
        self.file("authority.pem", self.authority.certificate_pem());
        let access = "hostssl all all 127.0.0.1/32 scram-sha-256\nhostssl replication all 127.0.0.1/32 scram-sha-256\n";
        std::fs::write(self.data().join("pg_hba.conf"), access).expect("a file");
    }

    /// Lines at the end of the configuration, which count over those before.
    fn configure(&self, more: &str) {
        use std::io::Write as _;
        let (directory, port) = (self.directory.path().display(), self.port);
        let mut file = std::fs::File::options()
            .append(true)
            .open(self.data().join("postgresql.conf"))
            .expect("the configuration");
        write!(
            file,
            "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = ''\nssl = on\n\
             ssl_min_protocol_version = 'TLSv1.3'\nssl_cert_file = '{directory}/server.pem'\n\
             ssl_key_file = '{directory}/server.key'\nshared_buffers = 32MB\nmax_connections = 100\n{more}"
        )
        .expect("the configuration");
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).expect("a file");
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("a private file");
        if let Some((user, group)) = unprivileged() {
            std::os::unix::fs::chown(&path, Some(user), Some(group)).expect("a file's owner");
        }
        path
    }

    /// The server's data directory, with its own log in `log`.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The port on 127.0.0.1.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The certificate of the authority that the server's leads to, PEM.
    pub fn authority_pem(&self) -> &str {
        self.authority.certificate_pem()
    }

    /// The user to connect as.
    pub const fn user(&self) -> &'static str {
        USER
    }

    /// That user's password.
    pub const fn password(&self) -> &'static str {
        PASSWORD
    }

    /// Makes a database for [`Self::user`]; gives its name.
    pub fn new_database(&self) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("test{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        self.run("postgres", &format!("CREATE DATABASE {name} OWNER {USER}"));
        name
    }

    /// Runs SQL as the server's administrator; gives what it prints, columns apart by `|`.
    pub fn run(&self, database: &str, statement: &str) -> String {
        let output = self.psql(database, statement);
        assert!(output.status.success(), "{statement}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
    }

    fn psql(&self, database: &str, statement: &str) -> std::process::Output {
        Command::new(Path::new(PROGRAMS).join("psql"))
            .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d"])
            .arg(self.address(database, ADMIN))
            .arg("-c")
            .arg(statement)
            .stdin(Stdio::null())
            .output()
            .expect("psql starts")
    }

    fn address(&self, database: &str, user: &str) -> String {
        let (port, directory) = (self.port, self.directory.path().display());
        let tls = if self.tls {
            format!("sslmode=verify-ca sslrootcert={directory}/authority.pem")
        } else {
            "sslmode=disable".to_owned()
        };
        format!("host=127.0.0.1 port={port} dbname={database} user={user} password={PASSWORD} {tls}")
    }

    /// Starts the server again after [`Self::stop`] or [`Self::kill`].
    pub fn start_again(&mut self) {
        let log = std::fs::File::options()
            .append(true)
            .create(true)
            .open(self.directory.path().join("log"))
            .expect("a log");
        // The shell waits in the background so that it notices the end of either.
        let script = "exec 3<&0; \"$@\" 3<&- </dev/null & server=$!
            (while read -r line; do :; done; kill -QUIT $server) <&3 & watcher=$!
            wait $server; kill $watcher";
        let data = self.data();
        let mut command = self.unprivileged(Path::new("/bin/sh"));
        command.args(["-c", script, "sh"]).arg(Path::new(PROGRAMS).join("postgres")).arg("-D").arg(data);
        let mut shell = command
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("the shell starts");
        let input = shell.stdin.take().expect("its input");
        self.process = Some(Process { shell, _input: input });
        wait_until("the server answers", || self.psql("postgres", "SELECT 1").status.success());
    }

    /// Stops the server in good order.
    pub fn stop(&mut self) {
        self.signal(Signal::INT);
        self.wait();
    }

    /// Kills every process of the server at once (SIGKILL).
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait();
    }

    fn signal(&self, signal: Signal) {
        let file = std::fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        let Some(main) = file.lines().next().and_then(|line| line.trim().parse::<i32>().ok()) else { return };
        let mut processes = vec![main];
        if signal == Signal::KILL {
            let children = std::fs::read_to_string(format!("/proc/{main}/task/{main}/children"));
            processes.extend(
                children.unwrap_or_default().split_whitespace().filter_map(|id| id.parse::<i32>().ok()),
            );
        }
        for id in processes.into_iter().filter_map(Pid::from_raw) {
            let _ = rustix::process::kill_process(id, signal);
        }
    }

    fn wait(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.shell.wait();
        }
    }

    /// What the server logged.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.directory.path().join("log")).unwrap_or_default())
            .into_owned()
    }

    fn command(&self, program: &str) -> Command {
        self.unprivileged(&Path::new(PROGRAMS).join(program))
    }

    fn unprivileged(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.directory.path()).env("HOME", self.directory.path());
        if let Some((user, group)) = unprivileged() {
            command.uid(user).gid(group);
        }
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.signal(Signal::QUIT);
        self.wait();
    }
}

/// PostgreSQL does not run as root.
fn unprivileged() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let accounts = std::fs::read_to_string("/etc/passwd").expect("the accounts of this host");
    let account =
        accounts.lines().find(|line| line.starts_with("postgres:")).expect("the package's own account");
    let mut numbers = account.split(':').skip(2).map(|number| number.parse().expect("a number"));
    Some((numbers.next().expect("a user"), numbers.next().expect("a group")))
}

fn succeed(mut command: Command) {
    let output = command.stdin(Stdio::null()).output().expect("a program of the package `postgresql`");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(60), "not in time: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
