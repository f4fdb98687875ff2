//! The devices of this network namespace and what each is to the datapath.
//!
//! Roles are found, not configured: [`classify()`] is a pure function of what rtnetlink tells
//! ([`watch`]) and of the Node's addresses.

pub mod classify;
pub mod source;
pub mod watch;

use std::collections::BTreeMap;
use std::net::IpAddr;

pub use classify::{Classified, Role, classify};
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
    /// Anything else.
    #[default]
    Other,
}

/// One device.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
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
    /// Whether a default route leaves by it.
    pub has_default_route: bool,
}

/// All devices, by interface index.
pub type Devices = BTreeMap<u32, Device>;
