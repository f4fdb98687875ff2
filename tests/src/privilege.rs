//! Refuses to run without the privileges that namespaces and BPF need.
//!
//! Rust's test harness cannot report a skipped test, and a test that silently did nothing looks
//! like one that passed. So a missing privilege is always a failure; `STEERAGE_REQUIRE_ROOT=1`
//! (set in CI) only changes what the message advises.

use std::env;

use anyhow::{Result, bail};
use nix::unistd::Uid;

/// Fails unless this process is root.
pub fn require_root() -> Result<()> {
    if Uid::effective().is_root() {
        return Ok(());
    }
    if env::var_os("STEERAGE_REQUIRE_ROOT").is_some_and(|value| value == "1") {
        bail!("STEERAGE_REQUIRE_ROOT=1 is set, but this is not root: CI must run as root");
    }
    bail!(
        "network namespaces and BPF programs need root: run this with sudo, \
         or leave these tests out with `cargo xtask test host`"
    );
}
