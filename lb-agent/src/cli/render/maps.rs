//! `maps`.

use std::io::{self, Write};

use super::style::{Style, Tone};
use super::table::{Cell, NONE, Table, number, text};
use super::units;
use crate::cli::view::maps::{MapView, PRESSURE_WARNING_PERCENT};

/// One line for each map, and the sum.
pub fn maps_into(out: &mut impl Write, maps: &[MapView], style: Style) -> io::Result<()> {
    let mut table = Table::new(&[
        text("NAME"),
        text("TYPE"),
        number("ENTRIES"),
        number("MAX"),
        number("PRESSURE"),
        number("MEMORY"),
        text("PIN").wide(),
    ]);
    for map in maps {
        let none = || Cell::toned(NONE, Tone::Dim);
        table.row(vec![
            map.name.as_str().into(),
            map.kind.as_str().into(),
            map.used.map_or_else(none, Cell::from),
            map.capacity.into(),
            map.pressure_percent.map_or_else(none, pressure),
            units::bytes(map.memory_bytes).into(),
            map.pin.display().into(),
        ]);
    }
    table.print_into(out, style)
}

/// A percentage in its tone.
#[must_use]
pub fn pressure(percent: u64) -> Cell {
    let tone = match percent {
        95.. => Tone::Bad,
        PRESSURE_WARNING_PERCENT..95 => Tone::Warning,
        _ => Tone::Plain,
    };
    Cell::toned(format!("{percent} %"), tone)
}
