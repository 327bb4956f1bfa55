use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{Https, ServiceAccount};

/// How a stack is started.
#[derive(Default)]
pub struct StackOptions {
    /// Lines of `ward.toml`.
    pub configuration: String,
    /// Made-up patients to load.
    pub demo_patients: u64,
}

/// A running `ward up`, every tier a process of its own. Dropped, it is stopped and its directory removed.
pub struct Stack {
    binary: PathBuf,
    directory: tempfile::TempDir,
    options: StackOptions,
    process: Option<Child>,
    /// The public listener.
    pub address: SocketAddr,
    /// The first administrator's link, while there is one.
    pub enrolment_link: Option<String>,
}

impl Stack {
    /// Starts a stack of the program `binary` and waits until it is up.
    pub fn start(binary: &str, options: StackOptions) -> Self {
        let mut stack = Self::new(binary, options);
        stack.start_again();
        stack
    }

    /// Starts a stack that shares its database, and so its keys, with another, as on a second host.
    pub fn start_beside(&self, options: StackOptions) -> Self {
        let mut stack = Self::new(&self.binary, options);
        for file in ["keystore.json", "demo-passphrase", "app/tenant-key"] {
            let path = stack.data().join(file);
            let mut directory = std::fs::DirBuilder::new();
            directory
                .recursive(true)
                .mode(0o700)
                .create(path.parent().expect("a directory"))
                .expect("a directory");
            std::fs::copy(self.data().join(file), path).expect("a copy");
        }
        stack.start_again();
        stack
    }

    fn new(binary: impl Into<PathBuf>, options: StackOptions) -> Self {
        let directory = tempfile::Builder::new().prefix("ward-test-").tempdir().expect("a directory");
        let address =
            TcpListener::bind(("127.0.0.1", 0)).and_then(|socket| socket.local_addr()).expect("a port");
        Self { binary: binary.into(), directory, options, process: None, address, enrolment_link: None }
    }

