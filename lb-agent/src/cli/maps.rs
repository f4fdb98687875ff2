//! `steerage maps`.

use clap::Args;

use super::args::{Output, Places, Watch};
use super::error::CliError;
use super::inputs::Reader as _;
use super::list::List;
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
    let list = List {
        kind: "MapList",
        output: &args.output,
        watch: &args.watch,
        places,
    };
    list.show(
        |reader, _| Ok(maps(&reader.maps()?)),
        render::maps::maps_into,
    )
}
