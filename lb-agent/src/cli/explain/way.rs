//! By which device packets come from an address, and leave for it: as the host's routes say.

use std::net::IpAddr;

use clap::ValueEnum;
use lb_common::table::device::Role;

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
}

/// Where a packet enters this node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Entrance {
    pub(super) role: Role,
    /// What was assumed of it.
    pub(super) note: Option<String>,
}

/// Where packets from `client` enter.
pub(super) fn entrance(
    from: Arrival,
    client: IpAddr,
    devices: &[DeviceInput],
) -> Result<Entrance, CliError> {
    let told = |role| Entrance { role, note: None };
    match from {
        Arrival::Pod => Ok(told(Role::Workload)),
        Arrival::Uplink => Ok(told(Role::Uplink)),
        Arrival::Route => Ok(by_route(way(client)?, client, devices)),
    }
}

/// The way to `address`.
pub(super) fn way(address: IpAddr) -> Result<Option<Way>, CliError> {
    let doing = || while_doing(format!("asking the host for its route to {address}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(doing())?;
    runtime.block_on(route::way_to(address)).map_err(doing())
}

fn by_route(way: Option<Way>, client: IpAddr, devices: &[DeviceInput]) -> Entrance {
    let pod = |note: String| Entrance {
        role: Role::Workload,
        note: Some(format!("{note}; --from uplink says otherwise")),
    };
    match way {
        None => pod(format!(
            "the host has no route to {client}: taken for a pod of this node"
        )),
        Some(Way::Local) => pod(format!(
            "{client} is this node's own: its processes meet a program only where their packets come \
             back; shown as from a pod"
        )),
        Some(Way::Device(index)) => match device(devices, index) {
            Some(device) if device.role == Some(Role::Uplink) => Entrance {
                role: Role::Uplink,
                note: Some(format!(
                    "the host's route to {client} leads over {}, an uplink: packets from there are \
                     taken to come by it",
                    name(device)
                )),
            },
            // A pod's own device, or the bridge before several.
            Some(_) => Entrance {
                role: Role::Workload,
                note: None,
            },
            None if is_bridge_of_pods(devices, index) => Entrance {
                role: Role::Workload,
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

fn is_bridge_of_pods(devices: &[DeviceInput], index: u32) -> bool {
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
        for (way, role, noted) in [
            (Some(Way::Device(1)), Role::Uplink, "d1, an uplink"),
            (Some(Way::Device(2)), Role::Workload, ""),
            (Some(Way::Device(3)), Role::Workload, "without a role"),
            (Some(Way::Local), Role::Workload, "this node's own"),
            (None, Role::Workload, "no route"),
        ] {
            let entrance = by_route(way, client, &devices);
            let note = entrance.note.unwrap_or_default();
            assert_eq!(entrance.role, role, "{way:?}");
            assert!(
                note.contains(noted) && note.is_empty() == noted.is_empty(),
                "{note}"
            );
        }
    }
}
