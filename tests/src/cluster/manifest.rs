//! Kubernetes manifests, written as `kubectl get -o yaml` would show them, less what nobody reads.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{
    lab::{Lab, Node, Pod, address},
    traffic::Transport,
};

mod exposure;

pub use self::exposure::{Exposure, Pair, Policy, sockets};

/// The manifests' directory, below the cluster's own.
pub(super) const DIRECTORY: &str = "manifests";

/// What a weight is when no annotation says otherwise.
const DEFAULT_WEIGHT: u16 = 100;

/// One port of a Service.
#[derive(Clone, Debug)]
pub struct Port {
    /// The port's name, unique in its Service.
    pub name: String,
    /// The protocol.
    pub transport: Transport,
    /// The port that clients dial.
    pub port: u16,
    /// The port that endpoints serve.
    pub target: u16,
}

/// The conditions of an endpoint, as its pod's life produces them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Ready and serving.
    Ready,
    /// Neither ready nor serving.
    NotReady,
    /// No longer ready, still serving: its pod was asked to end.
    Terminating,
}

/// One endpoint, with an address of each family.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The name of its pod.
    pub pod: String,
    /// The name of its node.
    pub node: String,
    /// Its address.
    pub v4: Ipv4Addr,
    /// Its address.
    pub v6: Ipv6Addr,
    /// What its pod goes through.
    pub condition: Condition,
    /// Its weight among its Service's endpoints, 100 by default.
    pub weight: u16,
    /// Its zone, if it has one.
    pub zone: Option<String>,
}

impl Endpoint {
    /// A ready endpoint of the usual weight.
    pub fn of(pod: &Pod) -> Self {
        Self {
            pod: pod.name.clone(),
            node: format!("node{}", pod.node),
            v4: pod.v4,
            v6: pod.v6,
            condition: Condition::Ready,
            weight: DEFAULT_WEIGHT,
            zone: None,
        }
    }

    /// A ready endpoint on the network of a node itself.
    pub fn of_host(node: &Node) -> Self {
        Self {
            pod: format!("host-{}", node.name),
            node: node.name.clone(),
            v4: node.v4,
            v6: node.v6,
            condition: Condition::Ready,
            weight: DEFAULT_WEIGHT,
            zone: None,
        }
    }

    /// The same with another weight.
    #[must_use]
    pub const fn weighing(mut self, weight: u16) -> Self {
        self.weight = weight;
        self
    }

    /// The same under other conditions.
    #[must_use]
    pub const fn being(mut self, condition: Condition) -> Self {
        self.condition = condition;
        self
    }

    /// The same in a zone.
    #[must_use]
    pub fn in_zone(mut self, zone: &str) -> Self {
        self.zone = Some(zone.to_owned());
        self
    }

    fn yaml(&self, address: IpAddr) -> String {
        let (ready, serving, terminating) = match self.condition {
            Condition::Ready => (true, true, false),
            Condition::NotReady => (false, false, false),
            Condition::Terminating => (false, true, true),
        };
        let zone = self
            .zone
            .as_ref()
            .map(|zone| format!("  zone: {zone}\n"))
            .unwrap_or_default();
        let (pod, node) = (&self.pod, &self.node);
        format!(
            "- addresses: [\"{address}\"]\n  conditions: {{ready: {ready}, serving: {serving}, \
             terminating: {terminating}}}\n  nodeName: {node}\n{zone}  \
             targetRef: {{kind: Pod, namespace: default, name: {pod}}}\n"
        )
    }
}

/// A dual-stack Service in the namespace `default`, and its endpoints.
#[derive(Clone, Debug)]
pub struct Service {
    /// The Service's name.
    pub name: String,
    /// Its cluster IP.
    pub v4: Ipv4Addr,
    /// Its cluster IP.
    pub v6: Ipv6Addr,
    /// Its ports.
    pub ports: Vec<Port>,
    /// Its endpoints; each serves every port.
    pub endpoints: Vec<Endpoint>,
    /// Its session affinity's timeout in seconds.
    pub affinity_seconds: Option<u32>,
    /// How it is reached from elsewhere.
    pub exposure: Exposure,
}

