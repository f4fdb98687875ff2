//! `steerage explain`: what the kernel would do with a packet, and why.
//!
//! It runs the functions that the kernel programs run, on the pinned tables. What they would write
//! stays in this process. By which device a packet comes and leaves, the host's routes say.

mod decided;
mod own;
mod path;
mod target;
mod trace;
mod way;

use std::rc::Rc;

use clap::Args;
use lb_common::family::{Family, V4, V6};
use lb_common::flow::{FlowTuple, Protocol};
use lb_common::lookup;
use lb_common::table::device::Role;
use lb_common::verdict::Reason;

use super::args::{Output, Places};
use super::error::CliError;
use super::inputs::{DeviceInput, Reader as _, address_of};
use super::output::{Printer, document, show_once};
use super::pins::DryTables;
use super::view::explain::{ExplainView, explanation};
use super::view::mapped;
use super::view::services::{ServiceView, services};
use super::{pins, render};
use crate::clock;
use crate::interfaces::route::Way;
use path::BackendGround;
use target::{Client, Destination, Resolved, parse_flags};

pub use own::{OwnWays, Routes};
pub use trace::{Origin, Step, Trace, trace};
use way::Arrival;

const EXAMPLES: &str = "\
Examples:
  steerage explain 10.0.1.7 10.96.0.10:53/udp
  steerage explain default/client-0:41000 default/web:http
  steerage explain 203.0.113.7 192.0.2.10:30080
  steerage explain 192.0.2.10 default/web:http
  steerage explain --from uplink 203.0.113.7 default/web:http
  steerage explain --tcp-flags ack 10.0.1.7:41000 10.96.0.1:443";

/// Arguments of `explain`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ExplainArgs {
    /// Who sends: ADDRESS[:PORT] or NAMESPACE/POD[:PORT]
    #[arg(value_name = "SRC")]
    source: Client,
    /// What is dialled: ADDRESS:PORT[/PROTO] or NAMESPACE/SERVICE[:PORT][/PROTO]
    #[arg(value_name = "DST")]
    destination: Destination,
    /// Flags of the TCP packet, such as syn or fin,ack
    #[arg(long, value_name = "FLAGS", default_value = "syn", value_parser = parse_flags)]
    tcp_flags: u8,
    /// By what kind of device the packet comes
    #[arg(long, value_enum, default_value_t)]
    from: Arrival,
    #[command(flatten)]
    output: Output,
}

pub(crate) fn run(args: &ExplainArgs, places: &Places) -> Result<(), CliError> {
    let reader = pins::open(places)?;
    let printer = Printer::new(&args.output, places);
    let names = reader.names()?;
    let views = services(&reader.tables()?, &names, &reader.connections()?);
    let mut resolved = target::resolve(&args.source, &args.destination, &names, &views)?;
    let devices = reader.devices()?;
    let entrance = way::entrance(args.from, resolved.source.ip(), &devices)?;
    resolved.notes.extend(entrance.note);
    let tables = reader.dry_tables()?;
    let follow = Follow {
        origin: entrance.origin,
        tcp_flags: args.tcp_flags,
        devices,
        tables,
    };
    let view = if resolved.source.is_ipv4() {
        follow.explain::<V4>(&resolved, &views)?
    } else {
        follow.explain::<V6>(&resolved, &views)?
    };
    let document = document("Explanation", &names, vec![view]);
    show_once(printer.print(&document, |out, items, style| {
        items
            .iter()
            .try_for_each(|view| render::explain::explain_into(out, view, style))
    })?)
}

/// What a packet is followed with.
struct Follow {
    origin: Origin,
    tcp_flags: u8,
    devices: Vec<DeviceInput>,
    tables: DryTables,
}

impl Follow {
    fn explain<F: Family>(
        mut self,
        resolved: &Resolved,
        services: &[ServiceView],
    ) -> Result<ExplainView, CliError> {
        let tuple = tuple::<F>(resolved)?;
        let trace = match self.origin {
            Origin::Node => self.dialled(&tuple)?,
            Origin::Pod | Origin::Elsewhere => self.received(&tuple)?,
        };
        let client = resolved.client_name.as_deref();
        Ok(explanation(&resolved.notes, client, &trace, services))
    }

    /// A packet that this node itself sends.
    fn dialled<F: Family>(&mut self, tuple: &FlowTuple<F>) -> Result<Trace<F>, CliError> {
        let [source, dialled] =
            [tuple.source, tuple.destination].map(|address| address_of(F::mapped(address)));
        let routes = Routes::of_host(F::IS_V6);
        let ways = match OwnWays::find(source, dialled, &self.devices, routes)? {
            Ok(ways) => Rc::new(ways),
            Err(unseen) => return Ok(Trace::unseen(self.origin, tuple, unseen)),
        };
        self.tables.dial(Rc::clone(&ways));
        let now = clock::flow_seconds();
        let mut trace = trace(self.origin, tuple, self.tcp_flags, &self.tables, now);
        ways.explain(&mut trace, &self.tables)?;
        Ok(trace)
    }

    /// A packet that a device hands to this host.
    fn received<F: Family>(&mut self, tuple: &FlowTuple<F>) -> Result<Trace<F>, CliError> {
        let (flags, now) = (self.tcp_flags, clock::flow_seconds());
        let mut trace = trace(self.origin, tuple, flags, &self.tables, now);
        if let Some(entry) = trace.entry {
            let exit = self.device_to::<F>(entry.translated.destination)?;
            trace.path(&if trace.reason == Reason::Established {
                path::of_flow(entry.path)
            } else {
                let entrance = self.device_to::<F>(entry.translated.source)?;
                let destination = entry.translated.destination;
                let backend = BackendGround {
                    is_pods: lookup::in_cluster_cidr::<F>(&self.tables, destination),
                    is_host: lookup::is_host::<F>(&self.tables, destination),
                };
                path::of_new(entrance, exit, backend)
            });
        }
        if let Some(entry) = trace.entry
            && self.origin == Origin::Elsewhere
        {
            let uplink = self.device_to::<F>(entry.translated.destination)?.cloned();
            match uplink.filter(|device| device.role == Some(Role::Uplink)) {
                Some(uplink) => {
                    self.tables.leave_by(uplink.sources.clone());
                    trace.leave(&way::name(&uplink), flags, &self.tables, now);
                }
                None => trace.stay(),
            }
        }
        Ok(trace)
    }

    /// The device with a role by which packets leave for `address`.
    fn device_to<F: Family>(&self, address: F::Address) -> Result<Option<&DeviceInput>, CliError> {
        let way = way::way(address_of(F::mapped(address)))?;
        Ok(match way {
            Some(Way::Device(index)) => way::device(&self.devices, index),
            Some(Way::Local) | None => None,
        })
    }
}

fn tuple<F: Family>(resolved: &Resolved) -> Result<FlowTuple<F>, CliError> {
    let address = |socket: std::net::SocketAddr| {
        F::from_mapped(mapped(socket.ip())).ok_or_else(|| CliError::Usage {
            message: format!(
                "{} and {} are of different families",
                resolved.source, resolved.destination
            ),
            hint: "give two IPv4 or two IPv6 addresses",
        })
    };
    Ok(FlowTuple {
        source: address(resolved.source)?,
        destination: address(resolved.destination)?,
        source_port: resolved.source.port(),
        destination_port: resolved.destination.port(),
        protocol: resolved.protocol,
    })
}

/// The protocol of a packet whose destination names none.
const DEFAULT_PROTOCOL: Protocol = Protocol::Tcp;
