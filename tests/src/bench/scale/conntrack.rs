//! A million flows: what each of them takes, what sweeping them costs, and who survives a flood.

use anyhow::{Context as _, Result, ensure};
use lb_agent::{
    clock::flow_seconds,
    dataplane::{
        layout::Table,
        load::{WORKLOAD_EGRESS, WORKLOAD_INGRESS},
        sweep::{self, Sweeper, Walk},
    },
};
use lb_common::{course::Course, verdict::Reason};

use super::super::{
    Options, bars,
    course::onward,
    ground::{Extent, Ground},
    report::{Figure, Report, middle},
    rig::{Rig, thread_time},
    services::{MANY, SINGLE},
    traffic::{TCP_V4, TCP_V6, Traffic},
};
use crate::{packets, scenario::to_f64};

/// How much of everything.
struct Size {
    /// Flows, of which each has two entries.
    flows: u32,
    /// How reports call that.
    name: &'static str,
    buckets: u32,
    /// Walks of the sweep that are timed.
    walks: usize,
    /// Packets of the flood, each of a flow of its own.
    flood: u32,
}

/// Runs this part of the group.
pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let size = if options.is_smoke {
        Size {
            flows: 10_000,
            name: "10 k flows",
            buckets: 1 << 13,
            walks: 1,
            flood: 100_000,
        }
    } else {
        Size {
            flows: 1_000_000,
            name: "1 M flows",
            buckets: 1 << 19,
            walks: 5,
            flood: 5_000_000,
        }
    };
    let extent = Extent {
        services: 1,
        buckets: size.buckets,
    };
    let mut ground = Ground::prepare(extent, "")?;
    let mut rig = Rig::load(&ground)?;
    let mut stand = Stand {
        ground: &mut ground,
        rig: &mut rig,
        report,
    };
    let idle = stand.sweep("no flows", (0, size.walks), None)?;
    for (traffic, family, table) in [
        (TCP_V4, "IPv4", Table::FlowsV4),
        (TCP_V6, "IPv6", Table::FlowsV6),
    ] {
        let case = format!("{}, {family}", size.name);
        stand.memory(&case, table)?;
        stand.open(traffic, size.flows / 2)?;
        let walks = (size.flows / 2, size.walks);
        let half = stand.sweep(&format!("half of {case}"), walks, Some(("no flows", idle)))?;
        stand.open(traffic, size.flows)?;
        let walks = (size.flows, size.walks);
        stand.sweep(&case, walks, Some(("half as many", half)))?;
        stand.flood(&case, traffic, &size)?;
        stand.ground.forget_flows()?;
    }
    drop(rig);
    ground.finish()
}

/// What is needed for it.
struct Stand<'a> {
    ground: &'a mut Ground,
    rig: &'a mut Rig,
    report: &'a mut Report,
}

impl Stand<'_> {
    fn memory(&mut self, case: &str, table: Table) -> Result<()> {
        let bytes = to_f64(self.ground.table_bytes(table)? >> 10) * 1024.0;
        // Two slots a flow, of eight in a bucket, filled to 70 %.
        let flows = f64::from(self.ground.extent.buckets) * 8.0 / 2.0 * 0.7;
        let figure = Figure::new("memory for each flow, at 70 % load", "B");
        self.report.add(case, figure, &[bytes / flows]);
        Ok(())
    }

    /// Sends one packet of each of so many flows; gives nanoseconds for each.
    fn send(&mut self, program: &'static str, course: Course, flows: u32) -> Result<f64> {
        let program = self.ground.runnable(program)?;
        let run = self.rig.run(&program, &onward(course, 0), flows)?;
        Ok(run.nanoseconds)
    }

    /// Opens flows as both ends would.
    fn open(&mut self, traffic: Traffic, flows: u32) -> Result<()> {
        let syn = traffic.request(&SINGLE, packets::SYN)?;
        let answer = traffic.reply(&SINGLE, packets::SYN | packets::ACK)?;
        let third = traffic.request(&SINGLE, packets::ACK)?;
        self.send(WORKLOAD_INGRESS, syn, flows)?;
        self.send(WORKLOAD_EGRESS, answer, flows)?;
        self.send(WORKLOAD_INGRESS, third, flows).map(drop)
    }

    /// Has the agent's sweeper walk both tables; gives the milliseconds of a walk.
    fn sweep(
        &mut self,
        case: &str,
        (flows, walks): (u32, usize),
        beside: Option<(&'static str, f64)>,
    ) -> Result<f64> {
        let tables = self.ground.flows()?;
        let (mut whole, mut shares) = (Vec::new(), Vec::new());
        for _ in 0..walks {
            let mut sweeper = Sweeper::default();
            let mut steps = 0_u32;
            let began = thread_time();
            let walk = loop {
                steps += 1;
                if let Some(walk) = sweeper.step(&tables, flow_seconds()) {
                    break walk;
                }
            };
            let milliseconds = (thread_time() - began) / 1e6;
            let expected = Walk {
                entries: u64::from(flows) * 2,
                ..Walk::default()
            };
            ensure!(walk == expected, "{walk:?}, not {expected:?}");
            whole.push(milliseconds);
            // A walk begins when the last one's time is over, and takes a step at a time.
            let taken = sweep::STEP_INTERVAL * steps;
            let period = taken.max(sweep::INTERVAL);
            shares.push(milliseconds / period.as_secs_f64());
        }
        let mut figure = Figure::new("sweep, a whole walk of both tables", "ms");
        if let Some((name, before)) = beside {
            figure = figure.beside(name, before);
        }
        self.report.add(case, figure, &whole);
        let figure = Figure::new("sweep, of one core a second", "ms");
        self.report.add(case, figure.at_most(bars::SWEEP), &shares);
        Ok(middle(&whole))
    }

    /// Flows that nobody answers, many more than there is room for; the confirmed ones must live.
    fn flood(&mut self, case: &str, traffic: Traffic, size: &Size) -> Result<()> {
        let reasons = [Reason::FlowsFull, Reason::UnconfirmedReplaced];
        let counts = |ground: &Ground| -> Result<Vec<u64>> {
            reasons.iter().map(|reason| ground.count(*reason)).collect()
        };
        let before = counts(self.ground)?;
        let syn = traffic.request(&MANY, packets::SYN)?;
        let cost = self.send(WORKLOAD_INGRESS, syn, size.flood)?;
        let after = counts(self.ground)?;
        let figure = Figure::new("flood, a packet, driver and test run included", "ns");
        self.report.add(case, figure, &[cost]);
        let metrics = [
            "flood, flows that found no room",
            "flood, unconfirmed entries that made room",
        ];
        for (metric, (before, after)) in metrics.into_iter().zip(before.iter().zip(&after)) {
            let share = to_f64(after - before) / f64::from(size.flood) * 100.0;
            let figure = Figure::new(metric, "% of its packets");
            self.report.add(case, figure, &[share]);
        }
        ensure!(
            after.last() > before.last(),
            "the flood was smaller than the table"
        );
        let known = self.ground.count(Reason::Established)?;
        let third = traffic.request(&SINGLE, packets::ACK)?;
        self.send(WORKLOAD_INGRESS, third, size.flows)
            .context("flows after the flood")?;
        let known = self.ground.count(Reason::Established)? - known;
        let lost = u64::from(size.flows) - known;
        ensure!(lost == 0, "{lost} confirmed flows were evicted");
        let figure = Figure::new("flood, confirmed flows evicted", "");
        self.report.add(case, figure, &[to_f64(lost)]);
        Ok(())
    }
}
