//! What must be remembered of objects beside the model: what is wrong with them, the networks of
//! `ServiceCIDR`s, which are told all at once, and the API servers' own endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::decode::{self, Decoded, Value};
use super::servers::{Endpoints, Url};
use crate::model::event::{Event, Kind};
use crate::model::name::ObjectName;
use crate::source::convert::Notes;
use crate::source::report::{Detail, FieldProblem, Problem};

/// The most problems that are told one by one.
const MAX_PROBLEMS: usize = 100;

#[derive(Debug, Default)]
pub(super) struct Holdings {
    notes: BTreeMap<(Kind, ObjectName), Notes>,
    cidrs: BTreeMap<ObjectName, Vec<(IpAddr, u8)>>,
    endpoints: Endpoints,
    /// Whether this agent's Node is there.
    has_node: bool,
    /// Per kind, what the list under way has named of what is remembered here.
    seen: BTreeMap<Kind, BTreeSet<ObjectName>>,
    /// Whether problems changed.
    pub(super) has_new_notes: bool,
}

impl Holdings {
    /// A list begins.
    pub(super) fn restart(&mut self, kind: Kind) {
        self.seen.insert(kind, BTreeSet::new());
    }

    /// An object is there or gone: the events that say so. True if the API servers changed.
    pub(super) fn take(&mut self, kind: Kind, object: Decoded, events: &mut Vec<Event>) -> bool {
        let Decoded { name, value, notes } = object;
        let mut has_servers = false;
        let mut is_remembered = !notes.is_empty();
        match value {
            Value::Applied(event) => {
                match &event {
                    Event::SliceApplied(slice) if Endpoints::concerns(slice) => {
                        has_servers = self.endpoints.apply(slice);
                        is_remembered = true;
                    }
                    Event::NodeApplied(_) => {
                        self.has_node = true;
                        is_remembered = true;
                    }
                    _ => {}
                }
                events.push(event);
            }
            Value::Cidrs(networks) => {
                is_remembered = true;
                let is_listing = self.seen.contains_key(&kind);
                if self.cidrs.insert(name.clone(), networks.clone()) != Some(networks)
                    && !is_listing
                {
                    events.push(self.networks());
                }
            }
            Value::Gone => {
                match kind {
                    Kind::EndpointSlice => has_servers = self.endpoints.remove(&name),
                    Kind::Node => self.has_node = false,
                    Kind::ServiceCidr if self.cidrs.remove(&name).is_some() => {
                        events.push(self.networks());
                    }
                    _ => {}
                }
                events.extend(decode::removed(kind, name.clone()));
            }
            Value::Unknown => {}
        }
        if is_remembered && let Some(seen) = self.seen.get_mut(&kind) {
            seen.insert(name.clone());
        }
        self.note(kind, name, notes);
        has_servers
    }

    /// The list is complete: what it did not name is gone. True if the API servers may have
    /// changed.
    pub(super) fn complete(&mut self, kind: Kind, events: &mut Vec<Event>) -> bool {
        let seen = self.seen.remove(&kind).unwrap_or_default();
        let held = self.notes.len();
        self.notes
            .retain(|(of, name), _| *of != kind || seen.contains(name));
        self.has_new_notes |= self.notes.len() != held;
        match kind {
            Kind::Service => {}
            Kind::EndpointSlice => self.endpoints.retain(|name| seen.contains(name)),
            Kind::Node => self.has_node = !seen.is_empty(),
            Kind::ServiceCidr => {
                self.cidrs.retain(|name, _| seen.contains(name));
                events.push(self.networks());
            }
        }
        kind == Kind::EndpointSlice
    }

    /// Whether this agent's Node is there.
    pub(super) const fn has_node(&self) -> bool {
        self.has_node
    }

    /// The API servers, as far as the cluster says.
    pub(super) fn servers(&self) -> Vec<Url> {
        self.endpoints.servers()
    }

    /// All that is wrong with objects, a bounded number of them.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let all = self
            .notes
            .iter()
            .flat_map(|((kind, name), notes)| notes.iter().map(move |note| (*kind, name, note)));
        let mut problems: Vec<Problem> = all
            .clone()
            .take(MAX_PROBLEMS)
            .map(|(kind, name, note)| {
                problem(Some(format!("{} {name}", kind.name())), note.clone())
            })
            .collect();
        let count = all.skip(MAX_PROBLEMS).count();
        if count > 0 {
            problems.push(problem(None, FieldProblem::new("", Detail::More { count })));
        }
        problems
    }

    fn note(&mut self, kind: Kind, name: ObjectName, notes: Notes) {
        let key = (kind, name);
        self.has_new_notes |= if notes.is_empty() {
            self.notes.remove(&key).is_some()
        } else {
            self.notes.get(&key) != Some(&notes) && {
                self.notes.insert(key, notes);
                true
            }
        };
    }

    /// The networks of all `ServiceCIDR`s, each once.
    fn networks(&self) -> Event {
        let mut networks = Vec::new();
        for network in self.cidrs.values().flatten() {
            if !networks.contains(network) {
                networks.push(*network);
            }
        }
        Event::ServiceCidrs(networks)
    }
}

fn problem(object: Option<String>, problem: FieldProblem) -> Problem {
    Problem {
        file: "API".into(),
        position: None,
        object,
        problem,
    }
}
