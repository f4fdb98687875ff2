//! Packets of a node on each of their ways: all of them must agree.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use lb_common::checksum::Sum;
use lb_common::id::Seconds;
use lb_common::verdict::Reason;

mod hosts;

use super::*;
use crate::frames::{self, FrameWays};
use crate::given::{self, PLACES};
use crate::host::{self, flows};

/// Packets in all, and those after which a node begins anew.
const PACKETS: u32 = 100_000;
const OF_A_NODE: u32 = 250;
/// Packets between two looks at all flows.
const LISTED: u32 = 25;

/// The ways of one node: the plain one, that of what is sent on at once, and that of frames.
struct Ways {
    plain: MemoryTables,
    quick: MemoryTables,
    frames: MemoryTables,
    fib: Fib,
}

/// What became of a packet, what was counted of it (with bytes) and noted, and whether XDP had it.
struct Gone {
    crossed: Crossed,
    counts: Vec<(Reason, usize)>,
    notes: Vec<Reason>,
    by_xdp: Xdp,
}

/// Whether XDP had a packet, and how.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Xdp {
    Not,
    Glance,
    Passage,
}

impl Ways {
    fn new(number: u32) -> Self {
        let is_local = number.is_multiple_of(2);
        // Not known from the first packet on, but resolved by whoever asks.
        let client = if number.is_multiple_of(5) {
            Answer::Unresolved
        } else {
            Answer::Known
        };
        let node = || {
            let mut tables = tables(is_local, client);
            tables.random_step = 0x9e37_79b9;
            tables
        };
        let mut all = Self {
            plain: node(),
            quick: node(),
            frames: node(),
            fib: node().fib,
        };
        if number % 4 == 1 {
            know_hosts(&mut all.quick);
            know_hosts(&mut all.frames);
        }
        all
    }

    fn cross(&mut self, (device, frame): (u32, &[u8]), now: Seconds, may_begin: bool) -> [Gone; 3] {
        let fib = &self.fib;
        let all = [&mut self.plain, &mut self.quick, &mut self.frames];
        let mut number = 0;
        all.map(|tables| {
            number += 1;
            tables.stand_at(device);
            tables.forget_notes();
            // What goes to tc has not been noticed before.
            let sees_frames = number == 3 && device == UPLINK;
            match sees_frames
                .then(|| by_xdp(tables, frame, now, may_begin))
                .flatten()
            {
                Some(gone) => gone,
                None => by_tc(tables, fib, device, frame, now),
            }
        })
    }
}

fn by_xdp(tables: &MemoryTables, frame: &[u8], now: Seconds, may_begin: bool) -> Option<Gone> {
    let ways = FrameWays {
        tables,
        is_scattered: false,
        may_begin,
    };
    let taken = frames::run_frame(tables, ways, frame, now)?;
    Some(Gone {
        crossed: Crossed {
            left: taken.device.map(|device| (device, taken.frame)),
            ended: None,
            is_sent_on: true,
        },
        counts: taken.counts.to_vec(),
        notes: taken.notes,
        by_xdp: if taken.is_glanced {
            Xdp::Glance
        } else {
            Xdp::Passage
        },
    })
}

fn by_tc(tables: &mut MemoryTables, fib: &Fib, device: u32, frame: &[u8], now: Seconds) -> Gone {
    let (mut counts, mut notes) = (Vec::new(), Vec::new());
    let crossed = cross(fib, device, frame, |device, hook, frame| {
        tables.stand_at(device);
        let ended = host::run_at(tables, (role(device), hook), frame, now);
        counts.push((ended.reason, frame.len()));
        notes.append(&mut tables.notes.borrow_mut());
        ended
    });
    Gone {
        crossed,
        counts,
        notes,
        by_xdp: Xdp::Not,
    }
}

/// Every word of both flow tables: entries, states, stamps.
fn words(tables: &MemoryTables) -> Vec<u64> {
    let all = tables.flows_v4.iter().chain(&tables.flows_v6);
    all.map(|word| word.load(Ordering::Relaxed)).collect()
}

#[track_caller]
fn assert_same(one: &MemoryTables, other: &MemoryTables, what: impl Fn() -> String) {
    assert_eq!(one.fragments, other.fragments, "{}", what());
    assert_eq!(one.affinity, other.affinity, "{}", what());
    assert_eq!(one.opened, other.opened, "{}", what());
}

