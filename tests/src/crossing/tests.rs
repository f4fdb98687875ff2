//! Packets of a node on each of their ways: all of them must agree.

use std::sync::atomic::Ordering;

use lb_common::checksum::Sum;
use lb_common::id::Seconds;
use lb_common::verdict::Reason;

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
    is_by_xdp: bool,
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
        Self {
            plain: node(),
            quick: node(),
            frames: node(),
            fib: node().fib,
        }
    }

    fn cross(&mut self, device: u32, frame: &[u8], now: Seconds) -> [Gone; 3] {
        let fib = &self.fib;
        let all = [&mut self.plain, &mut self.quick, &mut self.frames];
        let mut number = 0;
        all.map(|tables| {
            number += 1;
            tables.stand_at(device);
            tables.forget_notes();
            // What goes to tc has not been noticed before.
            let sees_frames = number == 3 && device == UPLINK;
            match by_xdp(tables, frame, now).filter(|_| sees_frames) {
                Some(gone) => gone,
                None => by_tc(tables, fib, device, frame, now),
            }
        })
    }
}

fn by_xdp(tables: &MemoryTables, frame: &[u8], now: Seconds) -> Option<Gone> {
    let ways = FrameWays {
        tables,
        is_scattered: false,
    };
    let taken = frames::run_frame(tables, ways, frame, now)?;
    Some(Gone {
        crossed: Crossed {
            left: Some((taken.device, taken.frame)),
            ended: None,
            is_sent_on: true,
        },
        counts: taken.counts.to_vec(),
        notes: vec![Reason::SentOn],
        is_by_xdp: true,
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
        is_by_xdp: false,
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
    let (mut sent_on, mut by_xdp, mut left) = (0_u32, 0_u32, 0_u32);
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
            let [plain, quick, frames] = ways.cross(device, &frame, now);
            let what = || format!("packet {packet} of node {number}, at {device}");
            assert!(!plain.crossed.is_sent_on);
            sent_on += u32::from(quick.crossed.is_sent_on);
            by_xdp += u32::from(frames.is_by_xdp);
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
    assert!(
        sent_on > PACKETS / 10 && by_xdp > PACKETS / 60,
        "{sent_on} of {PACKETS} were sent on, {by_xdp} of them by XDP; {left} left"
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
        let mut tagged = talk.frame.clone();
        tagged.splice(12..12, [0x81, 0x00, 0, 5]);
        assert!(!talk.is_taken(&tagged, false, NOW));
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
