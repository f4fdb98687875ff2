//! `steerage explain`: what the kernel would do with a packet, and why.
//!
//! It runs the functions that the kernel programs run, on the pinned tables. What they would write
//! stays in this process.

mod target;
mod trace;

use clap::Args;
use lb_common::family::{Family, V4, V6};
use lb_common::flow::{FlowTuple, Protocol};

use super::args::{Output, Places};
use super::error::CliError;
use super::inputs::Reader as _;
use super::output::{Printer, document, show_once};
use super::view::explain::{ExplainView, explanation};
use super::view::mapped;
use super::view::services::services;
use super::{pins, render};
use crate::clock;
use target::{Client, Destination, Resolved, parse_flags};

pub use trace::{Step, Trace, trace};

const EXAMPLES: &str = "\
Examples:
  steerage explain 10.0.1.7 10.96.0.10:53/udp
  steerage explain default/client-0:41000 default/web:http
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
    #[command(flatten)]
    output: Output,
}

pub(crate) fn run(args: &ExplainArgs, places: &Places) -> Result<(), CliError> {
    let reader = pins::open(places)?;
    let printer = Printer::new(&args.output, places);
    let names = reader.names()?;
    let views = services(&reader.tables()?, &names, &reader.connections()?);
    let resolved = target::resolve(&args.source, &args.destination, &names, &views)?;
    let tables = reader.dry_tables()?;
    let view: ExplainView = if resolved.source.is_ipv4() {
        let trace = trace(
            &tuple::<V4>(&resolved)?,
            args.tcp_flags,
            &tables,
            clock::flow_seconds(),
        );
        explanation(
            &resolved.notes,
            resolved.client_name.as_deref(),
            &trace,
            &views,
        )
    } else {
        let trace = trace(
            &tuple::<V6>(&resolved)?,
            args.tcp_flags,
            &tables,
            clock::flow_seconds(),
        );
        explanation(
            &resolved.notes,
            resolved.client_name.as_deref(),
            &trace,
            &views,
        )
    };
    let document = document("Explanation", &names, vec![view]);
    show_once(printer.print(&document, |out, items, style| {
        items
            .iter()
            .try_for_each(|view| render::explain::explain_into(out, view, style))
    })?)
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
