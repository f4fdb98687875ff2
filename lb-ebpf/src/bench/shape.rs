//! A packet of either family as the programs here see it: no options, no extension headers, and its
//! addresses as they lie in memory. `N` is how many words an address has.

use lb_common::hash;

use crate::bytes::load;
use crate::medium::Medium;

/// A flow as one direction of it sees it: 16 bytes, or 40 of IPv6, as others have it.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Flow<const N: usize> {
    /// As in the packet.
    pub(crate) source: [u32; N],
    /// As in the packet.
    pub(crate) destination: [u32; N],
    /// As in the packet: the source port is the lower half.
    pub(crate) ports: u32,
    /// TCP or UDP.
    pub(crate) protocol: u32,
}

impl<const N: usize> Flow<N> {
    /// A hash of all of it.
    #[inline(always)]
    pub(crate) fn hash(&self) -> u64 {
        let mut hash = 0;
        for (source, destination) in self.source.iter().zip(&self.destination) {
            hash = hash::mix(hash, u64::from(*source) << 32 | u64::from(*destination));
        }
        hash::mix(hash, u64::from(self.ports))
    }
}

/// Offsets in an untagged frame whose addresses have `N` words.
pub(crate) struct Offsets<const N: usize>;

impl<const N: usize> Offsets<N> {
    /// Whether they are those of IPv6.
    pub(crate) const IS_V6: bool = N == 4;
    /// As in the packet.
    const ETHER_TYPE: u16 = if Self::IS_V6 { 0x86dd } else { 0x0800 };
    const PROTOCOL: usize = if Self::IS_V6 { 20 } else { 23 };
    /// Of the IP header's checksum, where there is one.
    pub(crate) const IP_CHECKSUM: Option<usize> = if Self::IS_V6 { None } else { Some(24) };
    pub(crate) const SOURCE: usize = if Self::IS_V6 { 22 } else { 26 };
    pub(crate) const DESTINATION: usize = if Self::IS_V6 { 38 } else { 30 };
    /// Of the two bytes that TTL or hop limit is one of.
    pub(crate) const TTL: usize = if Self::IS_V6 { 20 } else { 22 };
    pub(crate) const PORTS: usize = if Self::IS_V6 { 54 } else { 34 };
    /// Bytes that are looked at or changed: as far as a TCP header goes.
    const LENGTH: usize = Self::PORTS + 20;
}

const ETHER_TYPE: usize = 12;
const VERSION: usize = 14;

/// The flow of a TCP or UDP packet, and where the packet begins.
#[inline(always)]
pub(crate) fn read<const N: usize>(ctx: &impl Medium) -> Option<(usize, Flow<N>)> {
    let start = ctx.start();
    if start + Offsets::<N>::LENGTH > ctx.end() {
        return None;
    }
    let ether_type = Offsets::<N>::ETHER_TYPE.to_be();
    if load::<2>(start + ETHER_TYPE) != u32::from(ether_type) {
        return None;
    }
    if !Offsets::<N>::IS_V6 && load::<1>(start + VERSION) != 0x45 {
        return None;
    }
    let protocol = load::<1>(start + Offsets::<N>::PROTOCOL);
    if protocol != 6 && protocol != 17 {
        return None;
    }
    let flow = Flow {
        source: words(start + Offsets::<N>::SOURCE),
        destination: words(start + Offsets::<N>::DESTINATION),
        ports: load::<4>(start + Offsets::<N>::PORTS),
        protocol,
    };
    Some((start, flow))
}

/// `N` words at `place`.
#[inline(always)]
fn words<const N: usize>(place: usize) -> [u32; N] {
    let mut words = [0; N];
    for (index, word) in words.iter_mut().enumerate() {
        *word = load::<4>(place + index * 4);
    }
    words
}
