//! Bytes of an skb, by direct access. What is not in the linear part must be pulled there first:
//! one path through each access is what keeps the programs small enough to verify.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::{
    bpf_l4_csum_replace, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_pull_data,
    bpf_skb_store_bytes,
};
use lb_common::packet::{Head, PacketRead, PacketTrim, PacketWrite};
use lb_common::rewrite::{ChecksumFix, PacketRewrite};
use lb_common::wire::ipv6::{Chain, Walk};

/// Highest offset that is accessed directly: the verifier wants a bound on what is added to a
/// packet pointer.
pub(crate) const DIRECT_LIMIT: u32 = 0x3fff;
/// Bytes to make linear: Ethernet, two tags, an ICMP error with all the extension headers that are
/// walked, and what it quotes.
const PULL: u32 = 512;

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

    /// Makes the first bytes of the packet linear, as many as any headers need; says whether there
    /// is anything new to read.
    #[inline(always)]
    pub(crate) fn pull(&self) -> bool {
        let length = self.length();
        let wanted = if length < PULL { length } else { PULL };
        // SAFETY: the context is valid as long as the program runs.
        let start = unsafe { (*self.skb).data };
        // SAFETY: as above.
        let end = unsafe { (*self.skb).data_end };
        let linear = end.wrapping_sub(start);
        // SAFETY: the helper changes the packet, of which no pointer is held.
        linear < wanted && unsafe { bpf_skb_pull_data(self.skb, wanted) } == 0
    }

    /// Where `N` bytes at `offset` are, if all of them are in the linear part.
    #[inline(always)]
    fn linear<const N: usize>(&self, offset: u32) -> Option<*mut [u8; N]> {
        if offset > DIRECT_LIMIT {
            return None;
        }
        // Changes nothing. A kernel before 6.3 forgets the comparison if the compiler had put the
        // offset on the stack before it, and fetches it from there.
        let offset = pinned(offset as usize) & DIRECT_LIMIT as usize;
        // SAFETY: the context is valid as long as the program runs.
        let start = pinned(unsafe { (*self.skb).data } as usize + offset);
        // SAFETY: as above.
        let end = unsafe { (*self.skb).data_end } as usize;
        (start + N <= end).then_some(start as *mut [u8; N])
    }
}

/// The same number or pointer, of which the compiler knows nothing: it would else leave out a mask
/// that only the verifier needs, or compute a pointer a second time after the comparison, and to
/// the verifier the result of another addition is another pointer.
#[inline(always)]
pub(crate) fn pinned(value: usize) -> usize {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = value;
        // SAFETY: a register is copied onto itself. (Nothing at all would do, but for the line
        // information, of which there must not be two entries for one instruction.)
        unsafe {
            core::arch::asm!("{0} = {0}", inout(reg) value, options(nomem, nostack, preserves_flags));
        }
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    value
}

/// `length`, if it is 1 to `N`, in a way that shows it to the verifier of every kernel: before 6.8
/// it learns from "is not 0" nothing about the least value.
#[inline(always)]
fn from_one_to<const N: usize>(length: u32) -> Option<u32> {
    let less = pinned(length.wrapping_sub(1) as usize);
    (less < N).then(|| less as u32 + 1)
}

impl PacketRead for Skb {
    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: the context is valid as long as the program runs.
        unsafe { (*self.skb).len }
    }

    #[inline(always)]
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        // SAFETY: `linear` compared the range with the packet's end; the type has alignment 1.
        self.linear::<N>(offset)
            .map(|bytes| unsafe { bytes.read() })
    }

    #[inline(always)]
    fn read_padded<const N: usize>(&self, offset: u32, length: u32) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        let length = from_one_to::<N>(length)?;
        // SAFETY: the helper checks the offset and writes `length` bytes, which `bytes` has.
        let result = unsafe {
            bpf_skb_load_bytes(self.skb.cast(), offset, bytes.as_mut_ptr().cast(), length)
        };
        (result == 0).then_some(bytes)
    }

    #[inline(always)]
    fn step_extension(&self, chain: &mut Chain, bytes: [u8; 8]) -> Walk {
        let chain = &raw mut *chain;
        Walk::from_number(extension_step(chain.cast(), u64::from_ne_bytes(bytes)))
    }
}

/// [`Chain::step`], checked by itself: see `flows`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn extension_step(chain: *mut MaybeUninit<[u8; size_of::<Chain>()]>, bytes: u64) -> u32 {
    // SAFETY: the only caller passes a chain, which nothing else refers to; the verifier proves that
    // memory is behind it.
    let Some(chain) = (unsafe { chain.cast::<Chain>().as_mut() }) else {
        return Walk::TooLong as u32;
    };
    chain.step(bytes.to_ne_bytes()) as u32
}

