//! From two or three pictures to what differs among them.

use std::collections::BTreeSet;

use lb_common::family::MappedAddress;
use lb_common::table::filter::FilterBit;
use lb_common::table::frontend::FrontendKey;
use lb_common::table::service::Audience;

use super::difference::{Behind, Difference};
use super::picture::{Picture, Port, Set, address_of};
use super::words::{
    affinity_text, audience_text, backend_name, flags_text, frontend_name, frontend_text, set_text,
    sets_text, shares_text, when_empty_text, word_name,
};
use crate::dataplane::layout::Table;
use crate::plan::planner::BackendKey;
use crate::plan::{backend_bit, node_port_bit, service_bit};

/// Two or three pictures of the same tables.
#[derive(Clone, Copy, Debug)]
pub struct Sides<'a> {
    /// What the objects ask for.
    pub source: &'a Picture,
    /// What the agent says; `None` without a living agent.
    pub agent: Option<&'a Picture>,
    /// What the kernel has.
    pub kernel: &'a Picture,
}

/// The same of each side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Three<T> {
    pub(super) source: T,
    pub(super) agent: Option<T>,
    pub(super) kernel: T,
}

impl<'a> Sides<'a> {
    fn map<T>(self, look: impl Fn(&'a Picture) -> T) -> Three<T> {
        Three {
            source: look(self.source),
            agent: self.agent.map(&look),
            kernel: look(self.kernel),
        }
    }

    fn keys<K: Ord>(self, keys: impl Fn(&'a Picture) -> Vec<K>) -> BTreeSet<K> {
        let sides = [Some(self.source), self.agent, Some(self.kernel)];
        sides.into_iter().flatten().flat_map(keys).collect()
    }
}

impl<T> Three<T> {
    fn map<U>(self, change: impl Fn(T) -> U) -> Three<U> {
        Three {
            source: change(self.source),
            agent: self.agent.map(&change),
            kernel: change(self.kernel),
        }
    }
}

impl<T: PartialEq> Three<T> {
    /// Who is behind, unless all are the same.
    fn behind(&self) -> Option<Behind> {
        let Some(agent) = &self.agent else {
            return (self.source != self.kernel).then_some(Behind::Tables);
        };
        match (self.source == *agent, *agent == self.kernel) {
            (true, true) => None,
            (true, false) => Some(Behind::Kernel),
            (false, true) => Some(Behind::Agent),
            (false, false) if self.source == self.kernel => Some(Behind::Agent),
            (false, false) => Some(Behind::Both),
        }
    }
}

impl Three<Option<String>> {
    pub(super) fn difference(
        self,
        table: Table,
        about: String,
        service: Option<String>,
    ) -> Option<Difference> {
        let behind = self.behind()?;
        Some(Difference {
            table,
            about,
            service,
            source: self.source,
            agent: self.agent.flatten(),
            kernel: self.kernel,
            behind,
        })
    }
}

/// Everything that differs, by table and place.
pub fn compare(sides: Sides<'_>) -> Vec<Difference> {
    let mut all = Vec::new();
    all.extend(frontends(sides));
    for port in sides.keys(|side| side.ports.keys().cloned().collect()) {
        all.extend(sets(sides, &port));
    }
    all.extend(backends(sides));
    all.extend(filters(sides));
    all.extend(ranges(sides));
    all.extend(settings(sides));
    all.sort();
    all
}

fn frontends(sides: Sides<'_>) -> impl Iterator<Item = Difference> {
    let keys = sides.keys(|side| side.frontends.keys().copied().collect());
    keys.into_iter().filter_map(move |key| {
        let values = sides.map(|side| side.frontends.get(&key));
        values.behind()?;
        let service = [Some(values.source), values.agent, Some(values.kernel)];
        let mut service = service.into_iter().flatten().flatten();
        let service = service.find_map(|frontend| frontend.port.as_ref());
        let texts = values.map(|value| value.map(frontend_text));
        texts.difference(
            Table::Frontends,
            frontend_name(&key),
            service.map(ToString::to_string),
        )
    })
}

fn sets(sides: Sides<'_>, port: &Port) -> Vec<Difference> {
    let service = Some(port.to_string());
    let entries = sides.map(|side| side.ports.get(port));
    let is_there = entries.map(|sets| sets.is_some());
    if is_there.behind().is_some() {
        let texts = entries.map(|sets| sets.map(sets_text));
        let difference = texts.difference(Table::Services, "service entry".to_owned(), service);
        return difference.into_iter().collect();
    }
    let found = Audience::ALL.map(|audience| {
        let sets = entries.map(|sets| sets.map(|sets| &sets[audience.position()]));
        set_differences(sets, port)
    });
    let [internal, others @ ..] = &found;
    if others.iter().all(|other| other == internal) {
        return internal.clone();
    }
    let mut all = Vec::new();
    for (audience, found) in Audience::ALL.into_iter().zip(found) {
        all.extend(found.into_iter().map(|difference| Difference {
            about: format!("{}: {}", audience_text(audience), difference.about),
            ..difference
        }));
    }
    all
}

fn set_differences(sets: Three<Option<&Set>>, port: &Port) -> Vec<Difference> {
    let Three {
        source: Some(source),
        kernel: Some(kernel),
        agent,
    } = sets
    else {
        return Vec::new();
    };
    let agent = agent.flatten();
    if source.agrees(kernel) && agent.is_none_or(|agent| agent.agrees(source)) {
        return Vec::new();
    }
    let sets = Three {
        source,
        agent,
        kernel,
    };
    let service = Some(port.to_string());
    let find = |about: &str, texts: Three<Option<String>>| {
        texts.difference(Table::Arena, about.to_owned(), service.clone())
    };
    let mut found = Vec::new();
    if kernel.flaw.is_some() {
        let texts = sets.map(|set| Some(set.flaw.clone().unwrap_or_else(|| set_text(set))));
        found.extend(find("backend set", texts));
        return found;
    }
    let affinity = sets.map(|set| Some(affinity_text(set.affinity_seconds)));
    found.extend(find("session affinity", affinity));
    // The agent's names do not say it: there it counts as what the objects ask for.
    let when_empty = sets.map(|set| {
        let known = set.when_empty.or(source.when_empty);
        known.map(|when| when_empty_text(when).to_owned())
    });
    found.extend(find("new flows while nobody serves", when_empty));
    let mut keys: BTreeSet<&BackendKey> = BTreeSet::new();
    for set in [Some(source), agent, Some(kernel)].into_iter().flatten() {
        keys.extend(set.shares.keys());
    }
    let before = found.len();
    for key in keys {
        let is_member = sets.map(|set| set.shares.contains_key(key).then(|| "serves".to_owned()));
        found.extend(find(&format!("endpoint {}", backend_name(key)), is_member));
    }
    if found.len() == before {
        let texts = sets.map(|set| Some(shares_text(set)));
        let slots = sets.map(|set| (&set.shares, set.slots));
        if let Some(behind) = slots.behind() {
            found.push(Difference {
                table: Table::Arena,
                about: "slots of the Maglev table".to_owned(),
                service,
                source: texts.source,
                agent: texts.agent.flatten(),
                kernel: texts.kernel,
                behind,
            });
        }
    }
    found
}

fn backends(sides: Sides<'_>) -> impl Iterator<Item = Difference> {
    let keys = sides.keys(|side| side.backends.keys().copied().collect());
    keys.into_iter().filter_map(move |key| {
        let flags = sides.map(|side| side.backends.get(&key).map(|flags| flags_text(*flags)));
        flags.difference(Table::Backends, backend_name(&key), None)
    })
}

fn filters(sides: Sides<'_>) -> Vec<Difference> {
    let Some(filters) = &sides.kernel.filters else {
        return Vec::new();
    };
    let services = |side: &Picture| {
        let keys = side.frontends.keys();
        let keys = keys.filter(|key| !key.is_node_port());
        keys.map(FrontendKey::address).collect::<BTreeSet<_>>()
    };
    let backends = |side: &Picture| -> BTreeSet<MappedAddress> {
        side.backends.keys().map(|key| key.address).collect()
    };
    let mut found = Vec::new();
    found.extend(missing_bits(
        Table::ServiceFilter,
        &sides.map(services),
        &filters.services,
        service_bit,
    ));
    found.extend(missing_bits(
        Table::BackendFilter,
        &sides.map(backends),
        &filters.backends,
        backend_bit,
    ));
    found.extend(node_ports(sides, &filters.node_ports));
    found
}

/// Networks of source ranges. The agent's names do not say them: there they count as what the
/// objects ask for.
fn ranges(sides: Sides<'_>) -> Vec<Difference> {
    let none = BTreeSet::new();
    let mut found = Vec::new();
    for port in sides.keys(|side| side.ranges.keys().cloned().collect()) {
        let of = |side: &'_ Picture| side.ranges.get(&port).unwrap_or(&none).clone();
        let (source, kernel) = (of(sides.source), of(sides.kernel));
        found.extend(source.union(&kernel).filter_map(|network| {
            let may_dial =
                |side: &BTreeSet<String>| side.contains(network).then(|| "may dial".to_owned());
            Three {
                source: may_dial(&source),
                agent: sides.agent.map(|_| may_dial(&source)),
                kernel: may_dial(&kernel),
            }
            .difference(Table::SourceRanges, network.clone(), Some(port.to_string()))
        }));
    }
    found
}

/// Node ports whose bit is missing.
fn node_ports(sides: Sides<'_>, words: &[u64]) -> Vec<Difference> {
    let keys = sides.source.frontends.keys();
    let missing = keys.filter_map(|key| {
        let FilterBit { word, mask } = node_port_bit(key)?;
        let is_set = words.get(word as usize).copied().unwrap_or(0) & mask != 0;
        (!is_set).then_some(key)
    });
    let marked = |side: &Picture, key| {
        side.frontends
            .contains_key(key)
            .then(|| "marked".to_owned())
    };
    missing
        .filter_map(|key| {
            Three {
                source: marked(sides.source, key),
                agent: sides.agent.map(|agent| marked(agent, key)),
                kernel: None,
            }
            .difference(Table::NodePorts, frontend_name(key), None)
        })
        .collect()
}

/// Addresses that the objects have and the filter does not. A bit too many is as it should be: bits
/// are never cleared.
fn missing_bits(
    table: Table,
    addresses: &Three<BTreeSet<MappedAddress>>,
    words: &[u64],
    bit: impl Fn(MappedAddress) -> FilterBit,
) -> Vec<Difference> {
    let marked = || Some("marked".to_owned());
    let is_set = |address: MappedAddress| {
        let FilterBit { word, mask } = bit(address);
        let word = words.get(word as usize).copied().unwrap_or(0);
        word & mask != 0
    };
    let all = addresses
        .source
        .iter()
        .chain(addresses.agent.iter().flatten());
    let all: BTreeSet<_> = all.copied().collect();
    all.into_iter()
        .filter(|address| !is_set(*address))
        .filter_map(|address| {
            let wanted = |side: &BTreeSet<MappedAddress>| side.contains(&address).then(marked);
            Three {
                source: wanted(&addresses.source).flatten(),
                agent: addresses.agent.as_ref().map(|side| wanted(side).flatten()),
                kernel: None,
            }
            .difference(table, address_of(address).to_string(), None)
        })
        .collect()
}

fn settings(sides: Sides<'_>) -> impl Iterator<Item = Difference> {
    let words = sides.source.config.iter();
    words.filter_map(move |(&word, &wanted)| {
        let found = sides.kernel.config.get(&word).copied().unwrap_or(0);
        let text = |value: u64| Some(format!("{value:#x}"));
        Three {
            source: text(wanted),
            agent: None,
            kernel: text(found),
        }
        .difference(Table::Config, word_name(word), None)
    })
}
