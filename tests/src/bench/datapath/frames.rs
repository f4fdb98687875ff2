//! The cases of XDP at an uplink: flows of clients outside that it takes, and what it leaves to tc.
//!
//! XDP takes only packets of flows that tc has seen in the same second. So before each round the programs of
//! tc see each of its flows once, and where flows are too many for a second, the very packets that are timed
//! then; a round that does not end in that second is run again. What is timed is the whole way of a packet
//! through the node: what tc does at both hooks and the host does between them, for which the programs of tc
//! have rows of their own. That XDP took the packets is counted in every run.
//!
//! Established flows are those of a pod of this node: their replies come by its device, where no XDP is. Those
//! of a backend elsewhere get an address of this node, as by a node port, and XDP takes both directions.

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;
use lb_agent::{
    clock::flow_seconds,
    dataplane::load::{UPLINK_EGRESS, UPLINK_INGRESS, WORKLOAD_EGRESS, WORKLOAD_INGRESS},
};
use lb_common::{course::Course, verdict::Reason};

use super::{
    cases::{MOST, NEW_PACKETS, SIZES, effort, unknown},
    track::{Case, OURS_BY_XDP, Ours, PACKETS, Track},
};
use crate::{
    bench::{
        bars,
        course::{Client, among, onward},
        race::{Fate, Warm},
        report::Bar,
        rig::{Baseline, Layer},
        services::{NEAR, SINGLE},
        traffic::Traffic,
    },
    clock, packets,
};

/// What makes the tables those of a node with XDP: packets are sent on at once.
pub(super) const SETTINGS: &str = "datapath: {redirect: \"On\"}\n";

/// Those that balance for XDP.
const RIVALS: [Baseline; 4] = [
    Baseline::Minimal,
    Baseline::Sender,
    Baseline::Lru,
    Baseline::Hash,
];
/// How long the next second may take.
const SECOND: Duration = Duration::from_secs(3);

/// Whose flows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Backend {
    /// A pod's of this node.
    Near,
    /// Somebody's elsewhere.
    Far,
}

/// The ends of a flow's packets: to the service, and back.
#[derive(Clone, Copy)]
struct Ends {
    traffic: Traffic,
    whose: Backend,
    client: SocketAddr,
    service: SocketAddr,
    backend: SocketAddr,
    /// Whom the backend sees.
    seen: SocketAddr,
}

