//! What the servers have to say to the operator: each is one line, and worth an Event.

use std::collections::BTreeMap;

use tokio::sync::watch;

use crate::model::name::ObjectName;

/// What a report is about. The reasons are those of kube-proxy's Events.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Subject {
    /// The server of `/healthz`: about the Node.
    Health,
    /// The server of `/metrics`: about the Node.
    Metrics,
    /// A health-check node port: about the Service.
    Service(ObjectName),
}

impl Subject {
    /// The reason of the Event, in the words of kube-proxy.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Health => "FailedToStartProxierHealthcheck",
            Self::Metrics => "FailedToStartMetricServer",
            Self::Service(_) => "FailedToStartServiceHealthcheck",
        }
    }
}

/// What is wrong now, one line each.
pub type Reports = BTreeMap<Subject, String>;

/// Where servers put what is wrong.
#[derive(Clone, Debug)]
pub(super) struct Reporter(pub(super) watch::Sender<Reports>);

impl Reporter {
    /// Says what is wrong, in the log once while it lasts.
    pub(super) fn set(&self, subject: &Subject, message: String) {
        self.0.send_if_modified(|reports| {
            if reports.get(subject) == Some(&message) {
                return false;
            }
            tracing::warn!(reason = subject.reason(), "{message}");
            reports.insert(subject.clone(), message);
            true
        });
    }

    /// All is well with it.
    pub(super) fn clear(&self, subject: &Subject) {
        self.0
            .send_if_modified(|reports| reports.remove(subject).is_some());
    }
}
