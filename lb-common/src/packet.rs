//! How the decisions see a packet: bytes at offsets, which may not be there.

use crate::wire::ipv6::{Chain, Walk};

/// Read access to a packet from its Ethernet header on.
pub trait PacketRead {
    /// Bytes of the whole packet, also of those that [`Self::read`] must first fetch.
    fn length(&self) -> u32;

    /// The `N` bytes at `offset`, or `None` where the packet is shorter.
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;

    /// The `length` bytes at `offset`, which are at most `N`, with zeros behind them.
    fn read_padded<const N: usize>(&self, offset: u32, length: u32) -> Option<[u8; N]>;

    /// [`Chain::step`]. Asked of the packet because the kernel side has a function of its own for
    /// it, which its verifier checks once instead of for every header of every packet that is read.
    #[inline(always)]
    fn step_extension(&self, chain: &mut Chain, bytes: [u8; 8]) -> Walk {
        chain.step(bytes)
    }
}

/// Write access; never changes the length.
pub trait PacketWrite: PacketRead {
    /// Replaces the bytes at `offset`; `None`, and no change, where the packet is shorter.
    fn write<const N: usize>(&mut self, offset: u32, bytes: [u8; N]) -> Option<()>;

    /// Replaces as many bytes at `offset` by the first `length` of `bytes`.
    fn write_first<const N: usize>(
        &mut self,
        offset: u32,
        bytes: &[u8; N],
        length: u32,
    ) -> Option<()>;
}

/// A whole packet in memory, for the host.
#[derive(Debug)]
pub struct Frame<'a>(pub &'a mut [u8]);

fn range(offset: u32, length: usize) -> Option<core::ops::Range<usize>> {
    let start = usize::try_from(offset).ok()?;
    Some(start..start.checked_add(length)?)
}

impl PacketRead for Frame<'_> {
    fn length(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.0.get(range(offset, N)?)?.try_into().ok()
    }

    fn read_padded<const N: usize>(&self, offset: u32, length: u32) -> Option<[u8; N]> {
        let length = usize::try_from(length).ok()?;
        let mut bytes = [0; N];
        bytes
            .get_mut(..length)?
            .copy_from_slice(self.0.get(range(offset, length)?)?);
        Some(bytes)
    }
}

impl PacketWrite for Frame<'_> {
    fn write<const N: usize>(&mut self, offset: u32, bytes: [u8; N]) -> Option<()> {
        self.0.get_mut(range(offset, N)?)?.copy_from_slice(&bytes);
        Some(())
    }

    fn write_first<const N: usize>(
        &mut self,
        offset: u32,
        bytes: &[u8; N],
        length: u32,
    ) -> Option<()> {
        let length = usize::try_from(length).ok()?;
        self.0
            .get_mut(range(offset, length)?)?
            .copy_from_slice(bytes.get(..length)?);
        Some(())
    }
}
