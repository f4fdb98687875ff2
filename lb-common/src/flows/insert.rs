//! Insertion: at most one of those who insert a key at the same time succeeds; the others adopt its
//! entry, or give up where it is not settled yet.
//!
//! 1. **Claim** a slot of either bucket by compare-and-swap and write the entry.
//! 2. **Publish** it as a *candidate*, which readers ignore, by a compare-and-swap that is a full
//!    barrier.
//! 3. **Contest**: look at every slot of both buckets for the same key. A published entry: withdraw
//!    and adopt it. A candidate in a lower position: withdraw. A candidate in a higher position:
//!    free its slot.
//! 4. **Promote** the own candidate to its first state by compare-and-swap, which fails if somebody
//!    freed it.
//!
//! **Why no key is published twice.** Let A and B insert one key and both promote, and let B's
//! publication (2) be the later one in the order of full barriers. B looks at A's slot (3) after
//! both publications, and finds one of these:
//! * A's candidate. If A's position is lower, B withdraws. If it is higher, B frees it, and A's
//!   promotion fails; or the compare-and-swap fails, then A has just promoted (B looks again and
//!   withdraws) or withdrawn.
//! * A's promoted entry: B withdraws.
//! * Anything else: A has withdrawn or was freed, or its entry was removed after its promotion.
//!
//! Only the owner of a candidate promotes it, so in no case are both published. That the lowest
//! position wins among candidates is only there so that one of them does. It would not do alone: a
//! slow inserter may claim a lower slot when the winner has long looked there and gone; hence the
//! rule for published entries and the phase that tells the two apart.
//!
//! **Why the one who publishes first may be missed.** A may look before B publishes and see nothing.
//! That is harmless, as only the later one's look is used above.
//!
//! Positions are ordered by bucket, then slot. A slot that somebody freed and others claimed again
//! has another sequence number, so a compare-and-swap for the old entry fails.

use super::{Bucket as _, Buckets, Control, INSERTION_TRIES, Timeouts};
use super::{Comparison, FlowTable, Found, Location, Probe, SLOTS, compare, free, layout};
use crate::conntrack::State;
use crate::family::Family;
use crate::flow::FlowEntry;
use crate::hash;
use crate::id::Seconds;

/// An entry that was inserted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Placed {
    /// Where it lies.
    pub location: Location,
    /// Its control word.
    pub control: Control,
    /// Whether a live flow that no reply had confirmed lost its place to it.
    pub replaced_unconfirmed: bool,
}

/// What came of an insertion.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub enum Insertion<F: Family> {
    /// The entry is in the table, the only one with its key.
    Inserted(Placed),
    /// The key has this entry already; whether it says the same is the caller's to compare.
    Exists(Found<F>),
    /// Both buckets are full of live confirmed flows.
    Full,
    /// Others insert the same key, or fill the same buckets, and it is not settled yet.
    Contended,
}

/// What came of an insertion, where whole entries would be too large for the caller's memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
#[repr(u8)]
pub enum Placement {
    /// As [`Insertion::Inserted`].
    Inserted = 0,
    /// The key has this very entry already.
    Same = 1,
    /// The key has an entry with another value.
    Other = 2,
    /// As [`Insertion::Full`].
    Full = 3,
    /// As [`Insertion::Contended`].
    Contended = 4,
}

/// A slot to claim.
#[derive(Clone, Copy)]
struct Vacancy {
    location: Location,
    control: Control,
    /// Higher is better.
    score: u32,
}

enum Survey {
    Vacant(Vacancy),
    Present,
    Full,
}

enum Contest {
    Won,
    Lost,
    Again,
}

/// Scores of slots; the lower 20 bits say how long the entry has been idle.
const UNCONFIRMED: u32 = 1 << 20;
const ENDED: u32 = 2 << 20;
const FREE: u32 = 3 << 20;

