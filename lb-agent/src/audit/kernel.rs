//! The picture of what the kernel tables hold.

use std::collections::BTreeMap;

use lb_common::id::{BackendId, ServiceId};
use lb_common::table::backend::BackendFlags;
use lb_common::table::service::ServiceWord;

use super::named::port_key;
use super::picture::{Filters, Frontend, Picture, Port, Set};
use super::words::network_name;
use crate::dataplane::Actual;
use crate::dataplane::region::{Region, backend_of};
use crate::plan::names::Names;
use crate::plan::planner::BackendKey;

/// Whose each index of `SERVICES` is.
#[derive(Clone, Debug, Default)]
struct Labels(BTreeMap<u32, Port>);

impl Labels {
    /// The agent's names know ids; where they say nothing, an index is whose frontends lead to it in
    /// the tables by what `expected` says of them, most of them where they do not agree.
    fn new(actual: &Actual, expected: &Picture, names: &Names) -> Self {
        let mut labels = BTreeMap::new();
        for service in &names.services {
            let id = ServiceId::from_raw(service.id);
            let words = actual.services.get(&id.index());
            let is_current = words.is_some_and(|words| words[0].generation() == id.generation());
            if is_current && let Some(key) = port_key(service) {
                labels.insert(id.index(), Port::Named(key));
            }
        }
        let mut votes: BTreeMap<u32, BTreeMap<&Port, u32>> = BTreeMap::new();
        for (key, value) in &actual.frontends {
            let expected = expected.frontends.get(key);
            if let Some(port) = expected.and_then(|frontend| frontend.port.as_ref()) {
                let of_index = votes.entry(value.service_index()).or_default();
                *of_index.entry(port).or_default() += 1;
            }
        }
        for (index, votes) in votes {
            // The last of the greatest is taken, so the order is turned round.
            let winner = votes.into_iter().rev().max_by_key(|(_, count)| *count);
            if let Some((port, _)) = winner {
                labels.entry(index).or_insert_with(|| port.clone());
            }
        }
        Self(labels)
    }

    fn port(&self, index: u32) -> Port {
        let label = self.0.get(&index).cloned();
        label.unwrap_or(Port::Unnamed(index))
    }
}

impl Picture {
    /// What the tables hold. Indices are named by what the agent's names say, and else by what
    /// `expected` has for the frontends that lead to them.
    pub fn of_tables(actual: &Actual, filters: Filters, expected: &Self, names: &Names) -> Self {
        let labels = Labels::new(actual, expected, names);
        let mut picture = Self {
            filters: Some(filters),
            ..Self::default()
        };
        for (key, value) in &actual.frontends {
            let is_address = key.protocol().is_none();
            let port = labels.port(value.service_index());
            let frontend = Frontend {
                kind: value.kind(),
                is_ranged: value.has_source_ranges(),
                has_ready: value.has_ready(),
                port: (!is_address).then_some(port),
                is_foreign: !value.belongs_to(key),
            };
            picture.frontends.insert(*key, frontend);
        }
        for (&index, words) in &actual.services {
            // What an entry keeps of its generation once its service is gone.
            if words.iter().all(|word| word.offset() == 0) {
                continue;
            }
            let sets = words.map(|word| set_of(actual, word));
            // Two entries of one port: the second is nobody's.
            let port = labels.port(index);
            let port = if picture.ports.contains_key(&port) {
                Port::Unnamed(index)
            } else {
                port
            };
            picture.ports.insert(port, sets);
        }
        for key in &actual.source_ranges {
            let ranges = picture.ranges.entry(labels.port(key.service()));
            ranges.or_default().insert(network_name(key));
        }
        for record in actual.backends.values() {
            let Some(protocol) = record.protocol() else {
                continue;
            };
            if record.flags().has(BackendFlags::SERVING) {
                let key = BackendKey {
                    address: record.address(),
                    port: record.port(),
                    protocol,
                };
                picture.backends.insert(key, record.flags());
            }
        }
        let words = (0..).zip(&actual.config);
        picture.config = words.map(|(word, &value)| (word, value)).collect();
        picture
    }
}

fn set_of(actual: &Actual, word: ServiceWord) -> Set {
    let flawed = |flaw: &str| Set {
        flaw: Some(flaw.to_owned()),
        ..Set::default()
    };
    if word.offset() == 0 {
        return flawed("no region");
    }
    let words = actual.regions.get(&word.offset());
    let Some(region) = words.and_then(|words| Region::decode(words)) else {
        return flawed("a region that is not whole");
    };
    let mut backends = BTreeMap::new();
    for (position, &id) in region.backends.iter().enumerate() {
        let Some(key) = backend_key_of(actual, id) else {
            return flawed("a region with an id that no backend has");
        };
        if backends.insert(key, position).is_some() {
            return flawed("a region with one backend twice");
        }
    }
    // Positions among the backends in their own order, which does not depend on ids.
    let mut places = vec![0; region.backends.len()];
    for (place, &position) in (0_u16..).zip(backends.values()) {
        places[position] = place;
    }
    let slots: Option<Vec<u16>> = region
        .slots
        .iter()
        .map(|&slot| places.get(usize::from(slot)).copied())
        .collect();
    let Some(slots) = slots else {
        return flawed("a region with a slot beyond its backends");
    };
    let keys: Vec<_> = backends.into_keys().collect();
    Set {
        affinity_seconds: region.header.affinity_seconds,
        when_empty: Some(region.header.when_empty),
        ..Set::of_slots(&keys, &slots)
    }
}

fn backend_key_of(actual: &Actual, id: BackendId) -> Option<BackendKey> {
    let record = backend_of(actual, id)?;
    Some(BackendKey {
        address: record.address(),
        port: record.port(),
        protocol: record.protocol()?,
    })
}