/// The devices that are open, and those that take frames, change in between, and with the former the
/// path of flows that begin.
#[test]
fn a_hundred_thousand_packets_come_out_the_same_on_all_ways_and_leave_the_same_tables() {
    let (mut sent_on, mut left) = (0_u32, 0_u32);
    let mut by_xdp = BTreeMap::new();
    for number in 0..PACKETS / OF_A_NODE {
        let place = *Dice::new(u64::from(number)).pick(&PLACES);
        let mut script = Script::new(u64::from(number) << 8, place);
        let mut ways = Ways::new(number);
        let mut now = Seconds(1000);
        for packet in 0..OF_A_NODE {
            if packet == 0 || script.one_in(50) {
                let all = [CLIENT, BACKEND, UPLINK];
                let some = [&all[..], &all[..], &all[..2], &[UPLINK], &[]];
                let chosen: &&[u32] = script.dice.pick(&some);
                open(&mut ways.quick, chosen);
                open(&mut ways.frames, chosen);
                let chosen: &&[u32] = script.dice.pick(&some[..4]);
                let_take(&mut ways.frames, chosen);
            }
            now = Seconds(now.0 + u32::from(script.one_in(60)));
            let (device, frame) = script.next_packet();
            let [plain, quick, frames] = ways.cross((device, &frame), now, !script.one_in(16));
            let what = || format!("packet {packet} of node {number}, at {device}");
            assert!(!plain.crossed.is_sent_on);
            sent_on += u32::from(quick.crossed.is_sent_on);
            if let [(arrived, _), (went, _)] = frames.counts[..]
                && frames.by_xdp != Xdp::Not
            {
                *by_xdp
                    .entry((frames.by_xdp == Xdp::Passage, arrived, went))
                    .or_insert(0_u32) += 1;
            }
            let ends = |gone: &Gone| (gone.crossed.left.clone(), gone.crossed.ended.clone());
            assert_eq!(ends(&plain), ends(&quick), "{}", what());
            assert_eq!(quick.crossed, frames.crossed, "{}", what());
            assert_eq!(
                (&quick.counts, &quick.notes),
                (&frames.counts, &frames.notes),
                "{}",
                what()
            );
            // Lists are long: what differs once does so to the end of the flow, or of the node.
            if packet % LISTED == LISTED - 1 {
                assert_eq!(flows(&ways.plain), flows(&ways.quick), "{}", what());
                assert!(words(&ways.quick) == words(&ways.frames), "{}", what());
            }
            assert_same(&ways.plain, &ways.quick, what);
            assert_same(&ways.plain, &ways.frames, what);
            if let Some((device, frame)) = plain.crossed.left {
                left += 1;
                script.learn(device, &frame);
            }
        }
    }
    // A comparison of nothing would hold, too.
    let taken: u32 = by_xdp.values().sum();
    let of = |reason| -> u32 {
        let all = by_xdp
            .iter()
            .filter(|((_, arrived, went), _)| [*arrived, *went].contains(&reason));
        all.map(|(_, count)| count).sum()
    };
    assert!(
        sent_on > PACKETS / 10
            && taken > PACKETS / 30
            && of(Reason::NewFlow) > PACKETS / 250
            && of(Reason::NewSource) > PACKETS / 400,
        "{sent_on} of {PACKETS} were sent on, by XDP {by_xdp:?}; {left} left"
    );
}

/// A node on which a client from outside talks to a pod of it, second by second.
struct Talk {
    tables: MemoryTables,
    fib: Fib,
    /// What the client sends in the midst of it.
    frame: Vec<u8>,
}

const NOW: Seconds = Seconds(1000);

