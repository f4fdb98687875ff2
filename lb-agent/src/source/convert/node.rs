//! `v1` Node.

use k8s_openapi::api::core::v1::Node as ApiNode;

use super::{Notes, address, cluster_name, label};
use crate::model::node::Node;
use crate::source::intern::Interner;
use crate::source::report::FieldProblem;

/// Label of the zone a Node is in.
pub const ZONE: &str = "topology.kubernetes.io/zone";

/// What the proxy needs of a Node.
pub fn convert(
    node: &ApiNode,
    _interner: &mut Interner,
    notes: &mut Notes,
) -> Result<Option<Node>, FieldProblem> {
    let name = cluster_name(&node.metadata)?;
    let spec = node.spec.as_ref();
    let listed = node
        .status
        .as_ref()
        .and_then(|status| status.addresses.as_deref());
    let mut addresses = Vec::new();
    for wanted in ["InternalIP", "ExternalIP"] {
        for (index, entry) in listed.unwrap_or_default().iter().enumerate() {
            if entry.type_ == wanted {
                let field = || format!("status.addresses[{index}].address");
                addresses.extend(address::parse_noted(&entry.address, field, notes));
            }
        }
    }
    let cidrs = spec.and_then(|spec| match spec.pod_cidrs.as_deref() {
        Some(cidrs @ [_, ..]) => Some((cidrs, "spec.podCIDRs")),
        _ => spec
            .pod_cidr
            .as_ref()
            .map(|cidr| (std::slice::from_ref(cidr), "spec.podCIDR")),
    });
    let taints = spec
        .and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default();
    Ok(Some(Node {
        zone: label(&node.metadata, ZONE).map(str::to_owned),
        addresses,
        pod_cidrs: cidrs.map_or_else(Vec::new, |(cidrs, field)| {
            address::parse_networks(cidrs, field, notes)
        }),
        is_deleting: node.metadata.deletion_timestamp.is_some(),
        taints: taints.iter().map(|taint| taint.key.clone()).collect(),
        name,
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn converted(node: serde_json::Value) -> (Node, Notes) {
        let node = serde_json::from_value(node).unwrap();
        let mut notes = Notes::new();
        let node = convert(&node, &mut Interner::default(), &mut notes)
            .unwrap()
            .unwrap();
        (node, notes)
    }

    #[test]
    fn internal_addresses_come_before_external_ones_and_bad_ones_are_noted() {
        let (node, notes) = converted(json!({
            "metadata": {"name": "node-a", "labels": {ZONE: "zone-a"}},
            "spec": {"podCIDR": "10.244.1.0/24", "taints": [{"key": "k", "effect": "NoSchedule"}]},
            "status": {"addresses": [
                {"type": "ExternalIP", "address": "192.0.2.1"},
                {"type": "Hostname", "address": "node-a"},
                {"type": "InternalIP", "address": "10.0.0.1"},
                {"type": "InternalIP", "address": "ten"},
            ]},
        }));
        assert_eq!(node.zone.as_deref(), Some("zone-a"));
        let addresses: Vec<_> = node.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.0.0.1", "192.0.2.1"]);
        assert_eq!(node.pod_cidrs, [("10.244.1.0".parse().unwrap(), 24)]);
        assert_eq!(node.taints, ["k"]);
        assert!(!node.is_deleting);
        assert_eq!(notes.len(), 1);
        assert_eq!(notes[0].field, "status.addresses[3].address");
    }

    #[test]
    fn a_node_that_is_being_deleted_says_so() {
        let (node, notes) = converted(json!({
            "metadata": {"name": "node-a", "deletionTimestamp": "2026-01-01T00:00:00Z"},
        }));
        assert!(node.is_deleting);
        assert!(notes.is_empty());
    }
}
