//! Devices that programs are attached to.

use std::net::IpAddr;

use lb_common::table::device::Role;
use serde::Serialize;

use crate::cli::inputs::DeviceInput;

/// One device.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InterfaceView {
    /// Interface index.
    pub index: u32,
    /// Name; `None` once the device is gone.
    pub name: Option<String>,
    /// What it leads to: `workload`, `uplink`, `none` where it cannot be what it should be, or
    /// `unknown` where no record says.
    pub role: &'static str,
    /// Why it has that role, in words that follow its name.
    pub why: Option<String>,
    /// Why it cannot be an uplink, though it should be one.
    pub obstacle: Option<String>,
    /// How packets are translated on it: `tc`, or `none`.
    pub path: &'static str,
    /// By which addresses flows leave it that must come back to this node.
    pub sources: Vec<IpAddr>,
    /// The bridge it is a port of.
    pub bridge: Option<String>,
    /// Whether a program sees packets from it.
    pub ingress: bool,
    /// Whether a program sees packets to it.
    pub egress: bool,
    /// `attached`, `partly attached`, `not attached` or `gone`.
    pub state: &'static str,
}

/// Every device, by index.
#[must_use]
pub fn interfaces(devices: &[DeviceInput]) -> Vec<InterfaceView> {
    let mut views: Vec<InterfaceView> = devices
        .iter()
        .map(|device| InterfaceView {
            index: device.index,
            name: device.name.clone(),
            role: match device.role {
                Some(Role::Workload) => "workload",
                Some(Role::Uplink) => "uplink",
                None if device.obstacle.is_some() => "none",
                None => "unknown",
            },
            why: device.why.clone(),
            obstacle: device.obstacle.clone(),
            path: if device.has_ingress || device.has_egress {
                "tc"
            } else {
                "none"
            },
            sources: device.sources.clone(),
            bridge: device.bridge.clone(),
            ingress: device.has_ingress,
            egress: device.has_egress,
            state: match (&device.name, device.has_ingress, device.has_egress) {
                (None, ..) => "gone",
                (Some(_), true, true) => "attached",
                (Some(_), false, false) => "not attached",
                (Some(_), ..) => "partly attached",
            },
        })
        .collect();
    views.sort_by_key(|view| view.index);
    views
}
