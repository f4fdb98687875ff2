//! How an entry lies in its slot: 8 words of an IPv4 flow, 12 of an IPv6 one.
//!
//! ```text
//! word, V4  V6
//!  0      0–3    key: source, destination address
//!  1      4      key: source port 16, destination port 16, protocol 8, hook 8, zero 16
//!  2      5–8    translated: source, destination address
//!  3      9      translated: source port 16, destination port 16, direction 8, path 8,
//!                from outside 8, zero 8
//!  4      10     service id 32, backend id 32
//!  5, 6   –      zero
//!  7      11     sequence of the control word
//! ```
//!
//! Fields are named from the high bits down; words are in native byte order. The key comes first
//! and alone, so that comparing it is comparing words.

use crate::checksum::Sum;
use crate::family::Family;
use crate::flow::{Direction, FlowEntry, FlowKey, FlowTuple, Hook, Path, Protocol};
use crate::flows::{Bucket, SLOTS};
use crate::hash;
use crate::id::{BackendId, ServiceId};

/// Words of an entry.
#[inline(always)]
pub const fn entry_words<F: Family>() -> usize {
    if F::IS_V6 { 12 } else { 8 }
}

/// Words of a bucket: control words and entries.
#[inline(always)]
pub const fn bucket_words<F: Family>() -> usize {
    SLOTS.wrapping_add(SLOTS.wrapping_mul(entry_words::<F>()))
}

const fn translated_word<F: Family>() -> usize {
    if F::IS_V6 { 5 } else { 2 }
}

const fn ids_word<F: Family>() -> usize {
    if F::IS_V6 { 10 } else { 4 }
}

const fn sequence_word<F: Family>() -> usize {
    entry_words::<F>().wrapping_sub(1)
}

/// Addresses and ports of a packet as an entry has them: four words of addresses, of which IPv4 uses
/// the first; then both ports in one, the source port above.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TupleWords {
    /// Source, then destination address, as big-endian values.
    pub addresses: [u64; 4],
    /// Source port above destination port.
    pub ports: u32,
}

impl TupleWords {
    /// Those of `tuple`.
    #[inline(always)]
    pub fn of<F: Family>(tuple: &FlowTuple<F>) -> Self {
        let ([a, b], [c, d]) = (F::halves(tuple.source), F::halves(tuple.destination));
        let addresses = if F::IS_V6 {
            [a, b, c, d]
        } else {
            [a << 32 | c, 0, 0, 0]
        };
        let ports = u32::from(tuple.source_port) << 16 | u32::from(tuple.destination_port);
        Self { addresses, ports }
    }

    /// Source and destination address.
    #[inline(always)]
    pub fn ends<F: Family>(&self) -> [F::Address; 2] {
        addresses_of::<F>(self.addresses)
    }

    /// Whether the addresses of `other` are different. Compared one by one: arrays would have to lie
    /// in memory for it.
    #[inline(always)]
    pub const fn differs<F: Family>(&self, other: &Self) -> bool {
        let ([a, b, c, d], [e, f, g, h]) = (self.addresses, other.addresses);
        let difference = a ^ e;
        if F::IS_V6 {
            difference | (b ^ f) | (c ^ g) | (d ^ h) != 0
        } else {
            difference != 0
        }
    }

    /// Adds up what changes if a packet gets the addresses of `new`: the change of a checksum.
    #[inline(always)]
    pub fn address_change<F: Family>(&self, new: &Self) -> Sum {
        let ([a, b, c, d], [e, f, g, h]) = (self.addresses, new.addresses);
        let first = Sum::ZERO.quad(!a).quad(e);
        if F::IS_V6 {
            first.quad(!b).quad(f).quad(!c).quad(g).quad(!d).quad(h)
        } else {
            first
        }
    }

    /// The same of the ports.
    #[inline(always)]
    pub fn port_change(&self, new: &Self) -> Sum {
        Sum::ZERO.double(!self.ports).double(new.ports)
    }
}

/// A key as words: addresses, then ports, protocol and hook. IPv4 leaves the last three 0.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(transparent)]
pub struct KeyWords([u64; 5]);

impl KeyWords {
    /// The key of packets with `tuple` at `hook`.
    #[inline(always)]
    pub fn of<F: Family>(tuple: &TupleWords, protocol: Protocol, hook: Hook) -> Self {
        let [a, b, c, d] = tuple.addresses;
        let ports = u64::from(tuple.ports) << 32
            | u64::from(protocol.number()) << 24
            | u64::from(hook_number(hook)) << 16;
        if F::IS_V6 {
            Self([a, b, c, d, ports])
        } else {
            Self([a, ports, 0, 0, 0])
        }
    }

    #[inline(always)]
    pub(super) fn new<F: Family>(key: &FlowKey<F>) -> Self {
        let ports = ports(
            &key.tuple,
            key.tuple.protocol.number(),
            hook_number(key.hook),
        );
        let [a, b] = F::halves(key.tuple.source);
        let [c, d] = F::halves(key.tuple.destination);
        if F::IS_V6 {
            Self([a, b, c, d, ports])
        } else {
            Self([a << 32 | c, ports, 0, 0, 0])
        }
    }

