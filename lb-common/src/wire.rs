//! Headers as they are on the wire: where each field is, how it is read and how a fresh one is
//! made.
//!
//! All offsets are in bytes from the start of the packet (its Ethernet header) unless a name says
//! otherwise. Bytes on the wire are big-endian; what functions here take and give is host order,
//! but addresses, which stay arrays in network order.

pub mod ethernet;
pub mod icmp;
pub mod ip;
pub mod ipv4;
pub mod ipv6;
pub mod sctp;
pub mod tcp;
pub mod udp;
