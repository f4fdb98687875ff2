//! Fuzzes the decisions with libFuzzer, on the released compiler.
//!
//! cargo-fuzz would want a nightly compiler for its sanitizers. What is fuzzed forbids unsafe code,
//! so coverage is all that is needed, and its flags are stable. A target is a binary of the
//! workspace `tests/fuzz`, `fuzz_targets/NAME.rs`; its seeds are the files of `corpus/NAME`.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::apt::{self, Need};
use crate::arch::Arch;
use crate::outcome::Counts;
use crate::{process, workspace};

/// What libFuzzer needs compiled into the code under test.
const COVERAGE: [&str; 8] = [
    "--cfg=fuzzing",
    "-Cdebug-assertions",
    "-Ccodegen-units=1",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// Flags of `fuzz`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// How long each target runs; all targets run at once
    #[arg(long, default_value_t = 1)]
    minutes: u32,
}

/// The subcommand.
pub(crate) fn run(args: &Args) -> Result<()> {
    let counts = replay_and_fuzz(args.minutes.saturating_mul(60))?;
    if counts.failed > 0 {
        bail!("{} fuzz targets failed", counts.failed);
    }
    Ok(())
}

/// Replays every target's seeds, then fuzzes each for this long; one count per target.
pub(crate) fn replay_and_fuzz(seconds: u32) -> Result<Counts> {
    let targets = targets()?;
    build()?;
    let running = targets
        .iter()
        .map(|target| Ok((Run::of(target), start(target, seconds)?)))
        .collect::<Result<Vec<_>>>()?;
    let mut counts = Counts::default();
    for (run, mut child) in running {
        let status = child
            .wait()
            .with_context(|| format!("wait for fuzz target {}", run.name))?;
        let log = fs::read(&run.log).with_context(|| format!("read {}", run.log.display()))?;
        let log = String::from_utf8_lossy(&log);
        counts.add(Counts::of_step(status.success()));
        if status.success() {
            println!("fuzz: {}: ok, {}", run.name, executions(&log));
        } else {
            let last: Vec<&str> = log.lines().rev().take(40).collect();
            last.iter().rev().for_each(|line| println!("{line}"));
            println!(
                "fuzz: {}: FAILED; the input is in {}: keep it as a file of tests/fuzz/corpus/{} \
                 once the fault is mended",
                run.name,
                run.artifacts.display(),
                run.name
            );
        }
    }
    Ok(counts)
}

/// The files of one target's run.
struct Run {
    name: String,
    log: PathBuf,
    artifacts: PathBuf,
    seeds: PathBuf,
    /// Inputs found by earlier runs on this machine; libFuzzer adds to it.
    found: PathBuf,
}

impl Run {
    fn of(target: &str) -> Self {
        let folder = fuzz_dir();
        let scratch = build_dir();
        Self {
            name: target.to_owned(),
            log: scratch.join(format!("{target}.log")),
            artifacts: folder.join("artifacts").join(target),
            seeds: folder.join("corpus").join(target),
            found: scratch.join("found").join(target),
        }
    }
}

fn fuzz_dir() -> PathBuf {
    workspace::root().join("tests/fuzz")
}

fn build_dir() -> PathBuf {
    workspace::target_dir().join("fuzz")
}

fn triple() -> String {
    format!("{}-unknown-linux-gnu", Arch::host().name())
}

/// Names of the targets: the files of `fuzz_targets`.
fn targets() -> Result<Vec<String>> {
    let folder = fuzz_dir().join("fuzz_targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry
            .with_context(|| format!("list {}", folder.display()))?
            .path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(
                path.file_stem()
                    .and_then(|stem| stem.to_str())
                    .map(str::to_owned),
            );
        }
    }
    if names.is_empty() {
        bail!("no fuzz targets in {}", folder.display());
    }
    names.sort();
    Ok(names)
}

fn build() -> Result<()> {
    apt::ensure(&[Need::program("c++", "g++")], "compile libFuzzer")?;
    // Naming the target keeps the flags away from build scripts.
    process::run(
        process::cargo()
            .args([
                "build",
                "--release",
                "--locked",
                "--bins",
                "--target",
                &triple(),
            ])
            .current_dir(fuzz_dir())
            .env("CARGO_ENCODED_RUSTFLAGS", COVERAGE.join("\u{1f}"))
            .env("CARGO_TARGET_DIR", build_dir()),
    )
}

/// Starts one target: libFuzzer runs all seeds first, then mutates them.
fn start(target: &str, seconds: u32) -> Result<Child> {
    let run = Run::of(target);
    for folder in [&run.artifacts, &run.seeds, &run.found] {
        fs::create_dir_all(folder)
            .with_context(|| format!("create the folder {}", folder.display()))?;
    }
    let log =
        File::create(&run.log).with_context(|| format!("write the log {}", run.log.display()))?;
    let binary = build_dir().join(triple()).join("release").join(target);
    Command::new(&binary)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", run.artifacts.display()))
        .args([
            "-max_len=2048",
            "-timeout=10",
            "-rss_limit_mb=2048",
            "-print_final_stats=1",
        ])
        .args([&run.found, &run.seeds])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .with_context(|| format!("start the fuzz target {}", binary.display()))
}

/// libFuzzer's own count of what it ran.
fn executions(log: &str) -> String {
    log.lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))
        .map_or_else(
            || "no statistics".to_owned(),
            |number| format!("{} inputs", number.trim()),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_inputs_is_read_from_the_log() {
        let log = "Done 12 runs in 1 second(s)\nstat::number_of_executed_units: 12\n";
        assert_eq!(executions(log), "12 inputs");
        assert_eq!(executions(""), "no statistics");
    }
}
