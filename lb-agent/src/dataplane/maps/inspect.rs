//! The real tables read place by place.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::sync::atomic::Ordering;

use aya::maps::{MapData, MapError};
use lb_common::family::MappedAddress;
use lb_common::table::backend::BackendRecord;
use lb_common::table::frontend::{FrontendKey, FrontendValue};
use lb_common::table::node_address::NodeAddress;
use lb_common::table::service::{Audience, SERVICE_WORDS, ServiceWord};
use lb_common::table::source_range::SourceRangeKey;
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::{BACKEND_WORDS, BpfDataplane, is_missing, refused};
use crate::dataplane::bpf::Wire;
use crate::dataplane::inspect::Inspect;
use crate::dataplane::layout::Table;
use crate::dataplane::{DataplaneError, syscall};

/// Bytes of a key of `FRONTENDS`.
const KEY_BYTES: usize = size_of::<FrontendKey>();
/// Bytes of a key of `SOURCE_RANGES`.
const RANGE_BYTES: usize = size_of::<SourceRangeKey>();

impl Inspect for BpfDataplane {
    fn frontend(&self, key: &FrontendKey) -> Result<Option<FrontendValue>, DataplaneError> {
        match self.frontends.get(&Wire(*key), 0) {
            Ok(value) => Ok(Some(FrontendValue(value))),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(self.unread(error)),
        }
    }

    fn frontends_after(
        &self,
        key: Option<&FrontendKey>,
        most: usize,
    ) -> Result<Vec<FrontendKey>, DataplaneError> {
        let mut keys = Vec::new();
        keys_after::<KEY_BYTES>(
            &self.frontend_keys,
            Table::Frontends,
            key.map(FrontendKey::as_bytes),
            most,
            |bytes| keys.extend(FrontendKey::read_from_bytes(bytes).ok()),
        )?;
        Ok(keys)
    }

    fn service(&self, index: u32) -> [ServiceWord; SERVICE_WORDS] {
        let element = self.services.element(index);
        Audience::ALL.map(|audience| {
            let word = element.and_then(|words| words.get(audience.position()));
            ServiceWord(word.map_or(0, |word| word.load(Ordering::Relaxed)))
        })
    }

    fn backend(&self, index: u32) -> BackendRecord {
        let mut bytes = [0; BACKEND_WORDS * size_of::<u64>()];
        let words = self.backends.element(index).unwrap_or_default();
        for (bytes, word) in bytes.chunks_exact_mut(size_of::<u64>()).zip(words) {
            bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        BackendRecord::read_from_bytes(&bytes).unwrap_or_default()
    }

    fn region(&self, offset: u32, words: u32) -> Vec<u64> {
        let end = offset.saturating_add(words);
        (offset..end).map(|word| self.arena.load(word)).collect()
    }

    fn service_filter(&self, word: u32) -> u64 {
        self.service_filter.load(word)
    }

    fn backend_filter(&self, word: u32) -> u64 {
        self.backend_filter.load(word)
    }

    fn node_port_filter(&self, word: u32) -> u64 {
        self.node_ports.load(word)
    }

    fn source_ranges_after(
        &self,
        key: Option<&SourceRangeKey>,
        most: usize,
    ) -> Result<Vec<SourceRangeKey>, DataplaneError> {
        let mut keys = Vec::new();
        keys_after::<RANGE_BYTES>(
            &self.source_range_keys,
            Table::SourceRanges,
            key.map(SourceRangeKey::as_bytes),
            most,
            |bytes| keys.extend(SourceRangeKey::read_from_bytes(bytes).ok()),
        )?;
        Ok(keys)
    }

    fn node_addresses(&self) -> Result<BTreeMap<MappedAddress, NodeAddress>, DataplaneError> {
        Self::node_addresses(self)
    }
}

/// Gives `take` at most `most` keys of `N` bytes that come after `key`.
fn keys_after<const N: usize>(
    map: &MapData,
    table: Table,
    key: Option<&[u8]>,
    most: usize,
    mut take: impl FnMut(&[u8; N]),
) -> Result<(), DataplaneError> {
    let mut last: Option<[u8; N]> = key.and_then(|bytes| bytes.try_into().ok());
    for _ in 0..most {
        let next = syscall::next_key(map.fd().as_fd(), last.as_ref());
        let next = next.map_err(|source| DataplaneError::Kernel {
            operation: "looking through",
            table: table.name(),
            source,
        })?;
        let Some(bytes) = next else {
            break;
        };
        take(&bytes);
        last = Some(bytes);
    }
    Ok(())
}

impl BpfDataplane {
    fn unread(&self, error: MapError) -> DataplaneError {
        let capacity = self.capacity.frontends;
        refused("reading a frontend", Table::Frontends, capacity, error)
    }
}
