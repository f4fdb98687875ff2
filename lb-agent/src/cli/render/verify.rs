//! `verify`.

use std::io::{self, Write};

use super::style::{Style, Tone};
use super::table::{Cell, Table, or_none, text};
use crate::cli::view::verify::{AgentState, AuditView, VerificationView};

/// What was compared and how it came out, then each difference.
pub fn verification_into(
    out: &mut impl Write,
    view: &VerificationView,
    style: Style,
) -> io::Result<()> {
    let (word, tone) = if view.clean {
        ("clean", Tone::Good)
    } else {
        ("drift", Tone::Bad)
    };
    let compared = &view.compared;
    writeln!(
        out,
        "{}  {} frontends, {} service ports, {} backends, {} interfaces; {} differences",
        style.paint(word, tone),
        compared.frontends,
        compared.service_ports,
        compared.backends,
        compared.interfaces,
        view.differences.len()
    )?;
    let sides = match view.agent {
        AgentState::Alive => "source, agent and kernel",
        AgentState::Dead => "source and kernel; the agent does not run",
        AgentState::Unknown => "source and kernel; no agent has left a status",
    };
    writeln!(out, "compared  {sides} (source {})", view.source)?;
    if let Some(repair) = &view.repair {
        audit_into(out, "repair", repair)?;
    } else if let Some(audit) = &view.audit {
        audit_into(out, "audit", audit)?;
    }
    if view.differences.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    let mut table = Table::new(&[
        text("TABLE"),
        text("ABOUT"),
        text("SERVICE"),
        text("BEHIND"),
        text("SOURCE"),
        text("AGENT"),
        text("KERNEL"),
    ]);
    for difference in &view.differences {
        table.row(vec![
            difference.table.into(),
            difference.about.as_str().into(),
            or_none(difference.service.as_deref()),
            Cell::toned(difference.behind.text(), Tone::Warning),
            or_none(difference.source.as_deref()),
            or_none(difference.agent.as_deref()),
            or_none(difference.kernel.as_deref()),
        ]);
    }
    table.print_into(out, style)
}

fn audit_into(out: &mut impl Write, name: &str, audit: &AuditView) -> io::Result<()> {
    let entries: u64 = audit.entries.values().sum();
    let entries = if entries == 1 {
        "1 entry was".to_owned()
    } else {
        format!("{entries} entries were")
    };
    writeln!(
        out,
        "{name:<9} by the agent at {}: {entries} not as planned, {} written again",
        audit.at, audit.repaired
    )
}
