//! Insertion: of those who insert a key at the same time one succeeds, and the others adopt its
//! entry.
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

use super::{ADOPTION_TRIES, Bucket as _, Buckets, Control, TRIES, Timeouts};
use super::{Comparison, FlowTable, Found, Location, Probe, SLOTS, Spot, compare, free, layout};
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
    /// Its key, as the first step prepared it for the others.
    pub(super) probe: Probe,
}

impl Placed {
    /// It is an entry that was there before, at `spot`.
    #[inline(always)]
    pub(super) fn move_to(&mut self, spot: &Spot) {
        self.location = spot.location();
        self.control = spot.control;
        self.replaced_unconfirmed = false;
    }
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

/// What came of one step of an insertion.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
#[repr(u8)]
pub enum Step {
    /// It was done.
    Done = 0,
    /// The key has an entry, at the place that was given.
    Present = 1,
    /// Both buckets are full of live confirmed flows.
    Full = 2,
    /// Another processor changed what was looked at; nothing is left behind.
    Disturbed = 3,
}

impl Step {
    /// From its number; anything unknown is a disturbance.
    #[inline(always)]
    pub const fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Done,
            1 => Self::Present,
            2 => Self::Full,
            _ => Self::Disturbed,
        }
    }
}

/// The steps of an insertion, and their order. The kernel side has a function for each of them,
/// which its verifier checks once, with the stack to itself.
pub trait Insert<F: Family> {
    /// Step 1: claims a slot for the key of `entry` and writes it; where and by which control word
    /// goes to `placed`.
    fn claim(&self, entry: &FlowEntry<F>, now: Seconds, placed: &mut Placed) -> Step;

    /// Steps 2 to 4: makes what was written an entry in `state`, unless somebody else has its key.
    fn promote(&self, state: State, now: Seconds, placed: &mut Placed) -> Step;

    /// Whether what lies at `placed` has the value of `entry`.
    fn holds(&self, entry: &FlowEntry<F>, placed: &Placed) -> bool;

    /// One try of all the steps.
    #[inline(always)]
    fn attempt(
        &self,
        entry: &FlowEntry<F>,
        state: State,
        now: Seconds,
        placed: &mut Placed,
    ) -> Step {
        match self.claim(entry, now, placed) {
            Step::Done => self.promote(state, now, placed),
            other => other,
        }
    }

    /// Inserts `entry` in `state`, unless its key has a live entry. Where it is then, or the entry
    /// that the key has, goes to `placed`.
    #[inline(always)]
    fn place(
        &self,
        entry: &FlowEntry<F>,
        state: State,
        now: Seconds,
        placed: &mut Placed,
    ) -> Placement {
        // Written out: the kernel's verifier does not see how a loop of this shape ends.
        let mut attempt = self.attempt(entry, state, now, placed);
        if attempt == Step::Disturbed {
            attempt = self.attempt(entry, state, now, placed);
        }
        if attempt == Step::Disturbed {
            attempt = self.attempt(entry, state, now, placed);
        }
        match attempt {
            Step::Done => Placement::Inserted,
            Step::Present if self.holds(entry, placed) => Placement::Same,
            Step::Present => Placement::Other,
            Step::Full => Placement::Full,
            Step::Disturbed => Placement::Contended,
        }
    }
}

/// A slot to claim. No gap is in it: see [`Spot`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Vacancy {
    spot: Spot,
    /// Higher is better; 0 is no vacancy.
    score: u32,
    reserved: u32,
}

/// What a look at the rivals of a candidate says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Contest {
    /// Nobody stands in its way.
    Won = 0,
    /// Somebody else's entry has the key, or will have it.
    Lost = 1,
    /// A rival changed meanwhile.
    Again = 2,
}

impl Contest {
    /// From its number; anything unknown means that nothing is settled.
    #[inline(always)]
    pub const fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Won,
            1 => Self::Lost,
            _ => Self::Again,
        }
    }
}

/// Scores of slots; the lower 20 bits say how long the entry has been idle.
const UNCONFIRMED: u32 = 1 << 20;
const ENDED: u32 = 2 << 20;
const FREE: u32 = 3 << 20;
/// A first bucket with so many free slots is taken whatever the second one has: who looks for the
/// entry later then needs one bucket, one line of memory and one page fewer. Above that, the emptier of
/// two keeps a table usable until nearly all of its slots are.
const ROOMY: u32 = 6;
/// What that is worth: more than any second bucket.
const FIRST: u32 = 1 << 10;

/// Bits of a rank that say which slot it is of.
const SLOT_BITS: u32 = 3;
const SLOT_MASK: u64 = (1 << SLOT_BITS) - 1;
const _: () = assert!(SLOTS <= 1 << SLOT_BITS);

impl<F: Family, B: Buckets<F>, T: Timeouts> Insert<F> for FlowTable<F, B, T> {
    /// Prefers a free slot in the first bucket while that is nearly empty, then one in the emptier
    /// bucket, of either the one where readers look first, then the longest idle entry that has ended or
    /// outlived its timeout, then the longest idle unconfirmed one.
    #[inline(always)]
    fn claim(&self, entry: &FlowEntry<F>, now: Seconds, placed: &mut Placed) -> Step {
        self.buckets.probe(self, &entry.key, &mut placed.probe);
        let mut vacancy = Vacancy::default();
        if self.survey(&placed.probe, now, &mut vacancy) {
            return self.adopt(now, placed);
        }
        if vacancy.score == 0 {
            return Step::Full;
        }
        let location = vacancy.spot.location();
        let seen = vacancy.spot.control;
        let claim = seen.claimed(placed.probe.tag, now);
        let Some(bucket) = self.buckets.bucket(location.bucket) else {
            return Step::Full;
        };
        if !bucket.compare_exchange(location.slot, seen.0, claim.0) {
            return Step::Disturbed;
        }
        placed.location = location;
        placed.control = claim;
        placed.replaced_unconfirmed = vacancy.score < ENDED;
        layout::write(&bucket, location.slot, entry, claim.sequence());
        Step::Done
    }