/// Bits of a rank that say which slot it is of.
const SLOT_BITS: u32 = 3;
const SLOT_MASK: u64 = (1 << SLOT_BITS) - 1;
const _: () = assert!(SLOTS <= 1 << SLOT_BITS);

impl<F: Family, B: Buckets<F>, T: Timeouts> FlowTable<F, B, T> {
    /// Inserts `entry` in `state`, unless its key has a live entry.
    ///
    /// Prefers a free slot in the emptier bucket, then the longest idle entry that has ended or
    /// outlived its timeout, then the longest idle unconfirmed one.
    pub fn insert(&self, entry: &FlowEntry<F>, state: State, now: Seconds) -> Insertion<F> {
        let mut placed = Placed::default();
        match self.place(entry, state, now, &mut placed) {
            Placement::Inserted => Insertion::Inserted(placed),
            Placement::Same | Placement::Other => self
                .lookup(&entry.key, now)
                .map_or(Insertion::Contended, Insertion::Exists),
            Placement::Full => Insertion::Full,
            Placement::Contended => Insertion::Contended,
        }
    }

    /// The same, with an answer that fits the kernel's stack: where the entry is, if it is in the
    /// table now, goes to `placed`.
    #[inline(always)]
    pub fn place(
        &self,
        entry: &FlowEntry<F>,
        state: State,
        now: Seconds,
        placed: &mut Placed,
    ) -> Placement {
        let probe = self.probe(&entry.key);
        for _ in 0..INSERTION_TRIES {
            match self.survey(&probe, now) {
                Survey::Full => return Placement::Full,
                Survey::Present => {
                    if let Some((location, control, _)) = self.locate(&probe, now) {
                        return self.compare_with(entry, location, control, placed);
                    }
                }
                Survey::Vacant(vacancy) => {
                    let Some(bucket) = self.buckets.bucket(vacancy.location.bucket) else {
                        return Placement::Contended;
                    };
                    let slot = vacancy.location.slot;
                    let claim = vacancy.control.claimed(probe.tag, now);
                    if !bucket.compare_exchange(slot, vacancy.control.0, claim.0) {
                        continue;
                    }
                    layout::write(&bucket, slot, entry, claim.sequence());
                    let candidate = claim.candidate();
                    // Fails only if the agent took this program for dead.
                    if !bucket.compare_exchange(slot, claim.0, candidate.0) {
                        return Placement::Contended;
                    }
                    let published = candidate.in_state(state);
                    if self.win(&probe, vacancy.location, now)
                        && bucket.compare_exchange(slot, candidate.0, published.0)
                    {
                        *placed = Placed {
                            location: vacancy.location,
                            control: published,
                            replaced_unconfirmed: vacancy.score < ENDED,
                        };
                        return Placement::Inserted;
                    }
                    // Lost, or freed by another: in both cases nobody else frees this candidate.
                    free(&bucket, slot, candidate);
                    return self.adopt(&probe, entry, now, placed);
                }
            }
        }
        Placement::Contended
    }

    /// Waits, within bounds, for the winner's entry.
    #[inline(always)]
    fn adopt(
        &self,
        probe: &Probe,
        entry: &FlowEntry<F>,
        now: Seconds,
        placed: &mut Placed,
    ) -> Placement {
        for _ in 0..INSERTION_TRIES {
            if let Some((location, control, _)) = self.locate(probe, now) {
                return self.compare_with(entry, location, control, placed);
            }
        }
        Placement::Contended
    }

    #[inline(always)]
    fn compare_with(
        &self,
        entry: &FlowEntry<F>,
        location: Location,
        control: Control,
        placed: &mut Placed,
    ) -> Placement {
        if !self.holds(location, control, entry) {
            return Placement::Other;
        }
        *placed = Placed {
            location,
            control,
            replaced_unconfirmed: false,
        };
        Placement::Same
    }

