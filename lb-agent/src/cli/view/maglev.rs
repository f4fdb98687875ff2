//! Maglev tables: how a service's new flows spread over its backends.

use std::net::SocketAddr;

use lb_common::hash::mix;
use lb_common::table::service::{Audience, ServiceWord};
use serde::Serialize;

use super::services::{ServiceView, share};
use crate::cli::inputs::{address_of, backend_of, region_of};
use crate::dataplane::Actual;

/// The table of one service port for one audience.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MaglevView {
    /// Service port as `namespace/name:port`.
    pub service: String,
    /// What clients dial.
    pub frontends: Vec<SocketAddr>,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: &'static str,
    /// Whose flows it spreads: `internal` (cluster addresses), `external` (the others, from outside),
    /// `inside` (the others, from the cluster), or `all` where they have the same set.
    pub audience: &'static str,
    /// Slots: a prime, 0 where fewer than two backends need none.
    pub table_size: u32,
    /// Hash of the backends by slot: equal on every node that has the same endpoints.
    pub checksum: String,
    /// Largest difference of a backend's share from its weight's, in percent of the latter.
    pub largest_deviation_percent: f64,
    /// The backends, by address.
    pub backends: Vec<MaglevBackendView>,
}

/// A backend's part of a table.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MaglevBackendView {
    /// Address and port that serve.
    pub address: SocketAddr,
    /// Its Pod.
    pub pod: Option<String>,
    /// Its weight; `None` where names are not known.
    pub weight: Option<u16>,
    /// Slots it has.
    pub slots: u32,
    /// Share of new flows it gets, from 0 to 1.
    pub share: f64,
    /// Share its weight asks for, from 0 to 1.
    pub expected_share: f64,
}

/// The tables of `service`: one, or one for each audience where they have other sets.
#[must_use]
pub fn maglev(service: &ServiceView, tables: &Actual) -> Vec<MaglevView> {
    let words = tables.services.get(&service.index);
    let is_shared = words.is_some_and(|[internal, others @ ..]| {
        let is_same = |word: &ServiceWord| [0, internal.offset()].contains(&word.offset());
        others.iter().all(is_same)
    });
    let audiences: &[(Audience, &str)] = if is_shared {
        &[(Audience::Internal, "all")]
    } else {
        &[
            (Audience::Internal, "internal"),
            (Audience::External, "external"),
            (Audience::Inside, "inside"),
        ]
    };
    audiences
        .iter()
        .filter_map(|&(audience, text)| table(service, tables, audience, text))
        .collect()
}

fn table(
    service: &ServiceView,
    tables: &Actual,
    audience: Audience,
    text: &'static str,
) -> Option<MaglevView> {
    let region = region_of(tables, service.index, audience)?;
    let counts = region.slots_by_backend();
    let all: u32 = counts.iter().sum();
    let addresses: Vec<Option<SocketAddr>> = region
        .backends
        .iter()
        .map(|&id| {
            let record = backend_of(tables, id)?;
            Some(SocketAddr::new(address_of(record.address()), record.port()))
        })
        .collect();
    let mut backends: Vec<MaglevBackendView> = addresses
        .iter()
        .zip(&counts)
        .filter_map(|(address, &slots)| {
            let address = (*address)?;
            let known = service
                .backends
                .iter()
                .find(|backend| backend.address == address);
            Some(MaglevBackendView {
                address,
                pod: known.and_then(|backend| backend.pod.clone()),
                weight: known.and_then(|backend| backend.weight),
                slots,
                share: share(slots, all),
                expected_share: 0.0,
            })
        })
        .collect();
    let weights: u32 = backends.iter().map(weight).sum();
    let mut largest_deviation: f64 = 0.0;
    for backend in &mut backends {
        backend.expected_share = share(weight(backend), weights);
        if backend.expected_share > 0.0 {
            let deviation = (backend.share / backend.expected_share - 1.0).abs();
            largest_deviation = largest_deviation.max(deviation);
        }
    }
    backends.sort_by_key(|backend| backend.address);
    Some(MaglevView {
        service: service.title(),
        frontends: service
            .frontends
            .iter()
            .map(|frontend| frontend.address)
            .collect(),
        protocol: service.protocol,
        audience: text,
        table_size: region.header.table_size,
        checksum: format!("{:016x}", checksum(&region.slots, &addresses)),
        largest_deviation_percent: (largest_deviation * 1000.0).round() / 10.0,
        backends,
    })
}

/// A weight that is not known counts as the default.
fn weight(backend: &MaglevBackendView) -> u32 {
    backend
        .weight
        .unwrap_or(crate::model::endpoint::DEFAULT_WEIGHT)
        .into()
}

/// Hash of the addresses by slot: ids differ from node to node, addresses do not.
fn checksum(slots: &[u16], addresses: &[Option<SocketAddr>]) -> u64 {
    let only = [0];
    let slots = if slots.is_empty() && addresses.len() == 1 {
        &only[..]
    } else {
        slots
    };
    slots.iter().fold(0, |state, &slot| {
        let Some(Some(address)) = addresses.get(usize::from(slot)) else {
            return mix(state, u64::MAX);
        };
        let mapped = u128::from_be_bytes(super::mapped(address.ip()));
        let [high, low] = [mapped >> 64, mapped & u128::from(u64::MAX)]
            .map(|half| u64::try_from(half).unwrap_or(u64::MAX));
        mix(mix(mix(state, high), low), u64::from(address.port()))
    })
}
