//! Programs on the same packets, in turn: each round runs every one of them once, and begins with
//! another one than the round before. In every run it is checked that each packet ended as it
//! should: a fast drop is no result.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result, bail, ensure};
use lb_agent::clock::flow_seconds;
use lb_common::{
    course::{Course, MACS},
    verdict::Reason,
};

use super::{
    course,
    ground::Ground,
    rig::{End, Layer, Rig, Run, Runnable},
    uplink,
};
use crate::sequence::checksum;

/// Tries to get all of a warm round into one second.
const TRIES: u32 = 10;

/// What becomes of the packets.
#[derive(Clone, Debug)]
pub(super) enum Fate {
    /// They go on as they came.
    Untouched,
    /// They go to one of these.
    To(Vec<SocketAddr>),
    /// They come from this address.
    From(SocketAddr),
    /// They come from one of these hosts and go to the other; a port of theirs may have changed.
    Between(IpAddr, IpAddr),
}

/// What counts the packets, and so proves that all of them had their fate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Proof {
    /// Our counter of this reason.
    Counter(Reason),
    /// The minimal balancers' count of flows they did not know: none, or all.
    Misses {
        /// Whether all.
        all: bool,
    },
    /// There is no count; the last packet speaks for all.
    Last,
    /// Our counter of what XDP takes: nearly all of them. What is left to tc is packets whose whole
    /// checksum looks like a half-made one: those of one flow in 65 536, since a flow's are all alike here.
    Taken,
    /// The same counter of first packets of flows: all but those of one flow in sixteen, which begins by tc.
    Begun,
    /// The same counter: none of them.
    Left,
}

/// One program on one course.
pub(super) struct Entrant {
    /// How reports call it.
    pub(super) name: &'static str,
    /// The program.
    pub(super) program: Runnable,
    /// Its packets.
    pub(super) course: Course,
    /// What becomes of them.
    pub(super) fate: Fate,
    /// How that is known of all of them.
    pub(super) proof: Proof,
    /// How the program ends with them.
    pub(super) end: End,
    /// What has to see each packet before the program does, in the same second, and as what.
    pub(super) before: Vec<(Runnable, Course)>,
}

/// What goes before the packets that are timed, in the same second: entries are stamped once a second,
/// and who comes first in a second pays for it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Warm {
    /// Nothing.
    Nothing,
    /// A packet of each of so many flows.
    Each(u32),
    /// The very packets, where there are too many flows for a second. The caches are filled with
    /// something else then, as the other flows would have done.
    Same,
}

/// How long, and how often.
#[derive(Clone, Copy, Debug)]
pub(super) struct Distance {
    /// Rounds.
    pub(super) rounds: usize,
    /// Packets of a round that are timed.
    pub(super) packets: u32,
    /// What goes before those.
    pub(super) warm: Warm,
}

/// Runs them all; gives nanoseconds a packet, driver and test run included, by entrant and round.
pub(super) fn run(
    ground: &Ground,
    rig: &mut Rig,
    entrants: &mut [Entrant],
    distance: Distance,
) -> Result<Vec<Vec<f64>>> {
    let mut times = vec![Vec::new(); entrants.len()];
    for round in 0..distance.rounds {
        for turn in 0..entrants.len() {
            let position = (turn + round) % entrants.len();
            let entrant = &mut entrants[position];
            let time = lap(ground, rig, entrant, distance)
                .with_context(|| format!("{} in round {round}", entrant.name))?;
            times[position].push(time);
        }
    }
    Ok(times)
}

/// One entrant's part of a round.
fn lap(ground: &Ground, rig: &mut Rig, entrant: &mut Entrant, distance: Distance) -> Result<f64> {
    let mut last = None;
    for _ in 0..TRIES {
        let began = flow_seconds();
        prepare(rig, entrant, distance)?;
        let counted = counted(ground, rig, entrant)?;
        let run = rig.run(&entrant.program, &entrant.course, distance.packets)?;
        let more = self::counted(ground, rig, entrant)? - counted;
        let course = entrant.course;
        if entrant.course.flows == 0 {
            entrant.course.first = entrant.course.first.wrapping_add(distance.packets);
        } else {
            entrant.course.position += u64::from(distance.packets);
        }
        let is_one_second = flow_seconds() == began;
        let is_whole = distance.warm == Warm::Nothing || is_one_second;
        // Without its second, what has to be there before is not; and the last packet may be one of those
        // that are left.
        let is_void = match entrant.proof {
            Proof::Taken => !is_one_second || run.end == End::Next,
            Proof::Begun => run.end == End::Next,
            _ => false,
        };
        if is_void {
            continue;
        }
        prove(entrant, &course, &run, (more, distance.packets))?;
        last = Some(run.nanoseconds);
        if is_whole {
            break;
        }
    }
    match last {
        Some(time) => Ok(time),
        None => {
            bail!("of {TRIES} tries, XDP left the last packet of each, or none was in one second")
        }
    }
}

/// What goes before the packets that are timed.
fn prepare(rig: &mut Rig, entrant: &Entrant, distance: Distance) -> Result<()> {
    let own = &entrant.course;
    let as_before = |course: &Course| Course {
        position: own.position,
        flows: own.flows,
        first: own.first,
        ..*course
    };
    let before = entrant.before.iter();
    let before = before.map(|(program, course)| (program, as_before(course)));
    let itself = (distance.warm != Warm::Nothing && entrant.before.is_empty())
        .then_some((&entrant.program, *own));
    for (program, course) in before.chain(itself) {
        match distance.warm {
            Warm::Each(flows) => {
                rig.run(program, &course::onward(course, own.first), flows)?;
            }
            Warm::Nothing | Warm::Same => {
                rig.run(program, &course, distance.packets)?;
            }
        }
    }
    if distance.warm == Warm::Same {
        rig.sweep_caches();
    }
    Ok(())
}

