//! `steerage maps`.

use clap::Args;

use super::args::{Output, Places, Watch};
use super::error::CliError;
use super::inputs::Reader as _;
use super::output::{Printer, document, show};
use super::pins;
use super::render;
use super::view::maps::maps;

const EXAMPLES: &str = "\
Examples:
  steerage maps
  steerage maps -o wide";

/// Arguments of `maps`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct MapsArgs {
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    watch: Watch,
}

pub(crate) fn run(args: &MapsArgs, places: &Places) -> Result<(), CliError> {
    let reader = pins::open(places)?;
    let printer = Printer::new(&args.output, places);
    show(args.watch.watch, printer.is_for_people(), || {
        let names = reader.names()?;
        let document = document("MapList", &names, maps(&reader.maps()?));
        printer.print(&document, render::maps::maps_into)
    })
}
