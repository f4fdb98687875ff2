//! What a packet costs each kernel program, by `BPF_PROG_TEST_RUN`, beside the least that others
//! could do.
//!
//! Every run of a test gets a packet of its own: a driver program puts the headers back, gives them
//! the next client and tail-calls the program under test. What driver and test run cost is what the
//! empty program costs on the same packets in the same round; all figures are over that. Times are
//! those of the measuring thread, which stays on one processor.

use anyhow::{Result, ensure};
use lb_agent::dataplane::{
    layout::Table,
    load::{WORKLOAD_EGRESS, WORKLOAD_INGRESS},
};

use super::{
    Options,
    ground::{BUCKETS_V4, Ground},
    report::{Figure, Report},
    rig::{self, Baseline, Rig},
};
use crate::scenario::to_f64;

mod cases;

/// Services that the tables hold.
const SERVICES: u32 = 10_000;
/// The most services that a packet of none is measured among.
const MOST_SERVICES: u32 = 50_000;

/// Runs the group.
pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let scale = if options.is_smoke { 100 } else { 1 };
    let mut ground = Ground::prepare(SERVICES / scale)?;
    programs(&mut ground, report)?;
    let result = std::thread::scope(|scope| {
        let measuring = scope.spawn(|| {
            rig::pin()?;
            cases::all(options, &mut ground, report)
        });
        measuring
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    result?;
    ground.finish()?;
    for services in [1, MOST_SERVICES / scale] {
        let mut ground = Ground::prepare(services)?;
        let result = std::thread::scope(|scope| {
            let measuring = scope.spawn(|| {
                rig::pin()?;
                cases::no_service(options, services, &mut ground, &mut Rig::load()?, report)
            });
            measuring
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        result?;
        ground.finish()?;
    }
    report.say("  not yet: SNAT out and back, XDP (the programs do not exist yet)");
    Ok(())
}

/// What the verifier made of our programs, and what their tables take.
fn programs(ground: &mut Ground, report: &mut Report) -> Result<()> {
    let figure = Figure::new("all programs loaded and verified", "s").at_most(1.0);
    report.add("load", figure, &[ground.load_time.as_secs_f64()]);
    for name in [WORKLOAD_INGRESS, WORKLOAD_EGRESS] {
        let info = ground.program(name)?.info()?;
        let verified = info.verified_instruction_count().unwrap_or(0);
        let figure = Figure::new("instructions the verifier looked at", "");
        // A quarter of the verifier's budget.
        report.add(name, figure.at_most(250_000.0), &[f64::from(verified)]);
        let figure = Figure::new("native code", "B");
        report.add(name, figure, &[f64::from(info.size_jitted())]);
    }
    let mut rig = Rig::load()?;
    for baseline in Baseline::ALL {
        let info = rig.baseline(baseline)?.info()?;
        let figure = Figure::new("native code", "B").of(baseline.name());
        report.add("baselines", figure, &[f64::from(info.size_jitted())]);
    }
    let bytes = ground.table_bytes(Table::FlowsV4)?;
    ensure!(bytes > 0, "the kernel says what a table takes");
    let figure = Figure::new("memory of the IPv4 flow table", "MiB");
    report.add("tables", figure, &[to_f64(bytes >> 10) / 1024.0]);
    // Two slots a flow, of eight in a bucket, filled to 70 %.
    let flows = to_f64(BUCKETS_V4.into()) * 8.0 / 2.0 * 0.7;
    let figure = Figure::new("memory of 1 M IPv4 flows at 70 % load", "MiB").at_most(224.0);
    let mebibytes = to_f64(bytes >> 10) / 1024.0 / flows * 1_000_000.0;
    report.add("tables", figure, &[mebibytes]);
    Ok(())
}