/// The beginning of a packet's linear part, of which as much as was asked for is there.
pub(crate) struct LinearHead {
    start: usize,
}

impl LinearHead {
    /// The head of what lies from `start` to `end`, if that is `N` bytes at least.
    #[inline(always)]
    pub(crate) fn of<const N: usize>(start: usize, end: usize) -> Option<Self> {
        (start + N <= end).then_some(Self { start })
    }
}

/// One load of a [`LinearHead`]. The compiler would fetch what may lie unaligned byte by byte; packet
/// memory may be read at any address wherever the processor can.
macro_rules! load {
    ($self:ident, $at:ident, $size:literal) => {{
        #[cfg(target_arch = "bpf")]
        {
            let value: u64;
            // SAFETY: `head` compared the range with the packet's end; the verifier proves it.
            unsafe {
                core::arch::asm!(
                    concat!("{0} = *(", $size, " *)({1} + {2})"),
                    out(reg) value,
                    in(reg) $self.start,
                    const $at,
                    options(pure, readonly, nostack, preserves_flags)
                );
            }
            value
        }
        #[cfg(not(target_arch = "bpf"))]
        {
            ($self.start + $at) as u64
        }
    }};
}

/// One store likewise.
macro_rules! store {
    ($self:ident, $at:ident, $size:literal, $value:expr) => {{
        let value: u64 = $value;
        #[cfg(target_arch = "bpf")]
        // SAFETY: as for `load`; a program that writes packet memory gets a private copy of the
        // headers from the kernel beforehand.
        unsafe {
            core::arch::asm!(
                concat!("*(", $size, " *)({0} + {2}) = {1}"),
                in(reg) $self.start,
                in(reg) value,
                const $at,
                options(nostack, preserves_flags)
            );
        }
        #[cfg(not(target_arch = "bpf"))]
        let _ = ($self.start, $at, value);
    }};
}

impl Head for LinearHead {
    #[inline(always)]
    fn byte<const AT: usize>(&self) -> u8 {
        load!(self, AT, "u8") as u8
    }

    #[inline(always)]
    fn half<const AT: usize>(&self) -> u16 {
        u16::from_be(load!(self, AT, "u16") as u16)
    }

    #[inline(always)]
    fn word<const AT: usize>(&self) -> u32 {
        u32::from_be(load!(self, AT, "u32") as u32)
    }

    #[inline(always)]
    fn double<const AT: usize>(&self) -> u64 {
        u64::from_be(load!(self, AT, "u64"))
    }

    #[inline(always)]
    fn set_half<const AT: usize>(&mut self, value: u16) {
        store!(self, AT, "u16", value.to_be().into());
    }

    #[inline(always)]
    fn set_word<const AT: usize>(&mut self, value: u32) {
        store!(self, AT, "u32", value.to_be().into());
    }

    #[inline(always)]
    fn set_double<const AT: usize>(&mut self, value: u64) {
        store!(self, AT, "u64", value.to_be());
    }
}

impl PacketWrite for Skb {
    type Head<'p> = LinearHead;

    #[inline(always)]
    fn head<const N: usize>(&mut self) -> Option<LinearHead> {
        // SAFETY: the context is valid as long as the program runs.
        let start = pinned(unsafe { (*self.skb).data } as usize);
        // SAFETY: as above.
        let end = unsafe { (*self.skb).data_end } as usize;
        LinearHead::of::<N>(start, end)
    }

    #[inline(always)]
    fn write<const N: usize>(&mut self, offset: u32, bytes: [u8; N]) -> Option<()> {
        let place = self.linear::<N>(offset)?;
        // SAFETY: `linear` compared the range with the packet's end; a program that writes packet
        // memory gets a private copy of the headers from the kernel beforehand.
        unsafe { place.write(bytes) };
        Some(())
    }

    #[inline(always)]
    fn write_first<const N: usize>(
        &mut self,
        offset: u32,
        bytes: &[u8; N],
        length: u32,
    ) -> Option<()> {
        let length = from_one_to::<N>(length)?;
        // SAFETY: the helper checks the offset and reads `length` bytes, which `bytes` has.
        let result =
            unsafe { bpf_skb_store_bytes(self.skb, offset, bytes.as_ptr().cast(), length, 0) };
        (result == 0).then_some(())
    }
}

impl PacketTrim for Skb {
    #[inline(always)]
    fn trim(&mut self, length: u32) -> Option<()> {
        // SAFETY: the helper changes the packet, of which no pointer is held.
        let result = unsafe { bpf_skb_change_tail(self.skb, length, 0) };
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
