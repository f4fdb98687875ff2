//! The devices of this network namespace and what each is to the datapath.
//!
//! Roles are found, not configured: [`classify()`] is a pure function of what rtnetlink tells
//! ([`watch`]) and of the Node's addresses; [`grace`] keeps a role that is lost for a moment.

pub mod classify;
mod dump;
pub mod frames;
pub mod grace;
pub mod netdev;
pub mod openness;
pub mod route;
pub mod source;
pub mod watch;

use std::collections::BTreeMap;
use std::net::IpAddr;

pub(crate) use classify::why_uplink;
pub use classify::{Classified, Criteria, Ground, Obstacle, Role, classify};
pub use frames::{NoFrames, NoXdp, takes, wanted_mode};
pub use grace::{GRACE, Grace};
pub use openness::{Closed, clearness, openness};
pub use source::source_addresses;
pub use watch::{InterfaceError, REREAD, Watcher};

/// What a device is, as far as roles depend on it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Kind {
    /// One end of a virtual cable.
    Veth,
    /// A bridge.
    Bridge,
    /// Encapsulates what is sent through it: vxlan, geneve, gre, ipip, wireguard and the like.
    Tunnel,
    /// Leads nowhere: loopback, dummy. Its addresses are reached by other devices.
    Local,
    /// Anything else.
    #[default]
    Other,
}

/// One device.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact by itself, as the kernel tells it"
)]
pub struct Device {
    /// Interface index.
    pub index: u32,
    /// Its name, which may change.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Whether its other end is in another network namespace.
    pub is_peer_elsewhere: bool,
    /// Interface index of the device it is a port of.
    pub master: Option<u32>,
    /// Its addresses, those last that new flows should not use (tentative or deprecated ones).
    pub addresses: Vec<IpAddr>,
    /// Those of its addresses whose network has room for others, with the length of its prefix: neighbours
    /// are on this link.
    pub on_link: Vec<(IpAddr, u8)>,
    /// Whether it is up.
    pub is_up: bool,
    /// Whether its packets come without an Ethernet header, which the programs do not read.
    pub lacks_ethernet: bool,
    /// Whether a default route leaves by it.
    pub has_default_route: bool,
    /// Whether tc filters of others see what it brings; `None` where nobody has looked.
    pub has_filters: Option<bool>,
    /// The same of what leaves by it.
    pub has_egress_filters: Option<bool>,
    /// Its MAC; zeros where it has none of that length.
    pub mac: [u8; 6],
    /// Kind of its root qdisc.
    pub qdisc: String,
    /// Interface index of the device whose tagged packets it has, of a VLAN device.
    pub vlan_of: Option<u32>,
    /// What its driver can do with XDP's frames (`NETDEV_XDP_ACT_*`); `None` where nobody has looked or
    /// the kernel does not say.
    pub xdp_features: Option<u64>,
}

/// All devices, by interface index.
pub type Devices = BTreeMap<u32, Device>;

/// The networks of those links on which this host has one of `addresses`: address and prefix length.
pub fn networks(devices: &Devices, addresses: &[IpAddr]) -> Vec<(IpAddr, u8)> {
    let mut networks: Vec<_> = devices
        .values()
        .flat_map(|device| &device.on_link)
        .filter(|(address, _)| addresses.contains(address))
        .copied()
        .collect();
    networks.sort_unstable();
    networks.dedup();
    networks
}
