//! What clients dial: who claims it, who gets it, and what `FRONTENDS` holds of it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use lb_common::family::MappedAddress;
use lb_common::table::frontend::{FrontendKey, FrontendKind, FrontendValue};

use super::addresses::DesiredFrontend;
use super::expand::Rank;
use super::planner::PlannedPort;
use crate::dataplane::Write;
use crate::model::name::ObjectName;

/// A service port that wants a frontend. The smallest gets it: cluster addresses come before all
/// others, then the oldest Service.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Claim {
    is_external: bool,
    rank: Arc<Rank>,
    /// Index into `SERVICES`.
    index: u32,
    kind: FrontendKind,
    is_ranged: bool,
}

impl Claim {
    fn new(rank: &Arc<Rank>, index: u32, frontend: &DesiredFrontend) -> Self {
        Self {
            is_external: frontend.kind != FrontendKind::ClusterIp,
            rank: Arc::clone(rank),
            index,
            kind: frontend.kind,
            is_ranged: frontend.is_ranged,
        }
    }
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

/// A claim that another Service's comes before.
#[derive(Debug)]
pub(super) struct Shadowed<'a> {
    pub(super) key: &'a FrontendKey,
    pub(super) service: &'a ObjectName,
    pub(super) by: &'a ObjectName,
    /// Whether the address is the other's cluster address, and the claim that of another kind.
    pub(super) is_cluster_address: bool,
}

/// All frontends.
#[derive(Clone, Debug, Default)]
pub(super) struct Frontends {
    published: BTreeMap<FrontendKey, FrontendValue>,
    claims: BTreeMap<FrontendKey, Vec<Claim>>,
    addresses: BTreeMap<MappedAddress, Address>,
    /// What is claimed but found no room.
    waiting: BTreeSet<FrontendKey>,
    /// Those that not everybody gets who claims them.
    contested: BTreeSet<FrontendKey>,
    /// Services that claim a contested frontend whose claims changed.
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

    /// What is published after `key`, or all, by key.
    pub(super) fn published_after(
        &self,
        key: Option<&FrontendKey>,
    ) -> impl Iterator<Item = (&FrontendKey, &FrontendValue)> {
        let from = key.map_or(Bound::Unbounded, Bound::Excluded);
        self.published.range((from, Bound::Unbounded))
    }

    /// The Service whose claim to `key` comes first.
    pub(super) fn owner(&self, key: &FrontendKey) -> Option<&ObjectName> {
        Some(&self.claims.get(key)?.first()?.rank.service)
    }

    /// Replaces what the ports `old` of a Service claim by what `new` do; gives the keys that the
    /// change concerns. Nothing is published yet.
    pub(super) fn exchange(
        &mut self,
        old: &[PlannedPort],
        rank: &Arc<Rank>,
        new: &[PlannedPort],
    ) -> BTreeSet<FrontendKey> {
        let mut touched = BTreeSet::new();
        let mut addresses = BTreeSet::new();
        for port in old {
            for frontend in &port.frontends {
                self.disclaim(&frontend.key, port.id.index());
                touched.insert(frontend.key);
            }
            self.remove_address(port.address, port.has_ready);
            addresses.insert(port.address);
        }
        for port in new {
            for frontend in &port.frontends {
                let claim = Claim::new(rank, port.id.index(), frontend);
                self.claim(frontend.key, claim);
                touched.insert(frontend.key);
            }
            self.add_address(port.address, port.has_ready);
            addresses.insert(port.address);
        }
        // Whether an address is a cluster address decides about external claims to it.
        for address in addresses {
            touched.insert(FrontendKey::service_address(address));
            touched.extend(self.claimed_at(address));
        }
        for key in &touched {
            self.look_for_contest(key);
        }
        touched
    }

    /// Notes whether everybody gets `key` who claims it, and who may be told otherwise than before.
    fn look_for_contest(&mut self, key: &FrontendKey) {
        let claims = self.claims.get(key).map_or(&[][..], Vec::as_slice);
        let is_contested = claims.len() > 1 || self.owner_of_address(key, claims).is_some();
        if is_contested || self.contested.contains(key) {
            let names = claims.iter().map(|claim| claim.rank.service.clone());
            self.disturbed.extend(names);
        }
        if is_contested {
            self.contested.insert(*key);
        } else {
            self.contested.remove(key);
        }
    }

    /// Whether there is room for what settling `keys` publishes, or it publishes no more than it
    /// takes away.
    pub(super) fn fit(&self, keys: &BTreeSet<FrontendKey>, capacity: u32) -> bool {
        let held = keys.iter().filter(|key| self.published.contains_key(key));
        let held = held.count();
        let wanted = keys
            .iter()
            .filter(|key| self.desired(key).is_some())
            .count();
        wanted <= held || self.published.len() - held + wanted <= capacity as usize
    }

    fn claim(&mut self, key: FrontendKey, claim: Claim) {
        let claims = self.claims.entry(key).or_default();
        let at = claims.partition_point(|other| *other < claim);
        claims.insert(at, claim);
    }

    fn disclaim(&mut self, key: &FrontendKey, index: u32) {
        if let Some(claims) = self.claims.get_mut(key) {
            claims.retain(|claim| claim.index != index);
            if claims.is_empty() {
                self.claims.remove(key);
            }
        }
    }

