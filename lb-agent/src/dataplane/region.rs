//! Regions of `ARENA` read back: their backends and slots.

use lb_common::id::BackendId;
use lb_common::table::backend::BackendRecord;
use lb_common::table::region::RegionHeader;
use lb_common::table::service::{Audience, ServiceWord};

use super::Actual;

/// A region of `ARENA` taken apart.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Region {
    /// Its header.
    pub header: RegionHeader,
    /// Its backends, in the order of slots' numbers.
    pub backends: Vec<BackendId>,
    /// Its Maglev slots: positions in `backends`.
    pub slots: Vec<u16>,
}

impl Region {
    /// Takes `words` apart; `None` if they end before the header says.
    #[must_use]
    pub fn decode(words: &[u64]) -> Option<Self> {
        let header = RegionHeader::decode([*words.first()?, *words.get(1)?]);
        let word = |index: u32| words.get(usize::try_from(index).ok()?).copied();
        let mut backends = Vec::with_capacity(header.count.into());
        for position in 0..header.count {
            let (index, is_upper) = RegionHeader::id_word(position);
            let both = word(index)?;
            backends.push(BackendId::from_raw(if is_upper {
                lb_common::hash::upper(both)
            } else {
                lb_common::hash::lower(both)
            }));
        }
        let mut slots = Vec::new();
        for slot in 0..header.table_size {
            let (index, shift) = header.slot_word(slot);
            slots.push(u16::try_from(word(index)? >> shift & 0xffff).ok()?);
        }
        Some(Self {
            header,
            backends,
            slots,
        })
    }

    /// Slots by position of the backend. A set of one needs no table: all of it is its own.
    #[must_use]
    pub fn slots_by_backend(&self) -> Vec<u32> {
        let mut counts = vec![0; self.backends.len()];
        for &slot in &self.slots {
            if let Some(count) = counts.get_mut(usize::from(slot)) {
                *count += 1;
            }
        }
        if let ([only], true) = (counts.as_mut_slice(), self.slots.is_empty()) {
            *only = 1;
        }
        counts
    }
}

/// The region that the service at `index` sends `audience` to; `None` where there is no such
/// service.
#[must_use]
pub fn region_of(tables: &Actual, index: u32, audience: Audience) -> Option<Region> {
    let words = tables.services.get(&index)?;
    let word: &ServiceWord = words.get(audience.position())?;
    Region::decode(tables.regions.get(&word.offset())?)
}

/// The record of `id`, if the index is still its own.
#[must_use]
pub fn backend_of(tables: &Actual, id: BackendId) -> Option<&BackendRecord> {
    tables
        .backends
        .get(&id.index())
        .filter(|record| record.is(id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::table::region::{HEADER_WORDS, WhenEmpty};

    #[test]
    fn a_region_is_read_as_the_kernel_reads_it() {
        let header = RegionHeader {
            count: 3,
            table_size: 7,
            affinity_seconds: 0,
            when_empty: WhenEmpty::Refuse,
        };
        let mut words = vec![0_u64; usize::try_from(header.words()).unwrap()];
        words[..2].copy_from_slice(&header.encode());
        words[usize::try_from(HEADER_WORDS).unwrap()] = 0x16_0000_000b;
        words[5] = 33;
        words[6] = 0x0002_0001_0000_0002;
        words[7] = 0x0000_0000_0001;
        let region = Region::decode(&words).unwrap();
        assert_eq!(
            region.backends,
            [11, 22, 33].map(BackendId::from_raw).to_vec()
        );
        assert_eq!(region.slots, [2, 0, 1, 2, 1, 0, 0]);
        assert_eq!(region.slots_by_backend(), [3, 2, 2]);
        assert_eq!(Region::decode(&words[..7]), None);
        assert_eq!(Region::decode(&[]), None);
    }

    #[test]
    fn the_only_backend_has_all_of_the_share() {
        let region = Region {
            header: RegionHeader::default(),
            backends: vec![BackendId::from_raw(4)],
            slots: Vec::new(),
        };
        assert_eq!(region.slots_by_backend(), [1]);
    }
}
