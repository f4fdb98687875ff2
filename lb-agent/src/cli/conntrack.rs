//! `steerage conntrack`.

use std::net::IpAddr;

use clap::{Args, Subcommand};
use lb_common::flow::Protocol;
use serde::Serialize;

use super::args::{NamespaceFilter, Output, Places, ServiceReference, Watch, parse_protocol};
use super::error::CliError;
use super::inputs::{FlowInput, Reader as _};
use super::list::List;
use super::output::{Printer, document, show_once};
use super::pins::PinnedReader;
use super::view::flows::{FlowTableView, FlowView, flow_stats, flows, is_flow, view_of};
use super::view::services::protocol_text;
use super::{pins, render};
use crate::plan::names::Names;

/// What to do with translated connections.
#[derive(Debug, Subcommand)]
pub(crate) enum ConntrackCommand {
    /// List connections
    #[command(after_help = LIST_EXAMPLES)]
    List(ListArgs),
    /// Count connections
    #[command(after_help = STATS_EXAMPLES)]
    Stats(StatsArgs),
    /// Forget connections: their next packets are treated as new, replies are no longer restored
    #[command(after_help = FLUSH_EXAMPLES)]
    Flush(FlushArgs),
}

const LIST_EXAMPLES: &str = "\
Examples:
  steerage conntrack list
  steerage conntrack list --service default/web --protocol udp
  steerage conntrack list --client 10.0.1.7 --watch";
const STATS_EXAMPLES: &str = "\
Examples:
  steerage conntrack stats
  steerage conntrack stats -o json";
const FLUSH_EXAMPLES: &str = "\
Examples:
  steerage conntrack flush --client 10.0.1.7
  steerage conntrack flush --service default/dns --protocol udp
  steerage conntrack flush --all --yes";

/// Which connections.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct FlowFilter {
    /// Only those of this Service, as NAMESPACE/NAME or NAMESPACE/NAME:PORT
    #[arg(long)]
    service: Option<ServiceReference>,
    /// Only those of this client
    #[arg(long, value_name = "ADDRESS")]
    client: Option<IpAddr>,
    /// Only those to this backend
    #[arg(long, value_name = "ADDRESS")]
    backend: Option<IpAddr>,
    /// Only those of this protocol
    #[arg(long, value_parser = parse_protocol)]
    protocol: Option<Protocol>,
    /// Only those in this state, as the list shows it
    #[arg(long)]
    state: Option<String>,
}

impl FlowFilter {
    const fn is_empty(&self) -> bool {
        self.service.is_none()
            && self.client.is_none()
            && self.backend.is_none()
            && self.protocol.is_none()
            && self.state.is_none()
    }

    fn admits(&self, flow: &FlowView) -> bool {
        let names_service = |reference: &ServiceReference| {
            let service = reference.service.to_string();
            let (name, port) = flow
                .service
                .split_once(':')
                .unwrap_or((flow.service.as_str(), ""));
            name == service
                && reference.port.as_deref().is_none_or(|wanted| {
                    wanted == port || wanted == flow.frontend.port().to_string()
                })
        };
        self.service.as_ref().is_none_or(names_service)
            && self.client.is_none_or(|client| client == flow.client.ip())
            && self
                .backend
                .is_none_or(|backend| backend == flow.backend.ip())
            && self
                .protocol
                .is_none_or(|protocol| protocol_text(protocol.number()) == flow.protocol)
            && self
                .state
                .as_ref()
                .is_none_or(|state| state.eq_ignore_ascii_case(flow.state))
    }
}

/// Arguments of `list`.
#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    filter: FlowFilter,
    #[command(flatten)]
    namespace: NamespaceFilter,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    watch: Watch,
}

/// Arguments of `stats`.
#[derive(Args, Debug)]
pub(crate) struct StatsArgs {
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    watch: Watch,
}

/// Arguments of `flush`.
#[derive(Args, Debug)]
pub(crate) struct FlushArgs {
    #[command(flatten)]
    filter: FlowFilter,
    /// Forget every connection; needs --yes
    #[arg(long, requires = "yes", conflicts_with_all = ["service", "client", "backend", "protocol", "state"])]
    all: bool,
    /// Do it without asking
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    output: Output,
}

/// What a flush did.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FlushView {
    /// Connections that were forgotten.
    deleted: u64,
}

pub(crate) fn run(command: &ConntrackCommand, places: &Places) -> Result<(), CliError> {
    match command {
        ConntrackCommand::List(args) => list(args, places),
        ConntrackCommand::Stats(args) => stats(args, places),
        ConntrackCommand::Flush(args) => flush(args, places),
    }
}

fn list(args: &ListArgs, places: &Places) -> Result<(), CliError> {
    let list = List {
        kind: "FlowList",
        output: &args.output,
        watch: &args.watch,
        places,
    };
    let collect = |reader: &PinnedReader, names: &Names| {
        let mut views = flows(&reader.flows()?, names);
        views.retain(|view| args.namespace.admits(&view.namespace) && args.filter.admits(view));
        Ok(views)
    };
    list.show(collect, render::flows::flows_into)
}

fn stats(args: &StatsArgs, places: &Places) -> Result<(), CliError> {
    let list = List {
        kind: "FlowStats",
        output: &args.output,
        watch: &args.watch,
        places,
    };
    let collect = |reader: &PinnedReader, _: &Names| {
        let tables = reader
            .maps()?
            .into_iter()
            .filter(|map| map.name.starts_with("FLOWS_"))
            .map(|map| FlowTableView {
                used: map.used.unwrap_or(0),
                capacity: map.capacity,
                name: map.name,
            })
            .collect();
        Ok(vec![flow_stats(&reader.flows()?, tables)])
    };
    list.show(collect, |out, items, style| {
        items
            .iter()
            .try_for_each(|stats| render::flows::flow_stats_into(out, stats, style))
    })
}

fn flush(args: &FlushArgs, places: &Places) -> Result<(), CliError> {
    if args.filter.is_empty() && !args.all {
        return Err(CliError::Usage {
            message: "nothing says which connections to forget".to_owned(),
            hint: "give a filter such as --client or --service, or --all --yes",
        });
    }
    let reader = pins::open(places)?;
    let printer = Printer::new(&args.output, places);
    let names = reader.names()?;
    let deleted = reader.flush(&|entry| args.all || is_chosen(&args.filter, entry, &names))?;
    let document = document("FlushResult", &names, vec![FlushView { deleted }]);
    show_once(printer.print(&document, |out, items, _| {
        use std::io::Write as _;
        items.iter().try_for_each(|item| match item.deleted {
            1 => writeln!(out, "1 connection forgotten"),
            count => writeln!(out, "{count} connections forgotten"),
        })
    })?)
}

fn is_chosen(filter: &FlowFilter, entry: &FlowInput, names: &Names) -> bool {
    is_flow(entry) && filter.admits(&view_of(entry, names))
}
