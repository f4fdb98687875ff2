//! The cases: which packets, by whom, beside whom.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use lb_agent::dataplane::load::{WORKLOAD_EGRESS, WORKLOAD_INGRESS};
use lb_common::{
    course::{Course, FIRST_PORT, HEADER},
    verdict::Reason,
};

use crate::{
    bench::{
        Options,
        course::{Client, among, course, onward},
        ground::Ground,
        race::{self, Distance, Entrant, Fate, Proof, Warm},
        report::{Bar, Figure, Report, middle},
        rig::{Baseline, Rig},
        services::{HAIRPIN, MANY, SINGLE, Service},
    },
    packets,
};

/// Packets of a round that are timed, in most cases.
const PACKETS: u32 = 100_000;
/// How reports call ours.
const OURS: &str = "steerage";
/// What most cases measure.
const COST: Figure = Figure::new("a packet, over the empty program", "ns");

/// Who dials.
#[derive(Clone, Copy, Debug)]
struct Traffic {
    is_v6: bool,
    is_udp: bool,
}

const TCP_V4: Traffic = Traffic {
    is_v6: false,
    is_udp: false,
};
const UDP_V4: Traffic = Traffic {
    is_udp: true,
    ..TCP_V4
};
const TCP_V6: Traffic = Traffic {
    is_v6: true,
    ..TCP_V4
};

impl Traffic {
    fn name(self) -> String {
        let family = if self.is_v6 { "IPv6" } else { "IPv4" };
        let protocol = if self.is_udp { "UDP" } else { "TCP" };
        format!("{family} {protocol}")
    }

    /// Flow 0's client.
    fn client(self) -> SocketAddr {
        let address = if self.is_v6 {
            IpAddr::from(Ipv6Addr::new(0xfd00, 0x100, 0, 0, 0, 0, 0, 0))
        } else {
            Ipv4Addr::new(172, 20, 0, 0).into()
        };
        SocketAddr::new(address, FIRST_PORT)
    }

    /// A frame of the driver's length.
    fn frame(self, source: SocketAddr, destination: SocketAddr, flags: u8) -> Vec<u8> {
        let headers = match (self.is_v6, self.is_udp) {
            (false, false) => 40,
            (false, true) => 28,
            (true, false) => 60,
            (true, true) => 48,
        };
        let packet = if self.is_udp {
            packets::udp(source, destination)
        } else {
            packets::tcp(source, destination).flags(flags)
        };
        packet.payload(&vec![0; HEADER - headers]).build()
    }

    fn request(self, service: &Service, flags: u8) -> Result<Course> {
        let client = self.client_of(service);
        course(
            &self.frame(client, service.dialled(self.is_v6), flags),
            Client::Source,
        )
    }

    fn reply(self, service: &Service, flags: u8) -> Result<Course> {
        let endpoints = service.endpoints(self.is_v6);
        let backend = endpoints.first().context("a service has an endpoint")?;
        course(
            &self.frame(*backend, self.client_of(service), flags),
            Client::Destination,
        )
    }

    /// A hairpin's client is the endpoint.
    fn client_of(self, service: &Service) -> SocketAddr {
        let endpoints = service.endpoints(self.is_v6);
        if service.dialled(false) == HAIRPIN.dialled(false) {
            SocketAddr::new(endpoints[0].ip(), FIRST_PORT)
        } else {
            self.client()
        }
    }
}

/// Everything a case needs.
struct Track<'a> {
    ground: &'a mut Ground,
    rig: &'a mut Rig,
    report: &'a mut Report,
    /// What counts are divided by.
    scale: u32,
    rounds: usize,
}

/// All cases but those of other sizes of the cluster.
pub(super) fn all(options: &Options, ground: &mut Ground, report: &mut Report) -> Result<()> {
    no_service(options, super::SERVICES, ground, &mut Rig::load()?, report)?;
    let mut rig = Rig::load()?;
    let (scale, rounds) = effort(options);
    let mut track = Track {
        ground,
        rig: &mut rig,
        report,
        scale,
        rounds,
    };
    track.same(TCP_V4)?;
    // Upwards: every case finds the flows of those before it.
    for (flows, name) in [
        (1, "one flow"),
        (4 << 10, "4 k flows"),
        (64 << 10, "64 k flows"),
        (1_000_000, "1 M flows"),
    ] {
        let flows = (flows / scale).max(1);
        track.established(TCP_V4, name, flows)?;
        if flows <= 64 << 10 {
            track.versions(name, flows)?;
        }
    }
    track.first_of_a_second((1_000_000 / scale).max(1))?;
    track.established(UDP_V4, "one flow", 1)?;
    track.hairpin()?;
    track.ground.forget_flows()?;
    track.new_flows(UDP_V4, "every packet a new flow")?;
    track.new_flows(TCP_V4, "SYN flood")?;
    track.ground.forget_flows()?;
    track.new_flows(TCP_V6, "SYN flood")
}

