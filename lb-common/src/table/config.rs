//! `CONFIG`: the settings of the datapath, an array of words written by the agent.
//!
//! CIDRs are compared by mask: a longest-prefix lookup would cost 76 ns, a comparison two.

use crate::family::Family;

/// Most CIDRs of one kind and family.
pub const MAX_CIDRS: u32 = 8;
/// Word with the seed of every hash of the flow table: random, chosen once for a node and kept
/// with the pins.
pub const SEED: u32 = 0;
/// Word with the number of service CIDRs: IPv4 in the lower half, IPv6 in the upper.
pub const SERVICE_CIDR_COUNTS: u32 = 1;
/// First word of the IPv4 service CIDRs, one word each: address in the upper half, mask in the
/// lower, both as big-endian values.
pub const SERVICE_CIDRS_V4: u32 = 8;
/// First word of the IPv6 service CIDRs, four words each: address, then mask.
pub const SERVICE_CIDRS_V6: u32 = 16;
/// First word of the conntrack timeouts in seconds, by [`crate::conntrack::State`]'s number.
pub const TIMEOUTS: u32 = 48;
/// Word with the number of copies that each statistic has, a power of two.
pub const STATISTICS_SHARDS: u32 = 3;
/// Number of buckets of `FLOWS_V4` (lower half) and `FLOWS_V6` (upper half), powers of two.
pub const FLOW_BUCKETS: u32 = 2;
/// Word with the number of cluster CIDRs, whose addresses are pods': IPv4 in the lower half, IPv6 in
/// the upper.
pub const CLUSTER_CIDR_COUNTS: u32 = 4;
/// Word that is not 0 where any new flow's packets may be sent on at once, or there may be such flows: what
/// is passed at ingress may then be one of their answers. Those of hosts are never passed.
pub const REDIRECT: u32 = 5;
/// Word with the number of host CIDRs, whose addresses are no pod's unless a cluster CIDR has them: IPv4
/// in the lower half, IPv6 in the upper.
pub const HOST_CIDR_COUNTS: u32 = 6;
/// Most host CIDRs of one family.
pub const MAX_HOST_CIDRS: u32 = 4;
/// First word of the IPv4 cluster CIDRs, laid out as the service CIDRs.
pub const CLUSTER_CIDRS_V4: u32 = 64;
/// First word of the IPv6 cluster CIDRs, likewise.
pub const CLUSTER_CIDRS_V6: u32 = 72;
/// First word of the IPv4 host CIDRs, laid out as the service CIDRs.
pub const HOST_CIDRS_V4: u32 = 104;
/// First word of the IPv6 host CIDRs, likewise.
pub const HOST_CIDRS_V6: u32 = 108;
/// Words of the map.
pub const CONFIG_WORDS: u32 = 128;

/// A CIDR as `CONFIG` holds it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Cidr<F: Family> {
    /// The network's address; bits outside the mask are 0.
    pub address: F::Address,
    /// The mask as an address.
    pub mask: F::Address,
}

impl<F: Family> Cidr<F> {
    /// Words that a CIDR of this family takes.
    pub const WORDS: u32 = if F::IS_V6 { 4 } else { 1 };
    /// First word of this family's service CIDRs.
    pub const FIRST_WORD: u32 = if F::IS_V6 {
        SERVICE_CIDRS_V6
    } else {
        SERVICE_CIDRS_V4
    };
    /// First word of this family's cluster CIDRs.
    pub const FIRST_CLUSTER_WORD: u32 = if F::IS_V6 {
        CLUSTER_CIDRS_V6
    } else {
        CLUSTER_CIDRS_V4
    };
    /// First word of this family's host CIDRs.
    pub const FIRST_HOST_WORD: u32 = if F::IS_V6 {
        HOST_CIDRS_V6
    } else {
        HOST_CIDRS_V4
    };

    /// Whether `address` is in the network.
    #[inline(always)]
    pub fn contains(&self, address: F::Address) -> bool {
        let [high, low] = F::halves(address);
        let [mask_high, mask_low] = F::halves(self.mask);
        F::halves(self.address) == [high & mask_high, low & mask_low]
    }

    /// The service CIDR at `position`, read word by word.
    #[inline(always)]
    pub fn read(position: u32, word: impl Fn(u32) -> u64) -> Self {
        Self::read_from(Self::FIRST_WORD, position, word)
    }

    /// The CIDR at `position` of those that begin at word `start`.
    #[inline(always)]
    pub fn read_from(start: u32, position: u32, word: impl Fn(u32) -> u64) -> Self {
        let first = start.wrapping_add(position.wrapping_mul(Self::WORDS));
        if F::IS_V6 {
            Self {
                address: F::from_halves([word(first), word(first.wrapping_add(1))]),
                mask: F::from_halves([word(first.wrapping_add(2)), word(first.wrapping_add(3))]),
            }
        } else {
            let both = word(first);
            Self {
                address: F::from_halves([both >> 32, 0]),
                mask: F::from_halves([both & 0xffff_ffff, 0]),
            }
        }
    }

    /// The words the CIDR takes; of an IPv4 one only the first.
    #[must_use]
    pub fn encode(&self) -> [u64; 4] {
        let [high, low] = F::halves(self.address);
        let [mask_high, mask_low] = F::halves(self.mask);
        if F::IS_V6 {
            [high, low, mask_high, mask_low]
        } else {
            [high << 32 | mask_high, 0, 0, 0]
        }
    }
}

const _: () = assert!(CLUSTER_CIDRS_V6 + 4 * MAX_CIDRS == HOST_CIDRS_V4);
const _: () = assert!(HOST_CIDRS_V4 + MAX_HOST_CIDRS == HOST_CIDRS_V6);
const _: () = assert!(HOST_CIDRS_V6 + 4 * MAX_HOST_CIDRS <= CONFIG_WORDS);
