//! The resources this server knows: where they are served and what their objects look like.

use serde_json::{Value, json};

/// A resource, as a group and a plural name.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Resource {
    /// `services` of the core group.
    Services,
    /// `endpointslices.discovery.k8s.io`.
    EndpointSlices,
    /// `nodes` of the core group; not namespaced.
    Nodes,
    /// `servicecidrs.networking.k8s.io`; not namespaced.
    ServiceCidrs,
    /// `events.events.k8s.io`, which clients write.
    Events,
    /// `events` of the core group, which older clients write.
    CoreEvents,
}

impl Resource {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Services,
        Self::EndpointSlices,
        Self::Nodes,
        Self::ServiceCidrs,
        Self::Events,
        Self::CoreEvents,
    ];

    /// The API group; empty for the core group.
    pub const fn group(self) -> &'static str {
        match self {
            Self::Services | Self::Nodes | Self::CoreEvents => "",
            Self::EndpointSlices => "discovery.k8s.io",
            Self::ServiceCidrs => "networking.k8s.io",
            Self::Events => "events.k8s.io",
        }
    }

    /// The plural name in paths and in access rules.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::EndpointSlices => "endpointslices",
            Self::Nodes => "nodes",
            Self::ServiceCidrs => "servicecidrs",
            Self::Events | Self::CoreEvents => "events",
        }
    }

    /// The kind of one object.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Services => "Service",
            Self::EndpointSlices => "EndpointSlice",
            Self::Nodes => "Node",
            Self::ServiceCidrs => "ServiceCIDR",
            Self::Events | Self::CoreEvents => "Event",
        }
    }

    /// Group and version, as `apiVersion` has it.
    pub fn api_version(self) -> String {
        match self.group() {
            "" => "v1".to_owned(),
            group => format!("{group}/v1"),
        }
    }

    /// Whether objects live in a namespace.
    pub const fn is_namespaced(self) -> bool {
        !matches!(self, Self::Nodes | Self::ServiceCidrs)
    }

    /// Name and group in one word, as messages have it.
    pub fn qualified(self) -> String {
        match self.group() {
            "" => self.plural().to_owned(),
            group => format!("{}.{group}", self.plural()),
        }
    }

    /// The resource of an object, by its `apiVersion` and `kind`.
    pub fn of(object: &Value) -> Option<Self> {
        let version = object.get("apiVersion")?.as_str()?;
        let kind = object.get("kind")?.as_str()?;
        Self::ALL
            .into_iter()
            .find(|resource| resource.kind() == kind && resource.api_version() == version)
    }

    /// The resource served below these path segments (`v1` or `group/v1`), by its plural name.
    pub(super) fn at(group: &str, plural: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|resource| resource.group() == group && resource.plural() == plural)
    }

    /// What a bookmark's object says beside its metadata: the kind's empty object, in which required
    /// fields are null or empty.
    pub(super) fn empty(self) -> Value {
        match self {
            Self::Services => json!({ "spec": {}, "status": { "loadBalancer": {} } }),
            Self::EndpointSlices => json!({ "addressType": "", "endpoints": null, "ports": null }),
            Self::Nodes => json!({
                "spec": {},
                "status": {
                    "daemonEndpoints": { "kubeletEndpoint": { "Port": 0 } },
                    "nodeInfo": {
                        "machineID": "", "systemUUID": "", "bootID": "", "kernelVersion": "",
                        "osImage": "", "containerRuntimeVersion": "", "kubeletVersion": "",
                        "kubeProxyVersion": "", "operatingSystem": "", "architecture": "",
                    },
                },
            }),
            Self::ServiceCidrs => json!({ "spec": {}, "status": {} }),
            Self::Events => json!({ "eventTime": null }),
            Self::CoreEvents => json!({ "involvedObject": {}, "source": {} }),
        }
    }
}
