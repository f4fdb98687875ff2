//! The cases: which packets, by whom, beside whom.

use anyhow::{Context as _, Result, bail, ensure};
use lb_agent::dataplane::load::{UPLINK_EGRESS, UPLINK_INGRESS, WORKLOAD_EGRESS, WORKLOAD_INGRESS};
use lb_common::{course::Course, verdict::Reason};

use super::track::{COST, Case, OURS, Ours, PACKETS, Track, over, rivals};
use crate::{
    bench::{
        bars,
        course::{Client, among, onward},
        race::{Entrant, Fate, Warm},
        report::Bar,
        rig::{Baseline, Layer},
        services::{HAIRPIN, MANY, SINGLE, Service},
        traffic::{TCP_V4, Traffic},
    },
    packets,
};

/// Numbers of flows, and how reports call them.
pub(super) const SIZES: [(u32, &str); 4] = [
    (1, "one flow"),
    (4 << 10, "4 k flows"),
    (64 << 10, "64 k flows"),
    A_MILLION,
];
const A_MILLION: (u32, &str) = (MOST, "1 M flows");
/// More flows than get a packet each in a second.
pub(super) const MOST: u32 = 1_000_000;
/// Flows that tables are filled with before flows that nobody knows are measured.
const FILL: u32 = 1_100_000;
/// Packets of a round of those.
pub(super) const NEW_PACKETS: u32 = 40_000;
/// The floors of a search.
const SEARCH: &[Baseline] = &[Baseline::FloorOne, Baseline::FloorTwo];

/// Known flows, one and thousands.
pub(super) fn up_to_thousands(track: &mut Track<'_>) -> Result<()> {
    track.same(TCP_V4)?;
    for traffic in Traffic::ALL {
        track.start_anew()?;
        // Upwards: every case finds the flows of those before it.
        for (flows, name) in &SIZES[..3] {
            track.established(traffic, name, (flows / track.scale).max(1))?;
        }
        track.hairpin(traffic)?;
        track.ground.forget_flows()?;
        for (flows, name) in &SIZES[..2] {
            track.translate_sources(traffic, name, (flows / track.scale).max(1))?;
        }
        if traffic.is_v6 {
            track.ground.forget_flows()?;
            for (flows, name) in &SIZES[..3] {
                track.versions(traffic, name, (flows / track.scale).max(1))?;
            }
        }
    }
    Ok(())
}

/// A million known flows, and flows that nobody knows.
pub(super) fn a_million(track: &mut Track<'_>) -> Result<()> {
    let (flows, name) = A_MILLION;
    let flows = (flows / track.scale).max(1);
    for traffic in Traffic::ALL {
        track.start_anew()?;
        track.established(traffic, name, flows)?;
        if traffic == TCP_V4 {
            track.first_of_a_second(flows)?;
        }
        if traffic.is_v6 {
            track.ground.forget_flows()?;
            track.versions(traffic, name, flows)?;
        }
        track.start_anew()?;
        let rivals = Baseline::BALANCERS
            .map(|it| (it, (it == Baseline::Lru).then_some(bars::NEW_FLOW)))
            .to_vec();
        track.new_flows(traffic, unknown(traffic), rivals)?;
        if traffic.is_v6 {
            track.new_versions(traffic)?;
        }
    }
    Ok(())
}

/// First packets in tables that the processor's caches hold: what of their cost is instructions.
pub(super) fn in_caches(track: &mut Track<'_>) -> Result<()> {
    let name = format!("first packets in small tables, {}", TCP_V4.name());
    // The kernel's hash would be full.
    let rivals = vec![(Baseline::Minimal, None), (Baseline::Lru, None)];
    track.new_flows(TCP_V4, name, rivals)
}

/// As many flows in tables of the size that an agent makes unless it is told otherwise, the hashes
/// of the others as much smaller: how much of the cost is the table's size.
pub(super) fn by_default(track: &mut Track<'_>) -> Result<()> {
    let (name, flows) = ("64 k flows in tables of the default size", 64 << 10);
    track.established(TCP_V4, name, flows / track.scale)
}

