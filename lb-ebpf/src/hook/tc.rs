//! tc: the two sides of a workload's veth.

use aya_ebpf::programs::TcContext;
use lb_common::flow::Hook;
use lb_common::packet::PacketRead as _;
use lb_common::verdict::Reason;

use crate::count::count;
use crate::packet::Skb;

/// `TCX_NEXT` and `TC_ACT_UNSPEC`: the next program on the hook decides.
const NEXT: i32 = -1;

/// Runs one packet.
#[inline(always)]
pub(crate) fn run(ctx: &TcContext, _hook: Hook) -> i32 {
    let packet = Skb::new(ctx);
    count(Reason::NotService, packet.length());
    NEXT
}
