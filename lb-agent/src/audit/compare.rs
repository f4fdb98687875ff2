//! From two or three pictures to what differs among them.

use std::collections::BTreeSet;

use lb_common::family::MappedAddress;
use lb_common::flow::Protocol;
use lb_common::table::backend::BackendFlags;
use lb_common::table::config;
use lb_common::table::filter::FilterBit;
use lb_common::table::frontend::{FrontendKey, FrontendKind};
use lb_common::table::region::WhenEmpty;
use lb_common::table::service::Audience;

use super::difference::{Behind, Difference};
use super::picture::{Frontend, Picture, Port, Set, address_of, by_audience};
use crate::dataplane::layout::Table;
use crate::plan::planner::BackendKey;
use crate::plan::{backend_bit, service_bit};

/// How many endpoints are listed where many differ.
const LISTED: usize = 4;

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
struct Three<T> {
    source: T,
    agent: Option<T>,
    kernel: T,
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
    fn difference(
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
        let service = service.into_iter().flatten().flatten();
        let service = service.filter_map(|frontend| frontend.port.as_ref()).next();
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
    let [internal, external] = [0, 1].map(|audience| {
        let sets = entries.map(|sets| sets.map(|sets| &sets[audience]));
        set_differences(sets, port)
    });
    if internal == external {
        return internal;
    }
    let mut all = Vec::new();
    for (audience, found) in [
        (Audience::Internal, internal),
        (Audience::External, external),
    ] {
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
        sides.map(services),
        &filters.services,
        service_bit,
    ));
    found.extend(missing_bits(
        Table::BackendFilter,
        sides.map(backends),
        &filters.backends,
        backend_bit,
    ));
    found
}

/// Addresses that the objects have and the filter does not. A bit too many is as it should be: bits
/// are never cleared.
fn missing_bits(
    table: Table,
    addresses: Three<BTreeSet<MappedAddress>>,
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

/// Address, port and protocol of a frontend, or the service address alone.
pub(crate) fn frontend_name(key: &FrontendKey) -> String {
    let address = address_of(key.address());
    let Some(protocol) = key.protocol() else {
        return address.to_string();
    };
    let protocol = protocol_text(protocol);
    if key.is_node_port() {
        let family = if address.is_ipv6() { "IPv6" } else { "IPv4" };
        return format!("node port {}/{protocol} ({family})", key.port());
    }
    let socket = std::net::SocketAddr::new(address, key.port());
    format!("{socket}/{protocol}")
}

/// Address, port and protocol of a backend.
pub(crate) fn backend_name(key: &BackendKey) -> String {
    let socket = std::net::SocketAddr::new(address_of(key.address), key.port);
    format!("{socket}/{}", protocol_text(key.protocol))
}

const fn protocol_text(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    }
}

fn frontend_text(frontend: &Frontend) -> String {
    let mut text = match frontend.kind {
        Some(FrontendKind::ServiceAddress) => "service address".to_owned(),
        Some(FrontendKind::ClusterIp) => "cluster address".to_owned(),
        Some(FrontendKind::NodePort) => "node port".to_owned(),
        Some(FrontendKind::ExternalIp) => "external address".to_owned(),
        Some(FrontendKind::LoadBalancer) => "load balancer address".to_owned(),
        None => "unknown kind".to_owned(),
    };
    if let Some(port) = &frontend.port {
        text.push_str(&format!(" of {port}"));
    } else {
        let ready = if frontend.has_ready {
            "ready"
        } else {
            "no ready"
        };
        text.push_str(&format!(" with {ready} endpoints"));
    }
    if frontend.is_ranged {
        text.push_str(", source ranges");
    }
    if frontend.is_foreign {
        text.push_str(", the value of another frontend");
    }
    text
}

fn sets_text(sets: &[Set; 2]) -> String {
    let texts: Vec<_> = by_audience(sets)
        .map(|(audience, set)| format!("{}: {}", audience_text(audience), set_text(set)))
        .collect();
    if by_audience(sets).all(|(_, set)| set.agrees(&sets[0])) {
        return set_text(&sets[0]);
    }
    texts.join("; ")
}

fn set_text(set: &Set) -> String {
    if let Some(flaw) = &set.flaw {
        return flaw.clone();
    }
    match set.shares.len() {
        0 => "no endpoints".to_owned(),
        1 => "1 endpoint".to_owned(),
        count => format!("{count} endpoints"),
    }
}

fn shares_text(set: &Set) -> String {
    let shares = set.shares.iter().take(LISTED);
    let mut texts: Vec<_> = shares
        .map(|(key, slots)| format!("{} {slots}", backend_name(key)))
        .collect();
    if set.shares.len() > LISTED {
        texts.push(format!("{} more", set.shares.len() - LISTED));
    }
    format!(
        "{} (table {:08x})",
        texts.join(", "),
        set.slots & 0xffff_ffff
    )
}

fn affinity_text(seconds: u32) -> String {
    if seconds == 0 {
        "none".to_owned()
    } else {
        format!("{seconds}s")
    }
}

const fn when_empty_text(when_empty: WhenEmpty) -> &'static str {
    match when_empty {
        WhenEmpty::Refuse => "refused",
        WhenEmpty::Drop => "dropped",
    }
}

fn flags_text(flags: BackendFlags) -> String {
    let mut words = Vec::new();
    for (bit, word) in [
        (BackendFlags::SERVING, "serving"),
        (BackendFlags::LOCAL, "local"),
        (BackendFlags::TERMINATING, "terminating"),
    ] {
        if flags.has(bit) {
            words.push(word);
        }
    }
    words.join(", ")
}

const fn audience_text(audience: Audience) -> &'static str {
    match audience {
        Audience::Internal => "clients of the cluster address",
        Audience::External => "other clients",
    }
}

/// What a word of `CONFIG` says.
pub(crate) fn word_name(word: u32) -> String {
    let states = config::TIMEOUTS..config::CONFIG_WORDS;
    match word {
        config::SERVICE_CIDR_COUNTS => "number of service CIDRs".to_owned(),
        config::FLOW_BUCKETS => "sizes of the flow tables".to_owned(),
        word if states.contains(&word) => {
            format!("timeout of connection state {}", word - config::TIMEOUTS)
        }
        word => format!("service CIDRs (word {word})"),
    }
}
