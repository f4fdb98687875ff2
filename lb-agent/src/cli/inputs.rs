//! What commands are made of: the pinned maps and the agent's two files, read once.
//!
//! Nothing here asks a living agent, so that every command works when it is dead. The views
//! (`view/*`) are computed from these values and nothing else, which is what their tests do.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use lb_common::flow::Protocol;
use lb_common::id::{BackendId, ServiceId};
use lb_common::table::counter::Counter;
use lb_common::table::device::Role;
use lb_common::verdict::Reason;

use super::error::CliError;
use crate::dataplane::Actual;
pub use crate::dataplane::region::{Region, backend_of, region_of};
use crate::dataplane::xdp::XdpMode;
use crate::plan::names::Names;

/// Where a command's data comes from.
pub trait Reader {
    /// The tables without the flows.
    fn tables(&self) -> Result<Actual, CliError>;
    /// The agent's names; empty ones where it left none.
    fn names(&self) -> Result<Names, CliError>;
    /// Packets and bytes by reason, all processors together.
    fn counters(&self) -> Result<Vec<(Reason, Counter)>, CliError>;
    /// Connections opened since the tables were made.
    fn connections(&self) -> Result<Connections, CliError>;
    /// Every entry of the flow tables.
    fn flows(&self) -> Result<Vec<FlowInput>, CliError>;
    /// Frees the entries of every flow that `choose` chooses by its entry, and their partners;
    /// returns how many flows that were.
    fn flush(&self, choose: &dyn Fn(&FlowInput) -> bool) -> Result<u64, CliError>;
    /// The devices that programs are attached to.
    fn devices(&self) -> Result<Vec<DeviceInput>, CliError>;
    /// Every pinned map.
    fn maps(&self) -> Result<Vec<MapInput>, CliError>;
}

/// Connections opened, by index.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Connections {
    /// By index of the service.
    pub services: BTreeMap<u32, u64>,
    /// By index of the backend.
    pub backends: BTreeMap<u32, u64>,
}

/// One entry of a flow table.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says something else of the entry, as the table has it"
)]
pub struct FlowInput {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Whether packets from the client find it; else it is the partner that replies find.
    pub is_original: bool,
    /// Whether it is found where the device hands packets to this host.
    pub is_ingress: bool,
    /// Whether the flow came by an uplink.
    pub is_from_outside: bool,
    /// Whether its client is this node itself, whose packets find their entry where they leave.
    pub is_of_host: bool,
    /// Source of the packets as they arrive.
    pub source: SocketAddr,
    /// Destination of the packets as they arrive.
    pub destination: SocketAddr,
    /// Source of the packets as they leave.
    pub translated_source: SocketAddr,
    /// Destination of the packets as they leave.
    pub translated_destination: SocketAddr,
    /// State, in snake case.
    pub state: &'static str,
    /// Whether a reply was seen.
    pub is_confirmed: bool,
    /// Time since the last packet, to the second.
    pub idle: Duration,
    /// Time until the entry is free to others unless a packet comes; zero where it already is.
    pub expires_in: Duration,
    /// The service port.
    pub service: ServiceId,
    /// The backend.
    pub backend: BackendId,
}

/// A device with programs.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "four facts of a device, each of which may hold without the others"
)]
pub struct DeviceInput {
    /// Interface index.
    pub index: u32,
    /// The device's name; `None` once it is gone.
    pub name: Option<String>,
    /// What it leads to; `None` where `DEVICES` does not know it.
    pub role: Option<Role>,
    /// Why it has that role, as far as the agent has said.
    pub why: Option<String>,
    /// Why it cannot have the role that it should have.
    pub obstacle: Option<String>,
    /// Whether packets of new flows that it brings may be sent on at once.
    pub is_open: bool,
    /// Whether those to hosts of other nodes may, open or not.
    pub is_clear: bool,
    /// Why not, as far as the agent has said.
    pub plain: Option<String>,
    /// How an XDP program sees what it brings, if one does.
    pub xdp: Option<XdpMode>,
    /// Why none does, or why XDP sends nothing by it, where the agent was asked for it.
    pub no_xdp: Option<String>,
    /// The addresses by which flows leave it that must come back to this node.
    pub sources: Vec<IpAddr>,
    /// The bridge it is a port of, by name, or by index where that is gone.
    pub bridge: Option<String>,
    /// Whether a link for packets to this host is pinned.
    pub has_ingress: bool,
    /// Whether a link for packets to the device is pinned.
    pub has_egress: bool,
}

/// A pinned map.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MapInput {
    /// Its name.
    pub name: String,
    /// The kernel's word for its type.
    pub kind: String,
    /// Entries in use; `None` where counting them has no meaning.
    pub used: Option<u64>,
    /// Entries it can hold.
    pub capacity: u64,
    /// Memory it takes, in bytes, by the kernel's own accounting.
    pub memory_bytes: u64,
    /// Where it is pinned.
    pub pin: PathBuf,
}

/// The address that `mapped` is the table form of.
#[must_use]
pub fn address_of(mapped: lb_common::family::MappedAddress) -> IpAddr {
    std::net::Ipv6Addr::from(mapped).to_canonical()
}
