//! Objects planned in memory, as an agent of the node `host1` would: manifests in, service ports,
//! frontends and endpoints out.

use std::collections::BTreeSet;
use std::fs;

use lb_agent::model::index::Model;
use lb_agent::plan::clients::Clients;
use lb_agent::plan::desired::{Desired, address_of};
use lb_agent::plan::{NodeView, ServiceView};
use lb_agent::source::directory::Reading;
use lb_common::flow::Protocol;
use lb_common::table::frontend::FrontendKind;
use serde_json::{Value, json};

/// A cluster that a test writes manifests into.
#[derive(Debug)]
pub struct Cluster {
    directory: tempfile::TempDir,
    reading: Reading,
    /// What the manifests add up to.
    pub model: Model,
}

impl Cluster {
    /// An empty cluster.
    ///
    /// # Panics
    ///
    /// If no directory can be made.
    #[expect(clippy::new_without_default, reason = "it makes a directory")]
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory can be made");
        Self {
            reading: Reading::new(directory.path().to_owned()),
            directory,
            model: Model::new("host1"),
        }
    }

    /// Writes an object into a file of its own, or removes the file where there is none; gives the
    /// Services that changed.
    ///
    /// # Panics
    ///
    /// If the file cannot be written or read.
    pub fn write(&mut self, file: &str, object: &Value) -> BTreeSet<String> {
        let name = format!("{file}.json");
        let path = self.directory.path().join(&name);
        if object.is_null() {
            fs::remove_file(path).expect("the file was written before");
        } else {
            fs::write(path, object.to_string()).expect("the directory takes files");
        }
        let read = self.reading.read(&BTreeSet::from([name]));
        let (events, _) = read.expect("the directory can be read");
        let changed = self.model.apply_all(events).services;
        changed
            .into_iter()
            .map(|name| String::from(&*name.name))
            .collect()
    }

    /// The tables as they should be.
    pub fn desired(&self) -> Desired<'_> {
        let views = self
            .model
            .services()
            .map(|service| ServiceView::new(service, self.model.slices(&service.name)));
        let node = NodeView {
            name: "host1",
            ..NodeView::default()
        };
        Desired::of(views, &node)
    }

    /// Every frontend as `port protocol address number kind`, sorted.
    pub fn frontends(&self) -> Vec<String> {
        let desired = self.desired();
        let mut lines: Vec<String> = desired
            .frontends
            .iter()
            .map(|(key, owner)| {
                let address = if key.is_node_port() {
                    "node".to_owned()
                } else {
                    address_of(key).to_string()
                };
                let protocol = key.protocol().map_or("?", protocol_name);
                let kind = match owner.kind {
                    FrontendKind::ServiceAddress | FrontendKind::ClusterIp => "cluster",
                    FrontendKind::NodePort => "node port",
                    FrontendKind::ExternalIp => "external",
                    FrontendKind::LoadBalancer => "balancer",
                };
                let port = &owner.port.name.port;
                format!("{port} {protocol} {address} {} {kind}", key.port())
            })
            .collect();
        lines.sort();
        lines
    }

    /// The endpoints of a port as `address:port`, with `*` behind those of this node.
    pub fn endpoints(&self, port: &str) -> Vec<String> {
        let desired = self.desired();
        let ports = desired.ports.values();
        let port = ports.filter(|it| it.key.name.port == port && !it.key.is_v6);
        port.flat_map(|port| &port.selection.candidates)
            .map(|candidate| {
                let here = if candidate.is_local { "*" } else { "" };
                format!("{}:{}{here}", candidate.endpoint.address, candidate.port)
            })
            .collect()
    }

    /// Those of them that get new flows.
    pub fn serving(&self, port: &str) -> Vec<String> {
        let desired = self.desired();
        let keys = desired.ports.keys();
        keys.filter(|key| key.name.port == port && !key.is_v6)
            .flat_map(|key| desired.backends(key, Clients::OfClusterAddress))
            .map(|(address, port)| format!("{address}:{port}"))
            .collect()
    }
}

const fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    }
}

/// The Service `svc1` with this spec and status.
pub fn service(spec: Value, status: Value) -> Value {
    let mut object = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "ns1", "name": "svc1"},
    });
    object["spec"] = spec;
    object["status"] = status;
    object
}

/// A slice of `svc1`: ports, and endpoints with node and the conditions r, s, t that are set
/// (nothing stands for none given).
pub fn slice(name: &str, ports: &[(&str, u16)], endpoints: &[(&str, &str, &str)]) -> Value {
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|&(address, node, conditions)| {
            let mut endpoint = json!({"addresses": [address], "nodeName": node});
            if !conditions.is_empty() {
                endpoint["conditions"] = json!({
                    "ready": conditions.contains('r'),
                    "serving": conditions.contains('s'),
                    "terminating": conditions.contains('t'),
                });
            }
            endpoint
        })
        .collect();
    let ports: Vec<_> = ports
        .iter()
        .map(|(name, port)| json!({"name": name, "port": port, "protocol": "TCP"}))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": "ns1", "name": name,
            "labels": {"kubernetes.io/service-name": "svc1"}},
        "endpoints": endpoints, "ports": ports,
    })
}
