//! The search for a flow in the middle of its life, which most packets are of: nothing to write, and
//! nothing of an entry that such a packet does not need.

use super::layout::{self, KeyWords, TupleWords, Value};
use super::{Bucket as _, Buckets, Control, FlowTable, SLOTS, Timeouts};
use crate::conntrack::State;
use crate::family::Family;
use crate::flow::{Direction, Path};
use crate::id::{BackendId, Seconds};

/// What a packet needs of its flow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Peeked {
    /// What the packet looks like when it leaves.
    pub translated: TupleWords,
    /// Which way it travels.
    pub direction: Direction,
    /// How it leaves.
    pub path: Path,
    /// The backend that serves.
    pub backend: BackendId,
    /// The flow's state.
    pub state: State,
}

impl<F: Family, B: Buckets<F>, T: Timeouts> FlowTable<F, B, T> {
    /// The entry of `key`, if it has been used in this very second, `now`, and nobody is changing it.
    /// `None` says nothing: [`FlowTable::lookup`] knows.
    #[inline(always)]
    pub fn peek(&self, key: KeyWords, now: Seconds) -> Option<Peeked> {
        let probe = self.probe_words(key);
        let first = self.buckets.bucket(probe.first)?;
        // Where the slot does not depend on what memory says, its control word and its entry are
        // fetched at once: a processor goes on as if the tag were the expected one.
        let preferred = probe.preferred();
        let control = Control(first.control(preferred));
        let (bucket, slot, control) = if control.tag() == probe.tag {
            (first, preferred, control)
        } else if let Some((slot, control)) = tagged(&first, probe.tag) {
            (first, slot, control)
        } else {
            let second = self.buckets.bucket(probe.second)?;
            let (slot, control) = tagged(&second, probe.tag)?;
            (second, slot, control)
        };
        if !key.match_entry::<F>(&bucket, slot) {
            return None;
        }
        let value = Value::read::<F>(&bucket, slot);
        let sequence = layout::sequence::<F>(&bucket, slot);
        let is_undisturbed =
            sequence == control.sequence() && Control(bucket.control(slot)) == control;
        if !is_undisturbed || control.age(now) != Seconds(0) {
            return None;
        }
        Some(Peeked {
            translated: value.translated(),
            direction: value.direction(),
            path: value.path(),
            backend: value.backend(),
            state: control.state()?,
        })
    }
}

/// The first slot of `bucket` with this `tag`, and its control word.
#[inline(always)]
fn tagged(bucket: &impl super::Bucket, tag: u32) -> Option<(usize, Control)> {
    for slot in 0..SLOTS {
        let control = Control(bucket.control(slot));
        if control.tag() == tag {
            let number = u64::try_from(slot).unwrap_or_default();
            let number = bucket.obscure(number, u64::from(tag));
            return Some((usize::try_from(number).unwrap_or_default(), control));
        }
    }
    None
}
