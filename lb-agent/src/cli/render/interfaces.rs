//! `interface list`.

use std::io::{self, Write};

use super::style::{Style, Tone};
use super::table::{Cell, Table, number, or_none, text};
use crate::cli::view::interfaces::InterfaceView;

/// One line for each device.
pub fn interfaces_into(
    out: &mut impl Write,
    interfaces: &[InterfaceView],
    style: Style,
) -> io::Result<()> {
    let mut table = Table::new(&[
        number("INDEX"),
        text("NAME"),
        text("ROLE"),
        text("BRIDGE"),
        text("INGRESS"),
        text("EGRESS"),
        text("STATE"),
        text("PATH").wide(),
        text("PLAIN BECAUSE").wide(),
        text("SOURCES").wide(),
        text("WHY").wide(),
    ]);
    for interface in interfaces {
        let hook = |attached| Cell::from(if attached { "yes" } else { "no" });
        let sources: Vec<_> = interface.sources.iter().map(ToString::to_string).collect();
        let sources = sources.join(" ");
        let tone = match interface.state {
            "attached" => Tone::Good,
            "gone" => Tone::Dim,
            _ => Tone::Bad,
        };
        table.row(vec![
            interface.index.into(),
            or_none(interface.name.as_deref()),
            interface.role.into(),
            or_none(interface.bridge.as_deref()),
            hook(interface.ingress),
            hook(interface.egress),
            Cell::toned(interface.state, tone),
            interface.path.into(),
            or_none(interface.path_why.as_deref()),
            or_none((!sources.is_empty()).then_some(sources.as_str())),
            or_none(why(interface).as_deref()),
        ]);
    }
    table.print_into(out, style)
}

/// Why the device has its role, or has none.
fn why(interface: &InterfaceView) -> Option<String> {
    let why = interface.why.as_ref()?;
    Some(match &interface.obstacle {
        Some(obstacle) => format!("{why}, but {obstacle}"),
        None => why.clone(),
    })
}
