//! `conntrack list` and `conntrack stats`.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::style::{Style, Tone};
use super::table::{Cell, Table, number, text};
use super::units;
use crate::cli::view::flows::{FlowStatsView, FlowView};

/// One line for each flow.
pub fn flows_into(out: &mut impl Write, flows: &[FlowView], style: Style) -> io::Result<()> {
    let mut table = Table::new(&[
        text("PROTO"),
        text("CLIENT"),
        text("FRONTEND"),
        text("BACKEND"),
        text("SEEN AS"),
        text("STATE"),
        number("IDLE"),
        number("EXPIRES"),
        text("REPLIED").wide(),
        text("PORT CHANGED").wide(),
        text("HALVES").wide(),
        text("SERVICE"),
    ]);
    for flow in flows {
        let tone = if flow.confirmed {
            Tone::Good
        } else {
            Tone::Warning
        };
        table.row(vec![
            flow.protocol.into(),
            flow.client.into(),
            flow.frontend.into(),
            flow.backend.into(),
            flow.source.map_or_else(|| "client".into(), Into::into),
            Cell::toned(flow.state, tone),
            units::seconds(flow.idle_seconds).into(),
            format!("in {}", units::seconds(flow.expires_in_seconds)).into(),
            if flow.confirmed { "yes" } else { "no" }.into(),
            flow.changed_port
                .map_or_else(|| "no".into(), |port| format!("to {port}").into()),
            halves(flow).into(),
            flow.service.as_str().into(),
        ]);
    }
    table.print_into(out, style)
}

/// Which entries of the table stand for the flow.
fn halves(flow: &FlowView) -> String {
    if !flow.missing.is_empty() {
        return format!("without {}", flow.missing.join(", "));
    }
    let all = if flow.source.is_some() {
        "all 4"
    } else {
        "both"
    };
    all.to_owned()
}

/// The counts, by what flows are counted by.
pub fn flow_stats_into(
    out: &mut impl Write,
    stats: &FlowStatsView,
    style: Style,
) -> io::Result<()> {
    writeln!(
        out,
        "{} flows, {} with a reply; {} expired entries wait to be reused",
        stats.flows, stats.confirmed, stats.expired_entries
    )?;
    for (title, counts) in [
        ("by protocol", &stats.by_protocol),
        ("by family", &stats.by_family),
        ("by state", &stats.by_state),
    ] {
        if !counts.is_empty() {
            writeln!(out, "  {title:<12} {}", listed(counts))?;
        }
    }
    writeln!(out)?;
    let mut table = Table::new(&[
        text("TABLE"),
        number("ENTRIES"),
        number("MAX"),
        number("FULL"),
    ]);
    for view in &stats.tables {
        let percent = view.used.saturating_mul(100).checked_div(view.capacity);
        table.row(vec![
            view.name.as_str().into(),
            view.used.into(),
            view.capacity.into(),
            format!("{} %", percent.unwrap_or(0)).into(),
        ]);
    }
    table.print_into(out, style)
}

fn listed(counts: &BTreeMap<&'static str, u64>) -> String {
    let parts: Vec<String> = counts
        .iter()
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    parts.join(", ")
}
