//! `bench`: measures what Steerage costs on this machine.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use lb_tests::bench::{self, Options};

/// Measures time and memory, and prints them beside their targets.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    task: Option<Task>,
    /// Run only this group: datapath, net or scale.
    group: Option<String>,
    /// A hundredth of everything: shows that the benches run, measures little.
    #[arg(long)]
    smoke: bool,
    /// Of the group datapath, run only the cases whose names contain this text, and no other group.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Write machine and rows to this file too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Print two kept runs beside each other
    Compare {
        /// The earlier run
        before: PathBuf,
        /// The later run
        after: PathBuf,
    },
    /// Make docs/performance.md and its plots from a kept run
    Document {
        /// The run
        run: PathBuf,
    },
}

#[expect(clippy::print_stderr, reason = "where a program says why it failed")]
fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let options = Options {
        group: arguments.group,
        is_smoke: arguments.smoke,
        only: arguments.only,
    };
    let result = match arguments.task {
        Some(Task::Compare { before, after }) => bench::compare(&before, &after),
        // xtask starts this program at the repository's root.
        Some(Task::Document { run }) => bench::document(&run, ".".as_ref()),
        None => bench::run(&options, arguments.json.as_deref()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
