//! `explain`.

use std::io::{self, Write};

use super::style::{Style, Tone};
use super::table::{Cell, Table, number, or_none, text};
use super::units;
use crate::cli::view::explain::{ExplainView, TupleView};

/// The packet, what was looked at, who may serve, and the outcome.
pub fn explain_into(out: &mut impl Write, view: &ExplainView, style: Style) -> io::Result<()> {
    let client = view
        .client
        .as_ref()
        .map_or_else(String::new, |client| format!(" from {client}"));
    writeln!(
        out,
        "packet      {}{client}",
        style.paint(&tuple(&view.packet), Tone::Bold)
    )?;
    for assumption in &view.assumptions {
        writeln!(out, "            ({assumption})")?;
    }
    writeln!(out, "decided at  {}", view.hook)?;
    writeln!(
        out,
        "service     {}",
        view.service.as_deref().unwrap_or("none")
    )?;
    writeln!(out)?;
    for (position, step) in view.steps.iter().enumerate() {
        writeln!(
            out,
            "{:>2}. {:<15} {}",
            position + 1,
            step.name,
            step.finding
        )?;
    }
    if !view.candidates.is_empty() {
        writeln!(out)?;
        let mut table = Table::new(&[
            text(""),
            text("BACKEND"),
            text("STATE"),
            number("SHARE"),
            text("POD"),
            text("EXCLUDED BECAUSE"),
        ]);
        for candidate in &view.candidates {
            table.row(vec![
                if candidate.chosen {
                    Cell::toned("->", Tone::Good)
                } else {
                    "".into()
                },
                candidate.address.into(),
                super::services::state(candidate.state),
                units::percent(candidate.share).into(),
                or_none(candidate.pod.as_deref()),
                or_none(candidate.excluded.as_deref()),
            ]);
        }
        table.print_into(out, style)?;
    }
    writeln!(out)?;
    let tone = match view.verdict.kind {
        "translate" => Tone::Good,
        "drop" => Tone::Bad,
        "answer" => Tone::Warning,
        _ => Tone::Plain,
    };
    writeln!(
        out,
        "verdict     {} ({}): {}",
        style.paint(view.verdict.kind, tone),
        view.verdict.reason,
        view.verdict.explanation
    )?;
    if let Some(translated) = &view.translated {
        writeln!(out, "goes on as  {}", tuple(translated))?;
    }
    if let Some(leaves) = &view.leaves {
        writeln!(out, "leaves as   {}", tuple(leaves))?;
    }
    if let Some(reply) = &view.reply {
        writeln!(
            out,
            "reply       {} becomes {} at {}",
            tuple(&reply.arrives),
            tuple(&reply.leaves),
            reply.hook
        )?;
    }
    Ok(())
}

fn tuple(tuple: &TupleView) -> String {
    format!(
        "{} {} -> {}",
        tuple.protocol, tuple.source, tuple.destination
    )
}
