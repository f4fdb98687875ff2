//! TCP (RFC 9293 §3.1).

/// Bytes of a header without options.
pub const MIN_HEADER_LENGTH: u32 = 20;
/// Offset of the byte whose upper half is the header's length in words, from the header.
pub const LENGTH_OFFSET: u32 = 12;
/// Offset of the byte with the control bits.
pub const FLAGS_OFFSET: u32 = 13;
/// Offset of the checksum, from the header.
pub const CHECKSUM_OFFSET: u32 = 16;

/// The control bits of a segment.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronises sequence numbers: the first segment of a connection and its answer.
    pub const SYN: Self = Self(0x02);
    /// Ends the connection at once.
    pub const RST: Self = Self(0x04);
    /// Hands the data to the reader without delay.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgement number is valid.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer is valid.
    pub const URG: Self = Self(0x20);

    /// Whether every bit of `other` is set here.
    #[inline(always)]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits of both.
    #[must_use]
    #[inline(always)]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether this opens a connection: SYN without ACK or RST.
    #[inline(always)]
    pub const fn is_opening(self) -> bool {
        self.0 & (Self::SYN.0 | Self::ACK.0 | Self::RST.0) == Self::SYN.0
    }
}