/// What counts are divided by, and rounds.
const fn effort(options: &Options) -> (u32, usize) {
    if options.is_smoke { (100, 3) } else { (1, 11) }
}

/// Packets of no service, among so many.
pub(super) fn no_service(
    options: &Options,
    services: u32,
    ground: &mut Ground,
    rig: &mut Rig,
    report: &mut Report,
) -> Result<()> {
    let (scale, rounds) = effort(options);
    let mut track = Track {
        ground,
        rig,
        report,
        scale,
        rounds,
    };
    for traffic in [TCP_V4, TCP_V6] {
        let server: SocketAddr = if traffic.is_v6 {
            "[fd00:300::1]:8080".parse()?
        } else {
            "10.210.0.1:8080".parse()?
        };
        let client = traffic.client();
        let sent = course(&traffic.frame(client, server, packets::ACK), Client::Source)?;
        let sent = among(sent, 4096);
        let entrants = [
            track.baseline(Baseline::Empty, sent, Fate::Untouched, Proof::Last)?,
            track.baseline(Baseline::Parse, sent, Fate::Untouched, Proof::Last)?,
            track.ours(WORKLOAD_INGRESS, sent, Fate::Untouched, Reason::NotService)?,
            track.ours(WORKLOAD_EGRESS, sent, Fate::Untouched, Reason::NotService)?,
        ];
        let [empty, parse, ingress, egress] = track.race(entrants, PACKETS, Warm::Nothing)?;
        let case = format!("no service, {}, among {services} services", traffic.name());
        let figure = Figure::new("driver and test run", "ns");
        let empty_name = Baseline::Empty.name();
        track.report.add(&case, figure.of(empty_name), &empty);
        let figure = COST.of(Baseline::Parse.name());
        track.report.add(&case, figure, &over(&parse, &empty));
        for (side, times) in [("from the pod", ingress), ("to the pod", egress)] {
            let case = format!(
                "no service, {side}, {}, among {services} services",
                traffic.name()
            );
            track
                .report
                .add(&case, COST.at_most(40.0), &over(&times, &empty));
        }
    }
    Ok(())
}

