//! `backend list`.

use std::io::{self, Write};

use super::style::Style;
use super::table::{Table, number, or_none, text};
use crate::cli::view::backends::BackendView;

/// One line for each backend.
pub fn backends_into(
    out: &mut impl Write,
    backends: &[BackendView],
    style: Style,
) -> io::Result<()> {
    let mut table = Table::new(&[
        text("BACKEND"),
        text("PROTO"),
        text("STATE"),
        text("NODE"),
        text("POD"),
        number("CONNS"),
        text("ZONE").wide(),
        text("LOCAL").wide(),
        number("INDEX").wide(),
        number("GENERATION").wide(),
        text("SERVICES"),
    ]);
    for backend in backends {
        let services = match backend.services.as_slice() {
            [first, second, rest @ ..] if !style.wide && !rest.is_empty() => {
                format!("{first},{second} +{}", rest.len())
            }
            all => all.join(","),
        };
        table.row(vec![
            backend.address.into(),
            backend.protocol.into(),
            super::services::state(backend.state),
            or_none(backend.node.as_deref()),
            or_none(backend.pod.as_deref()),
            backend.connections.into(),
            or_none(backend.zone.as_deref()),
            if backend.local { "yes" } else { "no" }.into(),
            backend.index.into(),
            backend.generation.into(),
            or_none(Some(&services)),
        ]);
    }
    table.print_into(out, style)
}
