//! `status`.

use std::io::{self, Write};

use super::interfaces::interfaces_into;
use super::style::{Style, Tone};
use super::table::{Cell, Table, number, text};
use super::units;
use crate::cli::view::interfaces::InterfaceView;
use crate::cli::view::status::{AgentView, CounterView, Health, StatusView};

/// The state of a node: health first, then what it is made of.
pub fn status_into(
    out: &mut impl Write,
    node: &str,
    status: &StatusView,
    style: Style,
) -> io::Result<()> {
    let tone = match status.health {
        Health::Ok => Tone::Good,
        Health::Degraded | Health::Starting => Tone::Warning,
        Health::AgentDown => Tone::Bad,
    };
    let node = if node.is_empty() { "(unknown)" } else { node };
    writeln!(
        out,
        "node        {}  {}",
        style.paint(node, Tone::Bold),
        style.paint(status.health.text(), tone)
    )?;
    for problem in &status.problems {
        writeln!(
            out,
            "{}     {problem}",
            style.paint("problem", Tone::Warning)
        )?;
    }
    match &status.agent {
        Some(agent) => agent_into(out, agent)?,
        None => writeln!(out, "agent       unknown")?,
    }
    writeln!(
        out,
        "programmed  {} service ports, {} frontends, {} backends; {} interfaces",
        status.services, status.frontends, status.backends, status.interfaces
    )?;
    writeln!(
        out,
        "memory      {} in maps",
        units::bytes(status.memory_bytes)
    )?;
    if style.wide {
        let parts: Vec<String> = status
            .memory
            .iter()
            .map(|part| {
                let size = units::bytes(part.bytes);
                format!("{} {size} for {}", part.map, part.capacity)
            })
            .collect();
        writeln!(out, "            = {}", parts.join(" + "))?;
    }
    devices_into(out, &status.devices, style)?;
    if !status.fullest.is_empty() {
        writeln!(out)?;
        let mut table = Table::new(&[
            text("FULLEST MAP"),
            number("ENTRIES"),
            number("MAX"),
            number("PRESSURE"),
        ]);
        for map in &status.fullest {
            table.row(vec![
                map.map.as_str().into(),
                map.used.into(),
                map.capacity.into(),
                super::maps::pressure(map.percent),
            ]);
        }
        table.print_into(out, style)?;
    }
    if !status.counters.is_empty() {
        writeln!(out)?;
        counters_into(out, &status.counters, style)?;
    }
    Ok(())
}

/// Uplinks, and what should be one, each with its reason; of workloads that work there are many alike,
/// which are listed in wide output only.
fn devices_into(out: &mut impl Write, devices: &[InterfaceView], style: Style) -> io::Result<()> {
    let is_shown = |device: &&InterfaceView| {
        style.wide || device.role != "workload" || device.state != "attached"
    };
    let shown: Vec<_> = devices.iter().filter(is_shown).cloned().collect();
    if shown.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    let wide = Style {
        wide: true,
        ..style
    };
    interfaces_into(out, &shown, wide)?;
    match devices.len() - shown.len() {
        0 => Ok(()),
        more => writeln!(out, "workloads that are attached: {more}"),
    }
}

fn agent_into(out: &mut impl Write, agent: &AgentView) -> io::Result<()> {
    let state = if agent.alive {
        format!(
            "process {}, {}, up {}",
            agent.pid,
            agent.version,
            units::seconds(agent.running_seconds)
        )
    } else {
        format!("not running (was process {}, {})", agent.pid, agent.version)
    };
    writeln!(out, "agent       {state}")?;
    writeln!(out, "source      {}", agent.source)?;
    let ago = |seconds: Option<u64>| {
        seconds.map_or_else(
            || "not yet".to_owned(),
            |seconds| format!("{} ago", units::seconds(seconds)),
        )
    };
    if let Some(api) = &agent.api {
        let (event, list) = (ago(api.last_event_seconds), ago(api.last_list_seconds));
        writeln!(
            out,
            "API server  {}; last event {event}, all listed {list}",
            api.server
        )?;
    }
    let sync = ago(agent.last_sync_seconds);
    match agent.pending_writes {
        0 => writeln!(out, "last sync   {sync}"),
        pending => writeln!(out, "last sync   {sync}; {pending} writes are tried again"),
    }
}

fn counters_into(out: &mut impl Write, counters: &[CounterView], style: Style) -> io::Result<()> {
    let mut table = Table::new(&[
        text("REASON"),
        text("KIND"),
        number("PACKETS"),
        number("BYTES"),
        text("MEANING").wide(),
    ]);
    for counter in counters {
        let tone = match counter.kind {
            "drop" => Tone::Bad,
            "answer" => Tone::Warning,
            _ => Tone::Plain,
        };
        table.row(vec![
            Cell::toned(counter.reason, tone),
            counter.kind.into(),
            counter.packets.into(),
            units::bytes(counter.bytes).into(),
            counter.explanation.into(),
        ]);
    }
    table.print_into(out, style)
}