impl Service {
    /// A Service with address number `host` of the service networks, and nothing else yet.
    pub fn new(name: &str, host: u8) -> Self {
        Self {
            name: name.to_owned(),
            v4: address::service_v4(host),
            v6: address::service_v6(host),
            ports: Vec::new(),
            endpoints: Vec::new(),
            affinity_seconds: None,
            exposure: Exposure::default(),
        }
    }

    /// The same with `port` by TCP and UDP, both served at `target`.
    #[must_use]
    pub fn on(mut self, port: u16, target: u16) -> Self {
        for transport in Transport::ALL {
            let name = format!("{}-{port}", transport.to_string().to_lowercase());
            self.ports.push(Port {
                name,
                transport,
                port,
                target,
            });
        }
        self
    }

    /// The same with further endpoints.
    #[must_use]
    pub fn to(mut self, endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        self.endpoints.extend(endpoints);
        self
    }

    /// The same with session affinity by the client's address.
    #[must_use]
    pub const fn sticking_for(mut self, seconds: u32) -> Self {
        self.affinity_seconds = Some(seconds);
        self
    }

    /// The same, exposed.
    #[must_use]
    pub fn exposed(mut self, exposure: Exposure) -> Self {
        self.exposure = exposure;
        self
    }

    /// Both cluster IPs with a port, IPv4 first.
    pub fn sockets(&self, port: u16) -> [SocketAddr; 2] {
        [(self.v4, port).into(), (self.v6, port).into()]
    }

    /// The Service and its slices, as one file of several documents.
    pub fn yaml(&self) -> String {
        let (name, v4, v6) = (&self.name, self.v4, self.v6);
        let affinity = self.affinity_seconds.map_or_else(String::new, |seconds| {
            format!(
                "  sessionAffinity: ClientIP\n  sessionAffinityConfig: {{clientIP: \
                 {{timeoutSeconds: {seconds}}}}}\n"
            )
        });
        let mut text = format!(
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: default\n\
             spec:\n{exposure}  clusterIP: {v4}\n  clusterIPs: [\"{v4}\", \"{v6}\"]\n  \
             ipFamilies: [IPv4, IPv6]\n  ipFamilyPolicy: RequireDualStack\n  \
             selector: {{app: {name}}}\n{affinity}  ports:\n",
            exposure = self.exposure.spec(),
        );
        let node_port = self.exposure.node_port;
        let node_port = node_port.map_or_else(String::new, |port| format!(", nodePort: {port}"));
        for Port {
            name,
            transport,
            port,
            target,
        } in &self.ports
        {
            // Writing to a string cannot fail.
            writeln!(
                text,
                "  - {{name: {name}, protocol: {transport}, port: {port}, targetPort: {target}{node_port}}}"
            )
            .ok();
        }
        text += &self.exposure.status();
        for (weight, endpoints) in self.by_weight() {
            text += &self.slice("IPv4", weight, &endpoints, |endpoint| endpoint.v4.into());
            text += &self.slice("IPv6", weight, &endpoints, |endpoint| endpoint.v6.into());
        }
        text
    }

    /// The annotation weighs whole slices, so endpoints of different weight need different ones.
    fn by_weight(&self) -> BTreeMap<u16, Vec<&Endpoint>> {
        let mut groups: BTreeMap<u16, Vec<&Endpoint>> = BTreeMap::new();
        for endpoint in &self.endpoints {
            groups.entry(endpoint.weight).or_default().push(endpoint);
        }
        groups
    }

    fn slice(
        &self,
        family: &str,
        weight: u16,
        endpoints: &[&Endpoint],
        address: impl Fn(&Endpoint) -> IpAddr,
    ) -> String {
        let (service, suffix) = (&self.name, family.to_lowercase());
        let annotations = if weight == DEFAULT_WEIGHT {
            String::new()
        } else {
            format!("  annotations: {{steerage.dev/weight: \"{weight}\"}}\n")
        };
        let mut text = format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  \
             name: {service}-{suffix}-{weight}\n  namespace: default\n  \
             labels: {{kubernetes.io/service-name: {service}}}\n{annotations}\
             addressType: {family}\nports:\n"
        );
        for Port {
            name,
            transport,
            target,
            ..
        } in &self.ports
        {
            // Writing to a string cannot fail.
            writeln!(
                text,
                "- {{name: {name}, protocol: {transport}, port: {target}}}"
            )
            .ok();
        }
        text += "endpoints:\n";
        text.extend(
            endpoints
                .iter()
                .map(|endpoint| endpoint.yaml(address(endpoint))),
        );
        text
    }
}

