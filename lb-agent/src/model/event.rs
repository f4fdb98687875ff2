//! What a source says: the same for a directory of manifests and for watches of the API server.
//!
//! Objects are shared, not copied: a source that keeps what it has read, to compare with what it
//! reads next, and the model hold one value between them.

use std::net::IpAddr;
use std::sync::Arc;

use super::endpoint::EndpointSlice;
use super::name::ObjectName;
use super::node::Node;
use super::service::Service;

/// The kinds of objects a source delivers.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// `v1` `Service`.
    Service,
    /// `discovery.k8s.io/v1` `EndpointSlice`.
    EndpointSlice,
    /// `v1` `Node`.
    Node,
    /// `networking.k8s.io/v1` `ServiceCIDR`.
    ServiceCidr,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Service,
        Self::EndpointSlice,
        Self::Node,
        Self::ServiceCidr,
    ];

    /// The name Kubernetes gives it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Node => "Node",
            Self::ServiceCidr => "ServiceCIDR",
        }
    }
}

/// One thing that happened.
///
/// A source begins with a full list of each kind that ends with [`Event::Listed`]. It may begin a
/// list anew at any time with [`Event::Restarted`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// A Service is there, or has changed.
    ServiceApplied(Arc<Service>),
    /// A Service is gone, or is none of ours any more.
    ServiceRemoved(ObjectName),
    /// An `EndpointSlice` is there, or has changed.
    SliceApplied(Arc<EndpointSlice>),
    /// An `EndpointSlice` is gone, or is none of ours any more.
    SliceRemoved(ObjectName),
    /// A Node is there, or has changed.
    NodeApplied(Arc<Node>),
    /// A Node is gone, by its name.
    NodeRemoved(String),
    /// The cluster's service networks, all of them: network address and prefix length.
    ServiceCidrs(Vec<(IpAddr, u8)>),
    /// A new full list of the kind begins: until [`Event::Listed`], absence means nothing.
    Restarted(Kind),
    /// The full list of the kind is complete: what it did not name is gone.
    Listed(Kind),
}
