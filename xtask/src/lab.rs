//! `demo` and `bench`: programs of crate `lb-tests`, run on a prepared machine.

use std::path::PathBuf;

use anyhow::Result;

use crate::{build, machine, process, test};

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
    /// Run only this group
    group: Option<String>,
    /// One short round of each: shows that the benches run, measures nothing
    #[arg(long)]
    smoke: bool,
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
    let mut words: Vec<String> = args.group.iter().cloned().collect();
    if args.smoke {
        words.push("--smoke".to_owned());
    }
    if let Some(file) = &args.json {
        // The program runs at the repository's root, the path is meant from here.
        let file = std::path::absolute(file)?;
        words.extend(["--json".to_owned(), file.display().to_string()]);
    }
    run("bench", &words)
}

fn run(program: &str, args: &[String]) -> Result<()> {
    machine::prepare()?;
    build::everything()?;
    let mut cargo = process::cargo();
    cargo.args([
        "run",
        "--quiet",
        "--release",
        "--package",
        "lb-tests",
        "--bin",
        program,
        "--",
    ]);
    cargo.args(args);
    process::run(test::with_paths(build::with_objects(&mut cargo)))
}
