//! Random clusters: every rule of the oracle is met by some of them, and most by many.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::Cluster;
use crate::apiserver::Resource;
use crate::dice::Dice;

/// The node the agent runs on.
pub const NODE: &str = "node-a";
const NAMESPACE: &str = "default";
const PORTS: [(&str, u16, &str); 4] = [
    ("http", 80, "TCP"),
    ("dns", 53, "UDP"),
    ("dns-tcp", 53, "TCP"),
    ("sig", 80, "SCTP"),
];

/// What happens to a cluster.
#[derive(Clone, Debug)]
pub enum Change {
    /// An object is there, or has changed.
    Apply(Resource, Value),
    /// An object is gone.
    Delete(Resource, String),
}

/// A cluster to which random things happen.
#[derive(Debug)]
pub struct RandomCluster {
    dice: Dice,
    objects: BTreeMap<(Resource, String), Value>,
}

impl RandomCluster {
    /// A cluster with nothing but its nodes.
    pub fn new(seed: u64) -> Self {
        let mut cluster = Self {
            dice: Dice::new(seed),
            objects: BTreeMap::new(),
        };
        for name in [NODE, "node-b"] {
            let node = node(name, "zone-a");
            cluster
                .objects
                .insert((Resource::Nodes, name.to_owned()), node);
        }
        cluster
    }

    /// Every object.
    pub fn objects(&self) -> impl Iterator<Item = (Resource, &Value)> {
        let objects = self.objects.iter();
        objects.map(|((resource, _), object)| (*resource, object))
    }

    /// What the API says of it.
    pub fn cluster(&self) -> Cluster {
        let all = |wanted: Resource| -> Vec<Value> {
            let objects = self.objects.iter();
            objects
                .filter(|((resource, _), _)| *resource == wanted)
                .map(|(_, object)| object.clone())
                .collect()
        };
        let node = self.objects.get(&(Resource::Nodes, NODE.to_owned()));
        Cluster {
            services: all(Resource::Services),
            slices: all(Resource::EndpointSlices),
            service_cidrs: all(Resource::ServiceCidrs),
            node: node.cloned().unwrap_or_default(),
            node_name: NODE.to_owned(),
        }
    }

    /// Lets something happen.
    pub fn change(&mut self) -> Change {
        let number = self.dice.roll(10);
        let (resource, name) = match self.dice.roll(20) {
            0..6 => (Resource::Services, format!("s{}", number % 5)),
            6..19 => (Resource::EndpointSlices, format!("e{number}")),
            _ => (Resource::Nodes, NODE.to_owned()),
        };
        let is_there = self.objects.contains_key(&(resource, name.clone()));
        if is_there && resource != Resource::Nodes && self.dice.one_in(4) {
            self.objects.remove(&(resource, name.clone()));
            return Change::Delete(resource, name);
        }
        let object = match resource {
            Resource::Services => self.service(&name),
            Resource::EndpointSlices => self.slice(&name),
            _ => node(NODE, self.dice.pick::<&str>(&["zone-a", "zone-b", ""])),
        };
        self.objects.insert((resource, name), object.clone());
        Change::Apply(resource, object)
    }

