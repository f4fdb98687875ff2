//! rtnetlink: reads all devices, and says when to read them again.
//!
//! An event only says that something changed; the answer is a dump. So a lost event costs at most
//! [`REREAD`], and devices that are renamed, moved or come back under an old name need no rules.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use futures::channel::mpsc::UnboundedReceiver;
use futures::{StreamExt as _, TryStreamExt as _};
use lb_common::flow::Hook;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use netlink_packet_route::route::{RouteAttribute, RouteMessage};
use netlink_packet_route::tc::TcMessage;
use rtnetlink::packet_core::NetlinkMessage;
use rtnetlink::sys::SocketAddr;
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::dump::dump;
use super::{Device, Devices, Kind};
use crate::clock;
use crate::dataplane::clsact::HANDLE_NUMBER;

/// A new device makes a burst of events; they are answered together.
const DEBOUNCE: Duration = Duration::from_millis(3);
/// Devices should be read again at least this often, in case the kernel dropped events.
pub const REREAD: Duration = Duration::from_secs(30);

/// Why devices could not be read; it may succeed when tried again.
#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    /// No netlink socket.
    #[error("opening a netlink socket: {source}")]
    Open {
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A dump failed.
    #[error("reading {what} over netlink: {source}")]
    Dump {
        /// What was asked for.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        source: rtnetlink::Error,
    },
    /// What was to be read changed each time while it was.
    #[error("reading {what} over netlink: they changed meanwhile, each time again")]
    Interrupted {
        /// What was asked for.
        what: &'static str,
    },
}

type Events = UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>;

/// Watches the devices of the network namespace in which it was made.
#[derive(Debug)]
pub struct Watcher {
    handle: Handle,
    events: Events,
    /// When the burst of events that has begun is taken to be over.
    quiet_at: Option<Instant>,
    /// Drives the sockets; ends with the watcher.
    _connections: JoinSet<()>,
}

impl Watcher {
    /// Begins to watch. Must be called in a tokio runtime.
    pub fn new() -> Result<Self, InterfaceError> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ];
        let mut connections = JoinSet::new();
        let failed = |source| InterfaceError::Open { source };
        let (listening, _, events) =
            rtnetlink::new_multicast_connection(&groups).map_err(failed)?;
        connections.spawn(listening);
        // A socket of its own for dumps, so that a flood of events cannot disturb them.
        let (asking, handle, _) = rtnetlink::new_connection().map_err(failed)?;
        connections.spawn(asking);
        Ok(Self {
            handle,
            events,
            quiet_at: None,
            _connections: connections,
        })
    }

    /// For other requests over the same socket.
    pub const fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Returns when devices should be read again because of an event. Nothing is lost, nor delayed,
    /// if it is dropped before and called again.
    pub async fn changed(&mut self) {
        let deadline = if let Some(deadline) = self.quiet_at {
            deadline
        } else {
            if self.events.next().await.is_none() {
                // The socket is gone: only re-reading is left.
                std::future::pending::<()>().await;
            }
            *self
                .quiet_at
                .insert(Instant::from_std(clock::instant()) + DEBOUNCE)
        };
        sleep_until(deadline).await;
        while self.events.try_recv().is_ok() {}
        self.quiet_at = None;
    }

    /// Reads all devices.
    pub async fn read(&self) -> Result<Devices, InterfaceError> {
        let mut devices = self.links().await?;
        let (mut fit, unfit): (Vec<_>, Vec<_>) = self
            .addresses()
            .await?
            .into_iter()
            .partition(is_fit_for_use);
        fit.extend(unfit);
        for message in fit {
            if let Some(device) = devices.get_mut(&message.header.index)
                && let Some(address) = own_address(&message)
            {
                device.addresses.push(address);
                let length = message.header.prefix_len;
                if length < longest_prefix(address) {
                    device.on_link.push((address, length));
                }
            }
        }
        for index in self.default_routes().await? {
            if let Some(device) = devices.get_mut(&index) {
                device.has_default_route = true;
            }
        }
        Ok(devices)
    }

    /// Notes of each of `devices` that is `wanted` whether filters of others see what it brings.
    pub async fn read_filters(&self, devices: &mut Devices, wanted: impl Fn(&Device) -> bool) {
        for (&index, device) in devices {
            if wanted(device) {
                device.has_filters = self.has_filters(index, Hook::Ingress).await;
            }
        }
    }

    /// The same of what leaves by them.
    pub async fn read_egress_filters(&self, devices: &mut Devices) {
        for (&index, device) in devices {
            device.has_egress_filters = self.has_filters(index, Hook::Egress).await;
        }
    }

    /// Whether filters of others are at one side of a device; `None` where that cannot be told.
    async fn has_filters(&self, index: u32, hook: Hook) -> Option<bool> {
        let interface = i32::try_from(index).ok()?;
        let request = self.handle.traffic_filter(interface).get();
        let request = match hook {
            Hook::Ingress => request.ingress(),
            Hook::Egress => request.egress(),
        };
        let filters: Result<Vec<_>, _> = request.execute().try_collect().await;
        match filters {
            Ok(filters) => Some(filters.iter().any(is_of_others)),
            // No qdisc for them.
            Err(rtnetlink::Error::NetlinkError(_)) => Some(false),
            Err(_) => None,
        }
    }

    async fn links(&self) -> Result<Devices, InterfaceError> {
        let request = || RouteNetlinkMessage::GetLink(LinkMessage::default());
        let take = |devices: &mut Devices, message| {
            if let RouteNetlinkMessage::NewLink(link) = message {
                let device = device(&link);
                devices.insert(device.index, device);
            }
        };
        dump(&self.handle, "devices", request, take).await
    }

    async fn addresses(&self) -> Result<Vec<AddressMessage>, InterfaceError> {
        let request = || RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let take = |addresses: &mut Vec<_>, message| {
            if let RouteNetlinkMessage::NewAddress(address) = message {
                addresses.push(address);
            }
        };
        dump(&self.handle, "addresses", request, take).await
    }

    async fn default_routes(&self) -> Result<BTreeSet<u32>, InterfaceError> {
        let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
        let mut indices = BTreeSet::new();
        for request in [v4, v6] {
            let request = || RouteNetlinkMessage::GetRoute(request.clone());
            let take = |indices: &mut BTreeSet<u32>, message| {
                if let RouteNetlinkMessage::NewRoute(route) = message {
                    indices.extend(default_route(&route));
                }
            };
            indices.extend(dump(&self.handle, "routes", request, take).await?);
        }
        Ok(indices)
    }
}

