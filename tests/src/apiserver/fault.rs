//! Failures on demand: which requests they meet, and what they do to them.

use std::time::Duration;

use super::access::Verb;
use super::resource::Resource;
use super::status::Failure;

/// What goes wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// 401, though the token is right.
    Unauthorized,
    /// 429 with `Retry-After`.
    TooManyRequests {
        /// Seconds of the header.
        retry_after: u32,
    },
    /// 500.
    InternalError,
    /// 504.
    GatewayTimeout,
    /// 410 as the status of the answer; a list of a forgotten revision gets it.
    Gone,
    /// A watch begins with status 200, and its only event says 410.
    GoneInStream,
    /// No answer at all; the connection stays open.
    Hang,
    /// The head of an answer with status 200 and no byte of its body; the connection stays open.
    Silent,
    /// The body in pieces of `bytes` bytes, `pause` apart.
    SlowDrip {
        /// Size of a piece.
        bytes: usize,
        /// Time between two pieces.
        pause: Duration,
    },
    /// A stream ends in order after this many events; a list is not touched.
    EndAfter(usize),
    /// The connection breaks in the middle of an object, after this many events of a stream; in
    /// the middle of the body of a list.
    CutMidObject(usize),
}

impl Fault {
    /// The answer that takes the place of the right one, for faults that are answers.
    pub(super) fn failure(self) -> Option<Failure> {
        match self {
            Self::Unauthorized => Some(Failure::unauthorized()),
            Self::TooManyRequests { retry_after } => Some(Failure::too_many_requests(retry_after)),
            Self::InternalError => Some(Failure::internal()),
            Self::GatewayTimeout => Some(Failure::timeout()),
            Self::Gone => Some(Failure::list_too_old()),
            Self::GoneInStream
            | Self::Hang
            | Self::Silent
            | Self::SlowDrip { .. }
            | Self::EndAfter(_)
            | Self::CutMidObject(_) => None,
        }
    }
}

/// A fault and the requests it meets: those of a verb, of a resource, and only so many of them.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    fault: Fault,
    verb: Option<Verb>,
    resource: Option<Resource>,
    left: Option<u32>,
}

impl Rule {
    /// A fault that meets every request, until it is taken away.
    pub const fn new(fault: Fault) -> Self {
        Self {
            fault,
            verb: None,
            resource: None,
            left: None,
        }
    }

    /// Only requests of this verb.
    #[must_use]
    pub const fn when(mut self, verb: Verb) -> Self {
        self.verb = Some(verb);
        self
    }

    /// Only requests for this resource.
    #[must_use]
    pub const fn on(mut self, resource: Resource) -> Self {
        self.resource = Some(resource);
        self
    }

    /// Only the next `count` such requests.
    #[must_use]
    pub const fn times(mut self, count: u32) -> Self {
        self.left = Some(count);
        self
    }

    fn meets(&self, verb: Verb, resource: Resource) -> bool {
        self.left != Some(0)
            && self.verb.is_none_or(|wanted| wanted == verb)
            && self.resource.is_none_or(|wanted| wanted == resource)
    }
}

/// The fault that meets a request: of the first rule that does, which is used up by it.
pub(super) fn next(rules: &mut Vec<Rule>, verb: Verb, resource: Resource) -> Option<Fault> {
    let rule = rules.iter_mut().find(|rule| rule.meets(verb, resource))?;
    rule.left = rule.left.map(|left| left.saturating_sub(1));
    let fault = rule.fault;
    rules.retain(|rule| rule.left != Some(0));
    Some(fault)
}

/// How streams that are open are ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cut {
    /// In order, as at the end of their time.
    Graceful,
    /// The connection breaks between two events.
    Abort,
    /// The connection breaks in the middle of an object.
    MidObject,
}
