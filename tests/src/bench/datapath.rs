//! What a packet costs each kernel program, by `BPF_PROG_TEST_RUN`, beside the least that others
//! could do.
//!
//! Every run of a test gets a packet of its own: a driver program puts the headers back, gives them
//! the next client and tail-calls the program under test. What driver and test run cost is what the
//! empty program costs on the same packets in the same round; all figures are over that. Times are
//! those of the measuring thread, which stays on one processor. XDP has a driver, an empty program and
//! rivals of its own.

use std::thread;

use anyhow::{Result, ensure};
use aya::programs::ProgramInfo;
use lb_agent::{
    dataplane::{chain, layout::Table, load::PROGRAMS, xdp::XdpMode},
    settings::Sizes,
};

use super::{
    Options, bars,
    ground::{Extent, Ground},
    report::{Figure, Report, middle},
    rig::{self, Baseline, Layer, Rig},
    uplink,
};
use crate::{ns::Namespace, scenario::to_f64};

mod cases;
mod frames;
mod track;

use self::track::{COST, Track};

/// Services that the tables hold.
const SERVICES: u32 = 10_000;
/// The most services that a packet of none is measured among.
const MOST_SERVICES: u32 = 50_000;
/// Buckets of the flow tables for up to 64 k flows: 2^20 entries, as many as the others' hashes have.
const BUCKETS: u32 = 1 << 17;
/// The same for a million flows, which fill half of them.
const MOST_BUCKETS: u32 = 1 << 19;
/// The same where no flow is made, or few.
const FEW_BUCKETS: u32 = 1 << 13;
/// So few that the nearest caches hold them.
const CACHED_BUCKETS: u32 = 1 << 8;

/// How the names of all cases for XDP begin, and of no other.
const XDP: &str = "XDP, ";

/// Runs the group.
pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let is_of_frames = |text: &String| text.contains(XDP.trim_end());
    if !options.only.as_ref().is_some_and(is_of_frames) {
        packets(options, report)?;
    }
    let extent = Extent {
        services: 1,
        buckets: buckets(options, MOST_BUCKETS),
    };
    let devices = uplink::make()?;
    let ground = Ground::prepare(extent, frames::SETTINGS)?;
    measured(options, ground, Some(&devices), report, |track| {
        let attached = track.ground.use_devices()?;
        frames::all(track)?;
        drop(attached);
        Ok(())
    })
}

const fn buckets(options: &Options, whole: u32) -> u32 {
    if options.is_smoke { FEW_BUCKETS } else { whole }
}

/// What tc costs.
fn packets(options: &Options, report: &mut Report) -> Result<()> {
    let scale = if options.is_smoke { 100 } else { 1 };
    let small = Extent {
        services: 1,
        buckets: Sizes::default().flow_buckets_v4,
    };
    let alone = on_ground(options, small, report, |track| {
        cases::by_default(track)?;
        track.no_service(1)
    })?;
    let services = SERVICES / scale;
    let main = Extent {
        services,
        buckets: buckets(options, BUCKETS),
    };
    on_ground(options, main, report, |track| {
        let among = track.no_service(services)?;
        flat(services, [&alone, &among], track);
        cases::up_to_thousands(track)
    })?;
    let most = Extent {
        services,
        buckets: buckets(options, MOST_BUCKETS),
    };
    on_ground(options, most, report, |track| {
        if options.only.is_none() {
            programs(track.ground, track.report)?;
        }
        cases::a_million(track)
    })?;
    let cached = Extent {
        services: 1,
        buckets: CACHED_BUCKETS,
    };
    on_ground(options, cached, report, cases::in_caches)?;
    let services = MOST_SERVICES / scale;
    let few = Extent {
        services,
        buckets: FEW_BUCKETS,
    };
    on_ground(options, few, report, |track| {
        let among = track.no_service(services)?;
        flat(services, [&alone, &among], track);
        Ok(())
    })
}

