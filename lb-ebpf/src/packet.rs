//! Bytes of an skb: direct access where they are linear, a helper where they are not.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::{bpf_skb_load_bytes, bpf_skb_store_bytes};
use aya_ebpf::programs::TcContext;
use lb_common::packet::{PacketRead, PacketWrite};

/// Highest offset that is accessed directly: the verifier wants a bound on what is added to a
/// packet pointer.
const DIRECT_LIMIT: u32 = 0x3fff;

/// The packet a tc program runs on.
pub(crate) struct Skb<'a> {
    ctx: &'a TcContext,
}

impl<'a> Skb<'a> {
    #[inline(always)]
    pub(crate) const fn new(ctx: &'a TcContext) -> Self {
        Self { ctx }
    }

    /// The context, for the helpers that change more than bytes.
    #[inline(always)]
    pub(crate) const fn context(&self) -> &'a TcContext {
        self.ctx
    }

    /// Where `N` bytes at `offset` are, if all of them are in the linear part.
    #[inline(always)]
    fn linear<const N: usize>(&self, offset: u32) -> Option<*mut [u8; N]> {
        if offset > DIRECT_LIMIT {
            return None;
        }
        let start = self.ctx.data() + offset as usize;
        (start + N <= self.ctx.data_end()).then_some(start as *mut [u8; N])
    }
}

impl PacketRead for Skb<'_> {
    #[inline(always)]
    fn length(&self) -> u32 {
        self.ctx.len()
    }

    #[inline(always)]
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        if let Some(bytes) = self.linear::<N>(offset) {
            // SAFETY: `linear` compared the range with the packet's end; the type has alignment 1.
            return Some(unsafe { bytes.read() });
        }
        let mut bytes = [0; N];
        // SAFETY: the helper checks the offset and fills `bytes`, whose length it is given.
        let result = unsafe {
            bpf_skb_load_bytes(self.ctx.as_ptr(), offset, bytes.as_mut_ptr().cast(), N as u32)
        };
        (result == 0).then_some(bytes)
    }
}

impl PacketWrite for Skb<'_> {
    #[inline(always)]
    fn write<const N: usize>(&mut self, offset: u32, bytes: [u8; N]) -> Option<()> {
        if let Some(place) = self.linear::<N>(offset) {
            // SAFETY: `linear` compared the range with the packet's end; a program that writes
            // packet memory gets a private copy of the headers from the kernel beforehand.
            unsafe { place.write(bytes) };
            return Some(());
        }
        // SAFETY: the helper checks the offset and reads `bytes`, whose length it is given.
        let result = unsafe {
            bpf_skb_store_bytes(self.ctx.skb.skb, offset, bytes.as_ptr().cast(), N as u32, 0)
        };
        (result == 0).then_some(())
    }
}
