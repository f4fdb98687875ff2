//! ICMP (RFC 792) and ICMPv6 (RFC 4443, RFC 4861): the messages that we tell apart.

/// IANA protocol number of ICMP.
pub const PROTOCOL_V4: u8 = 1;
/// IANA protocol number of ICMPv6.
pub const PROTOCOL_V6: u8 = 58;

/// Bytes of the header that every message we read has; an error's quoted packet follows it.
pub const HEADER_LENGTH: u32 = 8;
/// Offset of the checksum, from the header.
pub const CHECKSUM_OFFSET: u32 = 2;

/// ICMP: echo reply.
pub const ECHO_REPLY_V4: u8 = 0;
/// ICMP: destination unreachable.
pub const UNREACHABLE_V4: u8 = 3;
/// ICMP: redirect.
pub const REDIRECT_V4: u8 = 5;
/// ICMP: echo request.
pub const ECHO_REQUEST_V4: u8 = 8;
/// ICMP: time exceeded.
pub const TIME_EXCEEDED_V4: u8 = 11;
/// ICMP: parameter problem.
pub const PARAMETER_PROBLEM_V4: u8 = 12;

/// ICMPv6: destination unreachable.
pub const UNREACHABLE_V6: u8 = 1;
/// ICMPv6: packet too big.
pub const TOO_BIG_V6: u8 = 2;
/// ICMPv6: time exceeded.
pub const TIME_EXCEEDED_V6: u8 = 3;
/// ICMPv6: parameter problem.
pub const PARAMETER_PROBLEM_V6: u8 = 4;
/// ICMPv6: echo request.
pub const ECHO_REQUEST_V6: u8 = 128;
/// ICMPv6: echo reply.
pub const ECHO_REPLY_V6: u8 = 129;
/// ICMPv6: redirect (RFC 4861 §4.5).
pub const REDIRECT_V6: u8 = 137;

/// Code of an ICMP unreachable: nothing listens on the port.
pub const PORT_UNREACHABLE_V4: u8 = 3;
/// Code of an ICMPv6 unreachable: nothing listens on the port.
pub const PORT_UNREACHABLE_V6: u8 = 4;
