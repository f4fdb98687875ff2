//! What `SOURCE_RANGES` holds, by service: a network comes before the frontend that asks for it, and
//! goes when no frontend can ask any more.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::table::source_range::SourceRangeKey;

use super::expand::DesiredPort;
use crate::dataplane::Write;

/// Networks of one service port.
pub(super) type Networks = BTreeSet<SourceRangeKey>;

/// Everything that is in the table.
#[derive(Clone, Debug, Default)]
pub(super) struct PublishedRanges {
    /// By index into `SERVICES`; never empty ones.
    networks: BTreeMap<u32, Networks>,
    count: usize,
    /// Changes so far.
    version: u64,
}

impl PublishedRanges {
    /// Those that an earlier agent wrote.
    pub(super) fn restore(keys: BTreeSet<SourceRangeKey>) -> Self {
        let mut networks: BTreeMap<u32, Networks> = BTreeMap::new();
        let count = keys.len();
        for key in keys {
            networks.entry(key.service()).or_default().insert(key);
        }
        Self {
            networks,
            count,
            version: 0,
        }
    }

    /// How many there are.
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = &SourceRangeKey> {
        self.networks.values().flatten()
    }

    /// Another number whenever [`Self::all`] says something else.
    pub(super) const fn version(&self) -> u64 {
        self.version
    }

    /// How many of the networks `wanted` for the service at `index` are not there yet.
    pub(super) fn missing(&self, index: u32, wanted: &Networks) -> usize {
        let held = self.networks.get(&index);
        held.map_or(wanted.len(), |held| wanted.difference(held).count())
    }

    /// Adds what is missing.
    pub(super) fn add(&mut self, index: u32, wanted: &Networks) -> Vec<Write> {
        if wanted.is_empty() {
            return Vec::new();
        }
        let held = self.networks.entry(index).or_default();
        let new: Vec<_> = wanted.difference(held).copied().collect();
        held.extend(&new);
        self.count += new.len();
        self.version += u64::from(!new.is_empty());
        let write = |key| Write::AddSourceRange { key };
        new.into_iter().map(write).collect()
    }

    /// Removes everything of the service at `index` but what is in `wanted`.
    pub(super) fn keep(&mut self, index: u32, wanted: &Networks) -> Vec<Write> {
        let Some(held) = self.networks.get_mut(&index) else {
            return Vec::new();
        };
        let old: Vec<_> = held.difference(wanted).copied().collect();
        held.retain(|key| wanted.contains(key));
        if held.is_empty() {
            self.networks.remove(&index);
        }
        self.count -= old.len();
        self.version += u64::from(!old.is_empty());
        let write = |key| Write::RemoveSourceRange { key };
        old.into_iter().map(write).collect()
    }

    /// Removes everything of services that `is_planned` does not say.
    pub(super) fn give_up_unclaimed(&mut self, is_planned: impl Fn(u32) -> bool) -> Vec<Write> {
        let indices: Vec<_> = self.networks.keys().copied().collect();
        let unclaimed = indices.into_iter().filter(|index| !is_planned(*index));
        unclaimed
            .flat_map(|index| self.keep(index, &Networks::new()))
            .collect()
    }
}

/// The networks that the frontends of a port ask for, if its id has this `index`.
pub(super) fn wanted(port: &DesiredPort<'_>, index: u32) -> Networks {
    let asks = port.frontends.iter().any(|frontend| frontend.is_ranged);
    let ranges = port.source_ranges.iter().filter(|_| asks);
    ranges.flat_map(|ranges| ranges.keys(index)).collect()
}
