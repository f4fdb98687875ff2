//! The tables in memory read place by place.

use std::collections::BTreeMap;
use std::ops::Bound;

use lb_common::family::MappedAddress;
use lb_common::table::backend::BackendRecord;
use lb_common::table::frontend::{FrontendKey, FrontendValue};
use lb_common::table::node_address::NodeAddress;
use lb_common::table::service::{SERVICE_WORDS, ServiceWord};
use lb_common::table::source_range::SourceRangeKey;

use super::{Flaky, Memory};
use crate::dataplane::DataplaneError;
use crate::dataplane::inspect::Inspect;

impl Inspect for Memory {
    fn frontend(&self, key: &FrontendKey) -> Result<Option<FrontendValue>, DataplaneError> {
        Ok(self.frontends.get(key).copied())
    }

    fn frontends_after(
        &self,
        key: Option<&FrontendKey>,
        most: usize,
    ) -> Result<Vec<FrontendKey>, DataplaneError> {
        let from = key.map_or(Bound::Unbounded, Bound::Excluded);
        let keys = self.frontends.range((from, Bound::Unbounded));
        Ok(keys.map(|(key, _)| *key).take(most).collect())
    }

    fn service(&self, index: u32) -> [ServiceWord; SERVICE_WORDS] {
        self.services.get(&index).copied().unwrap_or_default()
    }

    fn backend(&self, index: u32) -> BackendRecord {
        self.backends.get(&index).copied().unwrap_or_default()
    }

    fn region(&self, offset: u32, words: u32) -> Vec<u64> {
        let end = offset.saturating_add(words);
        let word = |word: u32| self.arena.get(word as usize).copied();
        (offset..end).map(|at| word(at).unwrap_or(0)).collect()
    }

    fn service_filter(&self, word: u32) -> u64 {
        self.service_filter.get(word as usize).copied().unwrap_or(0)
    }

    fn backend_filter(&self, word: u32) -> u64 {
        self.backend_filter.get(word as usize).copied().unwrap_or(0)
    }

    fn node_port_filter(&self, word: u32) -> u64 {
        self.node_ports.get(word as usize).copied().unwrap_or(0)
    }

    fn source_ranges_after(
        &self,
        key: Option<&SourceRangeKey>,
        most: usize,
    ) -> Result<Vec<SourceRangeKey>, DataplaneError> {
        let from = key.map_or(Bound::Unbounded, Bound::Excluded);
        let keys = self.source_ranges.range((from, Bound::Unbounded));
        Ok(keys.copied().take(most).collect())
    }

    fn node_addresses(&self) -> Result<BTreeMap<MappedAddress, NodeAddress>, DataplaneError> {
        Ok(self.node_addresses.clone())
    }
}

/// Reading does not fail: what an audit cannot read it reads the next time.
impl<D: Inspect> Inspect for Flaky<D> {
    fn frontend(&self, key: &FrontendKey) -> Result<Option<FrontendValue>, DataplaneError> {
        self.inner.frontend(key)
    }

    fn frontends_after(
        &self,
        key: Option<&FrontendKey>,
        most: usize,
    ) -> Result<Vec<FrontendKey>, DataplaneError> {
        self.inner.frontends_after(key, most)
    }

    fn service(&self, index: u32) -> [ServiceWord; SERVICE_WORDS] {
        self.inner.service(index)
    }

    fn backend(&self, index: u32) -> BackendRecord {
        self.inner.backend(index)
    }

    fn region(&self, offset: u32, words: u32) -> Vec<u64> {
        self.inner.region(offset, words)
    }

    fn service_filter(&self, word: u32) -> u64 {
        self.inner.service_filter(word)
    }

    fn backend_filter(&self, word: u32) -> u64 {
        self.inner.backend_filter(word)
    }

    fn node_port_filter(&self, word: u32) -> u64 {
        self.inner.node_port_filter(word)
    }

    fn source_ranges_after(
        &self,
        key: Option<&SourceRangeKey>,
        most: usize,
    ) -> Result<Vec<SourceRangeKey>, DataplaneError> {
        self.inner.source_ranges_after(key, most)
    }

    fn node_addresses(&self) -> Result<BTreeMap<MappedAddress, NodeAddress>, DataplaneError> {
        self.inner.node_addresses()
    }
}