    fn service(&mut self, name: &str) -> Value {
        let dice = &mut self.dice;
        // Fewer addresses than Services, so that some want the same.
        let address = |is_v6: bool, number: usize| {
            if is_v6 {
                format!("fd00:96::{number}")
            } else {
                format!("10.96.0.{number}")
            }
        };
        let families: &[bool] =
            dice.pick::<&[bool]>(&[&[false], &[true], &[false, true], &[true, false]]);
        let ips: Vec<String> = families
            .iter()
            .map(|is_v6| address(*is_v6, 1 + dice.roll(4)))
            .collect();
        let first = dice.roll(PORTS.len());
        let count = 1 + dice.roll(PORTS.len() - first);
        let ports: Vec<Value> = PORTS[first..first + count]
            .iter()
            .map(|(name, port, protocol)| {
                let mut entry = json!({ "name": name, "port": port, "protocol": protocol });
                if dice.one_in(3) {
                    entry["nodePort"] = json!(30_000 + usize::from(*port) + dice.roll(3));
                }
                entry
            })
            .collect();
        let kind = *dice.pick(&[
            "ClusterIP",
            "ClusterIP",
            "NodePort",
            "LoadBalancer",
            "ExternalName",
        ]);
        let policies = ["Cluster", "Cluster", "Local"];
        let mut spec = json!({
            "type": kind,
            "clusterIP": ips[0],
            "clusterIPs": ips,
            "ipFamilies": families.iter().map(|v6| if *v6 { "IPv6" } else { "IPv4" }).collect::<Vec<_>>(),
            "ports": ports,
            "internalTrafficPolicy": dice.pick(&policies),
        });
        if kind != "ClusterIP" {
            spec["externalTrafficPolicy"] = json!(dice.pick(&policies));
        }
        if dice.one_in(8) {
            spec["clusterIP"] = json!("None");
            spec["clusterIPs"] = json!(["None"]);
        }
        if dice.one_in(3) {
            spec["sessionAffinity"] = json!("ClientIP");
            spec["sessionAffinityConfig"] = json!({ "clientIP": { "timeoutSeconds": 60 } });
        }
        if dice.one_in(4) {
            let ip = format!("192.0.2.{}", dice.roll(3));
            // Sometimes an address of the node, or another Service's.
            spec["externalIPs"] =
                json!([dice.pick(&[&ip, "192.168.0.1", "10.96.0.2", "fd00:203::1"])]);
        }
        if dice.one_in(3) {
            spec["loadBalancerSourceRanges"] = json!(dice.pick(&[
                &["198.51.100.0/24", "198.51.100.128/25"][..],
                &["fd00:51::/64"]
            ]));
        }
        let mut ingress = Vec::new();
        if kind == "LoadBalancer" {
            let mode = dice.pick(&["VIP", "Proxy"]);
            ingress.push(json!({ "ip": format!("203.0.113.{}", dice.roll(3)), "ipMode": mode }));
            ingress.push(json!({ "ip": format!("fd00:113::{}", dice.roll(3)) }));
        }
        let mut labels = Map::new();
        if dice.one_in(8) {
            labels.insert(
                "service.kubernetes.io/service-proxy-name".to_owned(),
                json!("other"),
            );
        }
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": name, "namespace": NAMESPACE, "labels": labels,
                "creationTimestamp": format!("2026-01-0{}T00:00:00Z", 1 + dice.roll(3)),
            },
            "spec": spec,
            "status": { "loadBalancer": { "ingress": ingress } },
        })
    }

    fn slice(&mut self, name: &str) -> Value {
        let is_v6 = self.dice.one_in(3);
        let has_hints = self.dice.one_in(2);
        let count = self.dice.roll(6);
        let endpoints: Vec<Value> = (0..count)
            .map(|_| self.endpoint(is_v6, has_hints))
            .collect();
        let dice = &mut self.dice;
        let mut ports: Vec<Value> = PORTS
            .iter()
            .map(|(name, port, protocol)| {
                json!({ "name": name, "port": 8000 + usize::from(*port) + dice.roll(2), "protocol": protocol })
            })
            .collect();
        if dice.one_in(6) {
            ports.truncate(1);
            ports[0]["port"] = Value::Null;
        }
        let mut labels = Map::new();
        labels.insert(
            "kubernetes.io/service-name".to_owned(),
            json!(format!("s{}", dice.roll(5))),
        );
        if dice.one_in(10) {
            labels.insert("service.kubernetes.io/headless".to_owned(), json!(""));
        }
        let mut annotations = Map::new();
        if dice.one_in(6) {
            annotations.insert(
                "steerage.dev/weight".to_owned(),
                json!(dice.pick(&["0", "250"])),
            );
        }
        let family = if is_v6 { "IPv6" } else { "IPv4" };
        // As real servers send empty lists.
        let or_null = |list: Vec<Value>| {
            if list.is_empty() {
                Value::Null
            } else {
                list.into()
            }
        };
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": name, "namespace": NAMESPACE, "labels": labels, "annotations": annotations,
            },
            "addressType": if dice.one_in(12) { "FQDN" } else { family },
            "endpoints": or_null(endpoints),
            "ports": or_null(ports),
        })
    }

    fn endpoint(&mut self, is_v6: bool, has_hints: bool) -> Value {
        let dice = &mut self.dice;
        let number = 1 + dice.roll(12);
        let address = match (is_v6, dice.one_in(15)) {
            // What no endpoint can have.
            (true, true) => "fe80::1".to_owned(),
            (false, true) => "127.0.0.1".to_owned(),
            (true, false) => format!("fd00:10::{number}"),
            (false, false) => format!("10.0.0.{number}"),
        };
        let mut conditions = Map::new();
        for (name, chance) in [("ready", 2), ("serving", 3), ("terminating", 3)] {
            if dice.one_in(chance) {
                conditions.insert(name.to_owned(), json!(dice.one_in(2)));
            }
        }
        let mut endpoint = json!({ "addresses": [address], "conditions": conditions });
        if !dice.one_in(5) {
            endpoint["nodeName"] = json!(dice.pick(&[NODE, "node-b"]));
        }
        if has_hints && !dice.one_in(6) {
            endpoint["hints"] = json!({
                "forZones": [{ "name": dice.pick(&["zone-a", "zone-b"]) }],
                "forNodes": [{ "name": dice.pick(&[NODE, "node-b"]) }],
            });
            if dice.one_in(2) {
                endpoint["hints"]["forNodes"] = Value::Null;
            }
        }
        endpoint
    }
}

fn node(name: &str, zone: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": name, "labels": { "topology.kubernetes.io/zone": zone } },
        "status": { "addresses": [{ "type": "InternalIP", "address": "192.168.0.1" }] },
    })
}
