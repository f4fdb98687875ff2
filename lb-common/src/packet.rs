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

/// The beginning of a packet, that much of which is there: what [`crate::decide::glance`] reads and
/// writes.
///
/// Values are big-endian, as headers have them, and need no alignment. Offsets are constants below
/// the length that was asked for, since in the kernel each is part of one instruction; what reaches
/// beyond it is 0, or not written.
pub trait Head {
    /// The byte at `AT`.
    fn byte<const AT: usize>(&self) -> u8;
    /// The two bytes at `AT`.
    fn half<const AT: usize>(&self) -> u16;
    /// The four bytes at `AT`.
    fn word<const AT: usize>(&self) -> u32;
    /// The eight bytes at `AT`.
    fn double<const AT: usize>(&self) -> u64;
    /// Replaces the two bytes at `AT`.
    fn set_half<const AT: usize>(&mut self, value: u16);
    /// Replaces the four bytes at `AT`.
    fn set_word<const AT: usize>(&mut self, value: u32);
    /// Replaces the eight bytes at `AT`.
    fn set_double<const AT: usize>(&mut self, value: u64);
}

/// Write access; never changes the length.
pub trait PacketWrite: PacketRead {
    /// What [`Self::head`] gives.
    type Head<'p>: Head
    where
        Self: 'p;

    /// The first `N` bytes; `None` where the packet is shorter, or has them elsewhere than the rest.
    fn head<const N: usize>(&mut self) -> Option<Self::Head<'_>>;

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

/// A packet whose end can be cut off.
pub trait PacketTrim: PacketWrite {
    /// Leaves the first `length` bytes; `None`, and no change, where there are fewer.
    fn trim(&mut self, length: u32) -> Option<()>;
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

/// The [`Head`] of a [`Frame`].
#[derive(Debug)]
pub struct FrameHead<'a>(&'a mut [u8]);

impl FrameHead<'_> {
    fn get<const AT: usize, const N: usize>(&self) -> [u8; N] {
        let bytes = self.0.get(AT..AT.saturating_add(N));
        bytes
            .and_then(|bytes| bytes.try_into().ok())
            .unwrap_or([0; N])
    }

    fn set<const AT: usize, const N: usize>(&mut self, value: [u8; N]) {
        if let Some(bytes) = self.0.get_mut(AT..AT.saturating_add(N)) {
            bytes.copy_from_slice(&value);
        }
    }
}

impl Head for FrameHead<'_> {
    fn byte<const AT: usize>(&self) -> u8 {
        u8::from_be_bytes(self.get::<AT, 1>())
    }

    fn half<const AT: usize>(&self) -> u16 {
        u16::from_be_bytes(self.get::<AT, 2>())
    }

    fn word<const AT: usize>(&self) -> u32 {
        u32::from_be_bytes(self.get::<AT, 4>())
    }

    fn double<const AT: usize>(&self) -> u64 {
        u64::from_be_bytes(self.get::<AT, 8>())
    }

    fn set_half<const AT: usize>(&mut self, value: u16) {
        self.set::<AT, 2>(value.to_be_bytes());
    }

    fn set_word<const AT: usize>(&mut self, value: u32) {
        self.set::<AT, 4>(value.to_be_bytes());
    }

    fn set_double<const AT: usize>(&mut self, value: u64) {
        self.set::<AT, 8>(value.to_be_bytes());
    }
}

impl PacketWrite for Frame<'_> {
    type Head<'p>
        = FrameHead<'p>
    where
        Self: 'p;

    fn head<const N: usize>(&mut self) -> Option<FrameHead<'_>> {
        self.0.get_mut(..N).map(FrameHead)
    }

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

impl PacketTrim for Frame<'_> {
    fn trim(&mut self, length: u32) -> Option<()> {
        let length = usize::try_from(length).ok()?;
        if length > self.0.len() {
            return None;
        }
        (self.0, _) = core::mem::take(&mut self.0).split_at_mut(length);
        Some(())
    }
}
