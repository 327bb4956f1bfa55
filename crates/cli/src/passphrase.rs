//! Where the keystore's passphrase comes from: a prompt, a file or a file descriptor; never an argument's text
//! and never an environment variable, since other processes can read both.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use ward_base::{Secret, SystemRandom};

/// How the passphrase is given.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct PassphraseSource {
    /// File that holds the passphrase (first line), readable by its owner only.
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Number of an open file descriptor to read the passphrase from.
    #[arg(long, value_name = "FD", global = true, conflicts_with = "passphrase_file")]
    pub(crate) passphrase_fd: Option<u32>,
}

/// The passphrase file that `--demo` makes.
pub(crate) fn demo_file(data: &Path) -> PathBuf {
    data.join("demo-passphrase")
}

impl PassphraseSource {
    /// Reads the passphrase. Without a file or descriptor, a demo's own file is used if it is there; else the
    /// person is asked, twice when `new`.
    pub(crate) fn read(&self, data: &Path, new: bool) -> anyhow::Result<Secret> {
        if let Some(number) = self.passphrase_fd {
            return from_file(Path::new(&format!("/proc/self/fd/{number}")), false);
        }
        if let Some(path) = &self.passphrase_file {
            return from_file(path, true);
        }
        let demo = demo_file(data);
        if demo.exists() {
            return from_file(&demo, true);
        }
        let first = rpassword::prompt_password("Passphrase of the keystore: ")
            .context("no terminal to ask for the passphrase; use --passphrase-file or --passphrase-fd")?;
        if new {
            let second = rpassword::prompt_password("The same once more: ")?;
            anyhow::ensure!(first == second, "the two passphrases differ; nothing was created");
        }
        Ok(Secret::new(first.into_bytes()))
    }
}

fn from_file(path: &Path, check_mode: bool) -> anyhow::Result<Secret> {
    let mut file = std::fs::File::open(path)
        .with_context(|| format!("cannot open the passphrase file `{}`", path.display()))?;
    if check_mode {
        crate::custody::check_private(&file, path)?;
    }
    let mut bytes = zeroize::Zeroizing::new(Vec::new());
    file.by_ref().take(4096).read_to_end(&mut bytes)?;
    let line = bytes.split(|byte| *byte == b'\n' || *byte == b'\r').next().unwrap_or_default();
    anyhow::ensure!(!line.is_empty(), "the passphrase is empty");
    Ok(Secret::new(line.to_vec()))
}

/// Makes the demo's passphrase file, unless it is there. Never beside a keystore that it does not open.
pub(crate) fn make_demo_file(data: &Path, source: &PassphraseSource) -> anyhow::Result<()> {
    anyhow::ensure!(
        source.passphrase_file.is_none() && source.passphrase_fd.is_none(),
        "--demo uses a passphrase file of its own; leave out --passphrase-file and --passphrase-fd, or leave out --demo"
    );
    let path = demo_file(data);
    if path.exists() {
        return Ok(());
    }
    anyhow::ensure!(
        !data.join("keystore.json").exists() && !data.join("app").exists(),
        "`{}` holds a stack that was not started with --demo; leave out --demo, or name another directory with \
         --data. Nothing was changed",
        data.display()
    );
    let mut text = zeroize::Zeroizing::new(hex::encode(SystemRandom::bytes::<32>()));
    text.push('\n');
    crate::custody::write_private(&path, text.as_bytes())
}
