//! What a program runs on, a packet of tc or a frame of XDP: what the maps do not have is asked there.

use core::ffi::c_void;

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use lb_common::family::Family;
use lb_common::flow::FlowTuple;
use lb_common::onward::{Hop, Reach};

use crate::{forward, host, onward};

/// A context, by the questions that [`Tables`](lb_common::tables::Tables) answers from it.
pub(crate) trait Stand {
    /// [`lb_common::tables::Tables::share_bridge`].
    fn share_bridge<F: Family>(&self, client: F::Address, backend: F::Address) -> bool;

    /// [`lb_common::tables::Tables::leads_on`].
    fn leads_on<F: Family>(&self, tuple: &FlowTuple<F>, reach: Reach) -> bool;

    /// [`lb_common::tables::Tables::is_of_host`].
    fn is_of_host(&self) -> bool;

    /// [`lb_common::tables::Tables::hop_of_host`].
    fn hop_of_host<F: Family>(&self, tuple: &FlowTuple<F>) -> Hop;

    /// Interface index of the device; 0 without a packet.
    fn device(&self) -> u32;

    /// The context, for helpers that take any.
    fn context(&self) -> *mut c_void;
}

impl Stand for *mut __sk_buff {
    #[inline(always)]
    fn share_bridge<F: Family>(&self, client: F::Address, backend: F::Address) -> bool {
        forward::bridge_hop::<F>(*self, client, backend).is_on_bridge
    }

    #[inline(always)]
    fn leads_on<F: Family>(&self, tuple: &FlowTuple<F>, reach: Reach) -> bool {
        onward::may_begin(*self, tuple, reach)
    }

    #[inline(always)]
    fn is_of_host(&self) -> bool {
        // A glance at a frame has no packet: frames come from elsewhere.
        if self.is_null() {
            return false;
        }
        // SAFETY: the context is valid as long as the program runs.
        unsafe { (**self).ingress_ifindex == 0 }
    }

    #[inline(always)]
    fn hop_of_host<F: Family>(&self, tuple: &FlowTuple<F>) -> Hop {
        host::hop(*self, tuple)
    }

    #[inline(always)]
    fn device(&self) -> u32 {
        if self.is_null() {
            return 0;
        }
        // SAFETY: the context is valid as long as the program runs.
        unsafe { (**self).ifindex }
    }

    #[inline(always)]
    fn context(&self) -> *mut c_void {
        self.cast()
    }
}

impl Stand for *mut xdp_md {
    /// Uplinks are no ports of bridges.
    #[inline(always)]
    fn share_bridge<F: Family>(&self, _: F::Address, _: F::Address) -> bool {
        false
    }

    /// Not asked of frames, whose ways are all their own.
    #[inline(always)]
    fn leads_on<F: Family>(&self, _: &FlowTuple<F>, _: Reach) -> bool {
        false
    }

    /// Frames come from elsewhere.
    #[inline(always)]
    fn is_of_host(&self) -> bool {
        false
    }

    #[inline(always)]
    fn hop_of_host<F: Family>(&self, _: &FlowTuple<F>) -> Hop {
        Hop::NONE
    }

    #[inline(always)]
    fn device(&self) -> u32 {
        // SAFETY: the context is valid as long as the program runs.
        unsafe { (**self).ingress_ifindex }
    }

    #[inline(always)]
    fn context(&self) -> *mut c_void {
        self.cast()
    }
}
