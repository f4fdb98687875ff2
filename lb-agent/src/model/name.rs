//! Names of objects and of service ports.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use lb_common::flow::Protocol;

/// Namespace and name of an object; cluster-scoped objects have an empty namespace.
///
/// A name stands in every table that is looked up by it, so its texts are shared, not copied.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct ObjectName {
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

/// By namespace, then by name.
impl Ord for ObjectName {
    fn cmp(&self, other: &Self) -> Ordering {
        // Tables are searched by names most of which are in one namespace, whose text is shared.
        let namespaces = if Arc::ptr_eq(&self.namespace, &other.namespace) {
            Ordering::Equal
        } else {
            self.namespace.cmp(&other.namespace)
        };
        namespaces.then_with(|| self.name.cmp(&other.name))
    }
}

impl PartialOrd for ObjectName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            formatter.write_str(&self.name)
        } else {
            write!(formatter, "{}/{}", self.namespace, self.name)
        }
    }
}

/// One port of a Service: what endpoints are joined by.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ServicePortName {
    /// The Service.
    pub service: ObjectName,
    /// `spec.ports[].name`, empty for the only port of a Service.
    pub port: String,
    /// `spec.ports[].protocol`.
    pub protocol: Protocol,
}

impl fmt::Display for ServicePortName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.port.is_empty() {
            write!(formatter, "{}", self.service)
        } else {
            write!(formatter, "{}:{}", self.service, self.port)
        }
    }
}
