//! `steerage status`.

use std::path::Path;
use std::time::Duration;

use clap::Args;

use super::args::{Output, Places, Watch, parse_duration};
use super::error::CliError;
use super::inputs::Reader as _;
use super::output::{Printer, document, say, show};
use super::render::units;
use super::view::interfaces::interfaces;
use super::view::maps::maps;
use super::view::status::{Health, StatusInputs, status};
use super::{pins, render};
use crate::clock;

const EXAMPLES: &str = "\
Examples:
  steerage status
  steerage status --wait --timeout 1m
  steerage status --check && echo healthy
  steerage status -o json";

/// How often a wait looks again.
const POLL: Duration = Duration::from_millis(50);

/// Arguments of `status`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct StatusArgs {
    /// Wait until the agent has programmed everything once
    #[arg(long)]
    wait: bool,
    /// How long to wait at most
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    timeout: Duration,
    /// Exit with 5 unless the node is healthy
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    watch: Watch,
}

pub(crate) fn run(args: &StatusArgs, places: &Places) -> Result<(), CliError> {
    if args.wait {
        return wait(args.timeout, places);
    }
    let reader = pins::open(places)?;
    let printer = Printer::new(&args.output, places);
    let mut health = Health::Ok;
    show(args.watch.watch, printer.is_for_people(), || {
        let names = reader.names()?;
        let agent = pins::agent_status(&places.state_dir)?;
        let alive = agent
            .as_ref()
            .is_some_and(|agent| agent.is_alive(Path::new("/proc")));
        let view = status(&StatusInputs {
            tables: &reader.tables()?,
            names: &names,
            agent: agent.as_ref().map(|agent| (agent, alive)),
            maps: &maps(&reader.maps()?),
            interfaces: &interfaces(&reader.devices()?),
            counters: &reader.counters()?,
            now: clock::unix_seconds(),
        });
        health = view.health;
        let node = match &agent {
            Some(agent) => agent.node.clone(),
            None => names.node.clone(),
        };
        let document = document("Status", &names, vec![view]);
        printer.print(&document, |out, items, style| {
            items
                .iter()
                .try_for_each(|status| render::status::status_into(out, &node, status, style))
        })
    })?;
    if args.check && health != Health::Ok {
        return Err(CliError::Unhealthy {
            reason: health.text().to_owned(),
        });
    }
    Ok(())
}

/// Waits for a living agent's first sync.
fn wait(timeout: Duration, places: &Places) -> Result<(), CliError> {
    let deadline = clock::instant() + timeout;
    loop {
        let agent = pins::agent_status(&places.state_dir)?;
        let hint = match &agent {
            Some(agent) if !agent.is_alive(Path::new("/proc")) => format!(
                "the agent (process {}) is not running; start it with steerage run",
                agent.pid
            ),
            Some(agent) if agent.first_sync_at.is_some() => {
                say(&format!("{} is ready", agent.node));
                return Ok(());
            }
            Some(agent) => agent.problems.first().cloned().unwrap_or_else(|| {
                "the agent runs and is not done; steerage status tells more".to_owned()
            }),
            None => format!(
                "no agent has left a status in {}; is --state-dir right?",
                places.state_dir.display()
            ),
        };
        if clock::instant() >= deadline {
            return Err(CliError::Timeout {
                waited_for: "the agent's first sync",
                timeout: units::duration(timeout),
                hint,
            });
        }
        std::thread::sleep(POLL.min(timeout));
    }
}
