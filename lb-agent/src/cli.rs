//! The command line: what each command is told, and which exit code it ends with.
//!
//! Data goes to stdout, messages to stderr. All commands but `run` read the pinned maps and the
//! agent's two files, and so work when the agent is dead.

pub mod args;
mod backend;
mod cleanup;
mod completions;
mod config;
mod conntrack;
pub mod error;
pub mod explain;
#[cfg(test)]
mod golden;
pub mod inputs;
mod interface;
mod list;
mod maglev;
mod maps;
mod output;
mod pins;
pub mod render;
mod run;
mod service;
mod settings;
mod status;
mod verify;
mod version;
pub mod view;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use args::Places;
use error::{CliError, Exit};

/// Balances Kubernetes Services in the kernel, and shows what the kernel does
#[derive(Debug, Parser)]
#[command(name = "steerage", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    places: Places,

    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  steerage run --node-name n1 --source dir:/etc/steerage/manifests
  steerage status
  steerage service get default/web
  steerage explain default/client default/web:80";

/// Exit codes, as every `--help` lists them below the main one.
const EXIT_CODES: &str = "\
Exit codes: 0 ok, 1 runtime error, 2 usage, 3 not found, 4 no pins, 5 unhealthy, 6 privilege, 7 timeout";

/// Examples first, since they are what people look for.
const HELP_TEMPLATE: &str = "{about}{after-help}\n\n{usage-heading} {usage}\n\n{all-args}";

/// What to do.
#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent of this node
    Run(run::RunArgs),
    /// Show how this node is
    Status(status::StatusArgs),
    /// Show service ports and who serves them
    #[command(subcommand)]
    Service(service::ServiceCommand),
    /// Show backends
    #[command(subcommand)]
    Backend(backend::BackendCommand),
    /// Show how new flows spread over backends
    #[command(subcommand)]
    Maglev(maglev::MaglevCommand),
    /// Show and remove translated connections
    #[command(subcommand)]
    Conntrack(conntrack::ConntrackCommand),
    /// Show devices with programs
    #[command(subcommand)]
    Interface(interface::InterfaceCommand),
    /// Show kernel maps and how full they are
    Maps(maps::MapsArgs),
    /// Show what the kernel would do with a packet, and why
    Explain(explain::ExplainArgs),
    /// Check that the kernel tables are what the source asks for; exits with 5 if they are not
    Verify(verify::VerifyArgs),
    /// Remove programs, links and maps of this pin directory
    Cleanup(cleanup::CleanupArgs),
    /// Show and check settings
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Show versions
    Version(version::VersionArgs),
    /// Print a shell's completions
    Completions(completions::CompletionsArgs),
    /// Print manual pages
    Man(completions::ManArgs),
}

/// Runs the command that `arguments` name, the program's own name first.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let (cli, matches) = match parse(arguments) {
        Ok(parsed) => parsed,
        Err(error) => {
            // There is nowhere left to report that the help could not be printed.
            drop(error.print());
            return if error.use_stderr() {
                Exit::Usage.into()
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    match dispatch(cli, innermost(&matches)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            // Likewise: without a stderr the exit code alone must do.
            drop(writeln!(std::io::stderr(), "error: {error}"));
            error.exit().into()
        }
    }
}

fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<(Cli, ArgMatches), clap::Error> {
    let mut command = command();
    let matches = command.try_get_matches_from_mut(arguments)?;
    let cli = Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
    Ok((cli, matches))
}

/// The matches of the subcommand itself, which tell where its values came from.
fn innermost(matches: &ArgMatches) -> &ArgMatches {
    matches
        .subcommand()
        .map_or(matches, |(_, inner)| innermost(inner))
}

/// The whole command line, with examples first in every help.
pub fn command() -> clap::Command {
    fn prepare(command: clap::Command) -> clap::Command {
        command
            .help_template(HELP_TEMPLATE)
            .mut_subcommands(prepare)
    }
    prepare(Cli::command()).after_long_help(format!("{EXAMPLES}\n\n{EXIT_CODES}"))
}

fn dispatch(cli: Cli, matches: &ArgMatches) -> Result<(), CliError> {
    let places = &cli.places;
    match cli.command {
        Command::Run(args) => run::run(&args, places, matches),
        Command::Status(args) => status::run(&args, places),
        Command::Service(command) => service::run(&command, places),
        Command::Backend(command) => backend::run(&command, places),
        Command::Maglev(command) => maglev::run(&command, places),
        Command::Conntrack(command) => conntrack::run(&command, places),
        Command::Interface(command) => interface::run(&command, places),
        Command::Maps(args) => maps::run(&args, places),
        Command::Explain(args) => explain::run(&args, places),
        Command::Verify(args) => verify::run(&args, places),
        Command::Cleanup(args) => cleanup::run(&args, places),
        Command::Config(command) => config::run(&command, places, matches),
        Command::Version(args) => version::run(&args, places),
        Command::Completions(args) => completions::completions(&args),
        Command::Man(args) => completions::man(&args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_help_shows_examples_before_usage() {
        fn check(command: &mut clap::Command) {
            let help = command.render_long_help().to_string();
            let name = command.get_name().to_owned();
            let examples = help.find("Examples:");
            let usage = help.find("Usage:");
            assert!(usage.is_some(), "{name}");
            if !command.has_subcommands() {
                assert!(examples.is_some(), "{name} has examples");
                assert!(examples < usage, "{name}: examples come first\n{help}");
            }
            for subcommand in command.get_subcommands_mut() {
                if subcommand.get_name() != "help" {
                    check(subcommand);
                }
            }
        }
        check(&mut command());
    }
}
