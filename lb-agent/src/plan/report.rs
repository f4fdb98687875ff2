//! What the planner could not do as it was told. Planning never fails: whatever is reported leaves
//! everything else as it should be.

use std::fmt;
use std::net::IpAddr;

use crate::model::name::ObjectName;

/// Why an address cannot be that of an endpoint or a service.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Refusal {
    /// 0.0.0.0 or `::`.
    Unspecified,
    /// 127.0.0.0/8 or `::1`.
    Loopback,
    /// 169.254.0.0/16 or `fe80::/10`.
    LinkLocal,
    /// 224.0.0.0/4, 255.255.255.255 or `ff00::/8`.
    Multicast,
    /// Not of the family its object says, or IPv4 inside IPv6.
    OtherFamily,
    /// An address of this node.
    NodeAddress,
    /// In one of the cluster's service networks.
    ServiceNetwork,
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Unspecified => "unspecified",
            Self::Loopback => "in the loopback range",
            Self::LinkLocal => "in the link-local range",
            Self::Multicast => "a multicast or broadcast address",
            Self::OtherFamily => "of another address family than its object",
            Self::NodeAddress => "an address of this node",
            Self::ServiceNetwork => "in a service network of the cluster",
        })
    }
}

/// A table that may be full.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Table {
    /// `FRONTENDS`.
    Frontends,
    /// `SERVICES`.
    Services,
    /// `BACKENDS`.
    Backends,
    /// `ARENA`.
    Arena,
    /// `SOURCE_RANGES`.
    SourceRanges,
}

impl Table {
    /// The map's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Frontends => "FRONTENDS",
            Self::Services => "SERVICES",
            Self::Backends => "BACKENDS",
            Self::Arena => "ARENA",
            Self::SourceRanges => "SOURCE_RANGES",
        }
    }
}

/// One thing about one Service, in a line that says what an operator may do.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Report {
    /// Endpoints with an address no endpoint may have. The others are used.
    EndpointsRefused {
        /// Name of the Service's port.
        port: String,
        /// How many.
        count: usize,
        /// The first of them.
        address: IpAddr,
        /// What is wrong with the first.
        refusal: Refusal,
    },
    /// A cluster address that no service may have. Its other addresses are used.
    AddressRefused {
        /// The address.
        address: IpAddr,
        /// What is wrong with it.
        refusal: Refusal,
    },
    /// An external or load balancer address that no Service may have. Its other addresses are used.
    ExternalAddressRefused {
        /// The address.
        address: IpAddr,
        /// What is wrong with it.
        refusal: Refusal,
    },
    /// Two ports of one name or number and protocol, or a port 0. The others are used.
    PortRefused {
        /// Name of the port.
        port: String,
        /// Its number.
        number: u16,
    },
    /// More endpoints than a set can hold. The Service keeps what it had.
    TooManyEndpoints {
        /// Name of the Service's port.
        port: String,
        /// How many there are.
        count: usize,
        /// How many there may be.
        most: u32,
    },
    /// A table has no room for the Service's newest state. The Service keeps what it had.
    TableFull {
        /// Which.
        table: Table,
        /// Its size.
        capacity: u32,
    },
    /// An older Service has the same address, port and protocol, and gets the packets.
    Shadowed {
        /// The address; the unspecified one for a node port.
        address: IpAddr,
        /// The port.
        port: u16,
        /// The older Service.
        by: ObjectName,
    },
    /// An external or load balancer address is the cluster address of another Service, which keeps
    /// all of its ports.
    OthersClusterAddress {
        /// The address.
        address: IpAddr,
        /// The port.
        port: u16,
        /// Whose cluster address it is.
        by: ObjectName,
    },
    /// An older Service has the same health-check node port, which answers for that one.
    HealthPortTaken {
        /// The port.
        port: u16,
        /// The older Service.
        by: ObjectName,
    },
}

impl Report {
    /// Whether the Service's newest state is not what the tables hold.
    pub const fn keeps_old_state(&self) -> bool {
        matches!(self, Self::TooManyEndpoints { .. } | Self::TableFull { .. })
    }

    /// The `reason` of a Kubernetes Event on the Service; the text is the Event's note.
    pub const fn event_reason(&self) -> &'static str {
        match self {
            Self::EndpointsRefused { .. } => "EndpointsRefused",
            Self::AddressRefused { .. } => "ClusterIPRefused",
            Self::ExternalAddressRefused { .. } => "ExternalAddressRefused",
            Self::PortRefused { .. } => "PortRefused",
            Self::TooManyEndpoints { .. } => "TooManyEndpoints",
            Self::TableFull { .. } => "TableFull",
            Self::Shadowed { .. } | Self::OthersClusterAddress { .. } => "FrontendConflict",
            // kube-proxy's word.
            Self::HealthPortTaken { .. } => "FailedToStartServiceHealthcheck",
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EndpointsRefused {
                port,
                count,
                address,
                refusal,
            } => write!(
                formatter,
                "port {port:?}: {count} endpoint(s) refused, first {address}, which is {refusal}: \
                 correct the EndpointSlice"
            ),
            Self::AddressRefused { address, refusal } => write!(
                formatter,
                "cluster address {address} refused, since it is {refusal}: correct the Service"
            ),
            Self::ExternalAddressRefused { address, refusal } => write!(
                formatter,
                "external address {address} refused, since it is {refusal}: correct the Service"
            ),
            Self::PortRefused { port, number } => write!(
                formatter,
                "port {port:?} ({number}) refused, since its name or number is not unique or \
                 its number is 0: correct the Service"
            ),
            Self::TooManyEndpoints { port, count, most } => write!(
                formatter,
                "port {port:?} has {count} endpoints, at most {most} are possible: the service \
                 keeps its earlier ones; split the Service"
            ),
            Self::TableFull { table, capacity } => write!(
                formatter,
                "table {} ({capacity} entries) has no room: the service keeps its earlier state; \
                 raise the table's size in the settings",
                table.name()
            ),
            Self::Shadowed { address, port, by } if address.is_unspecified() => write!(
                formatter,
                "node port {port} belongs to the older Service {by}: change one of them"
            ),
            Self::Shadowed { address, port, by } => write!(
                formatter,
                "{address} port {port} belongs to the older Service {by}: change one of them"
            ),
            Self::HealthPortTaken { port, by } => write!(
                formatter,
                "health-check node port {port} belongs to the older Service {by}: change one of them"
            ),
            Self::OthersClusterAddress { address, port, by } => write!(
                formatter,
                "external address {address} port {port} is not to be had, since the address is a \
                 cluster address of the Service {by}: correct the Service"
            ),
        }
    }
}