/// Whether all packets of a run, of which so many were counted of so many, ended as they should.
fn prove(entrant: &Entrant, course: &Course, run: &Run, (more, packets): (u64, u32)) -> Result<()> {
    let packets = u64::from(packets);
    let expected = match entrant.proof {
        Proof::Misses { all: false } | Proof::Last | Proof::Left => 0..=0,
        Proof::Misses { all: true } | Proof::Counter(_) => packets..=packets,
        Proof::Taken => packets - (packets / 1_000).max(1)..=packets,
        // By lot: of a thousand packets, eight standard deviations below what is expected.
        Proof::Begun => packets / 8 * 7..=packets,
    };
    ensure!(
        expected.contains(&more),
        "{more} of {expected:?} packets were counted"
    );
    ensure!(run.end == entrant.end, "the packet ended as {:?}", run.end);
    check(course, &run.frame, &entrant.fate)?;
    let is_frame = entrant.program.layer == Layer::Frames;
    if is_frame && entrant.end == End::Sent {
        sent(course, &run.frame)
    } else if is_frame {
        ensure!(
            run.frame.starts_with(&MACS),
            "a frame that is not sent has other MACs"
        );
        Ok(())
    } else {
        Ok(())
    }
}

/// Whether the frame is as one that a host sends on: of one hop less, and to the next one.
fn sent(course: &Course, frame: &[u8]) -> Result<()> {
    let ttl = if course.ip_checksum == 0 { 7 } else { 8 };
    let (before, after) = (course.header[ttl], frame.get(14 + ttl).copied());
    ensure!(
        after.is_some_and(|after| after.wrapping_add(1) == before),
        "TTL {after:?} of {before}"
    );
    ensure!(
        frame.starts_with(&uplink::NEXT_HOP),
        "sent to another next hop: {frame:02x?}"
    );
    Ok(())
}

fn counted(ground: &Ground, rig: &Rig, entrant: &Entrant) -> Result<u64> {
    match entrant.proof {
        Proof::Counter(reason) => ground.count(reason),
        Proof::Taken | Proof::Begun | Proof::Left => ground.count(Reason::ByXdp),
        Proof::Misses { .. } => rig.misses(),
        Proof::Last => Ok(0),
    }
}

/// Whether the packet that came out has the right checksums, and the addresses it should have.
pub(super) fn check(course: &Course, frame: &[u8], fate: &Fate) -> Result<()> {
    ensure!(
        checksum::are_right(frame) == Some(true),
        "a checksum is wrong: {frame:02x?}"
    );
    let (source, destination) = ends(frame).context("the packet has no ports")?;
    let before = [&frame[..14], &course.header].concat();
    let (old_source, old_destination) = ends(&before).context("the course has no ports")?;
    // The client's end is another for each packet.
    let is_reply = matches!(fate, Fate::From(_));
    match fate {
        Fate::Untouched => {
            let is_same = destination == old_destination || source == old_source;
            ensure!(
                is_same,
                "{source} → {destination} was {old_source} → {old_destination}"
            );
        }
        Fate::To(backends) => ensure!(
            backends.contains(&destination),
            "sent to {destination}, which is none of {backends:?}"
        ),
        Fate::From(dialled) => ensure!(source == *dialled, "an answer comes from {source}"),
        Fate::Between(from, to) => ensure!(
            source.ip() == *from && destination.ip() == *to,
            "{source} → {destination} is not from {from} to {to}"
        ),
    }
    let client = if is_reply { destination } else { source };
    ensure!(client.port() >= 1024, "the client's port became {client}");
    Ok(())
}

/// Source and destination of an untagged TCP or UDP frame without options.
fn ends(frame: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let packet = frame.get(14..)?;
    let (addresses, l4): ([IpAddr; 2], usize) = if packet.first()? >> 4 == 6 {
        let address = |at: usize| -> Option<IpAddr> {
            let octets: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
            Some(Ipv6Addr::from(octets).into())
        };
        ([address(8)?, address(24)?], 40)
    } else {
        let address = |at: usize| -> Option<IpAddr> {
            let octets: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
            Some(Ipv4Addr::from(octets).into())
        };
        ([address(12)?, address(16)?], 20)
    };
    let port = |at: usize| -> Option<u16> {
        let octets: [u8; 2] = packet.get(at..at + 2)?.try_into().ok()?;
        Some(u16::from_be_bytes(octets))
    };
    let [source, destination] = addresses;
    Some((
        SocketAddr::new(source, port(l4)?),
        SocketAddr::new(destination, port(l4 + 2)?),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packets;

    fn frame(destination: &str) -> Vec<u8> {
        let client = "10.0.0.1:40000".parse().unwrap();
        packets::tcp(client, destination.parse().unwrap())
            .payload(&[0; 24])
            .build()
    }

    #[test]
    fn a_packet_to_nobodys_backend_or_with_a_wrong_checksum_ends_the_bench() {
        let sent = frame("10.96.0.2:80");
        let course = course::course(&sent, course::Client::Source).unwrap();
        let backends = Fate::To(vec!["10.200.0.1:8080".parse().unwrap()]);
        check(&course, &frame("10.200.0.1:8080"), &backends).unwrap();
        check(&course, &sent, &backends).unwrap_err();
        let mut damaged = frame("10.200.0.1:8080");
        damaged[50] ^= 1;
        check(&course, &damaged, &backends).unwrap_err();
    }
}
