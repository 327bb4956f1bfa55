//! `ward doctor`: looks at this host and says what to do.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::config::Config;
use crate::output::{self, Format};

/// What one check found.
struct Finding {
    what: &'static str,
    state: State,
    advice: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Good,
    Warning,
    Bad,
}

/// Runs every check. An error if one of them says that the stack cannot or must not run here.
pub(crate) fn run(config: &Config, format: Format) -> anyhow::Result<()> {
    let data = config.data_directory();
    let findings = [
        core_dumps(),
        swap(),
        entropy(),
        open_files(config),
        directory(&data),
        encrypted_volume(&data),
        space(&data),
        listener(config),
        clock(),
        processor(),
    ];
    for finding in &findings {
        let (word, mark) = match finding.state {
            State::Good => ("good", "✓"),
            State::Warning => ("warning", "!"),
            State::Bad => ("bad", "✗"),
        };
        match format {
            Format::Json => {
                output::json(&json!({"check": finding.what, "state": word, "advice": finding.advice}))
            }
            Format::Text => output::line(format!("{mark} {:<18} {}", finding.what, finding.advice)),
        }
    }
    let bad = findings.iter().filter(|finding| finding.state == State::Bad).count();
    anyhow::ensure!(bad == 0, "{bad} of {} checks failed; see the lines marked ✗", findings.len());
    Ok(())
}

fn finding(what: &'static str, state: State, advice: impl Into<String>) -> Finding {
    Finding { what, state, advice: advice.into() }
}

fn core_dumps() -> Finding {
    // Every process of ours sets its own limit to zero; a pipe handler is called even then on some kernels, but
    // not for processes that are not dumpable.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Core);
    match limit.current {
        Some(0) => finding("core dumps", State::Good, "off for this process and its children"),
        _ => finding(
            "core dumps",
            State::Bad,
            "could not be switched off; run under a limit of 0 (ulimit -c 0)",
        ),
    }
}

fn swap() -> Finding {
    let text = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    let plain: Vec<&str> = text
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .filter(|device| !device.starts_with("/dev/dm-") && !device.starts_with("/dev/zram"))
        .collect();
    if plain.is_empty() {
        finding("swap", State::Good, "none in the clear")
    } else {
        finding(
            "swap",
            State::Warning,
            "swap is not encrypted: memory with PHI may reach the disk; run `swapoff -a` or use dm-crypt",
        )
    }
}

fn entropy() -> Finding {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/entropy_avail").unwrap_or_default();
    match text.trim().parse::<u32>() {
        Ok(bits) if bits >= 128 => finding("entropy", State::Good, "the kernel's generator is seeded"),
        _ => {
            finding("entropy", State::Bad, "the kernel's generator is not seeded; wait, or install rng-tools")
        }
    }
}

fn open_files(config: &Config) -> Finding {
    let needed = config.number("limits.connections").saturating_mul(2).saturating_add(256);
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    match limit.maximum {
        Some(maximum) if maximum < needed => finding(
            "open files",
            State::Warning,
            format!(
                "at most {maximum}, but limits.connections needs {needed}; raise it (ulimit -Hn) or lower the setting"
            ),
        ),
        _ => finding("open files", State::Good, "enough for the connections that are allowed"),
    }
}

fn directory(data: &Path) -> Finding {
    use std::os::unix::fs::MetadataExt as _;
    match std::fs::metadata(data) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => finding(
            "data directory",
            State::Good,
            format!("`{}` will be made at the first start", data.display()),
        ),
        Err(error) => {
            finding("data directory", State::Bad, format!("`{}` cannot be used: {error}", data.display()))
        }
        Ok(found) if found.mode() & 0o077 != 0 => finding(
            "data directory",
            State::Bad,
            format!("others can enter `{0}`; run `chmod 700 {0}`", data.display()),
        ),
        Ok(_) => finding("data directory", State::Good, "its owner's alone"),
    }
}

fn encrypted_volume(data: &Path) -> Finding {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let place = nearest(data);
    let device = mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            Some((words.next()?, words.next()?))
        })
        .filter(|(_, point)| place.starts_with(point))
        .max_by_key(|(_, point)| point.len())
        .map_or("", |(device, _)| device);
    if device.starts_with("/dev/mapper/") || device.starts_with("/dev/dm-") {
        finding("volume", State::Good, "on a device-mapper volume; make sure it is dm-crypt")
    } else {
        finding(
            "volume",
            State::Warning,
            "no disk encryption found below; everything Ward writes is sealed all the same, but add dm-crypt (LUKS)",
        )
    }
}

/// The data directory, or the nearest one above it that is there.
fn nearest(data: &Path) -> PathBuf {
    let absolute = std::path::absolute(data).unwrap_or_else(|_| data.to_owned());
    absolute.ancestors().find_map(|place| place.canonicalize().ok()).unwrap_or(absolute)
}

fn space(data: &Path) -> Finding {
    match rustix::fs::statvfs(nearest(data)) {
        Ok(volume) => {
            let free = volume.f_bavail.saturating_mul(volume.f_frsize) >> 20;
            if free < 1024 {
                let advice = format!(
                    "{free} MiB free: the audit log stops the stack when the disk is full; free some"
                );
                finding("disk space", if free < 128 { State::Bad } else { State::Warning }, advice)
            } else {
                finding("disk space", State::Good, format!("{} GiB free", free >> 10))
            }
        }
        Err(_) => finding("disk space", State::Warning, "could not be read"),
    }
}

fn listener(config: &Config) -> Finding {
    let address = config.address();
    match std::net::TcpListener::bind(address) {
        Ok(_) => finding("listener", State::Good, format!("{address} is free")),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            if crate::up::runs(&config.data_directory()) {
                finding("listener", State::Good, format!("{address} is in use, by a running `ward up`"))
            } else {
                finding(
                    "listener",
                    State::Bad,
                    format!("{address} is taken by another program; set listener.address"),
                )
            }
        }
        Err(error) => finding("listener", State::Bad, format!("cannot listen on {address}: {error}")),
    }
}

fn clock() -> Finding {
    use ward_base::Clock as _;
    // The day the first version was finished: certificates and one-time codes fail on a clock before it.
    if ward_base::SystemClock.now().seconds() > 1_767_225_600 {
        finding("clock", State::Good, "plausible; keep it set by NTP, one-time codes depend on it")
    } else {
        finding("clock", State::Bad, "lies in the past; set it, certificates and one-time codes depend on it")
    }
}

fn processor() -> Finding {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if cfg!(target_arch = "x86_64") && !text.contains(" aes ") {
        finding("processor", State::Warning, "no AES instructions: encryption will be slow")
    } else {
        finding("processor", State::Good, "encrypts in hardware")
    }
}
