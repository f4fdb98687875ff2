//! The test tiers, from the cheapest to the slowest; `docs/testing.md` says what each proves.
//!
//! Test binaries are found by the prefix of their file in `tests/tests`, so a new file needs no
//! change here. Privileges are never skipped silently: the tiers that need root set
//! `STEERAGE_REQUIRE_ROOT`, and the tests fail without it.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::arch::Arch;
use crate::outcome::Counts;
use crate::workspace::{self, Object};
use crate::{build, fuzz, machine, process, tidy, vm};

/// Arguments of `test`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[arg(value_name = "TIER", help = "Run only this tier")]
    tier: Option<Tier>,
    /// Kernel of the tier `vm`
    #[arg(long, value_name = "SERIES", default_value = "6.1")]
    kernel: vm::Kernel,
    /// Of the tier `matrix`: every cell that runs, instead of a pairwise cover
    #[arg(long)]
    full: bool,
}

/// How long the host tier fuzzes each target after it replayed the corpus.
const FUZZ_SECONDS: u32 = 60;

/// The tiers in the order they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Tier {
    /// Rules that clippy cannot express
    Tidy,
    /// Unit and property tests, the model checker, the fuzzers; no privileges
    Host,
    /// Packets through the kernel programs by `BPF_PROG_TEST_RUN`; root
    Kernel,
    /// Kubernetes objects in, plan and map dump out; no privileges
    Scenario,
    /// Real sockets through network namespaces and a real agent; root
    Net,
    /// Of the net tier only the matrix of clients, addresses, policies and endpoints; root
    Matrix,
    /// The kernel tier on an older kernel, under qemu; root, Debian
    Vm,
}

impl Tier {
    /// Those that run when none is named; `matrix` is part of `net`, `vm` takes longer than it may.
    const ALL: [Self; 5] = [
        Self::Tidy,
        Self::Host,
        Self::Kernel,
        Self::Scenario,
        Self::Net,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Tidy => "tidy",
            Self::Host => "host",
            Self::Kernel => "kernel",
            Self::Scenario => "scenario",
            Self::Net => "net",
            Self::Matrix => "matrix",
            Self::Vm => "vm",
        }
    }

    fn run(self, args: &Args) -> Result<Counts> {
        match self {
            Self::Tidy => tidy::run().map(|()| Counts::of_step(true)),
            Self::Host => host(),
            Self::Scenario => scenario(),
            Self::Kernel | Self::Net => privileged(tests_of(self.name())?),
            Self::Matrix => matrix(args.full),
            Self::Vm => vm::run(args.kernel),
        }
    }
}

/// The subcommand.
pub(crate) fn run(args: &Args) -> Result<()> {
    if args.full && args.tier != Some(Tier::Matrix) {
        bail!("--full is of the tier `matrix`: cargo xtask test matrix --full");
    }
    let tiers = args
        .tier
        .map_or_else(|| Tier::ALL.to_vec(), |tier| vec![tier]);
    let mut total = Counts::default();
    let mut summary = Vec::new();
    for tier in tiers {
        println!("test: tier {}", tier.name());
        let clock = process::Stopwatch::start();
        let counts = tier.run(args).unwrap_or_else(|error| {
            println!("test: tier {}: {error:#}", tier.name());
            Counts::of_step(false)
        });
        total.add(counts);
        summary.push(format!(
            "test: {:<8} {:>5} passed {:>3} failed {:>7.1} s",
            tier.name(),
            counts.passed,
            counts.failed,
            clock.elapsed().as_secs_f64()
        ));
    }
    total.save()?;
    println!("{}", summary.join("\n"));
    if total.failed > 0 {
        bail!("{} passed, {} failed", total.passed, total.failed);
    }
    println!("test: {} passed, 0 failed", total.passed);
    Ok(())
}

fn host() -> Result<Counts> {
    let mut command = process::cargo();
    command.args(["test", "--no-fail-fast"]);
    command.args([
        "--package",
        "lb-common",
        "--package",
        "lb-agent",
        "--package",
        "xtask",
    ]);
    let mut counts = process::run_tests(&command)?;
    // Of the lab only what it knows about itself; its tests need root and are tiers of their own.
    let mut command = process::cargo();
    command.args([
        "test",
        "--no-fail-fast",
        "--package",
        "lb-tests",
        "--lib",
        "--bins",
    ]);
    counts.add(process::run_tests(&command)?);
    counts.add(loom()?);
    counts.add(fuzz::replay_and_fuzz(FUZZ_SECONDS)?);
    Ok(counts)
}

