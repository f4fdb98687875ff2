//! How a request ends that does not go on, and what follows from it.

use std::sync::Arc;

use super::Fault;
use super::decode::{Decoded, Status};
use super::problem::ApiProblem;
use super::servers::Url;
use crate::model::event::Kind;

/// Answers of a kind in a row that break off before it is worth a line: streams do.
const UNUSUAL: u32 = 5;
/// Requests of a kind that fail on a server before it is the next one's turn; a connection that
/// fails needs one.
const TOLERATED: u32 = 2;

/// Why a request is over.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Failure {
    /// The server ended a watch, as it does every few minutes; `true` if it did so at once.
    Ended(bool),
    /// The server cannot do what was asked in this form; there is another.
    Unsupported,
    /// An answer that ends too early or makes no sense.
    Broken,
    /// Nothing was heard for too long; `true` if there was no answer at all.
    Silent(bool),
    /// An error of the server's.
    Status(Status),
    /// The connection failed.
    Fault(Fault),
}

/// What an input amounts to, in this order.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) objects: Vec<Decoded>,
    /// How far the server is, so many times.
    pub(super) bookmarks: u64,
    /// The list is complete.
    pub(super) is_complete: bool,
    /// The server does what it is asked.
    pub(super) is_working: bool,
    pub(super) failure: Option<Failure>,
}

impl Heard {
    pub(super) fn failed(failure: Failure) -> Self {
        Self {
            failure: Some(failure),
            ..Self::default()
        }
    }
}

impl Failure {
    /// Whether the server is at fault, so that it is the next one's turn, and whether the
    /// credentials must be read again.
    pub(super) const fn fault(&self, failures: u32) -> (bool, bool) {
        match self {
            Self::Fault(Fault::Unreachable(_)) | Self::Silent(true) => (true, false),
            Self::Fault(Fault::Certificate(_) | Fault::Credentials(_)) => (true, true),
            Self::Status(status) if status.code == 401 => (true, true),
            Self::Status(status) => (status.code >= 500 && failures >= TOLERATED, false),
            Self::Broken | Self::Silent(false) | Self::Fault(Fault::Cut) => {
                (failures >= TOLERATED, false)
            }
            Self::Ended(_) | Self::Unsupported => (false, false),
        }
    }

    /// What an operator should know of a failure; streams that end or are cut are nothing unusual.
    pub(super) fn problem(&self, kind: Kind, failures: u32, server: &Url) -> Option<ApiProblem> {
        let server = Arc::clone(server);
        let status = match self {
            Self::Status(status) => status,
            Self::Fault(Fault::Unreachable(message)) => {
                let message = message.clone();
                return Some(ApiProblem::Unreachable { server, message });
            }
            Self::Fault(Fault::Certificate(message)) => {
                let message = message.clone();
                return Some(ApiProblem::Certificate { server, message });
            }
            Self::Fault(Fault::Credentials(message)) => {
                let message = message.clone();
                return Some(ApiProblem::Credentials { message });
            }
            Self::Silent(true) => return Some(ApiProblem::Silent { server }),
            Self::Broken | Self::Fault(Fault::Cut) if failures >= UNUSUAL => {
                return Some(ApiProblem::Failing {
                    server,
                    kind,
                    status: 200,
                    message: "the answer ends too early or is no JSON".to_owned(),
                });
            }
            _ => return None,
        };
        let Status { code, message, .. } = status;
        match code {
            401 => Some(ApiProblem::Unauthorized { server }),
            403 => Some(ApiProblem::Forbidden {
                kind,
                message: message.clone().unwrap_or_default(),
            }),
            429 => Some(ApiProblem::Busy { server }),
            // Lists and watches that are too old are part of the protocol.
            410 => None,
            _ => Some(ApiProblem::Failing {
                server,
                kind,
                status: *code,
                message: message.clone().unwrap_or_default(),
            }),
        }
    }
}