/// Measures on a ground of its own, on one processor.
fn on_ground<T: Send>(
    options: &Options,
    extent: Extent,
    report: &mut Report,
    measure: impl FnOnce(&mut Track<'_>) -> Result<T> + Send,
) -> Result<T> {
    measured(options, Ground::prepare(extent, "")?, None, report, measure)
}

/// The same on this one, in a namespace if one is given.
fn measured<T: Send>(
    options: &Options,
    mut ground: Ground,
    inside: Option<&Namespace>,
    report: &mut Report,
    measure: impl FnOnce(&mut Track<'_>) -> Result<T> + Send,
) -> Result<T> {
    let (scale, rounds) = if options.is_smoke { (100, 3) } else { (1, 11) };
    let action = || {
        rig::pin()?;
        let mut rig = Rig::load(&ground)?;
        measure(&mut Track {
            ground: &mut ground,
            rig: &mut rig,
            report,
            options,
            scale,
            rounds,
        })
    };
    let result = match inside {
        Some(namespace) => namespace.run(action)?,
        None => thread::scope(|scope| {
            let measuring = scope.spawn(action);
            measuring
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?,
    };
    ground.finish()?;
    Ok(result)
}

/// What so many services add to a packet of none: the ratio of the sums of all its cases' medians.
fn flat(services: u32, [alone, among]: [&[Vec<f64>]; 2], track: &mut Track<'_>) {
    if track.options.only.is_some() {
        return;
    }
    let sum = |costs: &[Vec<f64>]| costs.iter().map(|cost| middle(cost)).sum::<f64>();
    let figure = COST.beside("among 1 services", sum(alone));
    let case = format!("no service, sum of all, among {services} services");
    let figure = figure.of("all of steerage");
    track.report.add(&case, figure, &[sum(among)]);
}

/// What the verifier made of one of our programs.
fn program(name: &str, info: &ProgramInfo, report: &mut Report) {
    let verified = info.verified_instruction_count().unwrap_or(0);
    let figure = Figure::new("instructions the verifier looked at", "");
    report.add(name, figure.at_most(bars::VERIFIER), &[f64::from(verified)]);
    let figure = Figure::new("native code", "B");
    report.add(name, figure, &[f64::from(info.size_jitted())]);
}

/// What the verifier made of our programs, and what their tables take.
fn programs(ground: &mut Ground, report: &mut Report) -> Result<()> {
    let figure = Figure::new("all programs loaded and verified", "s").at_most(bars::LOAD);
    report.add("load", figure, &[ground.load_time.as_secs_f64()]);
    for name in PROGRAMS {
        let info = ground.program(name)?.info()?;
        program(name, &info, report);
    }
    for name in chain::programs(XdpMode::Native) {
        program(name, &ground.frame_part(name)?.info()?, report);
    }
    let mut rig = Rig::load(ground)?;
    let packets = Baseline::ALL.map(|it| (it, Layer::Packets, "baselines"));
    let frames = Baseline::FRAMES.map(|it| (it, Layer::Frames, "baselines for XDP"));
    for (baseline, layer, case) in packets.into_iter().chain(frames) {
        let info = rig.info(baseline, layer)?;
        let figure = Figure::new("native code", "B").of(baseline.name());
        report.add(case, figure, &[f64::from(info.size_jitted())]);
    }
    // Two slots a flow, of eight in a bucket, filled to 70 %.
    let flows = to_f64(ground.extent.buckets.into()) * 8.0 / 2.0 * 0.7;
    for (table, family, target) in [
        (Table::FlowsV4, "IPv4", Some(bars::MILLION_FLOWS)),
        (Table::FlowsV6, "IPv6", None),
    ] {
        let bytes = ground.table_bytes(table)?;
        ensure!(bytes > 0, "the kernel says what a table takes");
        let mebibytes = to_f64(bytes >> 10) / 1024.0;
        let [whole, million] = match family {
            "IPv4" => [
                "memory of the IPv4 flow table",
                "memory of 1 M IPv4 flows at 70 % load",
            ],
            _ => [
                "memory of the IPv6 flow table",
                "memory of 1 M IPv6 flows at 70 % load",
            ],
        };
        report.add("tables", Figure::new(whole, "MiB"), &[mebibytes]);
        let mut figure = Figure::new(million, "MiB");
        if let Some(target) = target {
            figure = figure.at_most(target);
        }
        report.add("tables", figure, &[mebibytes / flows * 1_000_000.0]);
    }
    Ok(())
}
