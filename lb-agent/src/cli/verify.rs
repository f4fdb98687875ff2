//! `steerage verify`: what the source asks for, what the agent says and what the kernel has, compared
//! three ways. Without a living agent two ways are left.
//!
//! The command reads the source itself and makes a plan of its own, from nothing: an agent that has
//! missed an object cannot hide it. It writes no table, beside an agent least of all: repairs are the
//! agent's, which is asked for them.

mod looks;
mod objects;
mod repair;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use clap::Args;

use super::args::{Output, Places, parse_duration};
use super::error::CliError;
use super::inputs::{DeviceInput, Reader as _};
use super::output::{Printer, document, show_once};
use super::pins::{self, PinnedReader};
use super::render;
use super::view::verify::{AgentState, Compared, VerifyInputs, verification};
use crate::audit::basis::Basis;
use crate::audit::compare::{Sides, compare};
use crate::audit::difference::{Behind, Difference};
use crate::audit::node::NodeSides;
use crate::audit::picture::Picture;
use crate::dataplane::layout::Table;
use crate::plan::desired::Desired;
use crate::plan::names::Names;
use looks::Looks;
use objects::SourceObjects;

const EXAMPLES: &str = "\
Examples:
  steerage verify
  steerage verify --repair
  steerage verify -o json
  steerage verify --settle 10s && echo clean";

/// Arguments of `verify`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct VerifyArgs {
    /// Have the agent plan everything again and write what differs, then compare once more
    #[arg(long)]
    repair: bool,
    /// How long to wait for the source, and for the agent's repair
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    timeout: Duration,
    /// How long a difference may take to go away by itself: changes are on their way
    #[arg(long, value_name = "DURATION", default_value = "4s", value_parser = parse_duration)]
    settle: Duration,
    #[command(flatten)]
    output: Output,
}

/// One look at all sides.
struct Look {
    differences: Vec<Difference>,
    compared: Compared,
    agent: AgentState,
    names: Names,
}

pub(crate) fn run(args: &VerifyArgs, places: &Places) -> Result<(), CliError> {
    let reader = pins::open(places)?;
    let Some(basis) = pins::basis(&places.state_dir)? else {
        return Err(CliError::NoBasis {
            state_dir: places.state_dir.clone(),
        });
    };
    let mut objects = SourceObjects::read(&basis, &places.state_dir, args.timeout)?;
    let look_once = |objects: &SourceObjects| look(&reader, objects, &basis, places);
    let mut found = settle(args.settle, &mut objects, look_once)?;
    let mut repair = None;
    if args.repair && !found.differences.is_empty() {
        if found.agent != AgentState::Alive {
            return Err(CliError::NoAgent);
        }
        repair = Some(repair::ask(&places.state_dir, args.timeout)?);
        found = settle(args.settle, &mut objects, look_once)?;
    }
    let audit = pins::audit_report(&places.state_dir)?;
    let view = verification(&VerifyInputs {
        agent: found.agent,
        source: &basis.source().to_string(),
        compared: found.compared,
        audit: audit.as_ref(),
        repair: repair.as_ref(),
        differences: &found.differences,
    });
    let count = view.differences.len();
    let printer = Printer::new(&args.output, places);
    let document = document("Verification", &found.names, vec![view]);
    show_once(printer.print(&document, |out, items, style| {
        items
            .iter()
            .try_for_each(|view| render::verify::verification_into(out, view, style))
    })?)?;
    if count == 0 {
        return Ok(());
    }
    Err(CliError::Drift {
        count,
        hint: match found.agent {
            AgentState::Alive if repair.is_some() => {
                "repairing did not help; see steerage status and the agent's log"
            }
            AgentState::Alive => "steerage verify --repair has the agent write them again",
            AgentState::Dead | AgentState::Unknown => {
                "start the agent, it repairs them as it starts"
            }
        },
    })
}

/// Looks again and again until nothing differs, or what differs has lasted.
fn settle(
    patience: Duration,
    objects: &mut SourceObjects,
    look: impl Fn(&SourceObjects) -> Result<Look, CliError>,
) -> Result<Look, CliError> {
    let mut looks = Looks::new(patience);
    loop {
        objects.pump(Looks::PAUSE)?;
        let mut found = look(objects)?;
        found.differences = looks.take(found.differences);
        if looks.is_over() || looks.is_clean() {
            return Ok(found);
        }
    }
}

fn look(
    reader: &PinnedReader,
    objects: &SourceObjects,
    basis: &Basis,
    places: &Places,
) -> Result<Look, CliError> {
    let status = pins::agent_status(&places.state_dir)?;
    let agent = match &status {
        Some(status) if status.is_alive(Path::new("/proc")) => AgentState::Alive,
        Some(_) => AgentState::Dead,
        None => AgentState::Unknown,
    };
    let names = reader.names()?;
    let actual = reader.tables()?;
    let view = objects.objects();
    let desired = Desired::of(objects.views(), &view.node_view());
    let config: BTreeMap<u32, u64> = objects.config(basis).into_iter().collect();
    let source = Picture::of_desired(&desired, config);
    let kernel = Picture::of_tables(&actual, reader.filters()?, &source, &names);
    let named = (agent == AgentState::Alive).then(|| Picture::of_names(&names));
    let mut differences = compare(Sides {
        source: &source,
        agent: named.as_ref(),
        kernel: &kernel,
    });
    let devices = reader.devices()?;
    let said = pins::node_tables(&places.state_dir)?;
    let node = NodeSides {
        machine: objects.devices(),
        agent: said.as_ref().filter(|_| agent == AgentState::Alive),
        addresses: &actual.node_addresses,
        devices: &reader.device_records()?,
        service_filter: &reader.filters()?.services,
    };
    differences.extend(node.compare());
    differences.extend(half_attached(&devices, agent));
    Ok(Look {
        differences,
        compared: Compared {
            frontends: source.frontends.len(),
            service_ports: source.ports.len(),
            backends: source.backends.len(),
            interfaces: devices.iter().filter(|it| it.obstacle.is_none()).count(),
        },
        agent,
        names,
    })
}

/// Devices with a program on one side only. One that is gone is nobody's loss.
fn half_attached(devices: &[DeviceInput], agent: AgentState) -> impl Iterator<Item = Difference> {
    devices.iter().filter_map(move |device| {
        let name = device.name.clone()?;
        let kernel = match (device.has_ingress, device.has_egress) {
            (true, true) => return None,
            (true, false) => Some("a program at ingress only".to_owned()),
            (false, true) => Some("a program at egress only".to_owned()),
            (false, false) => None,
        };
        Some(Difference {
            table: Table::Devices,
            about: name,
            service: None,
            source: Some("programs on both sides".to_owned()),
            agent: None,
            kernel,
            behind: if agent == AgentState::Alive {
                Behind::Kernel
            } else {
                Behind::Tables
            },
        })
    })
}
