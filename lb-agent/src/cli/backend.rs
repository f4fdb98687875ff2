//! `steerage backend`.

use clap::{Args, Subcommand};

use super::args::{NamespaceFilter, Output, Places, Watch};
use super::error::CliError;
use super::inputs::Reader as _;
use super::list::List;
use super::pins::PinnedReader;
use super::render;
use super::view::backends::backends;
use crate::plan::names::Names;

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
    let list = List {
        kind: "BackendList",
        output: &args.output,
        watch: &args.watch,
        places,
    };
    let collect = |reader: &PinnedReader, names: &Names| {
        let mut views = backends(&reader.tables()?, names, &reader.connections()?);
        views.retain(|view| {
            args.namespace.namespace.is_none()
                || view
                    .namespaces
                    .iter()
                    .any(|namespace| args.namespace.admits(namespace))
        });
        Ok(views)
    };
    list.show(collect, render::backends::backends_into)
}