impl Talk {
    fn new(place: Place, protocol: Protocol) -> Self {
        let mut tables = tables(true, Answer::Known);
        open(&mut tables, &[CLIENT, BACKEND, UPLINK]);
        let_take(&mut tables, &[CLIENT, BACKEND, UPLINK]);
        let (client, service) = (outside::client(place), outside::dialled(place)[0]);
        let mut talk = Self {
            fib: tables.fib.clone(),
            tables,
            frame: packet(protocol, client, service).build(),
        };
        let first = given::first(protocol, client, service).build();
        let asked = talk.cross(UPLINK, &first).left.expect("it is sent on");
        let (from, to, _) = ends_of(&asked.1).expect("it has ports");
        let answer = given::answer(protocol, to, from).build();
        assert!(talk.cross(BACKEND, &answer).left.is_some());
        let again = talk.frame.clone();
        assert!(talk.cross(UPLINK, &again).is_sent_on);
        talk.tables.stand_at(UPLINK);
        talk
    }

    fn cross(&mut self, device: u32, frame: &[u8]) -> Crossed {
        by_tc(&mut self.tables, &self.fib, device, frame, NOW).crossed
    }

    /// Whether XDP takes `frame`, that lies in one buffer or in several.
    fn is_taken(&self, frame: &[u8], is_scattered: bool, now: Seconds) -> bool {
        let tables = &self.tables;
        let ways = FrameWays {
            tables,
            is_scattered,
            may_begin: false,
        };
        frames::run_frame(tables, ways, frame, now).is_some()
    }

    /// Has all devices take `takes`, from an XDP program in the driver or from the generic one.
    fn set_takes(&mut self, takes: Takes, is_generic: bool) {
        for (&index, record) in &mut self.tables.others {
            *record = record.with_frames(index, DESTINATION_MAC, takes, is_generic);
        }
        self.tables.stand_at(UPLINK);
    }
}

fn of_each_kind(check: impl Fn(Talk)) {
    for place in PLACES {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            check(Talk::new(place, protocol));
        }
    }
}

/// The same packet, its checksum to be finished by a device.
fn half_made(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let is_v6 = frame[12..14] == [0x86, 0xdd];
    let (addresses, l4, protocol) = if is_v6 {
        (22..54, 54, frame[20])
    } else {
        (26..34, 34, frame[23])
    };
    let length = u16::try_from(frame.len() - l4).expect("a short packet");
    let mut sum = Sum::ZERO.word(protocol.into()).word(length);
    for word in frame[addresses].chunks_exact(2) {
        sum = sum.word(u16::from_be_bytes([word[0], word[1]]));
    }
    let at = l4 + if protocol == 6 { 16 } else { 6 };
    frame[at..at + 2].copy_from_slice(&sum.fold().to_be_bytes());
    frame
}

#[test]
fn a_frame_in_the_midst_of_a_flow_is_taken_and_one_that_has_to_be_finished_is_left_to_tc() {
    of_each_kind(|talk| {
        assert!(talk.is_taken(&talk.frame, false, NOW));
        let half_made = half_made(&talk.frame);
        assert!(!talk.is_taken(&half_made, false, NOW), "{half_made:?}");
        assert!(!talk.is_taken(&talk.frame, false, Seconds(NOW.0 + 1)));
        let mut foreign = talk.frame.clone();
        foreign[5] ^= 1;
        assert!(!talk.is_taken(&foreign, false, NOW));
        for tags in TAGS {
            let mut tagged = talk.frame.clone();
            tagged.splice(12..12, tags.iter().copied());
            assert!(!talk.is_taken(&tagged, false, NOW));
        }
        for length in 0..talk.frame.len() {
            assert!(!talk.is_taken(&talk.frame[..length], false, NOW));
        }
    });
}

#[test]
fn a_frame_is_left_to_tc_where_the_device_of_its_way_does_not_take_it() {
    of_each_kind(|mut talk| {
        for (takes, whole, scattered, generic) in [
            (Takes::Nothing, false, false, false),
            (Takes::Packets, false, false, true),
            (Takes::Frames, true, false, true),
            (Takes::AllFrames, true, true, true),
        ] {
            talk.set_takes(takes, false);
            assert_eq!(talk.is_taken(&talk.frame, false, NOW), whole, "{takes:?}");
            assert_eq!(
                talk.is_taken(&talk.frame, true, NOW),
                scattered,
                "{takes:?}"
            );
            talk.set_takes(takes, true);
            assert_eq!(talk.is_taken(&talk.frame, false, NOW), generic, "{takes:?}");
        }
        // Nothing is cut off of what ends in another buffer.
        let mut padded = talk.frame.clone();
        padded.push(0);
        assert!(talk.is_taken(&padded, false, NOW));
        talk.set_takes(Takes::AllFrames, false);
        assert!(!talk.is_taken(&padded, true, NOW));
    });
}

