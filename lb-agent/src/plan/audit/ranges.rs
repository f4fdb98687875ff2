//! `SOURCE_RANGES` compared with the plan. The kernel finds the longest network that holds an address,
//! never one network and no other, so that all of its keys are read before anything is said.

use std::collections::BTreeSet;

use lb_common::table::source_range::SourceRangeKey;

use super::{Drift, Place, Planner, Repair, Step};
use crate::audit::words::network_name;
use crate::dataplane::inspect::Inspect;
use crate::dataplane::layout::Table;
use crate::dataplane::{DataplaneError, Write};
use crate::plan::ids::Holder;

/// How often the keys are read in one pass, where changes make it begin anew.
const MOST_ROUNDS: u32 = 4;

/// The keys that were read so far.
#[derive(Clone, Debug, Default)]
pub struct RangeScan {
    seen: BTreeSet<SourceRangeKey>,
    last: Option<SourceRangeKey>,
    /// Of the plan that they are to be compared with.
    version: Option<u64>,
    rounds: u32,
}

impl Planner {
    /// Reads at most `most` more keys; once there are no more, says what differs.
    pub fn audit_ranges(
        &self,
        scan: &mut RangeScan,
        tables: &impl Inspect,
        most: u32,
    ) -> Result<Step, DataplaneError> {
        let version = Some(self.ranges.version());
        if scan.version != version {
            *scan = RangeScan {
                version,
                rounds: scan.rounds + 1,
                ..RangeScan::default()
            };
        }
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let keys = tables.source_ranges_after(scan.last.as_ref(), most)?;
        scan.last = keys.last().copied();
        let before = scan.seen.len();
        scan.seen.extend(keys);
        // Where somebody else removes keys the kernel begins anew.
        if scan.seen.len() > before && scan.rounds <= MOST_ROUNDS {
            return Ok(Step {
                drifts: Vec::new(),
                next: Some(Place::SourceRanges),
            });
        }
        let scan = std::mem::take(scan);
        let drifts = if scan.rounds > MOST_ROUNDS {
            Vec::new()
        } else {
            self.range_drifts(&scan.seen)
        };
        Ok(Step {
            drifts,
            next: Some(Place::Frontends(None)),
        })
    }

    fn range_drifts(&self, seen: &BTreeSet<SourceRangeKey>) -> Vec<Drift> {
        let planned: BTreeSet<_> = self.ranges.all().copied().collect();
        let drift = |key: &SourceRangeKey, state: &str, repair| Drift {
            table: Table::SourceRanges,
            text: format!(
                "source range {}{} {state}",
                network_name(key),
                self.owner_of(key)
            ),
            repair: Repair::Write(repair),
        };
        let missing = planned.difference(seen);
        let missing = missing.map(|&key| drift(&key, "is missing", Write::AddSourceRange { key }));
        let strangers = seen.difference(&planned);
        let strangers =
            strangers.map(|&key| drift(&key, "is nobody's", Write::RemoveSourceRange { key }));
        missing.chain(strangers).collect()
    }

    fn owner_of(&self, key: &SourceRangeKey) -> String {
        match self.services.holder(key.service()) {
            Holder::Live(_, port) => format!(" of {port}"),
            Holder::Quarantined(..) | Holder::Nobody => String::new(),
        }
    }
}
