//! `EndpointSlices` as far as a proxy cares.

use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use lb_common::flow::Protocol;

use super::name::ObjectName;

/// The weight of an endpoint whose slice has no `steerage.dev/weight` annotation.
pub const DEFAULT_WEIGHT: u16 = 100;
/// The largest weight.
pub const MAX_WEIGHT: u16 = 1000;

/// An `EndpointSlice` of addresses of one family.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EndpointSlice {
    /// Its name.
    pub name: ObjectName,
    /// The Service it belongs to, by label `kubernetes.io/service-name`, in its own namespace.
    pub service: ObjectName,
    /// `addressType`: whether its addresses are IPv6.
    pub is_v6: bool,
    /// `endpoints` that have an address.
    pub endpoints: Vec<Endpoint>,
    /// `ports` that have a name (which may be empty) and a port.
    pub ports: Vec<EndpointPort>,
    /// Annotation `steerage.dev/weight`, 0 to [`MAX_WEIGHT`]; 0 takes no new flows.
    pub weight: u16,
    /// Annotation `endpoints.kubernetes.io/last-change-trigger-time`: when the change happened that
    /// made the slice what it is, in microseconds since the Unix epoch.
    pub triggered_micros: Option<i64>,
}

/// One of `endpoints`; absent conditions have got the values their absence means.
///
/// Names of nodes and zones repeat over hundreds of thousands of endpoints, so a source shares them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Endpoint {
    /// `addresses[0]`.
    pub address: IpAddr,
    /// `conditions.ready`, absent is true.
    pub ready: bool,
    /// `conditions.serving`, absent is true.
    pub serving: bool,
    /// `conditions.terminating`, absent is false.
    pub terminating: bool,
    /// `nodeName`.
    pub node: Option<Arc<str>>,
    /// `zone`.
    pub zone: Option<Arc<str>>,
    /// `hints.forZones[].name`.
    pub zone_hints: Hints,
    /// `hints.forNodes[].name`.
    pub node_hints: Hints,
    /// `targetRef.name`, if it is a Pod; the Pod is in the slice's namespace.
    pub pod: Option<Arc<str>>,
}

/// Names of zones or nodes. Most endpoints have none, which takes one word.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Hints(Option<Arc<Vec<Arc<str>>>>);

impl Deref for Hints {
    type Target = [Arc<str>];

    fn deref(&self) -> &[Arc<str>] {
        self.0.as_deref().map_or(&[], Vec::as_slice)
    }
}

impl fmt::Debug for Hints {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.iter()).finish()
    }
}

impl FromIterator<Arc<str>> for Hints {
    fn from_iter<I: IntoIterator<Item = Arc<str>>>(names: I) -> Self {
        let mut names = names.into_iter().peekable();
        Self(names.peek().is_some().then(|| Arc::new(names.collect())))
    }
}

/// One of `ports`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EndpointPort {
    /// Its name, to be joined with the Service port's.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port the endpoint serves at, not 0.
    pub port: u16,
}
