//! By which device packets come from an address, and leave for it: as the host's routes say.

use std::net::IpAddr;

use clap::ValueEnum;
use lb_common::table::device::Role;

use super::trace::Origin;
use crate::cli::error::{CliError, while_doing};
use crate::cli::inputs::DeviceInput;
use crate::interfaces::route::{self, Way};

/// Where the packet comes from, if that is told.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(super) enum Arrival {
    /// From where the host's route to its source leads
    #[default]
    Route,
    /// From a pod of this node
    Pod,
    /// By an uplink
    Uplink,
    /// From a process of this node itself
    Node,
}

/// Where a packet enters this node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Entrance {
    pub(super) origin: Origin,
    /// What was assumed of it.
    pub(super) note: Option<String>,
}

/// Where packets from `client` enter.
pub(super) fn entrance(
    from: Arrival,
    client: IpAddr,
    devices: &[DeviceInput],
) -> Result<Entrance, CliError> {
    let told = |origin| Entrance { origin, note: None };
    match from {
        Arrival::Pod => Ok(told(Origin::Pod)),
        Arrival::Uplink => Ok(told(Origin::Elsewhere)),
        Arrival::Node if way(client)? != Some(Way::Local) => Err(CliError::Usage {
            message: format!("{client} is no address of this node"),
            hint: "give one of this node's addresses as the source",
        }),
        Arrival::Node => Ok(told(Origin::Node)),
        Arrival::Route => Ok(by_route(way(client)?, client, devices)),
    }
}

/// The way to `address`.
pub(super) fn way(address: IpAddr) -> Result<Option<Way>, CliError> {
    ask(None, address)
}

/// The way of what this host sends to `address` from `source`, an address of its own.
pub(super) fn way_from(source: IpAddr, address: IpAddr) -> Result<Option<Way>, CliError> {
    ask(Some(source), address)
}

fn ask(source: Option<IpAddr>, address: IpAddr) -> Result<Option<Way>, CliError> {
    let doing = || while_doing(format!("asking the host for its route to {address}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(doing())?;
    let way = route::way_to(source, address);
    runtime.block_on(way).map_err(doing())
}

fn by_route(way: Option<Way>, client: IpAddr, devices: &[DeviceInput]) -> Entrance {
    let pod = |note: String| Entrance {
        origin: Origin::Pod,
        note: Some(format!("{note}; --from uplink says otherwise")),
    };
    match way {
        None => pod(format!(
            "the host has no route to {client}: taken for a pod of this node"
        )),
        Some(Way::Local) => Entrance {
            origin: Origin::Node,
            note: Some(format!(
                "{client} is this node's own: taken for a process of it; what the host's filters, NAT \
                 and marks do to its packets before they leave is not seen here"
            )),
        },
        Some(Way::Device(index)) => match device(devices, index) {
            Some(device) if device.role == Some(Role::Uplink) => Entrance {
                origin: Origin::Elsewhere,
                note: Some(format!(
                    "the host's route to {client} leads over {}, an uplink: packets from there are \
                     taken to come by it",
                    name(device)
                )),
            },
            // A pod's own device, or the bridge before several.
            Some(_) => Entrance {
                origin: Origin::Pod,
                note: None,
            },
            None if is_bridge_of_pods(devices, index) => Entrance {
                origin: Origin::Pod,
                note: None,
            },
            None => pod(format!(
                "the host's route to {client} leads over a device without a role: taken for a pod of \
                 this node"
            )),
        },
    }
}

/// The device with a role that a way leads over.
pub(super) fn device(devices: &[DeviceInput], index: u32) -> Option<&DeviceInput> {
    let has_role = |device: &&DeviceInput| device.index == index && device.role.is_some();
    devices.iter().find(has_role)
}

pub(super) fn name(device: &DeviceInput) -> String {
    let name = device.name.clone();
    name.unwrap_or_else(|| format!("#{}", device.index))
}

pub(super) fn is_bridge_of_pods(devices: &[DeviceInput], index: u32) -> bool {
    let name = crate::cli::pins::device_name(index);
    name.is_some() && devices.iter().any(|device| device.bridge == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device_input(index: u32, role: Option<Role>) -> DeviceInput {
        DeviceInput {
            index,
            name: Some(format!("d{index}")),
            role,
            why: None,
            obstacle: None,
            is_open: false,
            is_clear: false,
            plain: None,
            xdp: None,
            no_xdp: None,
            sources: Vec::new(),
            bridge: None,
            has_ingress: true,
            has_egress: true,
        }
    }

    #[test]
    fn a_client_comes_from_where_the_route_to_it_leads() {
        let devices = [
            device_input(1, Some(Role::Uplink)),
            device_input(2, Some(Role::Workload)),
            device_input(3, None),
        ];
        let client = IpAddr::from([203, 0, 113, 2]);
        for (way, origin, noted) in [
            (Some(Way::Device(1)), Origin::Elsewhere, "d1, an uplink"),
            (Some(Way::Device(2)), Origin::Pod, ""),
            (Some(Way::Device(3)), Origin::Pod, "without a role"),
            (Some(Way::Local), Origin::Node, "this node's own"),
            (None, Origin::Pod, "no route"),
        ] {
            let entrance = by_route(way, client, &devices);
            let note = entrance.note.unwrap_or_default();
            assert_eq!(entrance.origin, origin, "{way:?}");
            assert!(
                note.contains(noted) && note.is_empty() == noted.is_empty(),
                "{note}"
            );
        }
    }
}
