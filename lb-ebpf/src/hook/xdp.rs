//! XDP: frames, before the host has made packets of them.

use aya_ebpf::bindings::{xdp_action, xdp_md};
use aya_ebpf::helpers::bpf_redirect;
use lb_common::decide::{Fate, Transit, transit};
use lb_common::family::{Family, V4, V6};
use lb_common::packet::{Head as _, PacketRead as _, PacketWrite as _};
use lb_common::room::Room;
use lb_common::verdict::Reason;
use lb_common::wire::ethernet;

use crate::clock;
use crate::count::count;
use crate::forward::FrameWays;
use crate::frame::XdpFrame;
use crate::tables::KernelTables;

const PASS: u32 = xdp_action::XDP_PASS;
const DROP: u32 = xdp_action::XDP_DROP;
/// A drop that the kernel's tracepoint `xdp_exception` reports.
const ABORTED: u32 = xdp_action::XDP_ABORTED;

/// Runs one frame.
#[inline(always)]
pub(crate) fn run(context: *mut xdp_md) -> u32 {
    let protocol = XdpFrame::new(context)
        .head::<14>()
        .map(|head| head.half::<12>());
    match protocol {
        Some(ethernet::IPV4) => run_v4(context),
        Some(ethernet::IPV6) => run_v6(context),
        _ => PASS,
    }
}

#[inline(never)]
fn run_v4(context: *mut xdp_md) -> u32 {
    run_family::<V4>(context)
}

#[inline(never)]
fn run_v6(context: *mut xdp_md) -> u32 {
    run_family::<V6>(context)
}

/// The one place where a frame's fate becomes an action.
#[inline(always)]
fn run_family<F: Family>(context: *mut xdp_md) -> u32 {
    let mut frame = XdpFrame::new(context);
    let bytes = frame.length();
    let mut way = Room::Empty;
    let fate = transit::<F, XdpFrame>(
        &mut frame,
        clock::seconds,
        &KernelTables::without_packet(),
        &mut FrameWays::new(context),
        &mut way,
    );
    match (fate, way.get()) {
        (Fate::Left, _) | (_, None) => PASS,
        (Fate::Broken, Some(_)) => {
            count(Reason::RewriteFailed, bytes);
            DROP
        }
        (Fate::Taken, Some(way)) => {
            note(way, bytes, frame.length());
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
fn note(way: &Transit, bytes: u32, left: u32) {
    count(way.arrived, bytes);
    count(Reason::SentOn, 0);
    count(way.left, left);
    count(Reason::ByXdp, 0);
}