    #[inline(always)]
    fn survey(&self, probe: &Probe, now: Seconds) -> Survey {
        let mut best = Vacancy {
            location: Location { bucket: 0, slot: 0 },
            control: Control::default(),
            score: 0,
        };
        let mut index = probe.first;
        for _ in 0..2 {
            match self.survey_bucket(probe, index, now) {
                Survey::Present => return Survey::Present,
                Survey::Vacant(vacancy) if vacancy.score > best.score => best = vacancy,
                Survey::Vacant(_) | Survey::Full => {}
            }
            index = probe.second;
        }
        if best.score == 0 {
            Survey::Full
        } else {
            Survey::Vacant(best)
        }
    }

    #[inline(always)]
    fn survey_bucket(&self, probe: &Probe, index: u32, now: Seconds) -> Survey {
        let Some(bucket) = self.buckets.bucket(index) else {
            return Survey::Full;
        };
        // Score and slot in one word, so that the better of two is the larger one.
        let mut best = 0_u64;
        let mut best_control = Control::default();
        for slot in 0..SLOTS {
            let control = Control(bucket.control(slot));
            let score = if control.is_free() {
                // Each free slot makes the bucket emptier.
                hash::lower(best >> SLOT_BITS).max(FREE).wrapping_add(1)
            } else if let Some(state) = control.state() {
                let idle = control.age(now).0;
                if !self.is_live(control, state, now) || state.is_closing() {
                    ENDED | idle
                } else if control.tag() == probe.tag
                    && !matches!(
                        compare::<F>(&bucket, slot, probe, control),
                        Comparison::Different
                    )
                {
                    return Survey::Present;
                } else if state.is_confirmed() {
                    0
                } else {
                    UNCONFIRMED | idle
                }
            } else {
                0
            };
            let number = u64::try_from(slot).unwrap_or_default();
            let rank = bucket.obscure(u64::from(score) << SLOT_BITS | number, control.0);
            if rank > best {
                best = rank;
                best_control = control;
            }
            best = bucket.obscure(best, control.0);
        }
        let score = hash::lower(best >> SLOT_BITS);
        if score == 0 {
            return Survey::Full;
        }
        Survey::Vacant(Vacancy {
            location: Location {
                bucket: index,
                slot: usize::try_from(best & SLOT_MASK).unwrap_or_default(),
            },
            control: best_control,
            score,
        })
    }

    /// Step 3, repeated while it is disturbed. Whether the candidate may be promoted.
    #[inline(always)]
    fn win(&self, probe: &Probe, own: Location, now: Seconds) -> bool {
        for _ in 0..INSERTION_TRIES {
            match self.contest_buckets(probe, own, now) {
                Contest::Won => return true,
                Contest::Lost => return false,
                Contest::Again => {}
            }
        }
        false
    }

    #[inline(always)]
    fn contest_buckets(&self, probe: &Probe, own: Location, now: Seconds) -> Contest {
        let mut index = probe.first;
        for _ in 0..2 {
            match self.contest(probe, index, own, now) {
                Contest::Won => {}
                unsettled => return unsettled,
            }
            index = probe.second;
        }
        Contest::Won
    }

    #[inline(always)]
    fn contest(&self, probe: &Probe, index: u32, own: Location, now: Seconds) -> Contest {
        let Some(bucket) = self.buckets.bucket(index) else {
            return Contest::Lost;
        };
        for slot in 0..SLOTS {
            let location = Location {
                bucket: index,
                slot,
            };
            let control = Control(bucket.control(slot));
            if location == own
                || control.tag() != probe.tag
                || control.is_free()
                || control.is_claimed()
            {
                continue;
            }
            let after = match compare::<F>(&bucket, slot, probe, control) {
                Comparison::Equal(after) => after,
                Comparison::Different => continue,
                Comparison::Disturbed => return Contest::Again,
            };
            let must_go = match after.state() {
                Some(state) => !self.is_live(after, state, now),
                None => after.is_candidate() && location > own,
            };
            if must_go {
                if !free(&bucket, slot, after) {
                    return Contest::Again;
                }
            } else if !after.is_free() {
                return Contest::Lost;
            }
        }
        Contest::Won
    }
}