    #[inline(always)]
    pub(super) const fn hash<F: Family>(&self, seed: u64) -> u64 {
        let [a, b, c, d, e] = self.0;
        let hash = hash::mix(hash::mix(seed, a), b);
        if F::IS_V6 {
            hash::mix(hash::mix(hash::mix(hash, c), d), e)
        } else {
            hash
        }
    }

    /// Whether the entry in `slot` has this key.
    #[inline(always)]
    pub(super) fn match_entry<F: Family>(&self, bucket: &impl Bucket, slot: usize) -> bool {
        let [a, b, c, d, e] = self.0;
        bucket.word(slot, 0) == a
            && bucket.word(slot, 1) == b
            && (!F::IS_V6
                || (bucket.word(slot, 2) == c
                    && bucket.word(slot, 3) == d
                    && bucket.word(slot, 4) == e))
    }
}

/// The sequence that the entry in `slot` was written with.
#[inline(always)]
pub(super) fn sequence<F: Family>(bucket: &impl Bucket, slot: usize) -> u32 {
    hash::lower(bucket.word(slot, sequence_word::<F>()))
}

/// Writes the whole entry into `slot`, which the caller has claimed.
#[inline(always)]
pub(super) fn write<F: Family>(
    bucket: &impl Bucket,
    slot: usize,
    entry: &FlowEntry<F>,
    sequence: u32,
) {
    let key = ports(
        &entry.key.tuple,
        entry.key.tuple.protocol.number(),
        hook_number(entry.key.hook),
    );
    let translated = ports(
        &entry.translated,
        direction_number(entry.direction),
        path_number(entry.path),
    ) | outside_bits(entry);
    write_tuple(bucket, slot, 0, &entry.key.tuple, key);
    write_tuple(
        bucket,
        slot,
        translated_word::<F>(),
        &entry.translated,
        translated,
    );
    bucket.set_word(slot, ids_word::<F>(), ids(entry));
    if !F::IS_V6 {
        bucket.set_word(slot, 5, 0);
        bucket.set_word(slot, 6, 0);
    }
    bucket.set_word(slot, sequence_word::<F>(), u64::from(sequence));
}

#[inline(always)]
fn write_tuple<F: Family>(
    bucket: &impl Bucket,
    slot: usize,
    first: usize,
    tuple: &FlowTuple<F>,
    ports: u64,
) {
    let [a, b] = F::halves(tuple.source);
    let [c, d] = F::halves(tuple.destination);
    if F::IS_V6 {
        bucket.set_word(slot, first, a);
        bucket.set_word(slot, first.wrapping_add(1), b);
        bucket.set_word(slot, first.wrapping_add(2), c);
        bucket.set_word(slot, first.wrapping_add(3), d);
        bucket.set_word(slot, first.wrapping_add(4), ports);
    } else {
        bucket.set_word(slot, first, a << 32 | c);
        bucket.set_word(slot, first.wrapping_add(1), ports);
    }
}

/// What of an entry is not its key, as words: addresses (IPv4 uses the first only), ports, ids.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value([u64; 4], u64, u64);

impl Value {
    #[inline(always)]
    pub(super) fn read<F: Family>(bucket: &impl Bucket, slot: usize) -> Self {
        let (addresses, ports) = read_tuple::<F>(bucket, slot, translated_word::<F>());
        Self(addresses, ports, bucket.word(slot, ids_word::<F>()))
    }

    /// What a packet is translated to.
    #[inline(always)]
    pub(super) const fn translated(&self) -> TupleWords {
        TupleWords {
            addresses: self.0,
            ports: hash::upper(self.1),
        }
    }

    /// The entry's direction.
    #[inline(always)]
    pub(super) const fn direction(&self) -> Direction {
        if hash::lower(self.1) >> 24 == DIRECTION_ORIGINAL {
            Direction::Original
        } else {
            Direction::Reply
        }
    }

    /// How its packets leave.
    #[inline(always)]
    pub(super) const fn path(&self) -> Path {
        path_of_number(hash::lower(self.1) >> 16 & 0xff)
    }

    /// The backend that serves.
    #[inline(always)]
    pub(super) const fn backend(&self) -> BackendId {
        BackendId::from_raw(hash::lower(self.2))
    }

    /// The entry of `key` with this value.
    #[inline(always)]
    pub(super) fn entry<F: Family>(&self, key: FlowKey<F>) -> FlowEntry<F> {
        let Self(addresses, ports, ids) = *self;
        let [source, destination] = addresses_of::<F>(addresses);
        let [a, b, c, d, direction, path, outside, _] = ports.to_be_bytes();
        FlowEntry {
            key,
            translated: FlowTuple {
                source,
                destination,
                source_port: u16::from_be_bytes([a, b]),
                destination_port: u16::from_be_bytes([c, d]),
                protocol: key.tuple.protocol,
            },
            direction: if direction == direction_number(Direction::Original) {
                Direction::Original
            } else {
                Direction::Reply
            },
            path: path_of_number(u32::from(path)),
            is_from_outside: outside != 0,
            service: ServiceId::from_raw(hash::upper(ids)),
            backend: BackendId::from_raw(hash::lower(ids)),
        }
    }
}

