//! Everything that can be judged without running the code.
//!
//! Each step runs even when one before it failed, so that one run shows all there is to mend.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::arch::Arch;
use crate::workspace::Object;
use crate::{build, deny, process, tidy, toolchain};

/// A named check.
type Step = (&'static str, fn() -> Result<()>);

const STEPS: [Step; 7] = [
    ("fmt", fmt),
    ("tidy", tidy::run),
    ("deny", deny::run),
    ("clippy", clippy),
    ("doc", doc),
    ("object for aarch64", other_object),
    ("check for aarch64", other_machine),
];

/// The subcommand.
pub(crate) fn run() -> Result<()> {
    let mut failed = Vec::new();
    for (name, step) in STEPS {
        let clock = process::Stopwatch::start();
        let outcome = step();
        let seconds = clock.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => println!("lint: {name}: ok in {seconds:.1} s"),
            Err(error) => {
                println!("lint: {name}: FAILED in {seconds:.1} s: {error:#}");
                failed.push(name);
            }
        }
    }
    if !failed.is_empty() {
        bail!("lint failed: {}", failed.join(", "));
    }
    Ok(())
}

fn fmt() -> Result<()> {
    ensure_components()?;
    process::run(process::cargo().args(["fmt", "--all", "--check"]))
        .context("run `cargo fmt --all`")
}

/// rustup's minimal profile has neither rustfmt nor clippy.
fn ensure_components() -> Result<()> {
    for (subcommand, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        let is_there = process::cargo().args([subcommand, "--version"]).output();
        if !is_there.is_ok_and(|output| output.status.success()) {
            println!("adding the component {component} to the toolchain in use");
            process::run(Command::new("rustup").args(["component", "add", component]))?;
        }
    }
    Ok(())
}

fn clippy() -> Result<()> {
    process::run(process::cargo().args([
        "clippy",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--",
        "--deny=warnings",
    ]))
}

fn doc() -> Result<()> {
    process::run(
        process::cargo()
            .args(["doc", "--quiet", "--workspace", "--no-deps"])
            // The compiler judges what lacks documentation; rustdoc also sees what macros make.
            .env("RUSTDOCFLAGS", "--deny=warnings --allow=missing_docs"),
    )
}

/// The machine that is not this one.
fn other_arch() -> Arch {
    if Arch::host() == Arch::Aarch64 {
        Arch::X86_64
    } else {
        Arch::Aarch64
    }
}

fn other_object() -> Result<()> {
    build::object(&toolchain::find_or_install()?, Object::Normal, other_arch())
}

/// Type-checks the decisions for the other machine, with `core` built from source by the BPF
/// toolchain, so that nothing more has to be installed. (The agent would need all of `std` and
/// every dependency built for it: minutes that the lint does not have.)
fn other_machine() -> Result<()> {
    let toolchain = toolchain::find_or_install()?;
    let target = format!("{}-unknown-linux-gnu", other_arch().name());
    process::run(
        process::foreign_cargo(&toolchain.cargo, &toolchain.rustc)
            .args([
                "check",
                "--quiet",
                "--locked",
                "-Z",
                "build-std=core",
                "--target",
                &target,
            ])
            .args(["--package", "lb-common", "--target-dir"])
            .arg(crate::workspace::target_dir().join("other-machine"))
            .env("RUSTC_BOOTSTRAP", "1"),
    )
}
