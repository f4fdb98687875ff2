//! `steerage backend`.

use clap::{Args, Subcommand};

use super::args::{NamespaceFilter, Output, Places, Watch};
use super::error::CliError;
use super::inputs::Reader as _;
use super::output::{Printer, document, show};
use super::pins;
use super::render;
use super::view::backends::backends;

/// What to show of backends.
#[derive(Debug, Subcommand)]
pub(crate) enum BackendCommand {
    /// List backends with the services that share them
    #[command(after_help = LIST_EXAMPLES)]
    List(ListArgs),
}

const LIST_EXAMPLES: &str = "\
Examples:
  steerage backend list
  steerage backend list -n default -o wide";

/// Arguments of `list`.
#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    namespace: NamespaceFilter,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    watch: Watch,
}

pub(crate) fn run(command: &BackendCommand, places: &Places) -> Result<(), CliError> {
    let BackendCommand::List(args) = command;
    let reader = pins::open(places)?;
    let printer = Printer::new(&args.output, places);
    show(args.watch.watch, printer.is_for_people(), || {
        let names = reader.names()?;
        let mut views = backends(&reader.tables()?, &names, &reader.connections()?);
        views.retain(|view| {
            args.namespace.namespace.is_none()
                || view
                    .namespaces
                    .iter()
                    .any(|namespace| args.namespace.admits(namespace))
        });
        let document = document("BackendList", &names, views);
        printer.print(&document, render::backends::backends_into)
    })
}