/// Whether the entry in `slot` has the value of `entry`, compared word by word.
#[inline(always)]
pub(super) fn has_value<F: Family>(
    bucket: &impl Bucket,
    slot: usize,
    entry: &FlowEntry<F>,
) -> bool {
    let first = translated_word::<F>();
    let word = |offset| bucket.word(slot, first.wrapping_add(offset));
    let translated = &entry.translated;
    let third = direction_number(entry.direction);
    let ports = ports(translated, third, path_number(entry.path)) | outside_bits(entry);
    let [a, b] = F::halves(translated.source);
    let [c, d] = F::halves(translated.destination);
    let has_tuple = if F::IS_V6 {
        word(0) == a && word(1) == b && word(2) == c && word(3) == d && word(4) == ports
    } else {
        word(0) == (a << 32 | c) && word(1) == ports
    };
    has_tuple && bucket.word(slot, ids_word::<F>()) == ids(entry)
}

#[inline(always)]
fn ids<F: Family>(entry: &FlowEntry<F>) -> u64 {
    u64::from(entry.service.raw()) << 32 | u64::from(entry.backend.raw())
}

/// The key of the entry in `slot`; `None` where it was never written.
#[inline(always)]
pub(super) fn read_key<F: Family>(bucket: &impl Bucket, slot: usize) -> Option<FlowKey<F>> {
    let (addresses, ports) = read_tuple::<F>(bucket, slot, 0);
    let [source, destination] = addresses_of::<F>(addresses);
    let [a, b, c, d, protocol, hook, _, _] = ports.to_be_bytes();
    Some(FlowKey {
        tuple: FlowTuple {
            source,
            destination,
            source_port: u16::from_be_bytes([a, b]),
            destination_port: u16::from_be_bytes([c, d]),
            protocol: Protocol::from_number(protocol)?,
        },
        hook: if hook == hook_number(Hook::Ingress) {
            Hook::Ingress
        } else {
            Hook::Egress
        },
    })
}

/// Addresses and ports of the tuple at word `first`, as words.
#[inline(always)]
fn read_tuple<F: Family>(bucket: &impl Bucket, slot: usize, first: usize) -> ([u64; 4], u64) {
    let word = |offset| bucket.word(slot, first.wrapping_add(offset));
    if F::IS_V6 {
        ([word(0), word(1), word(2), word(3)], word(4))
    } else {
        ([word(0), 0, 0, 0], word(1))
    }
}

/// Source and destination.
#[inline(always)]
fn addresses_of<F: Family>([a, b, c, d]: [u64; 4]) -> [F::Address; 2] {
    if F::IS_V6 {
        [F::from_halves([a, b]), F::from_halves([c, d])]
    } else {
        [
            F::from_halves([a >> 32, 0]),
            F::from_halves([a & 0xffff_ffff, 0]),
        ]
    }
}

#[inline(always)]
const fn ports<F: Family>(tuple: &FlowTuple<F>, third: u8, fourth: u8) -> u64 {
    let [a, b] = tuple.source_port.to_be_bytes();
    let [c, d] = tuple.destination_port.to_be_bytes();
    u64::from_be_bytes([a, b, c, d, third, fourth, 0, 0])
}

/// What goes between path and zeros.
#[inline(always)]
const fn outside_bits<F: Family>(entry: &FlowEntry<F>) -> u64 {
    if entry.is_from_outside { 1 << 8 } else { 0 }
}

const DIRECTION_ORIGINAL: u32 = 0;
const PATH_BRIDGED: u32 = 1;
const PATH_SENT_ON: u32 = 2;
const PATH_OF_HOST: u32 = 3;

const fn hook_number(hook: Hook) -> u8 {
    match hook {
        Hook::Ingress => 0,
        Hook::Egress => 1,
    }
}

const fn direction_number(direction: Direction) -> u8 {
    match direction {
        Direction::Original => 0,
        Direction::Reply => 1,
    }
}

const fn path_number(path: Path) -> u8 {
    match path {
        Path::Routed => 0,
        Path::Bridged => 1,
        Path::SentOn => 2,
        Path::OfHost => 3,
    }
}

/// Of two bits, which have as many values as there are paths: so this is no branch, of which the kernel's
/// verifier would follow each.
#[inline(always)]
const fn path_of_number(number: u32) -> Path {
    match number & 3 {
        PATH_BRIDGED => Path::Bridged,
        PATH_SENT_ON => Path::SentOn,
        PATH_OF_HOST => Path::OfHost,
        _ => Path::Routed,
    }
}
