//! The Services that are dialled, and the node, as our agent reads them.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use super::{
    rules::ServicePort,
    site::NODE,
    way::{Backends, LOCAL, REMOTE},
};
use crate::bench::node::NAME;

/// This node and the dialled Services, for our agent.
pub(super) fn write(directory: &Path) -> Result<()> {
    let node = format!(
        r#"{{"apiVersion":"v1","kind":"Node","metadata":{{"name":"{NAME}"}},"status":{{"addresses":[{{"type":"InternalIP","address":"{NODE}"}}]}}}}"#
    );
    let services = [(LOCAL, NAME), (REMOTE, "other")];
    let objects = services.iter().flat_map(|(backends, node)| {
        [
            service(backends),
            slice(backends, node, false),
            slice(backends, node, true),
        ]
    });
    let objects: Vec<String> = objects.chain([node]).collect();
    let text = format!(
        r#"{{"apiVersion":"v1","kind":"List","items":[{}]}}"#,
        objects.join(",")
    );
    let path = directory.join("dialled.json");
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}

fn service(backends: &Backends) -> String {
    let Backends { dialled, name, .. } = backends;
    let ports = ServicePort::of(backends, false).map(|port| {
        let ServicePort {
            name,
            protocol,
            port,
            target_port,
            node_port,
            ..
        } = port;
        let node_port = node_port.map_or_else(String::new, |it| format!(r#","nodePort":{it}"#));
        let protocol = protocol.to_uppercase();
        format!(
            r#"{{"name":"{name}","protocol":"{protocol}","port":{port},"targetPort":{target_port}{node_port}}}"#
        )
    });
    let kind = if *name == REMOTE.name {
        "NodePort"
    } else {
        "ClusterIP"
    };
    format!(
        r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"{name}"}},"spec":{{"type":"{kind}","clusterIP":"{v4}","clusterIPs":["{v4}","{v6}"],"ipFamilies":["IPv4","IPv6"],"ports":[{}]}}}}"#,
        ports.join(","),
        v4 = dialled.0,
        v6 = dialled.1,
    )
}

fn slice(backends: &Backends, node: &str, is_v6: bool) -> String {
    let family = if is_v6 { "IPv6" } else { "IPv4" };
    let ports = ServicePort::of(backends, is_v6).map(|port| {
        let ServicePort {
            name,
            protocol,
            target_port,
            ..
        } = port;
        let protocol = protocol.to_uppercase();
        format!(r#"{{"name":"{name}","protocol":"{protocol}","port":{target_port}}}"#)
    });
    let endpoints = backends.endpoints.map(|it| {
        let address = it.of(is_v6);
        format!(r#"{{"addresses":["{address}"],"nodeName":"{node}"}}"#)
    });
    format!(
        r#"{{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{{"name":"{name}-{}","labels":{{"kubernetes.io/service-name":"{name}"}}}},"addressType":"{family}","ports":[{}],"endpoints":[{}]}}"#,
        family.to_lowercase(),
        ports.join(","),
        endpoints.join(","),
        name = backends.name,
    )
}