/// Whether a filter is none of ours. Without a handle it is the head of several that follow.
fn is_of_others(filter: &TcMessage) -> bool {
    let handle = filter.header.handle;
    let is_ours = handle.major == 0 && handle.minor == HANDLE_NUMBER;
    !is_ours && (handle.major, handle.minor) != (0, 0)
}

/// The length of a prefix that has room for one address only.
const fn longest_prefix(address: IpAddr) -> u8 {
    if address.is_ipv6() { 128 } else { 32 }
}

/// The address a message is about. Of a point-to-point device the address is the peer's, the local one
/// our own.
fn own_address(message: &AddressMessage) -> Option<IpAddr> {
    let mut attributes = message.attributes.iter();
    let local = attributes.find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let mut attributes = message.attributes.iter();
    local.or_else(|| {
        attributes.find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}

/// Whether new flows may use the address: it is neither on its way out nor still being checked.
fn is_fit_for_use(message: &AddressMessage) -> bool {
    let unfit = AddressFlags::Deprecated | AddressFlags::Tentative | AddressFlags::Dadfailed;
    message.attributes.iter().all(|attribute| match attribute {
        AddressAttribute::Flags(flags) => !flags.intersects(unfit),
        _ => true,
    })
}

/// Interface indices that a route leaves by, if it is a default route of the main table.
fn default_route(route: &RouteMessage) -> Vec<u32> {
    use netlink_packet_route::route::{RouteHeader, RouteType};

    if route.header.destination_prefix_length != 0
        || route.header.table != RouteHeader::RT_TABLE_MAIN
        || route.header.kind != RouteType::Unicast
    {
        return Vec::new();
    }
    let mut indices = Vec::new();
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => indices.push(*index),
            RouteAttribute::MultiPath(hops) => {
                indices.extend(hops.iter().map(|hop| hop.interface_index));
            }
            _ => {}
        }
    }
    indices
}

fn device(message: &LinkMessage) -> Device {
    let layer = message.header.link_layer_type;
    let mut device = Device {
        index: message.header.index,
        kind: match layer {
            LinkLayerType::Loopback => Kind::Local,
            _ => Kind::Other,
        },
        is_up: message.header.flags.contains(LinkFlags::Up),
        lacks_ethernet: !matches!(layer, LinkLayerType::Ether | LinkLayerType::Loopback),
        ..Device::default()
    };
    let (mut lower, mut is_vlan) = (None, false);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => device.name.clone_from(name),
            LinkAttribute::Controller(master) if *master != 0 => device.master = Some(*master),
            LinkAttribute::LinkNetNsId(_) => device.is_peer_elsewhere = true,
            LinkAttribute::Address(address) => {
                device.mac = address.as_slice().try_into().unwrap_or_default();
            }
            LinkAttribute::Qdisc(kind) => device.qdisc.clone_from(kind),
            LinkAttribute::Link(other) => lower = Some(*other),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Kind(kind) = info {
                        device.kind = kind_of(kind);
                        is_vlan = matches!(kind, InfoKind::Vlan);
                    }
                }
            }
            _ => {}
        }
    }
    device.vlan_of = lower.filter(|_| is_vlan);
    device
}

const fn kind_of(kind: &InfoKind) -> Kind {
    match kind {
        InfoKind::Veth => Kind::Veth,
        InfoKind::Bridge => Kind::Bridge,
        InfoKind::Dummy => Kind::Local,
        InfoKind::Vxlan
        | InfoKind::Geneve
        | InfoKind::GreTap
        | InfoKind::GreTap6
        | InfoKind::GreTun
        | InfoKind::GreTun6
        | InfoKind::IpIp
        | InfoKind::Ip6Tnl
        | InfoKind::SitTun
        | InfoKind::Wireguard
        | InfoKind::BareUdp => Kind::Tunnel,
        _ => Kind::Other,
    }
}
