//! `service list` and `service get`.

use std::io::{self, Write};

use super::style::{Style, Tone};
use super::table::{Cell, Table, number, or_none, text};
use super::units;
use crate::cli::view::services::{BackendState, FrontendView, ServiceView};

/// One line for each service port.
pub fn services_into(
    out: &mut impl Write,
    services: &[ServiceView],
    style: Style,
) -> io::Result<()> {
    let mut table = Table::new(&[
        text("NAMESPACE"),
        text("NAME"),
        text("PORT"),
        text("TYPE"),
        text("FRONTEND"),
        text("PROTO"),
        text("BACKENDS"),
        text("POLICY"),
        text("AFFINITY"),
        number("CONNS"),
        number("SLOTS").wide(),
        number("INDEX").wide(),
        text("PROBLEM").wide(),
    ]);
    for service in services {
        table.row(vec![
            or_none(Some(&service.namespace)),
            service.name.as_str().into(),
            or_none(Some(&service.port_name)),
            or_none(service.frontends.first().map(|frontend| frontend.kind)),
            frontends(&service.frontends),
            service.protocol.into(),
            usable(service),
            policy(service).into(),
            affinity(service),
            service.connections.into(),
            service.table_size.into(),
            service.index.into(),
            or_none(service.problems.first().map(String::as_str)),
        ]);
    }
    table.print_into(out, style)
}

/// All that is known of each service port.
pub fn service_details_into(
    out: &mut impl Write,
    services: &[ServiceView],
    style: Style,
) -> io::Result<()> {
    for (position, service) in services.iter().enumerate() {
        if position > 0 {
            writeln!(out)?;
        }
        details_into(out, service, style)?;
    }
    Ok(())
}

fn details_into(out: &mut impl Write, service: &ServiceView, style: Style) -> io::Result<()> {
    writeln!(
        out,
        "{}  {}",
        style.paint(&service.title(), Tone::Bold),
        service.protocol
    )?;
    for frontend in &service.frontends {
        let state = frontend_state(frontend);
        writeln!(
            out,
            "  frontend  {} {}{}",
            frontend.address, frontend.kind, state
        )?;
    }
    writeln!(out, "  policy    {}", policy(service))?;
    if service.affinity_seconds > 0 {
        let timeout = units::seconds(service.affinity_seconds.into());
        writeln!(out, "  affinity  by client address, for {timeout}")?;
    }
    writeln!(
        out,
        "  backends  {} of {} get new flows, {}",
        service.usable,
        service.total,
        match service.table_size {
            0 => "no Maglev table needed".to_owned(),
            size => format!("Maglev table of {size} slots"),
        }
    )?;
    writeln!(out, "  opened    {} connections", service.connections)?;
    for problem in &service.problems {
        writeln!(out, "  {}   {problem}", style.paint("problem", Tone::Bad))?;
    }
    if service.backends.is_empty() {
        return writeln!(out, "  no endpoints: new connections are refused");
    }
    writeln!(out)?;
    let mut table = Table::new(&[
        text("BACKEND"),
        text("STATE"),
        number("SHARE"),
        number("WEIGHT"),
        text("POD"),
        text("NODE"),
        number("CONNS"),
        text("ZONE").wide(),
        text("EXCLUDED BECAUSE"),
    ])
    .indented("  ");
    for backend in &service.backends {
        let weight = backend.weight.map(|weight| weight.to_string());
        let node = match (&backend.node, backend.local) {
            (Some(node), true) => Cell::from(format!("{node} (this)")),
            (None, true) => "(this)".into(),
            (node, false) => or_none(node.as_deref()),
        };
        table.row(vec![
            backend.address.into(),
            state(backend.state),
            units::percent(backend.share).into(),
            or_none(weight.as_deref()),
            or_none(backend.pod.as_deref()),
            node,
            backend.connections.into(),
            or_none(backend.zone.as_deref()),
            or_none(backend.excluded.as_deref()),
        ]);
    }
    table.print_into(out, style)
}

/// The state of an endpoint in its tone.
#[must_use]
pub fn state(state: BackendState) -> Cell {
    let tone = match state {
        BackendState::Ready => Tone::Good,
        BackendState::Draining | BackendState::Terminating => Tone::Warning,
        BackendState::NotReady => Tone::Bad,
    };
    Cell::toned(state.text(), tone)
}

fn frontends(frontends: &[FrontendView]) -> Cell {
    match frontends {
        [] => or_none(None),
        [only] => only.address.into(),
        [first, rest @ ..] => format!("{} +{}", first.address, rest.len()).into(),
    }
}

const fn frontend_state(frontend: &FrontendView) -> &'static str {
    match (frontend.shadowed, frontend.programmed) {
        (true, _) => " (another Service has this address and port)",
        (false, false) => " (not in the kernel)",
        (false, true) => "",
    }
}

fn usable(service: &ServiceView) -> Cell {
    let tone = match service.usable {
        0 => Tone::Bad,
        usable if usable < service.total => Tone::Warning,
        _ => Tone::Good,
    };
    Cell::toned(format!("{}/{}", service.usable, service.total), tone)
}

const fn policy(service: &ServiceView) -> &'static str {
    match (service.internal_local, service.external_local) {
        (false, false) => "Cluster",
        (true, false) => "Local (internal)",
        (false, true) => "Local (external)",
        (true, true) => "Local",
    }
}

fn affinity(service: &ServiceView) -> Cell {
    match service.affinity_seconds {
        0 => or_none(None),
        seconds => units::seconds(seconds.into()).into(),
    }
}
