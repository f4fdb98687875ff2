//! XDP: frames, before the host has made packets of them.
//!
//! Three programs, one after the other: what the first one's glance does not tell, the second and the
//! third look at as the two hooks of tc do. Either calls the next by way of an array, which the agent
//! fills; where that has none, and wherever one of them says so, the frame goes on to tc.

use aya_ebpf::bindings::{xdp_action, xdp_md};
use aya_ebpf::helpers::bpf_redirect;
use aya_ebpf::maps::{PerCpuArray, ProgramArray};
use aya_ebpf::programs::XdpContext;
use lb_common::decide::{self, Fate, Passage, Transit, transit};
use lb_common::family::{Family, V4, V6};
use lb_common::packet::{Head as _, PacketRead as _};
use lb_common::room::Room;
use lb_common::verdict::Reason;
use lb_common::wire::ethernet;

use crate::clock;
use crate::count::count;
use crate::forward::FrameWays;
use crate::frame::{self, XdpFrame};
use crate::maps::{self, LEAVE_V4, LEAVE_V6, PassageWords};
use crate::tables::KernelTables;

const PASS: u32 = xdp_action::XDP_PASS;
const DROP: u32 = xdp_action::XDP_DROP;
/// A drop that the kernel's tracepoint `xdp_exception` reports.
const ABORTED: u32 = xdp_action::XDP_ABORTED;
/// No action: the next part may know one.
const UNCLEAR: u32 = u32::MAX;

const _: () = assert!(size_of::<Passage<V6>>() <= size_of::<PassageWords>());

/// Runs one frame.
#[inline(always)]
pub(crate) fn run(context: &XdpContext, parts: &ProgramArray) -> u32 {
    let action = match ether_type(context.ctx) {
        Some(ethernet::IPV4) => glance_v4(context.ctx),
        Some(ethernet::IPV6) => glance_v6(context.ctx),
        _ => PASS,
    };
    if action != UNCLEAR {
        return action;
    }
    // SAFETY: nothing here waits to be dropped.
    unsafe { parts.tail_call(context, maps::ENTER) };
    PASS
}

/// Runs the second part of one frame.
#[inline(always)]
pub(crate) fn enter(context: &XdpContext, parts: &ProgramArray) -> u32 {
    let next = match ether_type(context.ctx) {
        Some(ethernet::IPV4) if enter_family::<V4>(context.ctx, &maps::PASSAGE_V4) => LEAVE_V4,
        Some(ethernet::IPV6) if enter_family::<V6>(context.ctx, &maps::PASSAGE_V6) => LEAVE_V6,
        _ => return PASS,
    };
    // SAFETY: nothing here waits to be dropped.
    unsafe { parts.tail_call(context, next) };
    PASS
}

/// Runs the third part of one frame, which the second part has found to be of this family.
#[inline(always)]
pub(crate) fn leave<F: Family>(context: &XdpContext, memory: &PerCpuArray<PassageWords>) -> u32 {
    let Some(passage) = passage::<F>(memory) else {
        return PASS;
    };
    let mut frame = XdpFrame::new(context.ctx);
    let bytes = frame.length();
    let tables = KernelTables::new(context.ctx);
    let fate = decide::leave::<F, XdpFrame>(&mut frame, clock::seconds(), &tables, passage);
    act_at_last(fate, passage.transit(), bytes)
}

/// [`act`], with the stack to itself.
#[inline(never)]
fn act_at_last(fate: Fate, way: Option<&Transit>, bytes: u32) -> u32 {
    act(fate, way, bytes)
}

/// What is behind the MACs. A tagged frame is the host's.
#[inline(always)]
fn ether_type(context: *mut xdp_md) -> Option<u16> {
    frame::head::<14>(context).map(|head| head.half::<12>())
}

#[inline(never)]
fn glance_v4(context: *mut xdp_md) -> u32 {
    glance_family::<V4>(context)
}

#[inline(never)]
fn glance_v6(context: *mut xdp_md) -> u32 {
    glance_family::<V6>(context)
}

#[inline(always)]
fn glance_family<F: Family>(context: *mut xdp_md) -> u32 {
    let mut frame = XdpFrame::new(context);
    let mut ways = FrameWays::new(&frame);
    let bytes = frame.length();
    let mut way = Room::Empty;
    let fate = transit::<F, XdpFrame>(
        &mut frame,
        clock::seconds,
        &KernelTables::without_packet(),
        &mut ways,
        &mut way,
    );
    act(fate, way.get(), bytes)
}

#[inline(always)]
fn enter_family<F: Family>(context: *mut xdp_md, memory: &PerCpuArray<PassageWords>) -> bool {
    let Some(passage) = passage::<F>(memory) else {
        return false;
    };
    let mut frame = XdpFrame::new(context);
    let mut ways = FrameWays::new(&frame);
    decide::enter::<F, XdpFrame>(
        &mut frame,
        clock::seconds(),
        &KernelTables::new(context),
        &mut ways,
        passage,
    )
}

#[inline(always)]
fn passage<F: Family>(memory: &PerCpuArray<PassageWords>) -> Option<&'static mut Passage<F>> {
    let memory = memory.get_ptr_mut(0)?;
    // SAFETY: the value is large enough and aligned to words; it begins as zeros, which are empty
    // slots, and only this type is ever kept in it. This processor runs no other XDP program of ours until
    // this one and those that it calls end.
    Some(unsafe { &mut *memory.cast() })
}

/// The one place where a frame's fate becomes an action; `bytes` is the frame's length as it came.
#[inline(always)]
fn act(fate: Fate, way: Option<&Transit>, bytes: u32) -> u32 {
    let Some(way) = way else {
        return if matches!(fate, Fate::Unclear) {
            UNCLEAR
        } else {
            PASS
        };
    };
    match fate {
        Fate::Left => PASS,
        Fate::Unclear => UNCLEAR,
        Fate::Broken => {
            count(Reason::RewriteFailed, bytes);
            DROP
        }
        Fate::Ended => {
            note(way, bytes);
            DROP
        }
        Fate::Taken => {
            note(way, bytes);
            // Back out of the device that it came by, too: `XDP_TX` leaves a frame lying in a veth whose
            // other end polls without a program of its own.
            // SAFETY: the helper takes numbers only.
            let action = unsafe { bpf_redirect(way.device, 0) };
            u32::try_from(action).unwrap_or(ABORTED)
        }
    }
}

/// Counts what both hooks would have counted, and that neither saw the packet.
#[inline(always)]
fn note(way: &Transit, bytes: u32) {
    count(way.arrived, bytes);
    count(Reason::SentOn, 0);
    count(way.left, way.end());
    count(Reason::ByXdp, 0);
}
