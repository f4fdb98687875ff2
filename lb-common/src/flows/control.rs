//! The control word of a slot: all that changes in an entry, in one atomic word.
//!
//! ```text
//!  63            32 31      24 23   20 19                0
//! |      tag       | sequence | phase | seconds            |
//! ```
//!
//! The tag is 32 bits of the key's hash. The sequence is raised by every claim, so that a word that
//! was read stays different from that of any later entry (until 256 claims of one slot fall between
//! two instructions). The phase is a [`State`] or one of the three below.

use crate::conntrack::State;
use crate::hash;
use crate::id::Seconds;

const SECONDS_BITS: u32 = 20;
const SECONDS_MASK: u32 = (1 << SECONDS_BITS) - 1;
const PHASE_MASK: u64 = 0xf << SECONDS_BITS;
const SEQUENCE_SHIFT: u32 = 24;
const FREE: u32 = 0;
const CLAIMED: u32 = 1;
const CANDIDATE: u32 = 2;

/// Stamps this far ahead of `now` are of the present: another processor read the clock later.
const AHEAD: u32 = 64;
/// The longest timeout that a stamp can measure: 12 days.
pub const MAX_TIMEOUT: Seconds = Seconds(SECONDS_MASK - AHEAD);

/// A control word. Native byte order, written by kernel and agent.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Control(pub u64);

impl Control {
    #[inline(always)]
    const fn with_phase(self, phase: u32) -> Self {
        Self(self.0 & !PHASE_MASK | widen(phase) << SECONDS_BITS)
    }

    #[inline(always)]
    const fn phase(self) -> u32 {
        hash::lower(self.0) >> SECONDS_BITS & 0xf
    }

    /// A claim of the slot that had this word, for an entry with `tag`.
    #[must_use]
    #[inline(always)]
    pub const fn claimed(self, tag: u32, now: Seconds) -> Self {
        Self(
            widen(tag) << 32
                | widen(self.sequence().wrapping_add(1) & 0xff) << SEQUENCE_SHIFT
                | widen(now.0 & SECONDS_MASK),
        )
        .with_phase(CLAIMED)
    }

    /// The same entry, written and waiting to be the only one with its key.
    #[must_use]
    #[inline(always)]
    pub const fn candidate(self) -> Self {
        self.with_phase(CANDIDATE)
    }

    /// The same entry in `state`.
    #[must_use]
    #[inline(always)]
    pub const fn in_state(self, state: State) -> Self {
        self.with_phase(state.number())
    }

    /// The same entry, stamped.
    #[must_use]
    #[inline(always)]
    pub const fn stamped(self, now: Seconds) -> Self {
        Self(self.0 & !widen(SECONDS_MASK) | widen(now.0 & SECONDS_MASK))
    }

    /// The slot without an entry; the sequence stays.
    #[must_use]
    #[inline(always)]
    pub const fn freed(self) -> Self {
        Self(self.0 & 0xff << SEQUENCE_SHIFT)
    }

    /// 32 bits of the key's hash.
    #[inline(always)]
    pub const fn tag(self) -> u32 {
        hash::upper(self.0)
    }

    /// Claims of the slot so far, modulo 256.
    #[inline(always)]
    pub const fn sequence(self) -> u32 {
        hash::lower(self.0) >> SEQUENCE_SHIFT
    }

    /// When the entry was last used, modulo 2^20.
    #[inline(always)]
    pub const fn seconds(self) -> Seconds {
        Seconds(hash::lower(self.0) & SECONDS_MASK)
    }

    /// The state of a published entry; `None` where readers must see none.
    #[inline(always)]
    pub const fn state(self) -> Option<State> {
        State::from_number(self.phase())
    }

    /// Whether the slot holds nothing.
    #[inline(always)]
    pub const fn is_free(self) -> bool {
        self.phase() == FREE
    }

    /// Whether the slot's entry is being written.
    #[inline(always)]
    pub const fn is_claimed(self) -> bool {
        self.phase() == CLAIMED
    }

    /// Whether the entry is written but not yet known to be the only one with its key.
    #[inline(always)]
    pub const fn is_candidate(self) -> bool {
        self.phase() == CANDIDATE
    }

    /// Whether both words are of one entry, which nobody replaced in between.
    #[inline(always)]
    pub const fn is_same_entry(self, other: Self) -> bool {
        (self.0 ^ other.0) >> SEQUENCE_SHIFT == 0
    }

    /// Seconds since the entry was used, in a clock of 20 bits.
    #[inline(always)]
    pub const fn age(self, now: Seconds) -> Seconds {
        let age = now.0.wrapping_sub(self.seconds().0) & SECONDS_MASK;
        if age > MAX_TIMEOUT.0 {
            Seconds(0)
        } else {
            Seconds(age)
        }
    }
}

#[inline(always)]
#[expect(
    clippy::as_conversions,
    reason = "u32 to u64 loses nothing, and From is not const"
)]
const fn widen(word: u32) -> u64 {
    word as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_a_control_word_do_not_touch_each_other() {
        let control = Control(u64::MAX)
            .claimed(0xdead_beef, Seconds(0xfff_ffff))
            .in_state(State::UdpStream);
        assert_eq!(control.tag(), 0xdead_beef);
        assert_eq!(control.sequence(), 0);
        assert_eq!(control.state(), Some(State::UdpStream));
        assert_eq!(control.seconds(), Seconds(SECONDS_MASK));
        assert_eq!(control.stamped(Seconds(1)).seconds(), Seconds(1));
        assert_eq!(control.stamped(Seconds(1)).tag(), 0xdead_beef);
        assert!(control.candidate().is_candidate() && control.candidate().state().is_none());
        assert_eq!(control.claimed(1, Seconds(0)).sequence(), 1);
        assert_eq!(control.claimed(1, Seconds(0)).freed(), Control(1 << 24));
    }

    #[test]
    fn ages_survive_the_wrap_of_the_clock_and_stamps_of_the_near_future() {
        let at = |seconds| Control(0).stamped(Seconds(seconds));
        assert_eq!(at(10).age(Seconds(25)), Seconds(15));
        assert_eq!(
            at(SECONDS_MASK - 4).age(Seconds(SECONDS_MASK + 6)),
            Seconds(10)
        );
        assert_eq!(at(11).age(Seconds(10)), Seconds(0));
        assert_eq!(at(0).age(Seconds(SECONDS_MASK)), Seconds(0));
        assert_eq!(at(0).age(MAX_TIMEOUT), MAX_TIMEOUT);
    }
}
