//! Whether this node's tables keep up: the rules of `/healthz` and `/livez`, as kube-proxy has them
//! ([KEP-3836]).
//!
//! * A family is unhealthy once its oldest change that the tables do not say yet is older than the
//!   limit. Nothing to do is healthy. A family's changes are settled by its own updates only.
//! * `/livez` says so; it never asks for more, so that an API server that is away restarts no agent.
//! * `/healthz` also fails while the Node is about to go, so that load balancers drain it: it has a
//!   deletion timestamp, or a taint of the cluster autoscaler. The last Node that was seen counts.
//!
//! One difference: `/healthz` fails until the tables have been complete once, so that a rolling
//! update waits for them. kube-proxy calls itself healthy then, for ever.
//!
//! [KEP-3836]: https://github.com/kubernetes/enhancements/tree/master/keps/sig-network/3836-kube-proxy-improved-ingress-connectivity-reliability

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use crate::clock::Moment;
use crate::model::node::Node;

/// The taint by which the cluster autoscaler marks a Node that goes.
pub const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// A family of addresses, as Kubernetes names it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum IpFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpFamily {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The name in answers and labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// Whether it is IPv6.
    pub const fn is_v6(self) -> bool {
        matches!(self, Self::V6)
    }
}

/// Which question is asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Question {
    /// Should traffic from outside come to this node?
    Healthz,
    /// Should this agent live on?
    Livez,
}

/// An answer over HTTP.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    /// 200 or 503.
    pub status: u16,
    /// JSON in one line.
    pub body: String,
}

/// How a family is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct FamilyHealth {
    /// When its tables last were complete.
    updated: Option<Moment>,
    /// The oldest change that its tables do not say.
    queued: Option<Moment>,
}

/// What is known of the Node.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum NodeHealth {
    /// Nothing.
    #[default]
    Unseen,
    /// It takes traffic.
    Eligible,
    /// It is about to go.
    Leaving,
}

/// How the proxy of this node is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProxyHealth {
    limit: Duration,
    families: BTreeMap<IpFamily, FamilyHealth>,
    node: NodeHealth,
    /// Whether a Node that was never seen takes no traffic.
    is_node_required: bool,
}

impl ProxyHealth {
    /// Before anything has happened. A change may wait for `limit`.
    pub const fn new(limit: Duration, is_node_required: bool) -> Self {
        Self {
            limit,
            families: BTreeMap::new(),
            node: NodeHealth::Unseen,
            is_node_required,
        }
    }

    /// Another limit from now on.
    pub const fn set_limit(&mut self, limit: Duration) {
        self.limit = limit;
    }

    /// A change has arrived that the tables of `family` do not say.
    pub fn queued(&mut self, family: IpFamily, now: Moment) {
        self.families
            .entry(family)
            .or_default()
            .queued
            .get_or_insert(now);
    }

    /// The tables of `family` are complete.
    pub fn updated(&mut self, family: IpFamily, now: Moment) {
        self.families.insert(
            family,
            FamilyHealth {
                updated: Some(now),
                queued: None,
            },
        );
    }

    /// The Node is there, or has changed.
    pub fn node_seen(&mut self, node: &Node) {
        let is_tainted = node.taints.iter().any(|taint| taint == TO_BE_DELETED);
        self.node = if node.is_deleting || is_tainted {
            NodeHealth::Leaving
        } else {
            NodeHealth::Eligible
        };
    }

    /// Whether the Node takes traffic.
    pub const fn is_node_eligible(&self) -> bool {
        match self.node {
            NodeHealth::Eligible => true,
            NodeHealth::Leaving => false,
            NodeHealth::Unseen => !self.is_node_required,
        }
    }

    /// Whether every family has been complete once.
    fn has_synced(&self) -> bool {
        self.families
            .values()
            .any(|family| family.updated.is_some())
    }

    /// Whether the tables keep up; a family that was never complete is not asked.
    pub fn is_alive(&self, now: Moment) -> bool {
        self.families
            .values()
            .filter(|family| family.updated.is_some())
            .all(|family| self.keeps_up(family, now))
    }

    /// Whether the tables were complete once and keep up.
    pub fn is_healthy(&self, now: Moment) -> bool {
        self.has_synced() && self.is_alive(now)
    }

    fn keeps_up(&self, family: &FamilyHealth, now: Moment) -> bool {
        family
            .queued
            .is_none_or(|queued| now.since(queued) < self.limit)
    }

    /// The answer to `question`.
    pub fn answer(&self, question: Question, now: Moment) -> Answer {
        let is_healthy = match question {
            Question::Healthz => self.is_healthy(now),
            Question::Livez => self.is_alive(now),
        };
        let is_ok = is_healthy && (question == Question::Livez || self.is_node_eligible());
        // While all is well the time is "now": people and tools look at whether it is recent.
        let updated = if is_ok {
            Some(now)
        } else {
            let times = self.families.values().filter_map(|family| family.updated);
            times.max_by_key(|moment| moment.monotonic)
        };
        let mut body = format!(
            "{{\"lastUpdated\":\"{}\",\"currentTime\":\"{}\"",
            time(updated),
            time(Some(now))
        );
        // Writing to a string cannot fail.
        if question == Question::Healthz {
            let _infallible = write!(body, ",\"nodeEligible\":{}", self.is_node_eligible());
        }
        let _infallible = write!(body, ",\"healthy\":{is_healthy}");
        let mut families = self
            .families
            .iter()
            .filter(|(_, family)| family.updated.is_some())
            .peekable();
        if families.peek().is_some() {
            body.push_str(",\"status\":{");
            for (index, (name, family)) in families.enumerate() {
                let _infallible = write!(
                    body,
                    "{}\"{}\":{{\"lastUpdated\":\"{}\",\"healthy\":{}}}",
                    if index > 0 { "," } else { "" },
                    name.name(),
                    time(family.updated),
                    self.keeps_up(family, now)
                );
            }
            body.push('}');
        }
        body.push('}');
        Answer {
            status: if is_ok { 200 } else { 503 },
            body,
        }
    }
}

/// RFC 3339 with as many digits as there are; the year 1 for "never", as Go writes it.
fn time(moment: Option<Moment>) -> String {
    moment
        .and_then(|moment| {
            let seconds = i64::try_from(moment.unix.as_secs()).ok()?;
            let nanos = i32::try_from(moment.unix.subsec_nanos()).ok()?;
            Timestamp::new(seconds, nanos).ok()
        })
        .map_or_else(
            || "0001-01-01T00:00:00Z".to_owned(),
            |timestamp| timestamp.to_string(),
        )
}

#[cfg(test)]
mod tests;
