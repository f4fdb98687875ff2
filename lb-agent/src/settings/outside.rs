//! What the agent shows to the outside: where it listens, and when it calls itself unhealthy.

use std::net::SocketAddr;
use std::time::Duration;

/// The port of `/healthz` and `/livez`, as kube-proxy has it.
pub const HEALTH_PORT: u16 = 10256;
/// The port of `/metrics`, as kube-proxy has it.
pub const METRICS_PORT: u16 = 10249;
/// How long a change may wait for the tables: twice kube-proxy's `syncPeriod`.
pub const HEALTH_TIMEOUT: Duration = Duration::from_mins(1);

/// Servers of the agent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Outside {
    /// `/healthz` and `/livez`; `None` for nowhere.
    pub health: Option<SocketAddr>,
    /// How long a change may wait for the tables before the node counts as unhealthy.
    pub health_timeout: Duration,
    /// `/metrics`, `/proxyMode` and `/configz`; `None` for nowhere.
    pub metrics: Option<SocketAddr>,
    /// Whether an address that cannot be listened on ends the agent.
    pub hard_fail: bool,
    /// Whether the health-check node ports of Services are served.
    pub health_check_node_ports: bool,
    /// What `/configz` answers: kube-proxy's document and ours, by their groups.
    pub configz: serde_json::Value,
}

impl Default for Outside {
    /// No server: an agent inside another program opens no port unless it is told.
    fn default() -> Self {
        Self {
            health: None,
            health_timeout: HEALTH_TIMEOUT,
            metrics: None,
            hard_fail: false,
            health_check_node_ports: false,
            configz: serde_json::Value::Null,
        }
    }
}
