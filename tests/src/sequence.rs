//! Tables and packets in time made from any bytes, and what must hold whatever they are: what the
//! fuzz target `decide` runs, and what replays its corpus here.
//!
//! * Nothing panics, even where tables contradict each other.
//! * A packet whose checksums were right leaves with right ones; one that is passed on is not
//!   touched.
//! * What translates a packet translates its answer back: the client is answered by whom it asked.
//! * A key is published once, and each live half of a flow has its other half, as long as no bucket
//!   was full and nobody took one out.
//!
//! The bytes are a script: services first, then one step after the other. A script that ends in
//! the middle of something goes on with zeros to the end of it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};

use lb_common::family::{Family, V4, V6};
use lb_common::flow::{Hook, Protocol};
use lb_common::flows::{Bucket as _, Buckets, Control, Location, SLOTS, Slot};
use lb_common::id::{BackendId, Seconds};
use lb_common::packet::Frame;
use lb_common::parse::{parse, parse_link};
use lb_common::table::backend::{BackendFlags, BackendRecord};
use lb_common::tables::{Tables as _, flow_table};
use lb_common::verdict::Reason;

use crate::given::{PLACES, PROTOCOLS, Place};
use crate::host::{self, Code, Ended};
use crate::packets::{self, PacketBuilder};
use crate::tables::{MemoryTables, ServicePort, World};

#[path = "sequence/checksum.rs"]
pub(crate) mod checksum;
#[path = "sequence/script.rs"]
mod script;

use script::{Script, Shape};

/// Steps of one script.
const STEPS: usize = 48;
/// Steps between two looks through the flow tables.
const STEPS_BETWEEN_CHECKS: usize = 8;
/// Packets that answers and errors may be about.
const REMEMBERED: usize = 32;
/// When a script begins.
const START: Seconds = Seconds(5000);
/// How long all its steps may take: entries tell their age within 2^20 seconds.
const LONGEST: u32 = 400_000;

/// Runs the script that `bytes` are.
///
/// # Panics
///
/// If something does not hold.
pub fn check(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let mut run = Run {
        tables: MemoryTables::new(&script.world()),
        now: START,
        sent: Vec::new(),
        is_sound: true,
        is_whole: true,
    };
    run.tables.share_bridge.set(script.bit());
    for number in 1..=STEPS {
        run.step(&mut script);
        let is_over = script.is_over() || number == STEPS;
        // Not after each: looking through the tables takes longer than anything else here.
        if run.is_sound && (is_over || number % STEPS_BETWEEN_CHECKS == 0) {
            run.check_flows::<V4>();
            run.check_flows::<V6>();
        }
        if is_over {
            return;
        }
    }
}

/// A request that was translated.
#[derive(Clone, Debug)]
struct Sent {
    shape: Shape,
    protocol: Protocol,
    client: SocketAddr,
    service: SocketAddr,
    /// The client as the backend sees it.
    seen: SocketAddr,
    backend: SocketAddr,
    frame: Vec<u8>,
    translated: Vec<u8>,
}

struct Run {
    tables: MemoryTables,
    now: Seconds,
    sent: Vec<Sent>,
    /// Whether the tables are some that an agent could have written.
    is_sound: bool,
    /// Whether no half of a flow has lost its other half by fault of ours.
    is_whole: bool,
}

impl Run {
    fn step(&mut self, script: &mut Script<'_>) {
        match script.below(10) {
            0..4 => self.request(script),
            4 | 5 => self.reply(script),
            6 => self.error(script),
            7 => {
                let wait = [1, 10, 61, 130, 3700, 90_000][usize::from(script.below(6))];
                self.now = Seconds((self.now.0 + wait).min(START.0 + LONGEST));
            }
            8 => {
                let (place, protocol) = (script.place(), script.protocol());
                let address = script.backend(place, protocol);
                let flags = script.below(8);
                if self.tables.has_backend(address, protocol) {
                    self.tables.set_flags(address, protocol, flags);
                }
            }
            _ => match script.below(4) {
                0 => {
                    let place = script.place();
                    let (client, service) = (script.client(place), script.service(place));
                    let request = packets::echo_request(client.ip(), service.ip());
                    self.send(Hook::Ingress, &request.build());
                }
                1 => self.resend_changed(script),
                2 => self.forget(script),
                _ => self.poke(script),
            },
        }
    }

    /// Sends a frame and checks what holds for any.
    fn send(&mut self, hook: Hook, frame: &[u8]) -> Ended {
        self.is_whole &= !has_full_bucket(&self.tables);
        self.tables.forget_notes();
        let ended = host::run(&self.tables, hook, frame, self.now);
        if !self.is_sound {
            return ended;
        }
        if checksum::are_right(frame) == Some(true) && ended.code != Code::Drop {
            let after = checksum::are_right(&ended.frame);
            assert_eq!(after, Some(true), "{hook:?} {ended:?} from {frame:x?}");
        }
        let is_translated = matches!(
            ended.reason,
            Reason::NewFlow | Reason::Established | Reason::Fragment | Reason::IcmpError
        );
        if ended.code == Code::Next {
            assert_eq!(ended.frame.len(), frame.len());
            assert!(
                is_translated || ended.frame == frame,
                "{ended:?} from {frame:x?}"
            );
        }
        ended
    }

