//! Bytes of an skb: direct access where they are linear, a helper where they are not.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::{bpf_l4_csum_replace, bpf_skb_load_bytes, bpf_skb_store_bytes};
use lb_common::packet::{PacketRead, PacketWrite};
use lb_common::rewrite::{ChecksumFix, PacketRewrite};

/// Highest offset that is accessed directly: the verifier wants a bound on what is added to a
/// packet pointer.
const DIRECT_LIMIT: u32 = 0x3fff;

/// The packet a tc program runs on.
pub(crate) struct Skb {
    skb: *mut __sk_buff,
}

impl Skb {
    #[inline(always)]
    pub(crate) const fn new(skb: *mut __sk_buff) -> Self {
        Self { skb }
    }

    /// The context, for the helpers that change more than bytes.
    #[inline(always)]
    pub(crate) const fn skb(&self) -> *mut __sk_buff {
        self.skb
    }

    /// Where `N` bytes at `offset` are, if all of them are in the linear part.
    #[inline(always)]
    fn linear<const N: usize>(&self, offset: u32) -> Option<*mut [u8; N]> {
        if offset > DIRECT_LIMIT {
            return None;
        }
        // SAFETY: the context is valid as long as the program runs.
        let start = unsafe { (*self.skb).data } as usize + offset as usize;
        // SAFETY: as above.
        let end = unsafe { (*self.skb).data_end } as usize;
        (start + N <= end).then_some(start as *mut [u8; N])
    }
}

impl PacketRead for Skb {
    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: the context is valid as long as the program runs.
        unsafe { (*self.skb).len }
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
            bpf_skb_load_bytes(self.skb.cast(), offset, bytes.as_mut_ptr().cast(), N as u32)
        };
        (result == 0).then_some(bytes)
    }
}

impl PacketWrite for Skb {
    #[inline(always)]
    fn write<const N: usize>(&mut self, offset: u32, bytes: [u8; N]) -> Option<()> {
        if let Some(place) = self.linear::<N>(offset) {
            // SAFETY: `linear` compared the range with the packet's end; a program that writes
            // packet memory gets a private copy of the headers from the kernel beforehand.
            unsafe { place.write(bytes) };
            return Some(());
        }
        // SAFETY: the helper checks the offset and reads `bytes`, whose length it is given.
        let result =
            unsafe { bpf_skb_store_bytes(self.skb, offset, bytes.as_ptr().cast(), N as u32, 0) };
        (result == 0).then_some(())
    }
}

/// `BPF_F_PSEUDO_HDR`: what changes is in the pseudo-header, so a half-made checksum changes too.
const PSEUDO_HEADER: u64 = 1 << 4;
/// `BPF_F_MARK_MANGLED_0`: UDP's rule for a checksum of 0.
const MANGLED_0: u64 = 1 << 5;

impl PacketRewrite for Skb {
    #[inline(always)]
    fn fix_l4(&mut self, fix: ChecksumFix) -> Option<()> {
        let rule = if fix.is_udp { MANGLED_0 } else { 0 };
        if fix.address_delta != 0 {
            self.replace_checksum(fix.offset, fix.address_delta, rule | PSEUDO_HEADER)?;
        }
        if fix.port_delta != 0 {
            self.replace_checksum(fix.offset, fix.port_delta, rule)?;
        }
        Some(())
    }
}

impl Skb {
    #[inline(always)]
    fn replace_checksum(&self, offset: u32, delta: u32, flags: u64) -> Option<()> {
        // SAFETY: the helper checks the offset; no packet pointer is held across it.
        let result = unsafe { bpf_l4_csum_replace(self.skb, offset, 0, u64::from(delta), flags) };
        (result == 0).then_some(())
    }
}
