//! `cargo xtask`: installs what is missing, builds, tests and shows Steerage.
//!
//! One file per subcommand; here is only the list of them.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    reason = "a build tool talks to the person who started it"
)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod apt;
mod arch;
mod build;
mod cpio;
mod deny;
mod fuzz;
mod lab;
mod lint;
mod machine;
mod outcome;
mod process;
mod slim;
mod test;
mod tidy;
mod toolchain;
mod vm;
mod workspace;

/// Installs what is missing, builds, tests and shows Steerage.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Find or install a toolchain that compiles for BPF
    Toolchain,
    /// Build the kernel object and the agent that embeds it
    Build(build::Args),
    /// Check formatting, clippy, documentation, dependencies, the tidy rules and the other machine
    Lint,
    /// Run the tests, all tiers or one
    Test(test::Args),
    /// Show Steerage on three nodes of this machine
    Demo(lab::DemoArgs),
    /// Measure, all groups or one
    Bench(lab::BenchArgs),
    /// Replay the corpus and fuzz the parser and the decisions
    Fuzz(fuzz::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Task::Toolchain => toolchain::run(),
        Task::Build(args) => build::run(&args),
        Task::Lint => lint::run(),
        Task::Test(args) => test::run(&args),
        Task::Demo(args) => lab::demo(&args),
        Task::Bench(args) => lab::bench(&args),
        Task::Fuzz(args) => fuzz::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
