//! How many entries a second the log takes, by the size of a batch: `cargo run -p ward-audit --example append_speed
//! [DIRECTORY]`. The directory decides whose disk is measured.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::io::Write as _;
use std::time::{Duration, Instant};

use ward_audit::Log;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut out = std::io::stdout().lock();
    let place = std::env::args().nth(1).map_or_else(std::env::temp_dir, Into::into);
    for batch in [1, 16, 64, 256] {
        let directory = tempfile::tempdir_in(&place)?;
        let mut log = Log::open(directory.path(), common::keys())?;
        let entries = common::reads(0, batch);
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(5) {
            log.append(&entries)?;
        }
        let seconds = begin.elapsed().as_secs_f64();
        let size = log.size();
        writeln!(out, "batches of {batch:>3}: {:>7.0} entries/s", size as f64 / seconds)?;
        let begin = Instant::now();
        log.close()?;
        let closed = begin.elapsed();
        let begin = Instant::now();
        let verified = ward_audit::verify(directory.path(), None)?;
        let rate = verified.entries as f64 / begin.elapsed().as_secs_f64();
        writeln!(out, "                closed in {closed:.0?}, {size} entries verified at {rate:.0}/s")?;
    }
    Ok(())
}