#[test]
fn a_frame_is_left_to_tc_by_a_device_that_is_closed_and_without_a_neighbour() {
    of_each_kind(|mut talk| {
        open(&mut talk.tables, &[CLIENT, BACKEND]);
        assert!(!talk.is_taken(&talk.frame, false, NOW));
        open(&mut talk.tables, &[UPLINK]);
        assert!(talk.is_taken(&talk.frame, false, NOW));
        for way in &mut talk.tables.fib.ways {
            way.answer = Answer::Unresolved;
        }
        assert!(!talk.is_taken(&talk.frame, false, NOW));
    });
}

/// The tables of a node whose backend is elsewhere, on which all devices are open and take frames.
fn distant() -> MemoryTables {
    let mut tables = tables(false, Answer::Known);
    open(&mut tables, &[CLIENT, BACKEND, UPLINK]);
    let_take(&mut tables, &[CLIENT, BACKEND, UPLINK]);
    tables
}

fn looked_at(tables: &MemoryTables, frame: &[u8], may_begin: bool) -> Option<frames::Taken> {
    let ways = FrameWays {
        tables,
        is_scattered: false,
        may_begin,
    };
    frames::run_frame(tables, ways, frame, NOW)
}

#[test]
fn a_flow_begins_without_tc_where_it_may_and_tc_that_looks_again_finds_it() {
    for place in PLACES {
        for protocol in PROTOCOLS {
            let mut tables = distant();
            let (client, service) = (outside::client(place), outside::dialled(place)[0]);
            let first = given::first(protocol, client, service).build();
            assert_eq!(looked_at(&tables, &first, false), None);
            assert!(flows(&tables).is_empty(), "nothing is written");
            let taken = looked_at(&tables, &first, true).expect("it is taken");
            let reasons = taken.counts.map(|(reason, _)| reason);
            assert_eq!(reasons, [Reason::NewFlow, Reason::NewSource]);
            let made = words(&tables);
            let fib = tables.fib.clone();
            let again = by_tc(&mut tables, &fib, UPLINK, &first, NOW);
            let left = taken.device.map(|device| (device, taken.frame));
            assert_eq!(again.crossed.left, left);
            assert!(words(&tables) == made, "{protocol:?} of {place:?}");
        }
    }
}

/// A flow leaves by another uplink than it comes by: which sockets there are at that one only its own
/// egress can ask.
#[test]
fn a_flow_that_leaves_by_another_uplink_begins_by_tc() {
    const OTHER: u32 = 14;
    for place in PLACES {
        let mut tables = distant();
        let record = tables.others[&UPLINK].opened(OTHER, true);
        tables.others.insert(OTHER, record);
        tables.fib.macs.insert(OTHER, macs(OTHER));
        let client = outside::client(place);
        for way in &mut tables.fib.ways {
            if way.network == place.address(203, 0) {
                way.device = OTHER;
            }
        }
        tables.stand_at(OTHER);
        let service = outside::dialled(place)[0];
        let first = given::first(Protocol::Udp, client, service).build();
        assert_eq!(looked_at(&tables, &first, true), None);
        assert!(flows(&tables).is_empty(), "nothing is written");
        let ended = host::run_at(&tables, (Role::Uplink, Hook::Ingress), &first, NOW);
        assert_eq!(ended.sent_by, Some(UPLINK), "but by tc it is sent on");
    }
}

#[test]
fn a_frame_with_tags_is_left_to_tc_whatever_they_are() {
    for place in PLACES {
        let tables = distant();
        let (client, service) = (outside::client(place), outside::dialled(place)[0]);
        let first = given::first(Protocol::Tcp, client, service).build();
        for tags in TAGS {
            let mut tagged = first.clone();
            tagged.splice(12..12, tags.iter().copied());
            assert_eq!(looked_at(&tables, &tagged, true), None, "{tags:?}");
        }
        assert!(flows(&tables).is_empty(), "nothing is written");
        assert!(looked_at(&tables, &first, true).is_some());
    }
}
