//! Kubernetes Events: what `kubectl describe` shows. They are created and, when the same happens
//! again, patched to say how often; nothing else is ever written to the API.
//!
//! Sending never waits: what finds the queue full is dropped, and so is what has become old while
//! no API server could be reached. Each node sends a few in a row and then one every ten seconds.

use std::collections::{BTreeMap, VecDeque};

use http::Method;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use tokio::sync::mpsc;

use super::Time;
use crate::model::event::Kind;
use crate::model::name::ObjectName;

/// Notes that may wait.
const MAX_PENDING: usize = 32;
/// Events that may be sent in a row.
const BURST: u32 = 20;
/// How often one more may be sent.
const REFILL: Time = Time::from_secs(10);
/// How old a note may become before it is dropped.
const MAX_AGE: Time = Time::from_mins(10);
/// How soon to try again.
const RETRY: Time = Time::from_secs(10);
/// For how long the same note is counted in the Event that was sent for it.
const SERIES: Time = Time::from_mins(30);
/// How many Events are remembered for that.
const MAX_SERIES: usize = 128;
/// The longest text an Event may have.
const MAX_TEXT: usize = 1024;

/// How grave it is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Gravity {
    /// Something that should be known.
    Normal,
    /// Something that should be repaired.
    Warning,
}

/// The object an Event is about.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Regarding {
    /// Such as `v1`.
    pub api_version: &'static str,
    /// Such as `Service`.
    pub kind: &'static str,
    /// Empty for objects without a namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `metadata.uid`, empty where it is not known.
    pub uid: String,
}

impl Regarding {
    /// A Node. Its name stands for its uid, as in the kubelet's and kube-proxy's Events, by which
    /// `kubectl describe node` finds them.
    pub fn node(name: &str) -> Self {
        Self {
            api_version: "v1",
            kind: "Node",
            namespace: String::new(),
            name: name.to_owned(),
            uid: name.to_owned(),
        }
    }

    /// An object of a kind that is watched; `uid` may be empty.
    pub fn object(kind: Kind, name: &ObjectName, uid: String) -> Self {
        Self {
            api_version: match kind {
                Kind::Service | Kind::Node => "v1",
                Kind::EndpointSlice => "discovery.k8s.io/v1",
                Kind::ServiceCidr => "networking.k8s.io/v1",
            },
            kind: kind.name(),
            namespace: name.namespace.to_string(),
            name: name.name.to_string(),
            uid,
        }
    }
}

/// Something to be told by an Event.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Note {
    /// How grave it is.
    pub gravity: Gravity,
    /// What it is about.
    pub regarding: Regarding,
    /// In a word, such as `NodeMissing`.
    pub reason: &'static str,
    /// What the agent was doing, in a word, such as `Watch`.
    pub action: &'static str,
    /// For people.
    pub text: String,
}

/// Where notes are dropped in.
#[derive(Clone, Debug)]
pub struct EventSink(mpsc::Sender<Note>);

/// Where they come out.
pub type EventReceiver = mpsc::Receiver<Note>;

/// A queue of notes.
pub fn channel() -> (EventSink, EventReceiver) {
    let (sender, receiver) = mpsc::channel(MAX_PENDING);
    (EventSink(sender), receiver)
}

impl EventSink {
    /// Sends the note if there is room, and says whether there was; never waits.
    pub fn send(&self, note: Note) -> bool {
        let is_sent = self.0.try_send(note).is_ok();
        if !is_sent {
            tracing::debug!("an Event found no room");
        }
        is_sent
    }
}

/// A request about an Event.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Post {
    pub(super) method: Method,
    pub(super) target: String,
    pub(super) body: serde_json::Value,
}

/// What was sent for a note.
#[derive(Clone, Debug)]
struct Sent {
    name: String,
    count: u32,
    at: Time,
}

/// What is to be sent, and when.
#[derive(Debug)]
pub(super) struct Outbox {
    reporter: String,
    pending: VecDeque<(Note, Time)>,
    /// What is being sent.
    current: Option<(Note, Time)>,
    sent: BTreeMap<Note, Sent>,
    tokens: u32,
    refilled: Time,
    not_before: Time,
}

impl Outbox {
    /// Of the agent of a Node.
    pub(super) fn new(node_name: &str) -> Self {
        Self {
            reporter: node_name.to_owned(),
            pending: VecDeque::new(),
            current: None,
            sent: BTreeMap::new(),
            tokens: BURST,
            refilled: Time::ZERO,
            not_before: Time::ZERO,
        }
    }

    /// Whether no note has to give way to another.
    pub(super) fn has_room(&self) -> bool {
        self.pending.len() < MAX_PENDING
    }

