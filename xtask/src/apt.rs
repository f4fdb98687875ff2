//! Debian packages: installs what a step needs and says so, or says what to install.
//!
//! What counts is whether the program or file is there, not how it came: on other systems a user
//! installs it in their own way and no package manager is ever asked.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::process;

/// Something a step needs: how to see whether it is there, and the package that brings it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Need {
    present: Presence,
    package: &'static str,
}

#[derive(Clone, Copy, Debug)]
enum Presence {
    Program(&'static str),
    File(&'static str),
}

impl Need {
    /// A program found in `PATH` or where root's tools live.
    pub(crate) const fn program(program: &'static str, package: &'static str) -> Self {
        Self {
            present: Presence::Program(program),
            package,
        }
    }

    /// A file at an absolute path.
    pub(crate) const fn file(path: &'static str, package: &'static str) -> Self {
        Self {
            present: Presence::File(path),
            package,
        }
    }

    fn is_met(self) -> bool {
        match self.present {
            Presence::Program(program) => process::is_installed(program),
            Presence::File(path) => Path::new(path).exists(),
        }
    }
}

/// Whether this process may install packages and open network namespaces.
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Whether packages can be installed here without asking anyone.
pub(crate) fn can_install() -> bool {
    is_root() && process::is_installed("apt-get")
}

/// Whether nothing is missing.
pub(crate) fn are_met(needs: &[Need]) -> bool {
    needs.iter().all(|need| need.is_met())
}

/// Installs the packages behind those needs that are not met; `purpose` completes "needed to …".
pub(crate) fn ensure(needs: &[Need], purpose: &str) -> Result<()> {
    let mut missing: Vec<&str> = needs
        .iter()
        .filter(|need| !need.is_met())
        .map(|need| need.package)
        .collect();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    let packages = missing.join(" ");
    if !can_install() {
        bail!(
            "needed to {purpose} and not found (Debian's names): {packages}; install them, \
             or run as root on Debian and xtask does it"
        );
    }
    println!("installing Debian packages to {purpose}: {packages}");
    update_lists()?;
    let mut install = apt_get();
    install
        .args(["install", "--yes", "--no-install-recommends"])
        .args(&missing);
    process::run(install.stdout(Stdio::null()))
}

/// Fetches the package lists: those of a fresh image are empty or old.
pub(crate) fn update_lists() -> Result<()> {
    process::run(apt_get().arg("update").stdout(Stdio::null()))
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").arg("-qq");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_not_installed_again() {
        ensure(
            &[Need::program("sh", "dash"), Need::file("/", "base-files")],
            "test",
        )
        .unwrap();
    }
}
