//! Looking for a member of a backend set, as a function that the verifier checks once: see `flows`
//! for why. It takes numbers only, so it is one for both families.

use lb_common::id::BackendId;
use lb_common::select;

use crate::tables::KernelTables;

/// [`select::has_member`].
#[inline(always)]
pub(crate) fn has_member(offset: u32, count: u16, id: BackendId) -> bool {
    checked(offset, u32::from(count), id.raw()) != 0
}

#[unsafe(export_name = "region_has_member")]
#[inline(never)]
extern "C" fn checked(offset: u32, count: u32, id: u32) -> u32 {
    let tables = KernelTables::without_packet();
    let id = BackendId::from_raw(id);
    u32::from(select::has_member(&tables, offset, count as u16, id))
}
