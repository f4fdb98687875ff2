//! What clients dial: who claims it, who gets it, and what `FRONTENDS` holds of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lb_common::family::MappedAddress;
use lb_common::table::frontend::{FrontendKey, FrontendKind, FrontendValue};

use super::expand::Rank;
use crate::dataplane::Write;
use crate::model::name::ObjectName;

/// A service port that wants a frontend. The smallest gets it.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Claim {
    pub(super) rank: Arc<Rank>,
    /// Index into `SERVICES`.
    pub(super) index: u32,
    pub(super) kind: FrontendKind,
}

/// How many service ports have an address, and how many of them have a ready endpoint.
#[derive(Clone, Copy, Debug, Default)]
struct Address {
    ports: u32,
    ready: u32,
}

/// The writes that frontends need: removals come first in a plan, publications late.
#[derive(Debug, Default)]
pub(super) struct FrontendWrites {
    pub(super) removals: Vec<Write>,
    pub(super) sets: Vec<Write>,
}

/// All frontends.
#[derive(Clone, Debug, Default)]
pub(super) struct Frontends {
    published: BTreeMap<FrontendKey, FrontendValue>,
    claims: BTreeMap<FrontendKey, Vec<Claim>>,
    addresses: BTreeMap<MappedAddress, Address>,
    /// Those with more than one claim.
    contested: BTreeSet<FrontendKey>,
    /// Services that claim or claimed a contested frontend whose claims changed.
    disturbed: BTreeSet<ObjectName>,
}

impl Frontends {
    /// Those that an earlier agent published.
    pub(super) fn restore(published: BTreeMap<FrontendKey, FrontendValue>) -> Self {
        Self {
            published,
            ..Self::default()
        }
    }

    pub(super) const fn published(&self) -> &BTreeMap<FrontendKey, FrontendValue> {
        &self.published
    }

    /// Whether nobody but `index` claims `key`.
    pub(super) fn is_only_claim(&self, key: &FrontendKey, index: u32) -> bool {
        self.claims
            .get(key)
            .is_some_and(|claims| claims.iter().all(|claim| claim.index == index))
    }

    pub(super) fn claim(&mut self, key: FrontendKey, claim: Claim) {
        let claims = self.claims.entry(key).or_default();
        let at = claims.partition_point(|other| *other < claim);
        claims.insert(at, claim);
        if claims.len() > 1 {
            let names = claims.iter().map(|claim| claim.rank.service.clone());
            self.disturbed.extend(names);
            self.contested.insert(key);
        }
    }

    pub(super) fn disclaim(&mut self, key: &FrontendKey, index: u32) {
        if let Some(claims) = self.claims.get_mut(key) {
            if claims.len() > 1 {
                let names = claims.iter().map(|claim| claim.rank.service.clone());
                self.disturbed.extend(names);
            }
            claims.retain(|claim| claim.index != index);
            if claims.len() < 2 {
                self.contested.remove(key);
            }
            if claims.is_empty() {
                self.claims.remove(key);
            }
        }
    }

    pub(super) fn add_address(&mut self, address: MappedAddress, has_ready: bool) {
        let entry = self.addresses.entry(address).or_default();
        entry.ports += 1;
        entry.ready += u32::from(has_ready);
    }

    pub(super) fn remove_address(&mut self, address: MappedAddress, has_ready: bool) {
        if let Some(entry) = self.addresses.get_mut(&address) {
            entry.ports -= 1;
            entry.ready -= u32::from(has_ready);
            if entry.ports == 0 {
                self.addresses.remove(&address);
            }
        }
    }

    /// Brings the published value of each of `keys` up to what is claimed. Ports are published
    /// before their address is, which refuses every other port; and go before it.
    pub(super) fn settle(&mut self, keys: &BTreeSet<FrontendKey>) -> FrontendWrites {
        let mut writes = FrontendWrites::default();
        let (ports, addresses): (Vec<_>, Vec<_>) =
            keys.iter().partition(|key| key.protocol().is_some());
        for key in ports.into_iter().chain(addresses) {
            match self.desired(key) {
                Some(value) if self.published.get(key) != Some(&value) => {
                    self.published.insert(*key, value);
                    writes.sets.push(Write::SetFrontend { key: *key, value });
                }
                None if self.published.remove(key).is_some() => {
                    writes.removals.push(Write::RemoveFrontend { key: *key });
                }
                _ => {}
            }
        }
        writes
    }

    /// Removes what an earlier agent published and nobody claims.
    pub(super) fn give_up_unclaimed(&mut self) -> Vec<Write> {
        let keys = self.published.keys().copied().collect();
        self.settle(&keys).removals
    }

    /// Every frontend that more than one service port claims, with the one that gets it first.
    pub(super) fn contested(&self) -> impl Iterator<Item = (&FrontendKey, &[Claim])> {
        self.contested
            .iter()
            .filter_map(|key| Some((key, self.claims.get(key)?.as_slice())))
    }

    /// Services for which it may be another who gets a contested frontend than at the last call.
    pub(super) fn take_disturbed(&mut self) -> BTreeSet<ObjectName> {
        std::mem::take(&mut self.disturbed)
    }

    /// Whether another service port gets `key`.
    pub(super) fn is_shadowed(&self, key: &FrontendKey, index: u32) -> bool {
        let first = self.claims.get(key).and_then(|claims| claims.first());
        first.is_some_and(|claim| claim.index != index)
    }

    fn desired(&self, key: &FrontendKey) -> Option<FrontendValue> {
        if key.protocol().is_none() {
            let address = self.addresses.get(&key.address())?;
            let kind = FrontendKind::ServiceAddress;
            return Some(FrontendValue::new(key, kind, 0, address.ready > 0));
        }
        let claim = self.claims.get(key)?.first()?;
        Some(FrontendValue::new(key, claim.kind, claim.index, false))
    }
}
