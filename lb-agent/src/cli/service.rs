//! `steerage service`.

use clap::{Args, Subcommand};

use super::args::{NamespaceFilter, Output, Places, ServiceReference, Watch};
use super::error::CliError;
use super::inputs::Reader as _;
use super::list::List;
use super::pins::PinnedReader;
use super::render;
use super::view::services::{ServiceView, services};
use crate::plan::names::Names;

/// What to show of services.
#[derive(Debug, Subcommand)]
pub(crate) enum ServiceCommand {
    /// List service ports
    #[command(after_help = LIST_EXAMPLES)]
    List(ListArgs),
    /// Show everything about a service: frontends, endpoints, and why some get no new flows
    #[command(after_help = GET_EXAMPLES)]
    Get(GetArgs),
}

const LIST_EXAMPLES: &str = "\
Examples:
  steerage service list
  steerage service list -n default -o wide
  steerage service list --watch=1s";
const GET_EXAMPLES: &str = "\
Examples:
  steerage service get default/web
  steerage service get default/web:http -o json";

/// Arguments of `list`.
#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    namespace: NamespaceFilter,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    watch: Watch,
}

/// Arguments of `get`.
#[derive(Args, Debug)]
pub(crate) struct GetArgs {
    /// The Service, as NAMESPACE/NAME or NAMESPACE/NAME:PORT
    service: ServiceReference,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    watch: Watch,
}

pub(crate) fn run(command: &ServiceCommand, places: &Places) -> Result<(), CliError> {
    match command {
        ServiceCommand::List(args) => list(args, places),
        ServiceCommand::Get(args) => get(args, places),
    }
}

fn list(args: &ListArgs, places: &Places) -> Result<(), CliError> {
    let list = List {
        kind: "ServiceList",
        output: &args.output,
        watch: &args.watch,
        places,
    };
    let collect = |reader: &PinnedReader, names: &Names| {
        let mut views = services(&reader.tables()?, names, &reader.connections()?);
        views.retain(|view| args.namespace.admits(&view.namespace));
        Ok(views)
    };
    list.show(collect, render::services::services_into)
}

fn get(args: &GetArgs, places: &Places) -> Result<(), CliError> {
    let list = List {
        kind: "ServiceList",
        output: &args.output,
        watch: &args.watch,
        places,
    };
    let collect = |reader: &PinnedReader, names: &Names| {
        let views = services(&reader.tables()?, names, &reader.connections()?);
        find(views, &args.service)
    };
    list.show(collect, render::services::service_details_into)
}

/// The views that `reference` names.
pub(crate) fn find(
    mut views: Vec<ServiceView>,
    reference: &ServiceReference,
) -> Result<Vec<ServiceView>, CliError> {
    views.retain(|view| is_named(view, reference));
    if views.is_empty() {
        return Err(CliError::NotFound {
            what: "Service",
            name: reference.to_string(),
            hint: "steerage service list shows those there are",
        });
    }
    Ok(views)
}

fn is_named(view: &ServiceView, reference: &ServiceReference) -> bool {
    *view.namespace == *reference.service.namespace
        && *view.name == *reference.service.name
        && reference.port.as_deref().is_none_or(|port| {
            view.port_name == port
                || view
                    .frontends
                    .iter()
                    .any(|frontend| frontend.address.port().to_string() == port)
        })
}
