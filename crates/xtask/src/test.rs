//! `cargo xtask test`: installs what the tests need and runs them all. It is the README's second command and
//! what CI runs.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

/// Debian packages that the tests start or call.
const PACKAGES: &[(&str, &str)] = &[
    ("/usr/bin/chromium", "chromium"),
    ("/usr/bin/go", "golang-go"),
    ("/usr/share/gocode/src/golang.org/x/mod/sumdb/note", "golang-golang-x-mod-dev"),
    ("/usr/bin/node", "nodejs"),
    ("/usr/bin/npm", "npm"),
    ("/usr/bin/python3", "python3"),
];

/// npm packages, exact, in `target/tools/node_modules`.
const NODE: &[&str] = &["playwright-core@1.65.1", "axe-core@4.14.1", "fhir-kit-client@2.0.3"];

/// PyPI packages, exact, in `target/tools/python`.
const PYTHON: &[&str] = &["fhirpy==2.3.1"];

const EXAMPLES: &str = "hl7.fhir.r4.examples@4.0.1";
const CARGO_DENY: &str = "0.20.2";
const NEXTEST: &str = "0.9.143";

pub(crate) fn run(root: &Path) -> anyhow::Result<()> {
    let tools = root.join("target/tools");
    std::fs::create_dir_all(&tools)?;
    debian()?;
    node(&tools)?;
    python(&tools)?;
    examples(root)?;
    step("formatting", Command::new("cargo").args(["fmt", "--all", "--check"]))?;
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
    step(
        "tests",
        Command::new(nextest).args(["nextest", "run", "--workspace", "--locked", "--no-fail-fast"]),
    )?;
    let deny = cargo_tool(&tools, "cargo-deny", CARGO_DENY)?;
    step("dependencies", Command::new(deny).args(["check", "bans", "licenses", "sources"]))
}

fn step(name: &str, command: &mut Command) -> anyhow::Result<()> {
    eprintln!("── {name}");
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(status.success(), "{name}: {status}");
    Ok(())
}

fn debian() -> anyhow::Result<()> {
    let missing: Vec<&str> =
        PACKAGES.iter().filter(|(path, _)| !Path::new(path).exists()).map(|(_, package)| *package).collect();
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
        step("packages", Command::new(program).args(rest).env("DEBIAN_FRONTEND", "noninteractive"))
    };
    apt(&["update"])?;
    let mut install = vec!["install", "-y", "--no-install-recommends"];
    install.extend(missing);
    apt(&install)
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
            .args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--no-save"])
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
        "python packages",
        Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--upgrade", "--target"])
            .arg(tools.join("python"))
            .args(PYTHON),
    )?;
    Ok(std::fs::write(stamp, wanted)?)
}

/// The specification's examples and definitions, unpacked under `target`.
pub(crate) fn examples(root: &Path) -> anyhow::Result<()> {
    let directory = root.join("target/fhir-r4-examples");
    if directory.join("package").exists() {
        return Ok(());
    }
    std::fs::create_dir_all(&directory)?;
    step("FHIR examples", Command::new("npm").args(["pack", "--silent", EXAMPLES]).current_dir(&directory))?;
    step(
        "FHIR examples",
        Command::new("tar").args(["xzf", "hl7.fhir.r4.examples-4.0.1.tgz"]).current_dir(&directory),
    )
}

/// A cargo subcommand: the installed one, or one built once under `target/tools`.
fn cargo_tool(tools: &Path, name: &str, version: &str) -> anyhow::Result<PathBuf> {
    let installed = Command::new(name).arg("--version").output();
    if installed.is_ok_and(|output| output.status.success()) {
        return Ok(PathBuf::from(name));
    }
    let built = tools.join("bin").join(name);
    if !built.exists() {
        step(
            name,
            Command::new("cargo")
                .args(["install", name, "--version", version, "--locked", "--quiet", "--root"])
                .arg(tools)
                .env("CARGO_TARGET_DIR", tools.join("build")),
        )?;
    }
    Ok(built)
}
