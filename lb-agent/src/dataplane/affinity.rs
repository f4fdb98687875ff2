//! Tidying `AFFINITY`: clients whose service no longer has their backend, or no longer has session
//! affinity, must find nothing when either comes back.

use lb_common::id::{BackendId, ServiceId};
use lb_common::table::affinity::AffinityValue;

use super::tables::AffinityMap;
use super::{DataplaneError, layout::Table, maps};

/// How often a walk may come back to where it was, because an element it stood on was replaced
/// under it, before it goes on as it is. What it missed is as it would be had the agent been slow.
const MOST_ROUNDS: u32 = 4;

/// Removes what `is_kept` does not say; says how many entries that were.
///
/// The kernel has no removal on a condition, so an entry that a packet writes between its reading
/// and its removal is lost. That client's next connection is sent by the same hash as this one was.
pub(super) fn forget(
    map: &mut AffinityMap,
    capacity: u32,
    is_kept: &dyn Fn(ServiceId, BackendId) -> bool,
) -> Result<u64, DataplaneError> {
    let failed = |error| maps::refused("looking through", Table::Affinity, capacity, error);
    let most = capacity.saturating_mul(MOST_ROUNDS);
    let mut stale = Vec::new();
    for entry in map.iter().take(usize::try_from(most).unwrap_or(usize::MAX)) {
        let (key, value) = entry.map_err(failed)?;
        let backend = AffinityValue(value).backend(&key.0);
        if !is_kept(key.0.service(), backend) {
            stale.push(key);
        }
    }
    for key in &stale {
        match map.remove(key) {
            // The kernel was faster: it makes room where it finds it.
            Err(error) if !maps::is_missing(&error) => return Err(failed(error)),
            _ => {}
        }
    }
    Ok(u64::try_from(stale.len()).unwrap_or(u64::MAX))
}