/// The model checker explores every interleaving of the flow table's atomics.
fn loom() -> Result<Counts> {
    let tests = binaries("lb-common/tests", "loom")?;
    if tests.is_empty() {
        return Ok(Counts::default());
    }
    let mut command = process::cargo();
    command.args([
        "test",
        "--release",
        "--no-fail-fast",
        "--package",
        "lb-common",
    ]);
    for test in &tests {
        command.args(["--test", test]);
    }
    process::run_tests(
        command
            .env("RUSTFLAGS", "--cfg loom")
            .env("CARGO_TARGET_DIR", workspace::target_dir().join("loom")),
    )
}

/// What needs neither the kernel object nor privileges: tables in memory.
fn scenario() -> Result<Counts> {
    process::run_tests(&tests_of("scenario")?)
}

/// The matrix alone, and what each shape's cells came to.
fn matrix(is_full: bool) -> Result<Counts> {
    let mut command = process::cargo();
    command.args(["test", "--package", "lb-tests", "--test", "net_matrix"]);
    command.args(["--", "--nocapture"]);
    if is_full {
        command.env("STEERAGE_MATRIX", "full");
    }
    privileged(command)
}

/// Builds what runs in the kernel, then runs tests that need it.
fn privileged(mut command: Command) -> Result<Counts> {
    machine::prepare()?;
    build::everything()?;
    process::run_tests(with_paths(&mut command).env("STEERAGE_REQUIRE_ROOT", "1"))
}

/// The command that runs the test binaries of one tier.
fn tests_of(tier: &str) -> Result<Command> {
    let tests = binaries("tests/tests", tier)?;
    if tests.is_empty() {
        bail!("no tests/tests/{tier}*.rs: the tier would prove nothing");
    }
    let mut command = process::cargo();
    command.args(["test", "--no-fail-fast", "--package", "lb-tests"]);
    for test in &tests {
        command.args(["--test", test]);
    }
    Ok(command)
}

/// Tells the tests where the objects and the agent are.
pub(crate) fn with_paths(command: &mut Command) -> &mut Command {
    command
        .env(
            "STEERAGE_BPF_OBJECT_PATH",
            Object::Normal.path(Arch::host()),
        )
        .env(
            "STEERAGE_BPF_OBJECT_DEBUG_PATH",
            Object::DebugLog.path(Arch::host()),
        )
        .env("STEERAGE_BIN", workspace::agent())
}

/// Names of the test binaries in a folder whose file starts with a prefix, sorted.
pub(crate) fn binaries(folder: &str, prefix: &str) -> Result<Vec<String>> {
    let path = workspace::root().join(folder);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(&path).with_context(|| format!("list {}", path.display()))? {
        let name = entry
            .with_context(|| format!("list {}", path.display()))?
            .file_name();
        names.extend(
            name.to_str()
                .and_then(|name| binary_of(name, prefix))
                .map(str::to_owned),
        );
    }
    names.sort();
    Ok(names)
}

/// The test binary a file makes, if it is of this tier: `kernel_icmp.rs`, `scenarios.rs`.
fn binary_of<'a>(file: &'a str, prefix: &str) -> Option<&'a str> {
    let stem = file.strip_suffix(".rs")?;
    let rest = stem.strip_prefix(prefix)?;
    (rest.is_empty() || rest == "s" || rest.starts_with('_')).then_some(stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tiers_binaries_are_those_with_its_prefix() {
        assert_eq!(binary_of("kernel_icmp.rs", "kernel"), Some("kernel_icmp"));
        assert_eq!(binary_of("scenarios.rs", "scenario"), Some("scenarios"));
        assert_eq!(binary_of("loom_flows.rs", "loom"), Some("loom_flows"));
        assert_eq!(binary_of("netlink.rs", "net"), None);
        assert_eq!(binary_of("kernel_icmp.md", "kernel"), None);
        assert_eq!(binary_of("kernel", "kernel"), None);
    }
}