    fn add_address(&mut self, address: MappedAddress, has_ready: bool) {
        let entry = self.addresses.entry(address).or_default();
        entry.ports += 1;
        entry.ready += u32::from(has_ready);
    }

    fn remove_address(&mut self, address: MappedAddress, has_ready: bool) {
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
    ///
    /// A removal may free an address for other Services' claims, which were not asked whether there
    /// is room for them: what does not fit waits.
    pub(super) fn settle(&mut self, keys: &BTreeSet<FrontendKey>, capacity: u32) -> FrontendWrites {
        let mut writes = FrontendWrites::default();
        let waiting = std::mem::take(&mut self.waiting);
        let keys: BTreeSet<_> = keys.iter().chain(&waiting).copied().collect();
        let (ports, addresses): (Vec<_>, Vec<_>) =
            keys.into_iter().partition(|key| key.protocol().is_some());
        let mut wanted = Vec::new();
        for key in ports.into_iter().chain(addresses) {
            match self.desired(&key) {
                Some(value) => wanted.push((key, value)),
                None if self.published.remove(&key).is_some() => {
                    writes.removals.push(Write::RemoveFrontend { key });
                }
                None => {}
            }
        }
        for (key, value) in wanted {
            let held = self.published.get(&key);
            if held == Some(&value) {
                continue;
            }
            if held.is_none() && self.published.len() >= capacity as usize {
                self.waiting.insert(key);
                continue;
            }
            self.published.insert(key, value);
            writes.sets.push(Write::SetFrontend { key, value });
        }
        writes
    }

    /// The Services that claim a frontend which waits for room.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &ObjectName> {
        let claims = self.waiting.iter().filter_map(|key| self.claims.get(key));
        claims.filter_map(|claims| Some(&claims.first()?.rank.service))
    }

    /// Removes what an earlier agent published and nobody claims.
    pub(super) fn give_up_unclaimed(&mut self, capacity: u32) -> Vec<Write> {
        let keys = self.published.keys().copied().collect();
        let FrontendWrites { mut removals, sets } = self.settle(&keys, capacity);
        removals.extend(sets);
        removals
    }

    /// Everything claimed at an address.
    fn claimed_at(&self, address: MappedAddress) -> Vec<FrontendKey> {
        let from = FrontendKey::service_address(address);
        let rest = self.claims.range(from..);
        let keys = rest.map(|(key, _)| *key);
        keys.take_while(|key| key.address() == address).collect()
    }

    /// Every claim that another Service's comes before.
    pub(super) fn shadowed(&self) -> impl Iterator<Item = Shadowed<'_>> {
        let claims = |key| Some((key, self.claims.get(key)?));
        let contested = self.contested.iter().filter_map(claims);
        contested.flat_map(|(key, claims)| {
            let owner = self.owner_of_address(key, claims);
            let skipped = usize::from(owner.is_none());
            let winner = owner.or_else(|| claims.first());
            let losers = claims.iter().skip(skipped);
            losers
                .zip(std::iter::repeat(winner))
                .filter_map(move |(claim, winner)| {
                    let winner = winner?;
                    Some(Shadowed {
                        key,
                        service: &claim.rank.service,
                        by: &winner.rank.service,
                        is_cluster_address: claim.is_external && !winner.is_external,
                    })
                })
        })
    }

    /// Services for which it may be another who gets a contested frontend than at the last call.
    pub(super) fn take_disturbed(&mut self) -> BTreeSet<ObjectName> {
        std::mem::take(&mut self.disturbed)
    }

    /// Whether another service port gets `key`.
    pub(super) fn is_shadowed(&self, key: &FrontendKey, index: u32) -> bool {
        let Some(claims) = self.claims.get(key) else {
            return false;
        };
        let first = claims.first();
        self.owner_of_address(key, claims).is_some()
            || first.is_some_and(|claim| claim.index != index)
    }

    /// The claim by which the address of `key` is a cluster address, where nobody claims `key` as
    /// such: then it is one of the ports that are refused.
    fn owner_of_address(&self, key: &FrontendKey, claims: &[Claim]) -> Option<&Claim> {
        if !claims.first()?.is_external || !self.addresses.contains_key(&key.address()) {
            return None;
        }
        let at_address = self
            .claims
            .range(FrontendKey::service_address(key.address())..);
        at_address
            .take_while(|(other, _)| other.address() == key.address())
            .filter_map(|(_, claims)| claims.first())
            .find(|claim| !claim.is_external)
    }

    fn desired(&self, key: &FrontendKey) -> Option<FrontendValue> {
        if key.protocol().is_none() {
            let address = self.addresses.get(&key.address())?;
            let kind = FrontendKind::ServiceAddress;
            return Some(FrontendValue::new(key, kind, 0, address.ready > 0));
        }
        let claims = self.claims.get(key)?;
        if self.owner_of_address(key, claims).is_some() {
            return None;
        }
        let claim = claims.first()?;
        let value = FrontendValue::new(key, claim.kind, claim.index, false);
        Some(if claim.is_ranged {
            value.with_source_ranges()
        } else {
            value
        })
    }
}
