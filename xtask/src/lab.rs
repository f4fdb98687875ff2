//! `demo` and `bench`: programs of crate `lb-tests`, run on a prepared machine.

use std::{path::PathBuf, process::Command};

use anyhow::Result;

use crate::{arch::Arch, build, machine, process, test, workspace::Object};

/// Flags of `demo`.
#[derive(clap::Args, Debug)]
pub(crate) struct DemoArgs {
    /// Passed to the demo; `-- --help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Flags of `bench`.
#[derive(clap::Args, Debug)]
pub(crate) struct BenchArgs {
    /// Run only this group; or `compare`, or `document`
    task: Option<String>,
    /// The kept runs that `compare` or `document` reads
    #[arg(value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// One short round of each: shows that the benches run, measures nothing
    #[arg(long)]
    smoke: bool,
    /// Of the group `datapath`, run only the cases whose names contain this text
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Write the results to a file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The subcommand `demo`.
pub(crate) fn demo(args: &DemoArgs) -> Result<()> {
    run("demo", &args.args)
}

/// The subcommand `bench`.
pub(crate) fn bench(args: &BenchArgs) -> Result<()> {
    let mut words: Vec<String> = args.task.iter().cloned().collect();
    // The program runs at the repository's root, paths are meant from here.
    for run in &args.runs {
        words.push(std::path::absolute(run)?.display().to_string());
    }
    if args.smoke {
        words.push("--smoke".to_owned());
    }
    if let Some(text) = &args.only {
        words.extend(["--only".to_owned(), text.clone()]);
    }
    if let Some(file) = &args.json {
        let file = std::path::absolute(file)?;
        words.extend(["--json".to_owned(), file.display().to_string()]);
    }
    if matches!(args.task.as_deref(), Some("compare" | "document")) {
        let mut bench = program("bench", &words);
        // Where they are, name them: the agent would else be built again for their absence.
        if Object::Normal.path(Arch::host()).is_file() {
            build::with_objects(&mut bench);
        }
        return process::run(&mut bench);
    }
    machine::prepare_bench()?;
    build::bench_object()?;
    run("bench", &words)
}

fn run(name: &str, args: &[String]) -> Result<()> {
    machine::prepare()?;
    build::everything()?;
    process::run(test::with_paths(build::with_objects(&mut program(
        name, args,
    ))))
}

fn program(name: &str, args: &[String]) -> Command {
    let mut cargo = process::cargo();
    cargo.args([
        "run",
        "--quiet",
        "--release",
        "--package",
        "lb-tests",
        "--bin",
        name,
        "--",
    ]);
    cargo.args(args);
    cargo.env(
        "STEERAGE_BENCH_OBJECT_PATH",
        Object::Bench.path(Arch::host()),
    );
    cargo
}
