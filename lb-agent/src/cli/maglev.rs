//! `steerage maglev`.

use clap::{Args, Subcommand};

use super::args::{Output, Places, ServiceReference};
use super::error::CliError;
use super::inputs::Reader as _;
use super::output::{Printer, document, show_once};
use super::service::find;
use super::view::maglev::maglev;
use super::view::services::services;
use super::{pins, render};

/// What to show of Maglev tables.
#[derive(Debug, Subcommand)]
pub(crate) enum MaglevCommand {
    /// Show how a service's new flows spread over its backends
    #[command(after_help = SHOW_EXAMPLES)]
    Show(ShowArgs),
}

const SHOW_EXAMPLES: &str = "\
Examples:
  steerage maglev show default/web
  steerage maglev show default/web:http -o json";

/// Arguments of `show`.
#[derive(Args, Debug)]
pub(crate) struct ShowArgs {
    /// The Service, as NAMESPACE/NAME or NAMESPACE/NAME:PORT
    service: ServiceReference,
    #[command(flatten)]
    output: Output,
}

pub(crate) fn run(command: &MaglevCommand, places: &Places) -> Result<(), CliError> {
    let MaglevCommand::Show(args) = command;
    let reader = pins::open(places)?;
    let printer = Printer::new(&args.output, places);
    let names = reader.names()?;
    let tables = reader.tables()?;
    let views = find(
        services(&tables, &names, &reader.connections()?),
        &args.service,
    )?;
    let items = views
        .iter()
        .flat_map(|view| maglev(view, &tables))
        .collect();
    let document = document("MaglevTableList", &names, items);
    show_once(printer.print(&document, render::maglev::maglev_into)?)
}
