//! `ARENA`: backend sets with their Maglev tables, copy-on-write. A region is never changed while
//! a word of `SERVICES` names it.
//!
//! ```text
//! word 0      count:16 | flags:16 | table size:32      (from the lowest bit up)
//! word 1      affinity timeout, seconds:32 | reserved:32
//! words 2, 3  reserved
//! then        ceil(count / 2) words, two backend ids each, ascending, the first in the lower half
//! then        ceil(table size / 4) words, four slots each, the first in the lowest 16 bits
//! ```
//!
//! The ids ascend so that a member is found by halves. A slot is a position in the list of ids. One backend needs no table: its size is then 0.

/// Words before the ids.
pub const HEADER_WORDS: u32 = 4;
/// Largest number of backends in a set: slots are 16 bits.
pub const MAX_BACKENDS: u32 = 65_535;
/// Largest number of Maglev slots.
pub const MAX_TABLE_SIZE: u32 = 131_071;

/// What becomes of a new flow when the set is empty.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum WhenEmpty {
    /// No usable endpoint anywhere: the client is refused.
    #[default]
    Refuse,
    /// Endpoints exist, but the traffic policy allows none of them here: dropped in silence, for a
    /// load balancer to try another node.
    Drop,
}

/// Bit of `flags`: [`WhenEmpty::Drop`].
const FLAG_DROP_WHEN_EMPTY: u16 = 1;
/// Bit of `flags`: slots are chosen by the client's address alone (session affinity).
const FLAG_AFFINITY: u16 = 2;

/// The first two words of a region.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct RegionHeader {
    /// Backends in the set, at most [`MAX_BACKENDS`].
    pub count: u16,
    /// Maglev slots: 0 where there are fewer than two backends, else a prime.
    pub table_size: u32,
    /// Session affinity timeout in seconds; 0 is no affinity.
    pub affinity_seconds: u32,
    /// What becomes of a new flow when `count` is 0.
    pub when_empty: WhenEmpty,
}

impl RegionHeader {
    /// Words 0 and 1.
    #[must_use]
    pub const fn encode(&self) -> [u64; 2] {
        let mut flags = match self.when_empty {
            WhenEmpty::Refuse => 0,
            WhenEmpty::Drop => FLAG_DROP_WHEN_EMPTY,
        };
        if self.affinity_seconds != 0 {
            flags |= FLAG_AFFINITY;
        }
        let [a, b, c, d] = self.table_size.to_be_bytes();
        let [e, f] = flags.to_be_bytes();
        let [g, h] = self.count.to_be_bytes();
        let [i, j, k, l] = self.affinity_seconds.to_be_bytes();
        [
            u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            u64::from_be_bytes([0, 0, 0, 0, i, j, k, l]),
        ]
    }

    /// The header that `words` hold.
    #[must_use]
    #[inline(always)]
    pub const fn decode(words: [u64; 2]) -> Self {
        let [first, second] = words;
        let [a, b, c, d, e, f, g, h] = first.to_be_bytes();
        let flags = u16::from_be_bytes([e, f]);
        Self {
            count: u16::from_be_bytes([g, h]),
            table_size: u32::from_be_bytes([a, b, c, d]),
            affinity_seconds: crate::hash::lower(second),
            when_empty: if flags & FLAG_DROP_WHEN_EMPTY == 0 {
                WhenEmpty::Refuse
            } else {
                WhenEmpty::Drop
            },
        }
    }

    /// Word, from the region's start, of the backend id at `position`, and whether it is the upper
    /// half.
    #[inline(always)]
    pub const fn id_word(position: u16) -> (u32, bool) {
        (
            HEADER_WORDS.wrapping_add(widen(position >> 1)),
            position & 1 == 1,
        )
    }

    /// Word, from the region's start, of the Maglev slot `slot`, and the bit it begins at.
    #[inline(always)]
    pub const fn slot_word(&self, slot: u32) -> (u32, u32) {
        (self.slots_start().wrapping_add(slot >> 2), (slot & 3) << 4)
    }

    /// Word of the region where the slots begin.
    #[inline(always)]
    const fn slots_start(&self) -> u32 {
        HEADER_WORDS.wrapping_add(widen(self.count).wrapping_add(1) >> 1)
    }

    /// Words the whole region takes.
    #[inline(always)]
    pub const fn words(&self) -> u32 {
        self.slots_start()
            .wrapping_add(self.table_size.wrapping_add(3) >> 2)
    }
}

#[inline(always)]
#[expect(
    clippy::as_conversions,
    reason = "u16 to u32 loses nothing, and From is not const"
)]
const fn widen(value: u16) -> u32 {
    value as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written() {
        for header in [
            RegionHeader::default(),
            RegionHeader {
                count: 65_535,
                table_size: 131_071,
                affinity_seconds: 86_400,
                when_empty: WhenEmpty::Drop,
            },
            RegionHeader {
                count: 3,
                table_size: 1021,
                affinity_seconds: 0,
                when_empty: WhenEmpty::Refuse,
            },
        ] {
            assert_eq!(RegionHeader::decode(header.encode()), header);
        }
    }

    #[test]
    fn ids_and_slots_do_not_overlap() {
        let header = RegionHeader {
            count: 3,
            table_size: 251,
            ..RegionHeader::default()
        };
        assert_eq!(RegionHeader::id_word(0), (4, false));
        assert_eq!(RegionHeader::id_word(2), (5, false));
        assert_eq!(header.slot_word(0), (6, 0));
        assert_eq!(header.slot_word(250), (6 + 62, 32));
        assert_eq!(header.words(), 6 + 63);
    }
}
