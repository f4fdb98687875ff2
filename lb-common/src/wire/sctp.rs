//! SCTP (RFC 9260 §3.1). Its checksum covers the ports but no address.

/// Bytes of the common header.
pub const HEADER_LENGTH: u32 = 12;
/// Offset of the CRC-32C in it; the field is little-endian.
pub const CHECKSUM_OFFSET: u32 = 8;
