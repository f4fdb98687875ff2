//! Which UDP flows have to be taken out of the flow tables, because their Service no longer has
//! their backend.
//!
//! A UDP flow has no end that a proxy could see. If its backend is gone altogether, or no Service
//! has it any more, the flow's next packet notices and is given another. But a backend that some
//! other Service still has looks well to that packet: only the agent knows that it has left *this*
//! Service, so the agent takes such flows out, and their next packets choose anew. kube-proxy
//! clears its UDP entries for the same reason. TCP and SCTP flows stay until they end.
//!
//! The flow tables are large, so pairs are collected and one pass over the tables is for all of
//! them. A packet may find one half of a flow just before that half is removed, and rebuild the
//! other: therefore a pass that met anything is followed by another one, four in all at most.

use std::collections::BTreeMap;

use crate::dataplane::UdpPair;

/// Passes until flows are given up that come back each time: they are then left to expire.
const MOST_PASSES: u32 = 4;

/// The pairs that flows may still name though no Service does.
#[derive(Clone, Debug, Default)]
pub struct Departed {
    /// With each, how many passes had begun when it left.
    pairs: BTreeMap<UdpPair, u64>,
    begun: u64,
    /// Passes in a row that met flows.
    met: u32,
}

impl Departed {
    /// Whether there is nothing to look for.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Whether flows of this pair are to go.
    pub fn contains(&self, pair: &UdpPair) -> bool {
        self.pairs.contains_key(pair)
    }

    /// A service no longer has a backend.
    pub(super) fn left(&mut self, pair: UdpPair) {
        self.pairs.insert(pair, self.begun);
    }

    /// A service has a backend, again or still.
    pub(super) fn returned(&mut self, pair: &UdpPair) {
        self.pairs.remove(pair);
    }

    /// A pass over the flow tables begins; the tables have been written, and every program that
    /// read the earlier ones has ended.
    pub const fn begin_pass(&mut self) {
        self.begun += 1;
    }

    /// The pass is over and met this many flow entries. A pair that left in its course is for the
    /// next one.
    pub fn end_pass(&mut self, met: u64) {
        self.met = if met == 0 { 0 } else { self.met + 1 };
        if self.met == 0 || self.met >= MOST_PASSES {
            self.met = 0;
            let begun = self.begun;
            self.pairs.retain(|_, left| *left >= begun);
        }
    }
}

#[cfg(test)]
mod tests {
    use lb_common::id::{BackendId, ServiceId};

    use super::*;

    fn pair(service: u32, backend: u32) -> UdpPair {
        UdpPair {
            service: ServiceId::new(service, 1),
            backend: BackendId::new(backend, 1),
        }
    }

    #[test]
    fn a_pass_that_met_nothing_is_the_last_for_the_pairs_it_was_for() {
        let mut departed = Departed::default();
        departed.left(pair(1, 1));
        departed.begin_pass();
        departed.left(pair(1, 2));
        departed.end_pass(0);
        assert!(!departed.contains(&pair(1, 1)));
        assert!(departed.contains(&pair(1, 2)), "left during the pass");
        departed.begin_pass();
        departed.end_pass(0);
        assert!(departed.is_empty());
    }

    #[test]
    fn a_pass_that_met_flows_is_followed_by_another_but_not_for_ever() {
        let mut departed = Departed::default();
        departed.left(pair(1, 1));
        for _ in 1..MOST_PASSES {
            departed.begin_pass();
            departed.end_pass(2);
            assert!(departed.contains(&pair(1, 1)));
        }
        departed.begin_pass();
        departed.end_pass(2);
        assert!(departed.is_empty());
    }

    #[test]
    fn a_backend_that_comes_back_keeps_its_flows() {
        let mut departed = Departed::default();
        departed.left(pair(1, 1));
        departed.left(pair(2, 1));
        departed.begin_pass();
        departed.returned(&pair(1, 1));
        assert!(!departed.contains(&pair(1, 1)));
        departed.left(pair(1, 1));
        departed.end_pass(0);
        assert!(departed.contains(&pair(1, 1)), "left again after that");
        assert!(!departed.contains(&pair(2, 1)));
    }
}
