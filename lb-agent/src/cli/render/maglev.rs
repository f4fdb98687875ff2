//! `maglev show`.

use std::io::{self, Write};

use super::style::{Style, Tone};
use super::table::{Table, number, or_none, text};
use super::units;
use crate::cli::view::maglev::MaglevView;

/// Every table with its backends.
pub fn maglev_into(out: &mut impl Write, tables: &[MaglevView], style: Style) -> io::Result<()> {
    for (position, view) in tables.iter().enumerate() {
        if position > 0 {
            writeln!(out)?;
        }
        let frontends: Vec<String> = view.frontends.iter().map(ToString::to_string).collect();
        writeln!(
            out,
            "{}  {} {}  {} clients",
            style.paint(&view.service, Tone::Bold),
            frontends.join(","),
            view.protocol,
            view.audience
        )?;
        match (view.table_size, view.backends.len()) {
            (0, 0) => writeln!(out, "  no backend: new connections are refused")?,
            (0, _) => writeln!(out, "  one backend gets everything, no table needed")?,
            (size, _) => writeln!(
                out,
                "  {size} slots, checksum {}, largest deviation {:.1} % of a weight's share",
                view.checksum, view.largest_deviation_percent
            )?,
        }
        if view.backends.is_empty() {
            continue;
        }
        writeln!(out)?;
        let mut table = Table::new(&[
            text("BACKEND"),
            text("POD"),
            number("WEIGHT"),
            number("SLOTS"),
            number("SHARE"),
            number("EXPECTED"),
        ])
        .indented("  ");
        for backend in &view.backends {
            let weight = backend.weight.map(|weight| weight.to_string());
            table.row(vec![
                backend.address.into(),
                or_none(backend.pod.as_deref()),
                or_none(weight.as_deref()),
                backend.slots.into(),
                units::percent(backend.share).into(),
                units::percent(backend.expected_share).into(),
            ]);
        }
        table.print_into(out, style)?;
    }
    Ok(())
}
