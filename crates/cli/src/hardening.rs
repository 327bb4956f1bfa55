//! What every process does before it touches a secret: no core dumps, no debugger, quiet panics.

use std::io::Write as _;

use rustix::process::{DumpableBehavior, Resource, Rlimit};

/// Hardens this process. Fails rather than going on with less.
pub(crate) fn harden() -> anyhow::Result<()> {
    // A core would hold keys and records (R6); without "dumpable" no other process of the same user can read
    // this one's memory either.
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // Every connection of a listener and of its pools is one; the usual soft limit is 1,024.
    let files = rustix::process::getrlimit(Resource::Nofile);
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: files.maximum, maximum: files.maximum })?;
    // Whatever this process creates is its owner's alone.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    // A panic message may quote the value that caused it: the place is enough to find the fault.
    std::panic::set_hook(Box::new(|panic| {
        let (file, line) = panic.location().map_or(("?", 0), |place| (place.file(), place.line()));
        let _ = writeln!(
            std::io::stderr(),
            "{{\"level\":\"error\",\"event\":\"panic\",\"at\":\"{file}:{line}\"}}"
        );
    }));
    Ok(())
}
