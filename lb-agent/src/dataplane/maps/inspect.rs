//! The real tables read place by place.

use std::os::fd::AsFd as _;
use std::sync::atomic::Ordering;

use aya::maps::MapError;
use lb_common::table::backend::BackendRecord;
use lb_common::table::frontend::{FrontendKey, FrontendValue};
use lb_common::table::service::{Audience, SERVICE_WORDS, ServiceWord};
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::{BACKEND_WORDS, BpfDataplane, is_missing, refused};
use crate::dataplane::bpf::Wire;
use crate::dataplane::inspect::Inspect;
use crate::dataplane::layout::Table;
use crate::dataplane::{DataplaneError, syscall};

/// Bytes of a key of `FRONTENDS`.
const KEY_BYTES: usize = size_of::<FrontendKey>();

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
        let mut last: Option<[u8; KEY_BYTES]> = None;
        if let Some(key) = key {
            let mut bytes = [0; KEY_BYTES];
            bytes.copy_from_slice(key.as_bytes());
            last = Some(bytes);
        }
        while keys.len() < most {
            let next = syscall::next_key(self.frontend_keys.fd().as_fd(), last.as_ref());
            let next = next.map_err(|source| DataplaneError::Kernel {
                operation: "looking through",
                table: Table::Frontends.name(),
                source,
            })?;
            let Some(bytes) = next else {
                break;
            };
            last = Some(bytes);
            keys.extend(FrontendKey::read_from_bytes(&bytes).ok());
        }
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
}

impl BpfDataplane {
    fn unread(&self, error: MapError) -> DataplaneError {
        let capacity = self.capacity.frontends;
        refused("reading a frontend", Table::Frontends, capacity, error)
    }
}