    #[inline(always)]
    fn promote(&self, state: State, now: Seconds, placed: &mut Placed) -> Step {
        let Placed {
            location, control, ..
        } = *placed;
        let Some(bucket) = self.buckets.bucket(location.bucket) else {
            return Step::Disturbed;
        };
        let candidate = control.candidate();
        // Fails only if the agent took this program for dead.
        if !bucket.compare_exchange(location.slot, control.0, candidate.0) {
            return Step::Disturbed;
        }
        let own = Spot::new(location, candidate);
        let published = candidate.in_state(state);
        if self.win(&placed.probe, &own, now)
            && bucket.compare_exchange(location.slot, candidate.0, published.0)
        {
            placed.control = published;
            return Step::Done;
        }
        // Lost, or freed by another: in both cases nobody else frees this candidate.
        free(&bucket, location.slot, candidate);
        self.adopt(now, placed)
    }

    #[inline(always)]
    fn holds(&self, entry: &FlowEntry<F>, placed: &Placed) -> bool {
        self.has_value(placed.location, placed.control, entry)
    }
}

impl<F: Family, B: Buckets<F>, T: Timeouts> FlowTable<F, B, T> {
    /// [`Insert::place`] with an answer that says everything.
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

    /// Waits, within bounds, for the winner's entry.
    #[inline(always)]
    fn adopt(&self, now: Seconds, placed: &mut Placed) -> Step {
        let mut spot = Spot::default();
        for _ in 0..ADOPTION_TRIES {
            if self.settled(&placed.probe, now, &mut spot) {
                placed.move_to(&spot);
                return Step::Present;
            }
        }
        Step::Disturbed
    }

    /// Whether a live entry has the probe's key, or a slot is being changed whose key cannot be
    /// told. Else `best` is the best slot of both buckets for it.
    #[inline(always)]
    fn survey(&self, probe: &Probe, now: Seconds, best: &mut Vacancy) -> bool {
        self.approach_second(probe);
        self.buckets
            .survey_bucket(self, probe, probe.first, now, best)
            || self
                .buckets
                .survey_bucket(self, probe, probe.second, now, best)
    }

    /// The same for the bucket at `index`; `best` stays what it is unless this has a better slot.
    #[inline(always)]
    pub fn survey_bucket(
        &self,
        probe: &Probe,
        index: u32,
        now: Seconds,
        best_yet: &mut Vacancy,
    ) -> bool {
        let Some(bucket) = self.buckets.bucket(index) else {
            return false;
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
                    return true;
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
        let mut score = hash::lower(best >> SLOT_BITS);
        let mut slot = best & SLOT_MASK;
        // Not for the model checker, whose work one more look multiplies: what it proves is the same
        // whichever free slot is claimed.
        if score > FREE && !cfg!(loom) {
            let preferred = probe.preferred();
            let control = Control(bucket.control(preferred));
            if control.is_free() {
                slot = u64::try_from(preferred).unwrap_or_default();
                best_control = control;
            }
        }
        if index == probe.first && score >= FREE.wrapping_add(ROOMY) {
            score = score.wrapping_add(FIRST);
        }
        if score > best_yet.score {
            *best_yet = Vacancy {
                spot: Spot {
                    bucket: index,
                    slot: hash::lower(slot),
                    control: best_control,
                },
                score,
                reserved: 0,
            };
        }
        false
    }

    /// Step 3, repeated while it is disturbed. Whether the candidate may be promoted.
    #[inline(always)]
    fn win(&self, probe: &Probe, own: &Spot, now: Seconds) -> bool {
        for _ in 0..TRIES {
            let mut contest = self
                .buckets
                .contest_bucket(self, probe, probe.first, own, now);
            if contest == Contest::Won {
                contest = self
                    .buckets
                    .contest_bucket(self, probe, probe.second, own, now);
            }
            match contest {
                Contest::Won => return true,
                Contest::Lost => return false,
                Contest::Again => {}
            }
        }
        false
    }

    /// Looks at the rivals that the candidate at `own` has in the bucket at `index`, and frees those
    /// that must give way to it.
    #[inline(always)]
    pub fn contest_bucket(&self, probe: &Probe, index: u32, own: &Spot, now: Seconds) -> Contest {
        let own = position(own.bucket, own.slot);
        let Some(bucket) = self.buckets.bucket(index) else {
            return Contest::Lost;
        };
        for slot in 0..SLOTS {
            let control = Control(bucket.control(slot));
            // How far the own candidate is behind this slot. What a comparison would tell of it
            // must not be carried on to the next slot.
            let here = position(index, u32::try_from(slot).unwrap_or_default());
            let distance = bucket.obscure(own.wrapping_sub(here), control.0);
            if distance == 0
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
                None => after.is_candidate() && distance.cast_signed() < 0,
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

/// The order among candidates: by bucket, then slot.
#[inline(always)]
fn position(bucket: u32, slot: u32) -> u64 {
    u64::from(bucket) << 32 | u64::from(slot)
}
