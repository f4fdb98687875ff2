//! The objects a file holds, as model values.

use std::net::IpAddr;
use std::sync::Arc;

use crate::model::endpoint::EndpointSlice;
use crate::model::event::{Event, Kind};
use crate::model::name::ObjectName;
use crate::model::node::Node;
use crate::model::service::Service;

/// What makes two objects the same one.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Key {
    pub(super) kind: Kind,
    pub(super) name: ObjectName,
}

impl Key {
    /// The event of there being none.
    pub(super) fn removed(&self) -> Option<Event> {
        match self.kind {
            Kind::Service => Some(Event::ServiceRemoved(self.name.clone())),
            Kind::EndpointSlice => Some(Event::SliceRemoved(self.name.clone())),
            Kind::Node => Some(Event::NodeRemoved(self.name.name.as_ref().to_owned())),
            Kind::ServiceCidr => None,
        }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} {}", self.kind.name(), self.name)
    }
}

/// An object's value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Object {
    Service(Arc<Service>),
    Slice(Arc<EndpointSlice>),
    Node(Arc<Node>),
    Cidrs(Arc<[(IpAddr, u8)]>),
    /// One that is none of ours: it claims its name, and says nothing.
    None,
}

impl Object {
    /// The event of there being this one. Networks are told all at once instead.
    pub(super) fn applied(&self) -> Option<Event> {
        match self {
            Self::Service(service) => Some(Event::ServiceApplied(Arc::clone(service))),
            Self::Slice(slice) => Some(Event::SliceApplied(Arc::clone(slice))),
            Self::Node(node) => Some(Event::NodeApplied(Arc::clone(node))),
            Self::Cidrs(_) | Self::None => None,
        }
    }
}
