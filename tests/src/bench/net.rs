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
mod rules;
mod server;
mod site;

use self::{
    client::{Effort, Figures},
    site::{Contender, Site},
};

/// Runs the group.
pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    mount_bpf_fs()?;
    let sizes: &[u32] = if options.is_smoke {
        &[1, 20]
    } else {
        &[1, 1_000, 10_000]
    };
    for &services in sizes {
        size(options, services, report)?;
    }
    report.say("  not yet: socket hooks, redirects, XDP, remote backends (they do not exist yet)");
    Ok(())
}

/// One size of the cluster.
fn size(options: &Options, services: u32, report: &mut Report) -> Result<()> {
    let directory = tempfile::tempdir().context("make a directory for manifests")?;
    let mut sites = Vec::new();
    for contender in Contender::ALL {
        let began = clock::now();
        let site = Site::build(contender, services, directory.path())
            .with_context(|| format!("the site of {}", contender.name()))?;
        report.say(&format!(
            "  {} with {services} services is ready after {:.1?}",
            contender.name(),
            began.elapsed()
        ));
        sites.push(site);
    }
    let (rounds, effort) = if options.is_smoke {
        let time = Duration::from_millis(50);
        (
            1,
            Effort {
                connections: 64,
                time,
            },
        )
    } else {
        let time = Duration::from_millis(120);
        (
            15,
            Effort {
                connections: 600,
                time,
            },
        )
    };
    let mut figures = vec![Vec::new(); sites.len()];
    for round in 0..rounds {
        for turn in 0..sites.len() {
            let position = (turn + round) % sites.len();
            let site = &sites[position];
            let figure = client::round(site, effort)
                .with_context(|| format!("{} in round {round}", site.contender.name()))?;
            figures[position].push(figure);
        }
    }
    for measure in MEASURES {
        measure.report(services, &figures, report);
    }
    sites.into_iter().try_for_each(Site::finish)
}

/// One column of the figures.
struct Measure {
    metric: &'static str,
    unit: &'static str,
    value: fn(&Figures) -> f64,
    /// What ours should be to direct, and to nftables.
    bars: [Option<Bar>; 2],
}

const MEASURES: [Measure; 8] = [
    Measure {
        metric: "connect, p50",
        unit: "µs",
        value: |figures| figures.connect_p50,
        bars: [Some(Bar::AtMost(1.10)), None],
    },
    Measure {
        metric: "connect, p99",
        unit: "µs",
        value: |figures| figures.connect_p99,
        bars: [None, None],
    },
    Measure {
        metric: "connections, 1 client",
        unit: "1/s",
        value: |figures| figures.alone,
        bars: [None, Some(Bar::AtLeast(1.0))],
    },
    Measure {
        metric: "connections, 16 clients",
        unit: "1/s",
        value: |figures| figures.sixteen,
        bars: [None, Some(Bar::AtLeast(1.0))],
    },
    Measure {
        metric: "requests on one connection",
        unit: "1/s",
        value: |figures| figures.exchanges,
        bars: [None, None],
    },
    Measure {
        metric: "UDP packets",
        unit: "k/s",
        value: |figures| figures.datagrams,
        bars: [None, Some(Bar::AtLeast(1.03))],
    },
    Measure {
        metric: "processor for a UDP packet",
        unit: "µs",
        value: |figures| figures.processor,
        bars: [None, None],
    },
    Measure {
        metric: "bulk TCP",
        unit: "Gbit/s",
        value: |figures| figures.bulk,
        bars: [Some(Bar::AtLeast(0.98)), None],
    },
];

impl Measure {
    fn report(&self, services: u32, figures: &[Vec<Figures>], report: &mut Report) {
        let case = format!("{services} services");
        let of = |contender: Contender| -> Vec<f64> {
            let all = Contender::ALL.iter().zip(figures);
            let own = all.filter(|(known, _)| **known == contender);
            own.flat_map(|(_, rounds)| rounds.iter().map(self.value))
                .collect()
        };
        let direct = of(Contender::Direct);
        let nftables = of(Contender::Nftables);
        let figure =
            |contender: Contender| Figure::new(self.metric, self.unit).of(contender.name());
        report.add(&case, figure(Contender::Direct), &direct);
        let beside_direct = (Contender::Direct.name(), direct.as_slice());
        let beside_nftables = (Contender::Nftables.name(), nftables.as_slice());
        // Direct against direct is the noise.
        for contender in [
            Contender::DirectAgain,
            Contender::Nftables,
            Contender::Iptables,
        ] {
            report.add_pairs(&case, figure(contender), &of(contender), beside_direct);
        }
        let ours = of(Contender::Tc);
        let figure = figure(Contender::Tc);
        report.add_pairs(&case, figure.with_bar(self.bars[0]), &ours, beside_direct);
        report.add_pairs(&case, figure.with_bar(self.bars[1]), &ours, beside_nftables);
    }
}
