//! Health-check node ports: for each `LoadBalancer` Service of external policy `Local`, a port that
//! tells the load balancer how many endpoints this node has.

use std::collections::BTreeMap;

use super::proxy_health::{Answer, IpFamily};
use crate::model::name::ObjectName;

/// A Service in one family: each has its own listener and its own count.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct HealthKey {
    /// The Service.
    pub service: ObjectName,
    /// The family.
    pub family: IpFamily,
}

/// The port of a Service and what it tells.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct HealthPort {
    /// `spec.healthCheckNodePort`.
    pub port: u16,
    /// Addresses of endpoints on this node that are ready, over all ports of the Service.
    pub local_endpoints: usize,
}

/// All ports, by Service and family.
pub type HealthPorts = BTreeMap<HealthKey, HealthPort>;

/// The answer at a port: `port` is `None` once the Service is gone.
pub fn answer(key: &HealthKey, port: Option<HealthPort>, is_proxy_healthy: bool) -> Answer {
    let count = port.map_or(0, |port| port.local_endpoints);
    let ObjectName { namespace, name } = &key.service;
    let status = if count > 0 && is_proxy_healthy {
        200
    } else {
        503
    };
    // Names of Kubernetes need no escapes.
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{namespace}\",\n\t\t\"name\": \"{name}\"\n\t}},\
         \n\t\"localEndpoints\": {count},\n\t\"serviceProxyHealthy\": {is_proxy_healthy}\n}}"
    );
    Answer { status, body }
}

/// Which listeners `old` has that `new` has not, and the reverse. A port that changes is both.
pub fn changes(old: &HealthPorts, new: &HealthPorts) -> (Vec<HealthKey>, Vec<HealthKey>) {
    let missing = |from: &HealthPorts, other: &HealthPorts| {
        from.iter()
            .filter(|(key, port)| other.get(key).is_none_or(|other| other.port != port.port))
            .map(|(key, _)| key.clone())
            .collect()
    };
    (missing(old, new), missing(new, old))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(namespace: &str, name: &str) -> HealthKey {
        HealthKey {
            service: ObjectName {
                namespace: namespace.into(),
                name: name.into(),
            },
            family: IpFamily::V4,
        }
    }

    fn port(port: u16, local_endpoints: usize) -> HealthPort {
        HealthPort {
            port,
            local_endpoints,
        }
    }

    #[test]
    fn the_answer_is_kube_proxys_byte_for_byte() {
        // Recorded from kube-proxy.
        let recorded = "{\n\t\"service\": {\n\t\t\"namespace\": \"rec\",\n\t\t\"name\": \"lb-local\"\n\t},\
                        \n\t\"localEndpoints\": 1,\n\t\"serviceProxyHealthy\": true\n}";
        let answer = answer(&key("rec", "lb-local"), Some(port(30000, 1)), true);
        assert_eq!(answer.body, recorded);
        assert_eq!(answer.status, 200);
    }

    #[test]
    fn it_is_well_with_an_endpoint_on_this_node_and_a_healthy_proxy() {
        for (count, is_healthy, status) in [
            (0, true, 503),
            (18, true, 200),
            (11, true, 200),
            (7, false, 503),
            (0, false, 503),
        ] {
            let answer = answer(&key("a", "b"), Some(port(9376, count)), is_healthy);
            assert_eq!(answer.status, status, "{count} {is_healthy}");
            assert!(
                answer
                    .body
                    .contains(&format!("\"localEndpoints\": {count},"))
            );
            assert!(
                answer
                    .body
                    .contains(&format!("\"serviceProxyHealthy\": {is_healthy}"))
            );
        }
        // The Service went between the connection and the request.
        assert_eq!(answer(&key("a", "b"), None, true).status, 503);
    }

    #[test]
    fn listeners_follow_the_services() {
        let first: HealthPorts = [
            (key("a", "b"), port(9376, 9)),
            (key("c", "d"), port(12909, 3)),
            (key("e", "f"), port(11113, 7)),
        ]
        .into();
        let second: HealthPorts = [
            (key("c", "d"), port(12909, 0)),
            (key("e", "f"), port(11114, 7)),
            (key("g", "h"), port(11878, 0)),
        ]
        .into();
        let none = HealthPorts::new();
        assert_eq!(changes(&none, &none), (vec![], vec![]));
        let (closed, opened) = changes(&none, &first);
        assert_eq!((closed.len(), opened.len()), (0, 3));
        assert_eq!(
            changes(&first, &second),
            (
                vec![key("a", "b"), key("e", "f")],
                vec![key("e", "f"), key("g", "h")]
            )
        );
        let (closed, opened) = changes(&second, &none);
        assert_eq!((closed.len(), opened.len()), (3, 0));
    }
}