/// What the programs of tc see of a packet, at ingress and at egress.
type Seen = [(&'static str, Course); 2];

impl Ends {
    fn new(traffic: Traffic, whose: Backend) -> Result<Self> {
        let client = traffic.client();
        let (service, seen) = match whose {
            Backend::Near => (&NEAR, client),
            Backend::Far => (&SINGLE, traffic.own()),
        };
        Ok(Self {
            traffic,
            whose,
            client,
            service: service.dialled(traffic.is_v6),
            backend: traffic.backend_of(service)?,
            seen,
        })
    }

    fn there(self, flags: u8) -> Result<Seen> {
        let between = |destination| {
            let ends = [self.client, destination];
            self.traffic.between(ends, Client::Source, flags)
        };
        let egress = match self.whose {
            Backend::Near => WORKLOAD_EGRESS,
            Backend::Far => UPLINK_EGRESS,
        };
        Ok([
            (UPLINK_INGRESS, between(self.service)?),
            (egress, between(self.backend)?),
        ])
    }

    fn back(self, flags: u8) -> Result<Seen> {
        let between = |destination| {
            let ends = [self.backend, destination];
            self.traffic.between(ends, Client::Destination, flags)
        };
        let ingress = match self.whose {
            Backend::Near => WORKLOAD_INGRESS,
            Backend::Far => UPLINK_INGRESS,
        };
        Ok([
            (ingress, between(self.seen)?),
            (UPLINK_EGRESS, between(self.client)?),
        ])
    }
}

/// All cases.
pub(super) fn all(track: &mut Track<'_>) -> Result<()> {
    for traffic in Traffic::ALL {
        track.start_anew()?;
        track.left(&format!("no service, {}", traffic.name()), {
            let ends = [traffic.client(), traffic.stranger()];
            among(traffic.between(ends, Client::Source, packets::ACK)?, 4096)
        })?;
        let ends = Ends::new(traffic, Backend::Near)?;
        for (flows, name) in SIZES {
            track.framed_to_pod(ends, name, (flows / track.scale).max(1))?;
        }
        track.first_frames_of_a_second(ends, (MOST / track.scale).max(1))?;
        if traffic.is_v6 {
            for (flows, name) in SIZES {
                track.frames_of_versions(traffic, name, (flows / track.scale).max(1))?;
            }
        }
        track.begun(ends)?;
        track.ground.forget_flows()?;
        let ends = Ends::new(traffic, Backend::Far)?;
        for (flows, name) in &SIZES[..2] {
            track.translated(ends, name, (flows / track.scale).max(1))?;
        }
    }
    Ok(())
}

impl Track<'_> {
    /// Opens flows as both ends would, by tc; and at every balancer that remembers.
    fn open_framed(&mut self, ends: Ends, flows: u32) -> Result<()> {
        for direction in [
            ends.there(packets::SYN)?,
            ends.back(packets::SYN | packets::ACK)?,
            ends.there(packets::ACK)?,
        ] {
            for (program, course) in direction {
                self.send(program, course, flows)?;
            }
        }
        self.send_to_rivals(ends.there(packets::SYN)?[0].1, flows)
    }

    /// Requests that XDP takes, to a pod of this node.
    fn framed_to_pod(&mut self, ends: Ends, name: &str, flows: u32) -> Result<()> {
        let is_judged = name == "one flow" && !ends.traffic.is_v6;
        let bar = |rival| -> Option<Bar> {
            (is_judged && rival == Baseline::Minimal).then_some(bars::ONE_FLOW)
        };
        let name = format!("XDP, established, {name}, {}", ends.traffic.name());
        if !self.wants([&name]) {
            return Ok(());
        }
        self.open_framed(ends, flows)?;
        let rivals = RIVALS.map(|it| (it, bar(it))).to_vec();
        let fate = Fate::To(vec![ends.backend]);
        self.taken(name, ends.there(packets::ACK)?, fate, flows, rivals)
    }

    /// Requests and replies of flows whose client gets the node's address: two passes instead of the four of
    /// tc's rows.
    fn translated(&mut self, ends: Ends, name: &str, flows: u32) -> Result<()> {
        let kind = ends.traffic.name();
        let name_of = |what| format!("XDP, SNAT, {what}, {name}, {kind}");
        if !self.wants(["in and out", "in and out, back"].map(name_of)) {
            return Ok(());
        }
        self.open_framed(ends, flows)?;
        let there = Fate::Between(ends.seen.ip(), ends.backend.ip());
        let seen = ends.there(packets::ACK)?;
        self.taken(name_of("in and out"), seen, there, flows, Vec::new())?;
        let (seen, back) = (ends.back(packets::ACK)?, Fate::From(ends.service));
        self.taken(name_of("in and out, back"), seen, back, flows, Vec::new())
    }

    /// Packets that XDP takes, seen so by tc before.
    fn taken(
        &mut self,
        name: String,
        seen: Seen,
        fate: Fate,
        flows: u32,
        rivals: Vec<(Baseline, Option<Bar>)>,
    ) -> Result<()> {
        let (packets, warm) = effort(flows);
        self.run(&Case {
            ours: vec![(name.clone(), Ours::Takes(seen.to_vec()))],
            name,
            course: among(seen[0].1, flows),
            fate,
            reason: Reason::Established,
            packets,
            warm,
            rivals,
            floors: &[],
            target: None,
        })?;
        Ok(())
    }

    /// First packets of flows to a pod of this node. Nobody knows any before: the kernel's hash makes no room.
    fn begun(&mut self, ends: Ends) -> Result<()> {
        let name = format!("XDP, {}", unknown(ends.traffic));
        if !self.wants([&name]) {
            return Ok(());
        }
        self.start_anew()?;
        let bar = |rival| (rival == Baseline::Lru).then_some(bars::NEW_FLOW);
        self.run(&Case {
            ours: vec![(name.clone(), Ours::Begins)],
            name,
            course: onward(ends.there(packets::SYN)?[0].1, 0),
            fate: Fate::To(vec![ends.backend]),
            reason: Reason::NewFlow,
            packets: NEW_PACKETS,
            warm: Warm::Nothing,
            rivals: RIVALS.map(|it| (it, bar(it))).to_vec(),
            floors: &[],
            target: None,
        })?;
        Ok(())
    }

    /// Packets of known flows of which each is its flow's first of this second. Nothing is left to open where
    /// as many flows have been measured before.
    fn first_frames_of_a_second(&mut self, ends: Ends, flows: u32) -> Result<()> {
        let kind = ends.traffic.name();
        let what = format!("established, 1 M flows, first of a second, {kind}");
        if !self.wants([added(&what)]) {
            return Ok(());
        }
        if self.options.only.is_some() {
            self.open_framed(ends, flows)?;
        }
        await_next_second()?;
        self.left(&what, among(ends.there(packets::ACK)?[0].1, flows))
    }

    /// Packets that XDP leaves to tc, whose cost it adds to.
    fn left(&mut self, what: &str, course: Course) -> Result<()> {
        let name = added(what);
        self.run(&Case {
            ours: vec![(name.clone(), Ours::Leaves)],
            name,
            course,
            fate: Fate::Untouched,
            reason: Reason::NotService,
            packets: PACKETS,
            warm: Warm::Nothing,
            rivals: Vec::new(),
            floors: &[],
            target: None,
        })?;
        Ok(())
    }

    /// IPv6 beside IPv4, both taken by XDP.
    fn frames_of_versions(&mut self, traffic: Traffic, name: &str, flows: u32) -> Result<()> {
        let case = format!("XDP, established, {name}, {}", traffic.name());
        if !self.wants([&case]) {
            return Ok(());
        }
        let mut entrants = Vec::new();
        for traffic in [traffic.over_v4(), traffic] {
            let ends = Ends::new(traffic, Backend::Near)?;
            self.open_framed(ends, flows)?;
            let seen = ends.there(packets::ACK)?;
            let course = among(seen[0].1, flows);
            let fate = Fate::To(vec![ends.backend]);
            entrants.push(self.empty(Layer::Frames, course)?);
            let ours = Ours::Takes(seen.to_vec());
            entrants.push(self.ours(&ours, course, fate, Reason::Established)?);
        }
        self.beside_v4((&case, OURS_BY_XDP), entrants, effort(flows))
    }
}

/// The case of what XDP leaves to tc.
fn added(what: &str) -> String {
    format!("XDP, added to what tc costs, {what}")
}

/// Waits until no entry was used in this very second.
fn await_next_second() -> Result<()> {
    let now = flow_seconds();
    clock::eventually("the next second", SECOND, || {
        Ok((flow_seconds() != now).then_some(()))
    })
}
