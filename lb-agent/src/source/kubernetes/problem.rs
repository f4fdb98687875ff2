//! What stands between the agent and the API server, one line each.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::Time;
use super::servers::Url;
use crate::model::event::Kind;

/// What is wrong. What is programmed stays in every case, and the agent tries again.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, thiserror::Error)]
pub enum ApiProblem {
    /// No connection.
    #[error(
        "API server {server} cannot be reached ({message}); what is programmed stays; check the address and the network"
    )]
    Unreachable {
        /// Which one.
        server: Url,
        /// What the system said.
        message: String,
    },
    /// No trust.
    #[error(
        "the certificate of API server {server} is not accepted ({message}); what is programmed stays; check the certificate authority that was given"
    )]
    Certificate {
        /// Which one.
        server: Url,
        /// What TLS said.
        message: String,
    },
    /// Nothing to identify with.
    #[error(
        "credentials cannot be read ({message}); what is programmed stays; check the kubeconfig or the service account's files"
    )]
    Credentials {
        /// What is wrong with them.
        message: String,
    },
    /// Status 401.
    #[error(
        "API server {server} refuses the credentials (401); what is programmed stays; check the token or the client certificate"
    )]
    Unauthorized {
        /// Which one.
        server: Url,
    },
    /// Status 403.
    #[error(
        "no permission to list and watch {} objects (403: {message}); what is programmed stays; bind the role system:node-proxier", .kind.name()
    )]
    Forbidden {
        /// Which kind.
        kind: Kind,
        /// What the server said.
        message: String,
    },
    /// Connected, and no answer.
    #[error("API server {server} does not answer; what is programmed stays")]
    Silent {
        /// Which one.
        server: Url,
    },
    /// Status 429.
    #[error("API server {server} is busy (429); what is programmed stays")]
    Busy {
        /// Which one.
        server: Url,
    },
    /// Another status.
    #[error(
        "API server {server} fails to list or watch {} objects ({status}: {message}); what is programmed stays", .kind.name()
    )]
    Failing {
        /// Which one.
        server: Url,
        /// Which kind.
        kind: Kind,
        /// HTTP status.
        status: u16,
        /// What the server said.
        message: String,
    },
    /// There is no Node of the agent's name.
    #[error(
        "there is no Node named \"{name}\": this node's zone and addresses are unknown; check --node-name"
    )]
    NodeMissing {
        /// The name.
        name: String,
    },
    /// The addresses for the next start cannot be kept.
    #[error("the API servers' addresses cannot be kept in {} ({message}); make it writable", .path.display())]
    Unkept {
        /// The file.
        path: PathBuf,
        /// What the system said.
        message: String,
    },
}

impl ApiProblem {
    /// The reason of the Kubernetes Event about it.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "ApiServerUnreachable",
            Self::Certificate { .. } => "ApiServerNotTrusted",
            Self::Credentials { .. } => "CredentialsUnreadable",
            Self::Unauthorized { .. } => "CredentialsRefused",
            Self::Forbidden { .. } => "PermissionMissing",
            Self::Silent { .. } => "ApiServerSilent",
            Self::Busy { .. } => "ApiServerBusy",
            Self::Failing { .. } => "ApiServerFailing",
            Self::NodeMissing { .. } => "NodeMissing",
            Self::Unkept { .. } => "StateNotWritable",
        }
    }
}

/// Something to be said, in the log and as a Kubernetes Event.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Saying {
    /// Something is wrong.
    Problem(ApiProblem),
    /// Nothing is wrong any more.
    Recovered {
        /// The server that works.
        server: Url,
    },
    /// The server has no such API; the agent goes on without.
    Absent(Kind),
}

/// The least time between two lines of the same problem.
const REPEAT: Time = Time::from_mins(5);

/// Remembers what was said when. A problem is said as it comes up, and again as long as it lasts,
/// but never twice within minutes, however often it comes and goes.
#[derive(Debug, Default)]
pub(super) struct Sayings {
    said: BTreeMap<ApiProblem, Time>,
}

impl Sayings {
    /// Whether to say it now.
    pub(super) fn is_due(&mut self, problem: &ApiProblem, now: Time) -> bool {
        self.said.retain(|_, at| now.saturating_sub(*at) < REPEAT);
        if self.said.contains_key(problem) {
            return false;
        }
        self.said.insert(problem.clone(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_said_at_once_and_then_every_few_minutes() {
        let mut sayings = Sayings::default();
        let problem = |server: &str| ApiProblem::Unauthorized {
            server: server.into(),
        };
        let mut said = Vec::new();
        for second in 0..700 {
            let now = Time::from_secs(second);
            if sayings.is_due(&problem("a"), now) {
                said.push(second);
            }
        }
        assert_eq!(said, [0, 300, 600]);
        assert!(sayings.is_due(&problem("b"), Time::from_secs(601)));
        assert!(sayings.said.len() <= 2);
    }

    #[test]
    fn a_problem_is_one_line_that_says_what_to_do() {
        let problem = ApiProblem::Forbidden {
            kind: Kind::EndpointSlice,
            message: "endpointslices is forbidden".into(),
        };
        assert_eq!(
            problem.to_string(),
            "no permission to list and watch EndpointSlice objects \
             (403: endpointslices is forbidden); what is programmed stays; \
             bind the role system:node-proxier"
        );
    }
}