impl Track<'_> {
    /// Packets of no service, among so many; gives the costs of each of our rows, in order.
    pub(super) fn no_service(&mut self, services: u32) -> Result<Vec<Vec<f64>>> {
        let mut costs = Vec::new();
        for traffic in Traffic::ALL {
            let ends = [traffic.client(), traffic.stranger()];
            let sent = traffic.between(ends, Client::Source, packets::ACK)?;
            let kind = traffic.name();
            let sides = [
                ("from the pod", WORKLOAD_INGRESS),
                ("to the pod", WORKLOAD_EGRESS),
                ("from outside", UPLINK_INGRESS),
                ("to outside", UPLINK_EGRESS),
            ];
            let ours = sides.map(|(side, program)| {
                let name = format!("no service, {side}, {kind}, among {services} services");
                (name, Ours::Tc(program))
            });
            costs.extend(self.run(&Case {
                name: format!("no service, {kind}, among {services} services"),
                ours: ours.into(),
                course: among(sent, 4096),
                fate: Fate::Untouched,
                reason: Reason::NotService,
                packets: PACKETS,
                warm: Warm::Nothing,
                rivals: rivals(),
                floors: &[],
                target: Some(bars::NO_SERVICE),
            })?);
        }
        Ok(costs)
    }

    /// Opens flows as both ends would, at every balancer that remembers.
    fn open(&mut self, traffic: Traffic, service: &Service, flows: u32) -> Result<()> {
        let syn = traffic.request(service, packets::SYN)?;
        self.send(WORKLOAD_INGRESS, syn, flows)?;
        let answer = traffic.reply(service, packets::SYN | packets::ACK)?;
        self.send(WORKLOAD_EGRESS, answer, flows)?;
        let third = traffic.request(service, packets::ACK)?;
        self.send(WORKLOAD_INGRESS, third, flows)?;
        self.send_to_rivals(syn, flows)
    }

    /// Requests and replies of flows that are known.
    fn established(&mut self, traffic: Traffic, name: &str, flows: u32) -> Result<()> {
        let kind = traffic.name();
        let names = ["established", "reply"].map(|what| format!("{what}, {name}, {kind}"));
        if !self.wants(&names) {
            return Ok(());
        }
        self.open(traffic, &SINGLE, flows)?;
        let (packets, warm) = effort(flows);
        let [request, reply] = names;
        let bars = |baseline| match (baseline, name) {
            _ if traffic.is_v6 => None,
            (Baseline::Minimal, "one flow") => Some(bars::ONE_FLOW),
            (Baseline::Lru, "64 k flows") => Some(bars::MANY_FLOWS),
            (Baseline::Lru, "1 M flows") => Some(bars::MOST_FLOWS),
            _ => None,
        };
        let known = |name: String, program, course: Course, fate| Case {
            ours: vec![(name.clone(), Ours::Tc(program))],
            name,
            course: among(course, flows),
            fate,
            reason: Reason::Established,
            packets,
            warm,
            rivals: Baseline::BALANCERS.map(|it| (it, bars(it))).to_vec(),
            floors: SEARCH,
            target: None,
        };
        self.run(&known(
            request,
            WORKLOAD_INGRESS,
            traffic.request(&SINGLE, packets::ACK)?,
            Fate::To(SINGLE.endpoints(traffic.is_v6)),
        ))?;
        self.run(&known(
            reply,
            WORKLOAD_EGRESS,
            traffic.reply(&SINGLE, packets::ACK)?,
            Fate::From(SINGLE.dialled(traffic.is_v6)),
        ))?;
        Ok(())
    }

    /// IPv6 beside IPv4, both ours.
    fn versions(&mut self, traffic: Traffic, name: &str, flows: u32) -> Result<()> {
        let case = format!("established, {name}, {}", traffic.name());
        if !self.wants([&case]) {
            return Ok(());
        }
        let mut entrants = Vec::new();
        for traffic in [traffic.over_v4(), traffic] {
            self.open(traffic, &SINGLE, flows)?;
            let course = among(traffic.request(&SINGLE, packets::ACK)?, flows);
            let fate = Fate::To(SINGLE.endpoints(traffic.is_v6));
            entrants.push(self.empty(Layer::Packets, course)?);
            entrants.push(self.ours(
                &Ours::Tc(WORKLOAD_INGRESS),
                course,
                fate,
                Reason::Established,
            )?);
        }
        self.beside_v4((&case, OURS), entrants, effort(flows))
    }

    /// The same of flows that nobody knows, in tables full of them.
    fn new_versions(&mut self, traffic: Traffic) -> Result<()> {
        let case = unknown(traffic);
        if !self.wants([&case]) {
            return Ok(());
        }
        let fill = FILL / self.scale;
        let v4 = traffic.over_v4().request(&MANY, packets::SYN)?;
        self.send(WORKLOAD_INGRESS, v4, fill)?;
        let mut entrants = Vec::new();
        for traffic in [traffic.over_v4(), traffic] {
            // Beyond all that were sent.
            let course = onward(traffic.request(&MANY, packets::SYN)?, fill * 2);
            let fate = Fate::To(MANY.endpoints(traffic.is_v6));
            entrants.push(self.empty(Layer::Packets, course)?);
            entrants.push(self.ours(&Ours::Tc(WORKLOAD_INGRESS), course, fate, Reason::NewFlow)?);
        }
        self.beside_v4((&case, OURS), entrants, (NEW_PACKETS, Warm::Nothing))
    }

    /// Races the empty program and ours over IPv4, then both over IPv6.
    pub(super) fn beside_v4(
        &mut self,
        (case, who): (&str, &'static str),
        entrants: Vec<Entrant>,
        (packets, warm): (u32, Warm),
    ) -> Result<()> {
        let times = self.race(entrants, packets, warm)?;
        let [empty_v4, v4, empty_v6, v6] = times.as_slice() else {
            bail!("{} entrants, not four", times.len());
        };
        let (v4, v6) = (over(v4, empty_v4), over(v6, empty_v6));
        let figure = COST.of(who).with_bar(Some(bars::VERSIONS));
        self.report
            .add_pairs(case, figure, &v6, ("the same, IPv4", &v4));
        Ok(())
    }

    /// Ours against itself: the noise.
    fn same(&mut self, traffic: Traffic) -> Result<()> {
        let case = format!("A/A, established, one flow, {}", traffic.name());
        if !self.wants([&case]) {
            return Ok(());
        }
        self.open(traffic, &SINGLE, 1)?;
        let course = among(traffic.request(&SINGLE, packets::ACK)?, 1);
        let fate = Fate::To(SINGLE.endpoints(traffic.is_v6));
        let entrants = [
            self.empty(Layer::Packets, course)?,
            self.ours(
                &Ours::Tc(WORKLOAD_INGRESS),
                course,
                fate.clone(),
                Reason::Established,
            )?,
            self.ours(
                &Ours::Tc(WORKLOAD_INGRESS),
                course,
                fate,
                Reason::Established,
            )?,
        ];
        let [empty, first, second] = self.race_of(entrants, PACKETS, Warm::Each(1))?;
        let (first, second) = (over(&first, &empty), over(&second, &empty));
        let baseline = ("itself", first.as_slice());
        self.report.add_pairs(&case, COST, &second, baseline);
        Ok(())
    }

    /// Every packet is its flow's first of this second, so both entries are stamped.
    fn first_of_a_second(&mut self, flows: u32) -> Result<()> {
        let case = "established, 1 M flows, first of a second, IPv4 TCP";
        if !self.wants([case]) {
            return Ok(());
        }
        if self.options.only.is_some() {
            self.open(TCP_V4, &SINGLE, flows)?;
        }
        let course = among(TCP_V4.request(&SINGLE, packets::ACK)?, flows);
        let fate = Fate::To(SINGLE.endpoints(false));
        let entrants = [
            self.empty(Layer::Packets, course)?,
            self.ours(
                &Ours::Tc(WORKLOAD_INGRESS),
                course,
                fate,
                Reason::Established,
            )?,
        ];
        let packets = (flows / 20).max(1) * self.scale;
        let [empty, ours] = self.race_of(entrants, packets, Warm::Nothing)?;
        self.report.add(case, COST, &over(&ours, &empty));
        Ok(())
    }

    /// A pod that is its own backend.
    fn hairpin(&mut self, traffic: Traffic) -> Result<()> {
        let name = format!("established, hairpin, one flow, {}", traffic.name());
        if !self.wants([&name]) {
            return Ok(());
        }
        self.open(traffic, &HAIRPIN, 1)?;
        self.run(&Case {
            ours: vec![(name.clone(), Ours::Tc(WORKLOAD_INGRESS))],
            name,
            course: among(traffic.request(&HAIRPIN, packets::ACK)?, 1),
            fate: Fate::To(HAIRPIN.endpoints(traffic.is_v6)),
            reason: Reason::Established,
            packets: PACKETS,
            warm: Warm::Each(1),
            rivals: rivals(),
            floors: SEARCH,
            target: None,
        })?;
        Ok(())
    }

    /// A client from outside and a backend elsewhere: in and out there with an address of this node,
    /// in and out back. The minimal balancers, which know no source but the client's, take part where
    /// they would be asked for the same: at the way in there and at the way out back.
    fn translate_sources(&mut self, traffic: Traffic, name: &str, flows: u32) -> Result<()> {
        let (service, backend) = (SINGLE.dialled(traffic.is_v6), traffic.backend_of(&SINGLE)?);
        let (client, own) = (traffic.client(), traffic.own());
        let (there, back) = (Client::Source, Client::Destination);
        // Program, ends of the packet before it, and whose are varied.
        let steps = [
            ("in", UPLINK_INGRESS, [client, service], there),
            ("out", UPLINK_EGRESS, [client, backend], there),
            ("in, back", UPLINK_INGRESS, [backend, own], back),
            ("out, back", UPLINK_EGRESS, [backend, client], back),
        ];
        let kind = traffic.name();
        let name_of = |step| format!("SNAT, {step}, {name}, {kind}");
        if !self.wants(steps.map(|(step, ..)| name_of(step))) {
            return Ok(());
        }
        let (first, answer) = (packets::SYN, packets::SYN | packets::ACK);
        for (_, program, ends, side) in steps {
            let flags = if side == there { first } else { answer };
            self.send(program, traffic.between(ends, side, flags)?, flows)?;
        }
        for (_, program, ends, side) in &steps[..2] {
            let third = traffic.between(*ends, *side, packets::ACK)?;
            self.send(program, third, flows)?;
        }
        let request = traffic.request(&SINGLE, packets::SYN)?;
        self.send_to_rivals(request, flows)?;
        let fates = [
            (Fate::To(vec![backend]), true),
            (Fate::Between(own.ip(), backend.ip()), false),
            (Fate::Between(backend.ip(), client.ip()), false),
            (Fate::From(service), true),
        ];
        for ((step, program, ends, side), (fate, has_rivals)) in steps.into_iter().zip(fates) {
            let name = name_of(step);
            self.run(&Case {
                ours: vec![(name.clone(), Ours::Tc(program))],
                name,
                course: among(traffic.between(ends, side, packets::ACK)?, flows),
                fate,
                reason: Reason::Established,
                packets: PACKETS,
                warm: Warm::Each(flows),
                rivals: if has_rivals { rivals() } else { Vec::new() },
                floors: SEARCH,
                target: None,
            })?;
        }
        Ok(())
    }

    /// No packet's flow is known. The tables are full of such flows before it is measured.
    fn new_flows(
        &mut self,
        traffic: Traffic,
        name: String,
        rivals: Vec<(Baseline, Option<Bar>)>,
    ) -> Result<()> {
        if !self.wants([&name]) {
            return Ok(());
        }
        let fill = FILL / self.scale;
        let request = traffic.request(&MANY, packets::SYN)?;
        self.send(WORKLOAD_INGRESS, request, fill)?;
        // There is room in the kernel's hash, which makes none: it begins empty.
        let program = self.rig.baseline(Baseline::Lru, Layer::Packets)?;
        self.rig.run(&program, &onward(request, 0), fill)?;
        let refused = self.ground.count(Reason::FlowsFull)?;
        self.run(&Case {
            ours: vec![(name.clone(), Ours::Tc(WORKLOAD_INGRESS))],
            name,
            course: onward(request, fill),
            fate: Fate::To(MANY.endpoints(traffic.is_v6)),
            reason: Reason::NewFlow,
            packets: NEW_PACKETS,
            warm: Warm::Nothing,
            rivals,
            floors: &[Baseline::FloorInsertion],
            target: None,
        })
        .context("flows that nobody knows")?;
        let refused = self.ground.count(Reason::FlowsFull)? - refused;
        ensure!(refused == 0, "{refused} flows found no room");
        Ok(())
    }
}

/// The case of packets whose flows nobody knows.
pub(super) fn unknown(traffic: Traffic) -> String {
    let kind = if traffic.is_udp {
        "every packet a new flow"
    } else {
        "SYN flood"
    };
    format!("{kind}, {}", traffic.name())
}

/// How many packets of a round of so many flows are timed, and what goes before them.
pub(super) const fn effort(flows: u32) -> (u32, Warm) {
    if flows > 100_000 {
        (PACKETS / 2, Warm::Same)
    } else {
        (PACKETS, Warm::Each(flows))
    }
}