    /// Takes in a note; the oldest gives way.
    pub(super) fn offer(&mut self, mut note: Note, now: Time) {
        let mut end = MAX_TEXT.min(note.text.len());
        while !note.text.is_char_boundary(end) {
            end -= 1;
        }
        note.text.truncate(end);
        if self.pending.iter().any(|(held, _)| *held == note) {
            return;
        }
        if self.pending.len() == MAX_PENDING {
            self.pending.pop_front();
        }
        self.pending.push_back((note, now));
    }

    /// When there is something to send; `None` while nothing waits or something is under way.
    pub(super) fn due(&self) -> Option<Time> {
        if self.current.is_some() || self.pending.is_empty() {
            return None;
        }
        let token = if self.tokens > 0 {
            Time::ZERO
        } else {
            self.refilled + REFILL
        };
        Some(token.max(self.not_before))
    }

    /// The next request, if it is time; `wall` is microseconds since the Unix epoch.
    pub(super) fn next(&mut self, now: Time, wall: i64) -> Option<Post> {
        self.refill(now);
        self.pending
            .retain(|(_, at)| now.saturating_sub(*at) < MAX_AGE);
        if self.due().is_none_or(|due| due > now) {
            return None;
        }
        let (note, at) = self.pending.pop_front()?;
        self.tokens -= 1;
        let post = self.post(&note, now, wall);
        self.current = Some((note, at));
        Some(post)
    }

    /// The server's answer to it: an HTTP status, or none at all.
    pub(super) fn answered(&mut self, status: Option<u16>, now: Time) {
        let Some((note, at)) = self.current.take() else {
            return;
        };
        match status {
            Some(200..300) => return,
            // Another node has taken the name in the same microsecond: another one is made.
            Some(409) => {}
            // The Event it counted in has expired: another one is made.
            Some(404) if self.sent.get(&note).is_some_and(|sent| sent.count > 1) => {}
            None | Some(401 | 429 | 500..) => self.not_before = now + RETRY,
            // Forbidden, or refused for good.
            Some(status) => {
                tracing::debug!(status, reason = note.reason, "an Event is refused");
                self.not_before = now + RETRY;
                self.sent.remove(&note);
                return;
            }
        }
        self.sent.remove(&note);
        self.pending.push_front((note, at));
    }

    fn refill(&mut self, now: Time) {
        while self.tokens < BURST && self.refilled + REFILL <= now {
            self.tokens += 1;
            self.refilled += REFILL;
        }
        if self.tokens == BURST {
            self.refilled = now;
        }
    }

    fn post(&mut self, note: &Note, now: Time, wall: i64) -> Post {
        self.sent
            .retain(|_, sent| now.saturating_sub(sent.at) < SERIES);
        let namespace = if note.regarding.namespace.is_empty() {
            "default"
        } else {
            &note.regarding.namespace
        };
        let events = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
        let time = Timestamp::from_microsecond(wall).unwrap_or_default();
        let time = format!("{time:.6}");
        if let Some(sent) = self.sent.get_mut(note) {
            sent.count += 1;
            sent.at = now;
            return Post {
                method: Method::PATCH,
                target: format!("{events}/{}", sent.name),
                body: json!({"series": {"count": sent.count, "lastObservedTime": time}}),
            };
        }
        while self.sent.len() >= MAX_SERIES {
            let oldest = self.sent.iter().min_by_key(|(_, sent)| sent.at);
            let Some(oldest) = oldest.map(|(note, _)| note.clone()) else {
                break;
            };
            self.sent.remove(&oldest);
        }
        let name = format!("{}.{wall:x}", note.regarding.name);
        let sent = Sent {
            name: name.clone(),
            count: 1,
            at: now,
        };
        self.sent.insert(note.clone(), sent);
        let regarding = &note.regarding;
        Post {
            method: Method::POST,
            target: events,
            body: json!({
                "apiVersion": "events.k8s.io/v1",
                "kind": "Event",
                "metadata": {"namespace": namespace, "name": name},
                "eventTime": time,
                "reportingController": "steerage.dev/steerage",
                "reportingInstance": self.reporter,
                "type": match note.gravity {
                    Gravity::Normal => "Normal",
                    Gravity::Warning => "Warning",
                },
                "reason": note.reason,
                "action": note.action,
                "note": note.text,
                "regarding": {
                    "apiVersion": regarding.api_version,
                    "kind": regarding.kind,
                    "namespace": regarding.namespace,
                    "name": regarding.name,
                    "uid": regarding.uid,
                },
            }),
        }
    }
}

#[cfg(test)]
mod tests;
