//! Connections and throughput through a node: direct, by kube-proxy's rules, and by ours.
//!
//! Every contender has a site of its own, all of one kind; rounds alternate between them, each
//! beginning with another one than the round before.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{
    Options,
    report::{Bar, Figure, Report},
};
use crate::{clock, cluster::mount_bpf_fs};

mod client;
mod manifest;
mod ours;
mod rules;
mod server;
mod site;
mod way;

use self::{
    client::{Effort, Figures},
    ours::Bars,
    site::{Contender, Site, Wires},
    way::Way,
};

/// Rounds and work of a full run.
const FULL: (usize, Effort) = (
    15,
    Effort {
        connections: 600,
        time: Duration::from_millis(120),
    },
);
/// Of a smoke run.
const SMOKE: (usize, Effort) = (
    1,
    Effort {
        connections: 32,
        time: Duration::from_millis(20),
    },
);

/// Runs the group.
pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    mount_bpf_fs()?;
    let sizes: &[u32] = if options.is_smoke {
        &[1, 20]
    } else {
        &[1, 1_000, 10_000, 50_000]
    };
    for &services in sizes {
        size(options, (services, Wires::Packets), report)?;
    }
    let framed: &[u32] = if options.is_smoke { &[1] } else { &[1, 10_000] };
    for &services in framed {
        size(options, (services, Wires::Frames), report)?;
    }
    report.say("  not yet: socket hooks (they do not exist yet)");
    Ok(())
}

/// One size of the cluster: rules are loaded once, and all ways go through them.
fn size(options: &Options, (services, wires): (u32, Wires), report: &mut Report) -> Result<()> {
    let directory = tempfile::tempdir().context("make a directory for manifests")?;
    let ways = wires.ways(services);
    let mut sites = Vec::new();
    for contender in Contender::all(services, wires) {
        let began = clock::now();
        let site = Site::build(contender, (services, wires), directory.path())
            .with_context(|| format!("the site of {}", contender.name()))?;
        for way in ways.iter().filter(|way| way.is_of(contender)) {
            client::await_answer(&site, *way)?;
        }
        report.say(&format!(
            "  {} with {services} services is ready after {:.1?}",
            contender.name(),
            began.elapsed()
        ));
        sites.push(site);
    }
    let (rounds, effort) = if options.is_smoke { SMOKE } else { FULL };
    for way in ways {
        measure(way, services, &sites, (rounds, effort), report)?;
    }
    sites.into_iter().try_for_each(Site::finish)
}

/// One way, by all contenders in turn.
fn measure(
    way: Way,
    services: u32,
    sites: &[Site],
    (rounds, effort): (usize, Effort),
    report: &mut Report,
) -> Result<()> {
    let sites: Vec<&Site> = sites
        .iter()
        .filter(|site| way.is_of(site.contender))
        .collect();
    let mut figures = vec![Vec::new(); sites.len()];
    for round in 0..rounds {
        for turn in 0..sites.len() {
            let position = (turn + round) % sites.len();
            let site = sites[position];
            let figure = client::round(site, way, effort)
                .with_context(|| format!("{} in round {round}, {way:?}", site.contender.name()))?;
            figures[position].push(figure);
        }
    }
    let contenders = sites.iter().map(|site| site.contender);
    let all: Vec<(Contender, Vec<Figures>)> = contenders.zip(figures).collect();
    let measures = MEASURES
        .iter()
        .filter(|measure| measure.is_of_datagrams || !way.is_of_datagrams());
    for measure in measures {
        measure.report(way, services, &all, report)?;
    }
    Ok(())
}

/// One column of the figures.
struct Measure {
    metric: &'static str,
    unit: &'static str,
    value: fn(&Figures) -> f64,
    is_of_datagrams: bool,
    /// What ours should be to direct, and to nftables.
    bars: fn(Way, &Bars) -> [Option<Bar>; 2],
}

const MEASURES: [Measure; 8] = [
    Measure {
        metric: "connect, p50",
        unit: "µs",
        value: |figures| figures.connect_p50,
        is_of_datagrams: false,
        bars: |_, bars| [bars.connect, None],
    },
    Measure {
        metric: "connect, p99",
        unit: "µs",
        value: |figures| figures.connect_p99,
        is_of_datagrams: false,
        bars: |_, _| [None, None],
    },
    Measure {
        metric: "connections, 1 client",
        unit: "1/s",
        value: |figures| figures.alone,
        is_of_datagrams: false,
        bars: |_, bars| [None, bars.connections],
    },
    Measure {
        metric: "connections, 16 clients",
        unit: "1/s",
        value: |figures| figures.sixteen,
        is_of_datagrams: false,
        bars: |_, bars| [None, bars.connections],
    },
    Measure {
        metric: "requests on one connection",
        unit: "1/s",
        value: |figures| figures.exchanges,
        is_of_datagrams: false,
        bars: |_, _| [None, None],
    },
    Measure {
        metric: "UDP packets",
        unit: "k/s",
        value: |figures| figures.datagrams,
        is_of_datagrams: true,
        bars: |way, bars| match way {
            Way::NodePort => [None, bars.node_port],
            Way::Framed => [None, bars.node_port_by_frames],
            _ => [bars.datagrams_beside_direct, bars.datagrams],
        },
    },
    Measure {
        metric: "processor for a UDP packet",
        unit: "µs",
        value: |figures| figures.processor,
        is_of_datagrams: true,
        bars: |_, _| [None, None],
    },
    Measure {
        metric: "bulk TCP",
        unit: "Gbit/s",
        value: |figures| figures.bulk,
        is_of_datagrams: false,
        bars: |_, bars| [bars.bulk, None],
    },
];

impl Measure {
    fn report(
        &self,
        way: Way,
        services: u32,
        all: &[(Contender, Vec<Figures>)],
        report: &mut Report,
    ) -> Result<()> {
        let case = way.case(services);
        let of = |contender: Contender| -> Result<Vec<f64>> {
            let own = all.iter().find(|(known, _)| *known == contender);
            let (_, rounds) = own.with_context(|| format!("no {}", contender.name()))?;
            Ok(rounds.iter().map(self.value).collect())
        };
        let direct = of(Contender::Direct)?;
        let nftables = of(Contender::Nftables)?;
        let figure =
            |contender: Contender| Figure::new(self.metric, self.unit).of(contender.name());
        report.add(&case, figure(Contender::Direct), &direct);
        let beside_direct = (Contender::Direct.name(), direct.as_slice());
        let beside_nftables = (Contender::Nftables.name(), nftables.as_slice());
        for (contender, _) in all {
            let samples = of(*contender)?;
            let figure = figure(*contender);
            match contender {
                Contender::Direct => {}
                // Direct against direct is the noise.
                Contender::DirectAgain | Contender::Nftables | Contender::Iptables => {
                    report.add_pairs(&case, figure, &samples, beside_direct);
                }
                Contender::Ours(path) => {
                    // Of other wires one thing alone is asked.
                    let is_asked = way != Way::Framed || self.is_of_datagrams;
                    let bars = is_asked.then(|| (self.bars)(way, &path.bars));
                    let [direct, nftables] = bars.unwrap_or([None, None]);
                    let figures = [(direct, beside_direct), (nftables, beside_nftables)];
                    for (bar, baseline) in figures {
                        report.add_pairs(&case, figure.with_bar(bar), &samples, baseline);
                    }
                }
            }
        }
        Ok(())
    }
}
