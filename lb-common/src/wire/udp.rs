//! UDP (RFC 768).

/// Bytes of the header.
pub const HEADER_LENGTH: u32 = 8;
/// Offset of the checksum, from the header. Zero means that the sender computed none; a computed
/// zero is sent as all ones.
pub const CHECKSUM_OFFSET: u32 = 6;
