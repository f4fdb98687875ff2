//! `steerage interface`.

use clap::{Args, Subcommand};

use super::args::{Output, Places, Watch};
use super::error::CliError;
use super::inputs::Reader as _;
use super::list::List;
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
    let list = List {
        kind: "InterfaceList",
        output: &args.output,
        watch: &args.watch,
        places,
    };
    list.show(
        |reader, _| Ok(interfaces(&reader.devices()?)),
        render::interfaces::interfaces_into,
    )
}
