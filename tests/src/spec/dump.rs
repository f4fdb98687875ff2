//! What the maps hold, as a scenario file says it.
//!
//! ```text
//! TCP 10.96.0.1:80 = service 1                   FRONTENDS, a port
//! TCP 192.0.2.1:80 = service 1, ExternalIp       the same at another than its cluster address
//! 10.96.0.1 = address, ready                     FRONTENDS, an address
//! service 1.0 = 1.0 x 126, 2.0 x 125             SERVICES and the region in ARENA: slots
//! service 1.0 external = 1.0                     the same for external clients, where it differs
//! backend 1.0 = TCP 10.0.0.1:8080 serving        BACKENDS
//! ```
//!
//! A record that is not `serving` is kept for the flows that name it, until a sweep finds none. Where
//! regions lie in the arena is the planner's business, and not said. An id is an index and
//! its generation.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use lb_agent::cli::inputs::Region;
use lb_agent::dataplane::Actual;
use lb_common::family::MappedAddress;
use lb_common::flow::Protocol;
use lb_common::id::BackendId;
use lb_common::table::backend::{BackendFlags, BackendRecord};
use lb_common::table::frontend::{FrontendKey, FrontendKind, FrontendValue};
use lb_common::table::region::WhenEmpty;
use lb_common::table::service::ServiceWord;

/// Every element of every table, one line each, in the order of keys.
pub(super) fn dump(actual: &Actual) -> String {
    let mut text = String::new();
    for (key, value) in &actual.frontends {
        line(&mut text, &frontend(key, *value));
    }
    for (index, words) in &actual.services {
        let id = format!("service {index}.{}", words[0].generation());
        let [internal, external, inside] = words.map(|word| set(actual, word, &name));
        line(&mut text, &format!("{id} = {internal}"));
        if external != internal {
            line(&mut text, &format!("{id} external = {external}"));
        }
        if inside != internal {
            line(&mut text, &format!("{id} inside = {inside}"));
        }
    }
    for (index, record) in &actual.backends {
        let generation = record.generation();
        line(
            &mut text,
            &format!("backend {index}.{generation} = {}", backend(record)),
        );
    }
    text
}

/// What packets see: every frontend with the addresses behind it.
pub(super) fn meaning(actual: &Actual) -> String {
    let mut text = String::new();
    for (key, value) in &actual.frontends {
        let Some(words) = actual.services.get(&value.service_index()) else {
            line(&mut text, &frontend(key, *value));
            continue;
        };
        let protocol = key
            .protocol()
            .map(|protocol| end(protocol, key.address(), key.port()));
        let [internal, external, inside] = words.map(|word| {
            set(actual, word, &|id| {
                let record = actual.backends.get(&id.index());
                record.map_or_else(|| "nothing".to_owned(), backend)
            })
        });
        line(
            &mut text,
            &format!("{protocol:?} = {internal}; external {external}; inside {inside}"),
        );
    }
    text
}

pub(super) fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("writing to a string cannot fail");
}

fn frontend(key: &FrontendKey, value: FrontendValue) -> String {
    let index = value.service_index();
    match (key.protocol(), value.kind()) {
        _ if !value.belongs_to(key) => format!("{key:?} = the value of another key"),
        (Some(protocol), Some(FrontendKind::ClusterIp)) => {
            format!(
                "{} = service {index}",
                end(protocol, key.address(), key.port())
            )
        }
        (None, Some(FrontendKind::ServiceAddress)) => {
            let ready = if value.has_ready() {
                "ready"
            } else {
                "not ready"
            };
            format!("{} = address, {ready}", ip(key.address()))
        }
        (Some(protocol), Some(kind)) => {
            let end = end(protocol, key.address(), key.port());
            format!("{end} = service {index}, {kind:?}")
        }
        (_, kind) => format!("{key:?} = {kind:?} of service {index}"),
    }
}

/// An id as its index and generation.
fn name(id: BackendId) -> String {
    format!("{}.{}", id.index(), id.generation())
}

/// The set a word names, with its backends as `name` says.
fn set(actual: &Actual, word: ServiceWord, name: &dyn Fn(BackendId) -> String) -> String {
    if word.offset() == 0 {
        return "gone".to_owned();
    }
    let region = actual
        .regions
        .get(&word.offset())
        .and_then(|words| Region::decode(words));
    let Some(Region {
        header,
        backends,
        slots,
    }) = region
    else {
        return format!("no region at {}", word.offset());
    };
    let share = |position: usize| {
        let is_it = |slot: &&u16| usize::from(**slot) == position;
        slots.iter().filter(is_it).count()
    };
    let members: Vec<String> = backends
        .iter()
        .enumerate()
        .map(|(position, id)| {
            if slots.is_empty() {
                name(*id)
            } else {
                format!("{} x {}", name(*id), share(position))
            }
        })
        .collect();
    let mut text = match (members.is_empty(), header.when_empty) {
        (true, WhenEmpty::Refuse) => "nobody, refused".to_owned(),
        (true, WhenEmpty::Drop) => "nobody, dropped".to_owned(),
        (false, _) => members.join(", "),
    };
    if header.affinity_seconds != 0 {
        let affinity = format!(" for {} s", header.affinity_seconds);
        text += &affinity;
    }
    text
}

fn backend(record: &BackendRecord) -> String {
    let Some(protocol) = record.protocol() else {
        return "of no protocol".to_owned();
    };
    let mut text = end(protocol, record.address(), record.port());
    for (bit, word) in [
        (BackendFlags::SERVING, " serving"),
        (BackendFlags::LOCAL, " local"),
        (BackendFlags::TERMINATING, " terminating"),
    ] {
        if record.flags().has(bit) {
            text += word;
        }
    }
    text
}

fn ip(address: MappedAddress) -> IpAddr {
    Ipv6Addr::from(address).to_canonical()
}

pub(super) const fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    }
}

/// A port of an address.
pub(super) fn end(protocol: Protocol, address: MappedAddress, port: u16) -> String {
    let name = protocol_name(protocol);
    format!("{name} {}", SocketAddr::new(ip(address), port))
}
