//! Devices that programs are attached to.

use std::net::IpAddr;

use lb_common::table::device::Role;
use serde::Serialize;

use crate::cli::inputs::DeviceInput;
use crate::dataplane::xdp::XdpMode;

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
    /// How packets go that are translated on it: `xdp native` or `xdp generic` where a program sees their
    /// frames, `redirect` where those of new flows may be sent on at once, `tc` where the host routes them,
    /// or `none`.
    pub path: &'static str,
    /// Why they do not go a faster way.
    pub path_why: Option<String>,
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
            path: match (device.has_ingress || device.has_egress, device.xdp) {
                (true, Some(XdpMode::Native)) => "xdp native",
                (true, Some(XdpMode::Generic)) => "xdp generic",
                (true, None) if device.is_open => "redirect",
                (true, None) => "tc",
                (false, _) => "none",
            },
            path_why: if device.is_open {
                device.no_xdp.clone()
            } else {
                device.plain.clone()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn uplink() -> DeviceInput {
        DeviceInput {
            index: 2,
            name: Some("eth0".to_owned()),
            role: Some(Role::Uplink),
            why: None,
            obstacle: None,
            is_open: true,
            is_clear: true,
            plain: None,
            xdp: None,
            no_xdp: Some("the driver has none".to_owned()),
            sources: Vec::new(),
            bridge: None,
            has_ingress: true,
            has_egress: true,
        }
    }

    #[test]
    fn the_path_is_the_fastest_and_the_reason_that_of_the_next_faster() {
        let closed = DeviceInput {
            is_open: false,
            plain: Some("it is a port".to_owned()),
            ..uplink()
        };
        let with = |mode| DeviceInput {
            xdp: Some(mode),
            no_xdp: None,
            ..uplink()
        };
        let bare = DeviceInput {
            has_ingress: false,
            has_egress: false,
            ..closed.clone()
        };
        for (device, path, why) in [
            (bare, "none", Some("it is a port")),
            (closed, "tc", Some("it is a port")),
            (uplink(), "redirect", Some("the driver has none")),
            (with(XdpMode::Native), "xdp native", None),
            (with(XdpMode::Generic), "xdp generic", None),
        ] {
            let views = interfaces(&[device]);
            assert_eq!((views[0].path, views[0].path_why.as_deref()), (path, why));
        }
    }
}
