//! `steerage interface`.

use clap::{Args, Subcommand};

use super::args::{Output, Places, Watch};
use super::error::CliError;
use super::inputs::Reader as _;
use super::output::{Printer, document, show};
use super::pins;
use super::render;
use super::view::interfaces::interfaces;

/// What to show of devices.
#[derive(Debug, Subcommand)]
pub(crate) enum InterfaceCommand {
    /// List devices with programs
    #[command(after_help = LIST_EXAMPLES)]
    List(ListArgs),
}

const LIST_EXAMPLES: &str = "\
Examples:
  steerage interface list
  steerage interface list -o json";

/// Arguments of `list`.
#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    watch: Watch,
}

pub(crate) fn run(command: &InterfaceCommand, places: &Places) -> Result<(), CliError> {
    let InterfaceCommand::List(args) = command;
    let reader = pins::open(places)?;
    let printer = Printer::new(&args.output, places);
    show(args.watch.watch, printer.is_for_people(), || {
        let names = reader.names()?;
        let document = document("InterfaceList", &names, interfaces(&reader.devices()?));
        printer.print(&document, render::interfaces::interfaces_into)
    })
}