    fn request(&mut self, script: &mut Script<'_>) {
        let (place, protocol) = (script.place(), script.protocol());
        let (client, service) = (script.client(place), script.service(place));
        let shape = script.shape();
        let frames = shape.frames(protocol, client, service);
        for (number, frame) in frames.iter().enumerate() {
            let ended = self.send(Hook::Ingress, frame);
            if number > 0 || ended.code != Code::Next || !is_of_flow(ended.reason) {
                continue;
            }
            let Some((seen, backend)) = ends(&ended.frame) else {
                continue;
            };
            let sent = Sent {
                shape,
                protocol,
                client,
                service,
                seen,
                backend,
                frame: frame.clone(),
                translated: ended.frame,
            };
            if self.is_sound {
                let expected = &shape.frames(protocol, seen, backend)[0];
                assert_eq!(*expected, sent.translated, "{sent:?}");
                self.check_answer(&sent);
            }
            if self.sent.len() == REMEMBERED {
                self.sent.remove(0);
            }
            self.sent.push(sent);
        }
    }

    /// The answer to a packet that was translated just now is translated back; it is only tried,
    /// and leaves no trace.
    fn check_answer(&self, sent: &Sent) {
        if !self.is_whole || has_full_bucket(&self.tables) {
            return;
        }
        let words = self.tables.flows_v4.iter().chain(&self.tables.flows_v6);
        let before: Vec<u64> = words
            .clone()
            .map(|word| word.load(Ordering::Relaxed))
            .collect();
        let answer = |from, to| plain(sent.protocol, from, to).build();
        let frame = answer(sent.backend, sent.seen);
        let ended = host::run(&self.tables, Hook::Egress, &frame, self.now);
        assert_eq!(
            (ended.code, ended.reason),
            (Code::Next, Reason::Established),
            "{sent:?}"
        );
        assert_eq!(ended.frame, answer(sent.service, sent.client), "{sent:?}");
        for (word, value) in words.zip(before) {
            AtomicU64::store(word, value, Ordering::Relaxed);
        }
    }

    fn reply(&mut self, script: &mut Script<'_>) {
        let Some(sent) = script.choose(&self.sent).cloned() else {
            return;
        };
        let shape = script.shape();
        // A pod that serves itself answers to the service address, which comes back to it.
        let is_hairpin = sent.client.ip() == sent.backend.ip();
        let hook = if is_hairpin && script.bit() {
            Hook::Ingress
        } else {
            Hook::Egress
        };
        let to = if hook == Hook::Ingress {
            SocketAddr::new(sent.service.ip(), sent.seen.port())
        } else {
            sent.seen
        };
        for frame in shape.frames(sent.protocol, sent.backend, to) {
            self.send(hook, &frame);
        }
    }

    fn error(&mut self, script: &mut Script<'_>) {
        let Some(sent) = script.choose(&self.sent).cloned() else {
            return;
        };
        let (hook, source, destination, quoted) = if script.bit() {
            let quoted = sent.translated.clone();
            (Hook::Egress, sent.backend, sent.client, quoted)
        } else {
            let seen = sent.shape.frames(sent.protocol, sent.service, sent.client);
            (Hook::Ingress, sent.client, sent.service, seen[0].clone())
        };
        if quoted[12..14] == [0x81, 0] {
            return;
        }
        let (from, to) = (source.ip(), destination.ip());
        let error = match script.below(3) {
            0 => packets::unreachable(from, to, &quoted),
            1 => packets::too_big(from, to, 1280, &quoted),
            _ => packets::time_exceeded(from, to, &quoted, script.below(64).into()),
        };
        self.send(hook, &error.build());
    }

    fn resend_changed(&mut self, script: &mut Script<'_>) {
        let Some(sent) = script.choose(&self.sent).cloned() else {
            return;
        };
        let (hook, mut frame) = if script.bit() {
            (Hook::Ingress, sent.frame)
        } else {
            (Hook::Egress, sent.translated)
        };
        let place = usize::from(script.byte()) % frame.len();
        frame[place] ^= script.byte();
        frame.truncate(frame.len() - usize::from(script.below(4)));
        self.send(hook, &frame);
    }

    /// Takes any one half out of the table.
    fn forget(&mut self, script: &mut Script<'_>) {
        let lines: Vec<String> = host::flows(&self.tables).into_iter().collect();
        if let Some(line) = script.choose(&lines) {
            host::forget(&self.tables, line);
            self.is_whole = false;
        }
    }