    /// Starts the same stack again, after [`Self::stop`] or [`Self::kill_everything`].
    pub fn start_again(&mut self) {
        let configuration = self.directory.path().join("ward.toml");
        std::fs::write(&configuration, &self.options.configuration).expect("a file");
        let output = std::fs::File::create(self.directory.path().join("up.stderr")).expect("a file");
        let mut process = Command::new(&self.binary)
            .args(["--json", "--config"])
            .arg(&configuration)
            .arg("--data")
            .arg(self.data())
            .args(["--listen", &self.address.to_string(), "up", "--demo", "--demo-patients"])
            .arg(self.options.demo_patients.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(output)
            .spawn()
            .expect("the program starts");
        let lines = BufReader::new(process.stdout.take().expect("its output")).lines();
        self.process = Some(process);
        for line in lines {
            let event: Value = serde_json::from_str(&line.expect("a line")).expect("JSON");
            assert!(event.get("error").is_none(), "{event}");
            if event["event"] == "ready" {
                self.enrolment_link = event["enrolment_link"].as_str().map(str::to_owned);
                return;
            }
        }
        panic!("the stack did not come up:\n{}", self.logs());
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// A directory beside it, for a test's own files.
    pub fn scratch(&self) -> &Path {
        self.directory.path()
    }

    /// PEM file with what the public listener's certificate leads to.
    pub fn trust(&self) -> PathBuf {
        self.data().join("listener-authority.pem")
    }

    /// `https://localhost:port`.
    pub fn origin(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    /// A client of the public listener, not signed in.
    pub fn https(&self) -> Https {
        Https::new(self.address, &self.trust())
    }

    /// Runs a `ward` command against this stack.
    pub fn ward(&self, arguments: &[&str]) -> Output {
        Command::new(&self.binary)
            .args(["--json", "--config"])
            .arg(self.directory.path().join("ward.toml"))
            .arg("--data")
            .arg(self.data())
            .args(["--listen", &self.address.to_string()])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("the program starts")
    }

    /// Runs a `ward` command that must succeed; gives its last line of JSON.
    pub fn ward_json(&self, arguments: &[&str]) -> Value {
        let output = self.ward(arguments);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "ward {arguments:?}: {text}{}\n{}",
            String::from_utf8_lossy(&output.stderr),
            self.logs()
        );
        serde_json::from_str(text.lines().last().unwrap_or("null")).expect("JSON")
    }

    /// Makes a service account with `scopes`.
    pub fn add_client(&self, scopes: &str) -> (String, ServiceAccount) {
        let account = ServiceAccount::default();
        let path = self.scratch().join("client.jwks");
        std::fs::write(&path, account.jwks().to_string()).expect("a file");
        let answer = self.ward_json(&[
            "user",
            "add-client",
            "test",
            "--scopes",
            scopes,
            "--jwks",
            path.to_str().unwrap(),
        ]);
        (answer["client_id"].as_str().expect("an id").to_owned(), account)
    }

    /// A client that is signed in as a new service account with `scopes`.
    pub fn signed_in(&self, scopes: &str) -> Https {
        let (client, account) = self.add_client(scopes);
        let https = self.https();
        let assertion = account.assertion(&client, &format!("{}/oauth/token", self.origin()), |_| ());
        let answer = ServiceAccount::token_request(&https, &assertion, scopes);
        assert_eq!(answer.status, 200, "{}", answer.text());
        https.with_token(answer.json()["access_token"].as_str().expect("a token"))
    }

    /// What the supervisor knows of its children.
    pub fn status(&self) -> Value {
        std::fs::read(self.data().join("status.json"))
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or(json!({}))
    }

    /// Address and process of an instance such as `app-1`.
    pub fn instance(&self, name: &str) -> (SocketAddr, i32) {
        let status = self.status();
        let instance = status["instances"]
            .as_array()
            .and_then(|all| all.iter().find(|one| one["instance"] == name))
            .unwrap_or_else(|| panic!("no instance {name} in {status}"));
        (
            instance["address"].as_str().unwrap().parse().unwrap(),
            i32::try_from(instance["process"].as_i64().unwrap_or(0)).unwrap(),
        )
    }

    /// `kill -9` of one instance.
    pub fn kill(&self, name: &str) {
        kill(self.instance(name).1);
    }

    /// Waits until every instance is healthy.
    pub fn wait_until_healthy(&self) {
        let started = Instant::now();
        loop {
            let status = self.status();
            let all = status["instances"].as_array().cloned().unwrap_or_default();
            if !all.is_empty() && all.iter().all(|one| one["state"] == "healthy") {
                return;
            }
            assert!(
                started.elapsed() < Duration::from_secs(60),
                "not healthy again: {status}\n{}",
                self.logs()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// `kill -9` of every process at once, the supervisor first.
    pub fn kill_everything(&mut self) {
        let status = self.status();
        if let Some(mut supervisor) = self.process.take() {
            let _ = supervisor.kill();
            let _ = supervisor.wait();
        }
        for instance in status["instances"].as_array().cloned().unwrap_or_default() {
            if let Some(process) = instance["process"].as_i64() {
                kill(i32::try_from(process).unwrap());
            }
        }
    }

    /// Ctrl-C, and waits for the end, which must be clean.
    pub fn stop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        let id = rustix::process::Pid::from_raw(process.id().cast_signed()).expect("a process");
        let _ = rustix::process::kill_process(id, rustix::process::Signal::INT);
        let status = process.wait().expect("it ends");
        assert!(status.success(), "the stack did not stop cleanly: {status}\n{}", self.logs());
    }

    /// Everything the processes logged, for a failing test's message.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        let own = self.directory.path().join("up.stderr");
        let mut files = vec![own];
        if let Ok(entries) = std::fs::read_dir(self.data().join("log")) {
            files.extend(entries.filter_map(|entry| entry.ok().map(|entry| entry.path())));
        }
        for file in files {
            let content = std::fs::read_to_string(&file).unwrap_or_default();
            let tail: Vec<&str> = content.lines().rev().take(15).collect();
            text.push_str(&format!("--- {}\n", file.display()));
            text.extend(tail.iter().rev().map(|line| format!("{line}\n")));
        }
        text
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            if let Some(id) = rustix::process::Pid::from_raw(process.id().cast_signed()) {
                let _ = rustix::process::kill_process(id, rustix::process::Signal::INT);
            }
            let _ = process.wait();
        }
    }
}

fn kill(process: i32) {
    if let Some(process) = rustix::process::Pid::from_raw(process) {
        let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
    }
}

/// A path in the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// A directory under `target` where the tests' tools are, such as `node_modules`. `cargo xtask test` fills it.
pub fn tools(path: &str) -> PathBuf {
    let path = repository("target/tools").join(path);
    assert!(path.exists(), "`{}` is missing: run `cargo xtask test`, which installs it", path.display());
    path
}
