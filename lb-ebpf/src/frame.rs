//! Bytes of a frame as a driver hands it over: those of its first buffer, by direct access.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::{bpf_xdp_adjust_tail, bpf_xdp_get_buff_len};
use lb_common::packet::{PacketRead, PacketTrim, PacketWrite};
use lb_common::rewrite::{ChecksumFix, PacketRewrite};

use crate::packet::{DIRECT_LIMIT, LinearHead, pinned};

/// The frame that an XDP program runs on.
#[derive(Clone, Copy)]
pub(crate) struct XdpFrame {
    context: *mut xdp_md,
    /// Asked once: each time is a call.
    length: u32,
}

impl XdpFrame {
    #[inline(always)]
    pub(crate) fn new(context: *mut xdp_md) -> Self {
        // SAFETY: the helper takes the context only.
        let length = (unsafe { bpf_xdp_get_buff_len(context) }) as u32;
        Self { context, length }
    }

    /// The context, for helpers.
    #[inline(always)]
    pub(crate) const fn context(&self) -> *mut xdp_md {
        self.context
    }

    /// Whether it lies in more than one buffer.
    #[inline(always)]
    pub(crate) fn is_scattered(&self) -> bool {
        // SAFETY: the context is valid as long as the program runs.
        let start = unsafe { (*self.context).data };
        // SAFETY: as above.
        let end = unsafe { (*self.context).data_end };
        end.wrapping_sub(start) != self.length
    }

    /// Where `N` bytes at `offset` are, if all of them are in the first buffer.
    #[inline(always)]
    fn direct<const N: usize>(&self, offset: u32) -> Option<*mut [u8; N]> {
        if offset > DIRECT_LIMIT {
            return None;
        }
        // See `packet`.
        let offset = pinned(offset as usize) & DIRECT_LIMIT as usize;
        // SAFETY: the context is valid as long as the program runs.
        let start = pinned(unsafe { (*self.context).data } as usize + offset);
        // SAFETY: as above.
        let end = unsafe { (*self.context).data_end } as usize;
        (start + N <= end).then_some(start as *mut [u8; N])
    }
}

/// The first `N` bytes of the frame in this context, if they are in its first buffer.
#[inline(always)]
pub(crate) fn head<const N: usize>(context: *mut xdp_md) -> Option<LinearHead> {
    // SAFETY: the context is valid as long as the program runs.
    let start = pinned(unsafe { (*context).data } as usize);
    // SAFETY: as above.
    let end = unsafe { (*context).data_end } as usize;
    LinearHead::of::<N>(start, end)
}

impl PacketRead for XdpFrame {
    #[inline(always)]
    fn length(&self) -> u32 {
        self.length
    }

    #[inline(always)]
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        // SAFETY: `direct` compared the range with the buffer's end; the type has alignment 1.
        self.direct::<N>(offset)
            .map(|bytes| unsafe { bytes.read() })
    }

    /// Not asked of a frame, whose headers are read at constant offsets only.
    #[inline(always)]
    fn read_padded<const N: usize>(&self, _: u32, _: u32) -> Option<[u8; N]> {
        None
    }
}

impl PacketWrite for XdpFrame {
    type Head<'p> = LinearHead;

    #[inline(always)]
    fn head<const N: usize>(&mut self) -> Option<LinearHead> {
        head::<N>(self.context)
    }

    #[inline(always)]
    fn write<const N: usize>(&mut self, offset: u32, bytes: [u8; N]) -> Option<()> {
        let place = self.direct::<N>(offset)?;
        // SAFETY: `direct` compared the range with the buffer's end.
        unsafe { place.write(bytes) };
        Some(())
    }

    /// As [`Self::read_padded`].
    #[inline(always)]
    fn write_first<const N: usize>(&mut self, _: u32, _: &[u8; N], _: u32) -> Option<()> {
        None
    }
}

impl PacketTrim for XdpFrame {
    #[inline(always)]
    fn trim(&mut self, length: u32) -> Option<()> {
        let less = (length as i32).wrapping_sub(self.length as i32);
        // SAFETY: the helper changes the frame, of which no pointer is held.
        let result = unsafe { bpf_xdp_adjust_tail(self.context, less) };
        if result != 0 {
            return None;
        }
        self.length = length;
        Some(())
    }
}

impl PacketRewrite for XdpFrame {
    /// A frame whose checksum is half made is not rewritten, so this is a whole one.
    #[inline(always)]
    fn fix_l4(&mut self, fix: ChecksumFix) -> Option<()> {
        let place = self.direct::<2>(fix.offset)?;
        // SAFETY: `direct` compared the range with the buffer's end; the type has alignment 1.
        let old = u16::from_be_bytes(unsafe { place.read() });
        // SAFETY: as above.
        unsafe { place.write(fix.apply(old).to_be_bytes()) };
        Some(())
    }
}