impl Track<'_> {
    fn baseline(
        &mut self,
        baseline: Baseline,
        course: Course,
        fate: Fate,
        proof: Proof,
    ) -> Result<Entrant> {
        Ok(Entrant {
            name: baseline.name(),
            program: self.rig.baseline(baseline)?.fd()?.try_clone()?,
            course,
            fate,
            proof,
        })
    }

    fn ours(
        &mut self,
        program: &'static str,
        course: Course,
        fate: Fate,
        reason: Reason,
    ) -> Result<Entrant> {
        Ok(Entrant {
            name: OURS,
            program: self.ground.descriptor(program)?,
            course,
            fate,
            proof: Proof::Counter(reason),
        })
    }

    /// Runs `N` entrants; a hundredth of the packets in a smoke run.
    fn race<const N: usize>(
        &mut self,
        mut entrants: [Entrant; N],
        packets: u32,
        warm: Warm,
    ) -> Result<[Vec<f64>; N]> {
        let distance = Distance {
            rounds: self.rounds,
            packets: packets / self.scale,
            warm,
        };
        let times = race::run(self.ground, self.rig, &mut entrants, distance)?;
        times.try_into().ok().context("as many times as entrants")
    }

    /// Sends one packet of each of `flows` flows.
    fn send(&mut self, program: &'static str, course: Course, flows: u32) -> Result<()> {
        let program = self.ground.descriptor(program)?;
        self.rig.run(&program, &onward(course, 0), flows)?;
        Ok(())
    }

    /// Opens flows as both ends would, at every balancer that remembers.
    fn open(&mut self, traffic: Traffic, service: &Service, flows: u32) -> Result<()> {
        let syn = traffic.request(service, packets::SYN)?;
        self.send(WORKLOAD_INGRESS, syn, flows)?;
        let answer = traffic.reply(service, packets::SYN | packets::ACK)?;
        self.send(WORKLOAD_EGRESS, answer, flows)?;
        let third = traffic.request(service, packets::ACK)?;
        self.send(WORKLOAD_INGRESS, third, flows)?;
        if !traffic.is_v6 {
            for baseline in [Baseline::Lru, Baseline::Hash] {
                let program = self.rig.baseline(baseline)?.fd()?.try_clone()?;
                self.rig.run(&program, &onward(syn, 0), flows)?;
            }
        }
        Ok(())
    }

    /// All balancers on one course; reports them, ours beside the others.
    fn balancers(
        &mut self,
        case: &str,
        (program, course): (&'static str, Course),
        (fate, reason): (&Fate, Reason),
        (packets, warm): (u32, Warm),
        bars: [Option<Bar>; 2],
    ) -> Result<()> {
        let known = Proof::Misses {
            all: reason == Reason::NewFlow,
        };
        let forgetful = Proof::Misses { all: true };
        let entrants = [
            self.baseline(Baseline::Empty, course, Fate::Untouched, Proof::Last)?,
            self.baseline(Baseline::Parse, course, Fate::Untouched, Proof::Last)?,
            self.baseline(Baseline::Minimal, course, fate.clone(), forgetful)?,
            self.baseline(Baseline::Lru, course, fate.clone(), known)?,
            self.baseline(Baseline::Hash, course, fate.clone(), known)?,
            self.ours(program, course, fate.clone(), reason)?,
        ];
        let [empty, parse, minimal, lru, hash, ours] = self.race(entrants, packets, warm)?;
        let figure = Figure::new("driver and test run", "ns");
        self.report
            .add(case, figure.of(Baseline::Empty.name()), &empty);
        let net = |times: &[f64]| over(times, &empty);
        let baselines = [
            (Baseline::Parse, net(&parse), None),
            (Baseline::Minimal, net(&minimal), bars[0]),
            (Baseline::Lru, net(&lru), bars[1]),
            (Baseline::Hash, net(&hash), None),
        ];
        for (baseline, times, _) in &baselines {
            self.report.add(case, COST.of(baseline.name()), times);
        }
        for (baseline, times, bar) in &baselines[1..] {
            let figure = COST.with_bar(*bar);
            let pair = (baseline.name(), times.as_slice());
            self.report.add_pairs(case, figure, &net(&ours), pair);
        }
        Ok(())
    }

    /// Requests and replies of flows that are known.
    fn established(&mut self, traffic: Traffic, name: &str, flows: u32) -> Result<()> {
        self.open(traffic, &SINGLE, flows)?;
        let effort = if flows > 100_000 {
            (PACKETS / 2, Warm::Same)
        } else {
            (PACKETS, Warm::Each(flows))
        };
        let request = among(traffic.request(&SINGLE, packets::ACK)?, flows);
        let bars = match flows {
            1 if !traffic.is_udp => [Some(Bar::AtMost(1.6)), None],
            65_536 => [None, Some(Bar::AtMost(0.5))],
            1_000_000 => [None, Some(Bar::AtMost(0.6))],
            _ => [None, None],
        };
        self.balancers(
            &format!("established, {name}, {}", traffic.name()),
            (WORKLOAD_INGRESS, request),
            (
                &Fate::To(SINGLE.endpoints(traffic.is_v6)),
                Reason::Established,
            ),
            effort,
            bars,
        )?;
        let reply = among(traffic.reply(&SINGLE, packets::ACK)?, flows);
        self.balancers(
            &format!("reply, {name}, {}", traffic.name()),
            (WORKLOAD_EGRESS, reply),
            (
                &Fate::From(SINGLE.dialled(traffic.is_v6)),
                Reason::Established,
            ),
            effort,
            [None, None],
        )
    }

    /// IPv6 beside IPv4, both ours.
    fn versions(&mut self, name: &str, flows: u32) -> Result<()> {
        self.open(TCP_V6, &SINGLE, flows)?;
        let [v4, v6] = [TCP_V4, TCP_V6].map(|traffic| {
            let course = among(traffic.request(&SINGLE, packets::ACK)?, flows);
            anyhow::Ok((course, Fate::To(SINGLE.endpoints(traffic.is_v6))))
        });
        let ((v4, fate_v4), (v6, fate_v6)) = (v4?, v6?);
        let entrants = [
            self.baseline(Baseline::Empty, v4, Fate::Untouched, Proof::Last)?,
            self.ours(WORKLOAD_INGRESS, v4, fate_v4, Reason::Established)?,
            self.baseline(Baseline::Empty, v6, Fate::Untouched, Proof::Last)?,
            self.ours(WORKLOAD_INGRESS, v6, fate_v6, Reason::Established)?,
        ];
        let [empty_v4, v4, empty_v6, v6] = self.race(entrants, PACKETS, Warm::Each(flows))?;
        let (v4, v6) = (over(&v4, &empty_v4), over(&v6, &empty_v6));
        let figure = COST.with_bar(Some(Bar::AtMost(1.25)));
        let case = format!("established, {name}, IPv6 TCP");
        self.report
            .add_pairs(&case, figure, &v6, ("the same, IPv4", &v4));
        Ok(())
    }

    /// Ours against itself: the noise.
    fn same(&mut self, traffic: Traffic) -> Result<()> {
        self.open(traffic, &SINGLE, 1)?;
        let course = among(traffic.request(&SINGLE, packets::ACK)?, 1);
        let fate = Fate::To(SINGLE.endpoints(traffic.is_v6));
        let entrants = [
            self.baseline(Baseline::Empty, course, Fate::Untouched, Proof::Last)?,
            self.ours(WORKLOAD_INGRESS, course, fate.clone(), Reason::Established)?,
            self.ours(WORKLOAD_INGRESS, course, fate, Reason::Established)?,
        ];
        let [empty, first, second] = self.race(entrants, PACKETS, Warm::Each(1))?;
        let (first, second) = (over(&first, &empty), over(&second, &empty));
        let case = format!("A/A, established, one flow, {}", traffic.name());
        let baseline = ("itself", first.as_slice());
        self.report.add_pairs(&case, COST, &second, baseline);
        Ok(())
    }

    /// Every packet is its flow's first of this second, so both entries are stamped.
    fn first_of_a_second(&mut self, flows: u32) -> Result<()> {
        let course = TCP_V4.request(&SINGLE, packets::ACK)?;
        let fate = Fate::To(SINGLE.endpoints(false));
        let [empty, ours] = {
            let entrants = [
                self.baseline(
                    Baseline::Empty,
                    among(course, flows),
                    Fate::Untouched,
                    Proof::Last,
                )?,
                self.ours(
                    WORKLOAD_INGRESS,
                    among(course, flows),
                    fate,
                    Reason::Established,
                )?,
            ];
            let packets = (flows / 20).max(1) * self.scale;
            self.race(entrants, packets, Warm::Nothing)?
        };
        let case = "established, 1 M flows, first of a second, IPv4 TCP";
        self.report.add(case, COST, &over(&ours, &empty));
        Ok(())
    }

    /// A pod that is its own backend.
    fn hairpin(&mut self) -> Result<()> {
        self.open(TCP_V4, &HAIRPIN, 1)?;
        let course = among(TCP_V4.request(&HAIRPIN, packets::ACK)?, 1);
        let fate = Fate::To(HAIRPIN.endpoints(false));
        let entrants = [
            self.baseline(Baseline::Empty, course, Fate::Untouched, Proof::Last)?,
            self.ours(WORKLOAD_INGRESS, course, fate, Reason::Established)?,
        ];
        let [empty, ours] = self.race(entrants, PACKETS, Warm::Each(1))?;
        let case = "established, hairpin, one flow, IPv4 TCP";
        self.report.add(case, COST, &over(&ours, &empty));
        Ok(())
    }

    /// No packet's flow is known. The tables are full of such flows before it is measured.
    fn new_flows(&mut self, traffic: Traffic, name: &str) -> Result<()> {
        let packets = 40_000;
        let fill = 1_100_000 / self.scale;
        let flags = packets::SYN;
        let course = onward(traffic.request(&MANY, flags)?, fill);
        let fate = Fate::To(MANY.endpoints(traffic.is_v6));
        let case = format!("{name}, {}", traffic.name());
        let request = traffic.request(&MANY, flags)?;
        self.send(WORKLOAD_INGRESS, request, fill)?;
        if traffic.is_v6 {
            let entrants = [
                self.baseline(Baseline::Empty, course, Fate::Untouched, Proof::Last)?,
                self.ours(WORKLOAD_INGRESS, course, fate, Reason::NewFlow)?,
            ];
            let [empty, ours] = self.race(entrants, packets, Warm::Nothing)?;
            self.report.add(&case, COST, &over(&ours, &empty));
            return Ok(());
        }
        // With room in the kernel's hash, which makes none.
        *self.rig = Rig::load()?;
        let program = self.rig.baseline(Baseline::Lru)?.fd()?.try_clone()?;
        self.rig.run(&program, &onward(request, 0), fill)?;
        let bars = [None, Some(Bar::AtMost(0.4))];
        let part = (WORKLOAD_INGRESS, course);
        self.balancers(
            &case,
            part,
            (&fate, Reason::NewFlow),
            (packets, Warm::Nothing),
            bars,
        )?;
        let known = self.ground.count(Reason::FlowsFull)?;
        ensure!(known == 0, "{known} flows found no room");
        Ok(())
    }
}

/// What was measured over the empty program in the same round.
fn over(times: &[f64], empty: &[f64]) -> Vec<f64> {
    debug_assert!(middle(empty).is_finite(), "every round has an empty run");
    let pairs = times.iter().zip(empty);
    pairs
        .map(|(time, empty)| (time - empty).max(0.01))
        .collect()
}