    /// Writes anything anywhere: from here on nothing holds but that nothing panics.
    fn poke(&mut self, script: &mut Script<'_>) {
        self.is_sound = false;
        let value = u64::from_le_bytes(std::array::from_fn(|_| script.byte()));
        let at = usize::from(script.byte()) << 4 | usize::from(script.byte() & 15);
        let tables = &mut self.tables;
        match script.below(7) {
            0 => put(tables.services.as_flattened_mut(), at % 32, value),
            1 => put(&mut tables.arena, at, value),
            2 => {
                let [low, .., protocol, flags] = value.to_le_bytes();
                let protocol = PROTOCOLS[usize::from(protocol) % 3];
                let id = BackendId::from_raw(u32::from(low));
                let address = [0xfd; 16];
                let record = BackendRecord::new(id, address, 1, protocol, BackendFlags(flags));
                put(&mut tables.backends, at % 16, record);
            }
            3 => put(&mut tables.service_filter, at, value),
            4 => put(&mut tables.backend_filter, at, value),
            5 => {
                let count = tables.frontends.len().max(1);
                if let Some(frontend) = tables.frontends.values_mut().nth(at % count) {
                    *frontend = value;
                }
            }
            _ => {
                let words = if value & 1 == 0 {
                    &tables.flows_v4
                } else {
                    &tables.flows_v6
                };
                words[at % words.len()].store(value, Ordering::Relaxed);
            }
        }
    }

    /// Every key once, and both halves of every live flow.
    fn check_flows<F: Family>(&self) {
        let tables = &self.tables;
        let table = flow_table::<F, _>(&tables);
        let mut published = Vec::new();
        for bucket in 0..Buckets::<F>::count(&(&tables).flows::<F>()) {
            for slot in 0..SLOTS {
                match table.slot(Location { bucket, slot }) {
                    Some(Slot::Published(found)) => published.push(found),
                    Some(Slot::Free) => {}
                    other => panic!("left behind: {other:?}"),
                }
            }
        }
        let is_whole = self.is_whole && !has_full_bucket(tables);
        for (number, found) in published.iter().enumerate() {
            let later = &published[number + 1..];
            let is_twice = later.iter().any(|other| other.entry.key == found.entry.key);
            assert!(!is_twice, "published twice: {found:?}");
            if !is_whole || found.state.is_closing() || !table.is_within_timeout(found, self.now) {
                continue;
            }
            let partner = table.lookup(&found.entry.partner().key, self.now);
            let partner = partner.map(|partner| (partner.entry, partner.state));
            let expected = Some((found.entry.partner(), found.state));
            assert_eq!(partner, expected, "of {found:?}");
        }
    }
}

fn put<T>(values: &mut [T], at: usize, value: T) {
    let count = values.len();
    values[at % count] = value;
}

const fn is_of_flow(reason: Reason) -> bool {
    matches!(reason, Reason::NewFlow | Reason::Established)
}

/// A packet that opens and ends nothing.
fn plain(protocol: Protocol, source: SocketAddr, destination: SocketAddr) -> PacketBuilder {
    crate::given::packet(protocol, source, destination)
}

/// Whether a newcomer might have to take another's place.
fn has_full_bucket(tables: &MemoryTables) -> bool {
    fn of<F: Family>(tables: &MemoryTables) -> bool {
        let buckets = tables.flows::<F>();
        (0..Buckets::<F>::count(&buckets)).any(|index| {
            let bucket = Buckets::<F>::bucket(&buckets, index);
            bucket.is_some_and(|bucket| {
                !(0..SLOTS).any(|slot| Control(bucket.control(slot)).is_free())
            })
        })
    }
    of::<V4>(tables) || of::<V6>(tables)
}

/// Source and destination of a frame with ports.
fn ends(frame: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    fn of<F: Family>(frame: &mut [u8], l3: u32) -> Option<(SocketAddr, SocketAddr)> {
        let tuple = parse::<F>(&Frame(frame), l3).ok()?.tuple()?;
        let ip = |address| -> IpAddr { Ipv6Addr::from(F::mapped(address)).to_canonical() };
        Some((
            SocketAddr::new(ip(tuple.source), tuple.source_port),
            SocketAddr::new(ip(tuple.destination), tuple.destination_port),
        ))
    }
    let mut frame = frame.to_vec();
    let link = parse_link(&Frame(&mut frame)).ok()?;
    if link.is_v6 {
        of::<V6>(&mut frame, link.l3)
    } else {
        of::<V4>(&mut frame, link.l3)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_fuzzers_corpus_still_holds() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/decide");
        let mut count = 0;
        for entry in std::fs::read_dir(folder).expect("the corpus is there") {
            let path = entry.expect("the corpus can be listed").path();
            eprintln!("{}", path.display());
            check(&std::fs::read(&path).expect("a file of the corpus"));
            count += 1;
        }
        assert!(count > 0, "an empty corpus replays nothing");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

        #[test]
        fn what_must_hold_holds_for_any_script(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            check(&bytes);
        }
    }
}