/// The directory that the agents read.
#[derive(Debug)]
pub struct Manifests {
    directory: PathBuf,
    /// Outside of what is watched, on the same file system: where a file is complete before it
    /// appears.
    staging: PathBuf,
}

impl Manifests {
    pub(super) fn create(parent: &Path) -> Result<Self> {
        let (directory, staging) = (parent.join(DIRECTORY), parent.join("staging"));
        for path in [&directory, &staging] {
            fs::create_dir(path).with_context(|| format!("make {}", path.display()))?;
        }
        Ok(Self { directory, staging })
    }

    /// Where the files are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Writes a Service and its endpoints, or replaces them, in one step.
    pub fn write(&self, service: &Service) -> Result<()> {
        self.replace(&format!("{}.yaml", service.name), &service.yaml())
    }

    /// The same, with SCTP in place of TCP.
    pub fn write_sctp(&self, service: &Service) -> Result<()> {
        let text = service.yaml().replace("protocol: TCP", "protocol: SCTP");
        self.replace(&format!("{}.yaml", service.name), &text)
    }

    /// Removes a Service and its endpoints.
    pub fn remove(&self, service: &Service) -> Result<()> {
        let path = self.directory.join(format!("{}.yaml", service.name));
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))
    }

    /// Writes any file, or replaces it, in one step: no reader ever sees half of it.
    pub fn replace(&self, name: &str, text: &str) -> Result<()> {
        let (staged, path) = (self.staging.join(name), self.directory.join(name));
        fs::write(&staged, text).with_context(|| format!("write {}", staged.display()))?;
        fs::rename(&staged, &path).with_context(|| format!("rename to {}", path.display()))
    }

    /// Writes the lab's nodes and service networks.
    pub(super) fn write_cluster(&self, lab: &Lab) -> Result<()> {
        let mut text = format!(
            "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata:\n  name: kubernetes\n\
             spec:\n  cidrs: [\"{}\", \"{}\"]\n",
            address::SERVICE_CIDR_V4,
            address::SERVICE_CIDR_V6,
        );
        for node in lab.nodes() {
            let (name, number) = (&node.name, node.number);
            let pods = (address::pod_v4(number, 0), address::pod_v6(number, 0));
            // Writing to a string cannot fail.
            write!(
                text,
                "---\napiVersion: v1\nkind: Node\nmetadata:\n  name: {name}\n  labels: \
                 {{kubernetes.io/hostname: {name}, topology.kubernetes.io/zone: zone-{number}}}\n\
                 spec:\n  podCIDR: {v4}/24\n  podCIDRs: [\"{v4}/24\", \"{v6}/64\"]\n\
                 status:\n  addresses:\n  - {{type: InternalIP, address: \"{}\"}}\n  \
                 - {{type: InternalIP, address: \"{}\"}}\n  - {{type: Hostname, address: {name}}}\n",
                node.v4,
                node.v6,
                v4 = pods.0,
                v6 = pods.1,
            )
            .ok();
        }
        self.replace("cluster.yaml", &text)
    }
}
