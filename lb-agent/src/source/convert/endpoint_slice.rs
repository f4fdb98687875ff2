//! `discovery.k8s.io/v1` `EndpointSlice`.

pub mod api;

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

use self::api::{ApiEndpoint, ApiMetadata, ApiPort, ApiSlice};
use super::{Notes, address, checked_name, port, protocol};
use crate::model::endpoint::{DEFAULT_WEIGHT, Endpoint, EndpointPort, EndpointSlice, MAX_WEIGHT};
use crate::model::name::ObjectName;
use crate::source::intern::Interner;
use crate::source::report::{Detail, FieldProblem};

/// Label that names the Service a slice belongs to.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label of a headless Service's slices.
pub const HEADLESS: &str = "service.kubernetes.io/headless";
/// Annotation of the weight of a slice's endpoints.
pub const WEIGHT: &str = "steerage.dev/weight";
/// Annotation of when what changed the slice happened.
pub const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// The most endpoints of one slice. The API server allows 1000; a slice written by hand may have
/// as many as a port's worth of table slots.
pub const MAX_ENDPOINTS: usize = 65_535;

/// The slice, unless it has names instead of addresses, or is headless, or belongs to no Service.
pub fn convert<S: AsRef<str>>(
    slice: &ApiSlice<S>,
    interner: &mut Interner,
    notes: &mut Notes,
) -> Result<Option<EndpointSlice>, FieldProblem> {
    let metadata = slice.metadata.as_ref();
    let (namespace, name) = metadata.map_or(("", ""), ApiMetadata::name);
    let name = checked_name((namespace, name), interner)?;
    if slice.label(|labels| labels.headless.as_ref()).is_some() {
        return Ok(None);
    }
    let is_v6 = match api::text(slice.address_type.as_ref()) {
        "IPv4" => false,
        "IPv6" => true,
        "FQDN" => return Ok(None),
        other => {
            let detail = Detail::UnknownValue {
                value: other.to_owned(),
                known: "IPv4, IPv6, FQDN",
                consequence: "the slice is ignored",
            };
            notes.push(FieldProblem::new("addressType", detail));
            return Ok(None);
        }
    };
    let service = slice
        .label(|labels| labels.service_name.as_ref())
        .filter(|service| !service.is_empty());
    let Some(service) = service else {
        let field = format!("metadata.labels[{SERVICE_NAME}]");
        notes.push(FieldProblem::new(field, Detail::MissingServiceName));
        return Ok(None);
    };
    let entries = slice.endpoints.as_deref().unwrap_or_default();
    check_count(entries.len())?;
    let mut endpoints = Vec::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        endpoints.extend(endpoint(entry, index, is_v6, interner, notes));
    }
    Ok(Some(EndpointSlice {
        service: ObjectName {
            namespace: Arc::clone(&name.namespace),
            name: interner.get_nearby(service),
        },
        is_v6,
        endpoints,
        ports: ports(slice.ports.as_deref().unwrap_or_default(), notes),
        weight: weight(slice, notes),
        triggered_micros: triggered_micros(slice),
        name,
    }))
}

/// Refuses a slice of too many endpoints.
pub fn check_count(count: usize) -> Result<(), FieldProblem> {
    if count > MAX_ENDPOINTS {
        let detail = Detail::TooManyEndpoints {
            count,
            limit: MAX_ENDPOINTS,
        };
        return Err(FieldProblem::new("endpoints", detail));
    }
    Ok(())
}

fn endpoint<S: AsRef<str>>(
    entry: &ApiEndpoint<S>,
    index: usize,
    is_v6: bool,
    interner: &mut Interner,
    notes: &mut Notes,
) -> Option<Endpoint> {
    // The addresses after the first have never had a meaning.
    let text = entry.addresses.as_deref()?.first()?.as_ref();
    let field = || format!("endpoints[{index}].addresses[0]");
    let address = address::parse_noted(text, field, notes)?;
    if address::is_v6(address) != is_v6 {
        let family = if is_v6 { "IPv6" } else { "IPv4" };
        let detail = Detail::WrongFamily {
            value: text.to_owned(),
            family: family.to_owned(),
        };
        notes.push(FieldProblem::new(field(), detail));
        return None;
    }
    let conditions = entry.conditions.unwrap_or_default();
    let hints = entry.hints.as_ref();
    let zones = hints
        .and_then(|hints| hints.for_zones.as_deref())
        .unwrap_or_default();
    let nodes = hints
        .and_then(|hints| hints.for_nodes.as_deref())
        .unwrap_or_default();
    let pod = entry
        .target_ref
        .as_ref()
        .filter(|target| api::text(target.kind.as_ref()) == "Pod");
    Some(Endpoint {
        address,
        ready: conditions.ready.unwrap_or(true),
        serving: conditions.serving.unwrap_or(true),
        terminating: conditions.terminating.unwrap_or(false),
        node: entry
            .node_name
            .as_ref()
            .map(|node| interner.get(node.as_ref())),
        zone: entry.zone.as_ref().map(|zone| interner.get(zone.as_ref())),
        zone_hints: zones
            .iter()
            .map(|zone| interner.get(zone.name.as_ref()))
            .collect(),
        node_hints: nodes
            .iter()
            .map(|node| interner.get(node.name.as_ref()))
            .collect(),
        pod: pod
            .and_then(|pod| pod.name.as_ref())
            .map(|name| interner.get_nearby(name.as_ref())),
    })
}

/// A port without a name is none. One without a number means all ports, which no proxy serves.
fn ports<S: AsRef<str>>(ports: &[ApiPort<S>], notes: &mut Notes) -> Vec<EndpointPort> {
    let mut found = Vec::with_capacity(ports.len());
    for (index, entry) in ports.iter().enumerate() {
        let (Some(name), Some(number)) = (&entry.name, entry.port.filter(|port| *port != 0)) else {
            continue;
        };
        let field = |name: &str| format!("ports[{index}].{name}");
        let protocol = protocol(
            entry.protocol.as_ref().map(AsRef::as_ref),
            || field("protocol"),
            notes,
        );
        let number = port(number, || field("port"), notes);
        if let (Some(protocol), Some(port)) = (protocol, number) {
            found.push(EndpointPort {
                name: name.as_ref().to_owned(),
                protocol,
                port,
            });
        }
    }
    found
}

fn weight<S: AsRef<str>>(slice: &ApiSlice<S>, notes: &mut Notes) -> u16 {
    let Some(text) = slice.annotation(|annotations| annotations.weight.as_ref()) else {
        return DEFAULT_WEIGHT;
    };
    text.parse()
        .ok()
        .filter(|weight| *weight <= MAX_WEIGHT)
        .unwrap_or_else(|| {
            let detail = Detail::InvalidWeight {
                value: text.to_owned(),
                default: DEFAULT_WEIGHT,
            };
            notes.push(FieldProblem::new(
                format!("metadata.annotations[{WEIGHT}]"),
                detail,
            ));
            DEFAULT_WEIGHT
        })
}

/// Only a latency is measured by it: what cannot be read is as if it were not there.
fn triggered_micros<S: AsRef<str>>(slice: &ApiSlice<S>) -> Option<i64> {
    let text = slice.annotation(|annotations| annotations.trigger_time.as_ref())?;
    let time: Timestamp = text.parse().ok()?;
    Some(time.as_microsecond())
}

#[cfg(test)]
mod tests;
