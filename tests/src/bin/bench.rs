//! `bench`: measures what Steerage costs on this machine.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use lb_tests::bench::{self, Options};

/// Measures time and memory, and prints them beside their targets.
#[derive(Debug, Parser)]
struct Arguments {
    /// Run only this group: scale or datapath.
    group: Option<String>,
    /// A hundredth of everything: shows that the benches run, measures little.
    #[arg(long)]
    smoke: bool,
    /// Write machine and rows to this file too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[expect(clippy::print_stderr, reason = "where a program says why it failed")]
fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let options = Options {
        group: arguments.group,
        is_smoke: arguments.smoke,
    };
    match bench::run(&options, arguments.json.as_deref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
