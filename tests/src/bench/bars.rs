//! What is asked of Steerage, once: the figures by which benches mark their rows, and the list that
//! the page of results is judged by, also of what waits for a path that is not there yet.

use super::report::{Bar, Kept, Row};

/// One flow, to the minimal balancer without a table.
pub(super) const ONE_FLOW: Bar = Bar::AtMost(1.6);
/// 64 k flows, to the same balancer on the kernel's LRU hash.
pub(super) const MANY_FLOWS: Bar = Bar::AtMost(0.5);
/// A million flows, to the same.
pub(super) const MOST_FLOWS: Bar = Bar::AtMost(0.6);
/// A flow that nobody knows, to the same.
pub(super) const NEW_FLOW: Bar = Bar::AtMost(0.4);
/// IPv6, to IPv4.
pub(super) const VERSIONS: Bar = Bar::AtMost(1.25);
/// A packet of no service, in nanoseconds.
pub(super) const NO_SERVICE: f64 = 40.0;
/// Connecting by tc, to direct.
pub(super) const CONNECT_TC: Bar = Bar::AtMost(1.10);
/// Connections a second by tc, to nftables.
pub(super) const CONNECTIONS_TC: Bar = Bar::AtLeast(1.0);
/// UDP packets a second by tc, to nftables.
pub(super) const UDP_TC: Bar = Bar::AtLeast(1.03);
/// Connections a second where packets are sent on at once, to nftables.
pub(super) const CONNECTIONS_REDIRECT: Bar = Bar::AtLeast(1.08);
/// UDP packets a second, likewise.
pub(super) const UDP_REDIRECT: Bar = Bar::AtLeast(1.15);
/// The same, to direct.
pub(super) const UDP_REDIRECT_BESIDE_DIRECT: Bar = Bar::AtLeast(1.0);
/// The same by a node port to another node, to nftables.
pub(super) const NODE_PORT_REDIRECT: Bar = Bar::AtLeast(1.15);
/// The same by XDP, where wires carry whole frames.
pub(super) const NODE_PORT_XDP: Bar = Bar::AtLeast(1.15);
/// Bulk TCP, to direct.
pub(super) const BULK: Bar = Bar::AtLeast(0.98);
/// From an event to the maps, the middle change, in milliseconds.
pub(super) const CHANGE_P50: f64 = 1.0;
/// The same of ninety-nine of a hundred.
pub(super) const CHANGE_P99: f64 = 10.0;
/// Kernel tables of 10 000 Services × 10 × 2, in MiB.
pub(super) const TABLES: f64 = 64.0;
/// The agent's own memory with them, in MiB.
pub(super) const AGENT: f64 = 100.0;
/// A million IPv4 flows at 70 % load, in MiB.
pub(super) const MILLION_FLOWS: f64 = 224.0;
/// Sweeping a million flows, in milliseconds of one core a second.
pub(super) const SWEEP: f64 = 50.0;
/// Loading, verifying and attaching all programs, in seconds.
pub(super) const LOAD: f64 = 1.0;
/// Instructions that the verifier may look at: a quarter of its budget.
pub(super) const VERIFIER: f64 = 250_000.0;

/// What a figure should be.
#[derive(Clone, Copy, Debug)]
enum Limit {
    /// The ratio to the baseline.
    Ratio(Bar),
    /// The median.
    Figure(f64),
}

/// One thing that is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Requirement {
    /// Of what.
    pub(super) what: &'static str,
    /// By which path of ours.
    pub(super) path: &'static str,
    /// To what it is compared, as people say it.
    pub(super) than: &'static str,
    limit: Limit,
    group: &'static str,
    /// What the names of its rows' cases hold, one of these; nothing where no row is of that path yet.
    cases: &'static [&'static str],
    /// What the metrics of its rows begin with.
    pub(super) metric: &'static str,
    baseline: Option<&'static str>,
    /// The title of the paragraph in the notes that explains a miss.
    pub(super) explanation: &'static str,
}

/// How a requirement stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Standing {
    /// Nothing can be measured.
    NoPath,
    /// This run has no such row.
    NotMeasured,
    /// All rows are as they should be.
    Met {
        /// The one nearest to the limit.
        nearest: Box<Row>,
    },
    /// Some are not.
    Missed {
        /// The one farthest beyond the limit.
        farthest: Box<Row>,
        /// By how much, as a share of the limit.
        by: f64,
        /// How many are not.
        missed: usize,
        /// Of how many.
        of: usize,
    },
}

impl Requirement {
    const fn new(what: &'static str, path: &'static str, limit: Limit) -> Self {
        Self {
            what,
            path,
            than: "",
            limit,
            group: "",
            cases: &[],
            metric: "",
            baseline: None,
            explanation: "",
        }
    }

    /// It is compared with this, by rows whose baseline that is.
    const fn than(mut self, than: &'static str, baseline: &'static str) -> Self {
        self.than = than;
        self.baseline = Some(baseline);
        self
    }

    const fn rows(
        mut self,
        group: &'static str,
        cases: &'static [&'static str],
        metric: &'static str,
    ) -> Self {
        self.group = group;
        self.cases = cases;
        self.metric = metric;
        self
    }

    const fn explained(mut self, title: &'static str) -> Self {
        self.explanation = title;
        self
    }

    /// For people: `≤ 1.6 ×`.
    pub(super) fn limit(&self) -> String {
        match self.limit {
            Limit::Ratio(bar) => format!("{} × {}", bar.text(), self.than),
            Limit::Figure(figure) => format!("≤ {figure} {}", self.than),
        }
    }

    /// What is judged of a row: median or ratio.
    pub(super) fn judged(&self, row: &Row) -> f64 {
        match self.limit {
            Limit::Ratio(_) => row.ratio.unwrap_or(f64::NAN),
            Limit::Figure(_) => row.median,
        }
    }

    /// How far beyond the limit a figure is, as a share of it; below 0 where it is as it should be.
    fn beyond(&self, figure: f64) -> f64 {
        match self.limit {
            Limit::Ratio(Bar::AtLeast(limit)) => (limit - figure) / limit,
            Limit::Ratio(Bar::AtMost(limit)) | Limit::Figure(limit) => (figure - limit) / limit,
        }
    }

    /// Whether a contender is ours by its path, or by the one that there is: `steerage, tc`, `steerage`.
    fn is_path(&self, contender: &str) -> bool {
        let ours = contender.strip_prefix("steerage");
        ours.is_some_and(|rest| rest.strip_prefix(", ").is_none_or(|path| path == self.path))
    }

    fn is_of(&self, row: &Row) -> bool {
        row.group == self.group
            && self.is_path(&row.contender)
            && row.metric.starts_with(self.metric)
            && self.cases.iter().any(|case| row.case.contains(case))
            && match self.limit {
                Limit::Ratio(_) => row.baseline.as_deref() == self.baseline,
                Limit::Figure(_) => true,
            }
    }

    /// How it stands in a run.
    pub(super) fn standing(&self, run: &Kept) -> Standing {
        if self.cases.is_empty() {
            return Standing::NoPath;
        }
        let rows: Vec<(f64, &Row)> = run
            .rows
            .iter()
            .filter(|row| self.is_of(row))
            .map(|row| (self.beyond(self.judged(row)), row))
            .collect();
        let farthest = rows.iter().max_by(|one, other| one.0.total_cmp(&other.0));
        let Some((by, row)) = farthest else {
            return Standing::NotMeasured;
        };
        let row = Box::new((*row).clone());
        if *by <= 0.0 {
            return Standing::Met { nearest: row };
        }
        Standing::Missed {
            farthest: row,
            by: *by,
            missed: rows.iter().filter(|(by, _)| *by > 0.0).count(),
            of: rows.len(),
        }
    }
}

const COST: &str = "a packet, over the empty program";
const LRU: &str = "minimal, LRU hash";

/// All of it.
pub(super) const REQUIREMENTS: &[Requirement] = &[
    Requirement::new("established, one flow, IPv4", "tc", Limit::Ratio(ONE_FLOW))
        .than("the minimal balancer without a table", "minimal, no table")
        .rows(
            "datapath",
            &["established, one flow, IPv4", "reply, one flow, IPv4"],
            COST,
        )
        .explained("One known flow"),
    Requirement::new("established, one flow, IPv4", "XDP", Limit::Ratio(ONE_FLOW))
        .than("the minimal balancer without a table", "minimal, no table")
        .rows("datapath", &["XDP, established, one flow, IPv4"], COST)
        .explained("XDP"),
    Requirement::new(
        "established, 64 k flows, IPv4",
        "tc",
        Limit::Ratio(MANY_FLOWS),
    )
    .than("the same on the kernel's LRU hash", LRU)
    .rows(
        "datapath",
        &["established, 64 k flows, IPv4", "reply, 64 k flows, IPv4"],
        COST,
    )
    .explained("Many known flows"),
    Requirement::new(
        "established, 1 M flows, IPv4",
        "tc",
        Limit::Ratio(MOST_FLOWS),
    )
    .than("the same on the kernel's LRU hash", LRU)
    .rows(
        "datapath",
        &["established, 1 M flows, IPv4", "reply, 1 M flows, IPv4"],
        COST,
    )
    .explained("Many known flows"),
    Requirement::new("every packet a new flow", "tc", Limit::Ratio(NEW_FLOW))
        .than("the same on the kernel's LRU hash", LRU)
        .rows("datapath", &["every packet a new flow"], COST)
        .explained("New flows"),
    Requirement::new("every packet a new flow", "XDP", Limit::Ratio(NEW_FLOW))
        .than("the same on the kernel's LRU hash", LRU)
        .rows(
            "datapath",
            &["XDP, every packet a new flow", "XDP, SYN flood"],
            COST,
        )
        .explained("New flows"),
    Requirement::new("SYN flood", "tc", Limit::Ratio(NEW_FLOW))
        .than("the same on the kernel's LRU hash", LRU)
        .rows("datapath", &["SYN flood"], COST)
        .explained("New flows"),
    Requirement::new("IPv6", "tc", Limit::Ratio(VERSIONS))
        .than("IPv4", "the same, IPv4")
        .rows(
            "datapath",
            &["established", "every packet a new flow", "SYN flood"],
            COST,
        )
        .explained("IPv6"),
    Requirement::new("IPv6", "XDP", Limit::Ratio(VERSIONS))
        .than("IPv4", "the same, IPv4")
        .rows("datapath", &["XDP, established"], COST)
        .explained("IPv6"),
    Requirement::new(
        "a packet of no service, 1 to 50 000 services",
        "tc",
        Limit::Figure(NO_SERVICE),
    )
    .over("ns over the empty program")
    .rows("datapath", &["no service"], COST)
    .explained("No service"),
    Requirement::new(
        "connect through ClusterIP, p50",
        "socket",
        Limit::Ratio(Bar::AtMost(1.05)),
    )
    .than("direct", "direct"),
    Requirement::new(
        "connect through ClusterIP, p50",
        "tc",
        Limit::Ratio(CONNECT_TC),
    )
    .than("direct", "direct")
    .rows("net", &["services"], "connect, p50")
    .explained("Connect by tc"),
    Requirement::new(
        "connections a second",
        "socket",
        Limit::Ratio(Bar::AtLeast(1.12)),
    )
    .than("nftables", "nftables"),
    Requirement::new(
        "connections a second",
        "redirect",
        Limit::Ratio(CONNECTIONS_REDIRECT),
    )
    .than("nftables", "nftables")
    .rows("net", &["services"], "connections")
    .explained("Connections a second"),
    Requirement::new("connections a second", "tc", Limit::Ratio(CONNECTIONS_TC))
        .than("nftables", "nftables")
        .rows("net", &["services"], "connections")
        .explained("Connections a second"),
    Requirement::new(
        "UDP packets a second",
        "redirect",
        Limit::Ratio(UDP_REDIRECT),
    )
    .than("nftables", "nftables")
    .rows("net", &["services"], "UDP packets")
    .explained("Packets a second"),
    Requirement::new("UDP packets a second", "tc", Limit::Ratio(UDP_TC))
        .than("nftables", "nftables")
        .rows("net", &["services"], "UDP packets")
        .explained("Packets a second"),
    Requirement::new(
        "UDP packets a second",
        "redirect",
        Limit::Ratio(UDP_REDIRECT_BESIDE_DIRECT),
    )
    .than("direct through the same node", "direct")
    .rows("net", &["services"], "UDP packets")
    .explained("Packets a second"),
    Requirement::new("bulk TCP", "tc", Limit::Ratio(BULK))
        .than("direct", "direct")
        .rows("net", &["services"], "bulk TCP")
        .explained("Packets a second"),
    Requirement::new(
        "NodePort to a remote backend, packets a second",
        "redirect",
        Limit::Ratio(NODE_PORT_REDIRECT),
    )
    .than("nftables", "nftables")
    .rows("net", &["node port, remote backend"], "UDP packets")
    .explained("Packets a second"),
    Requirement::new(
        "NodePort to a remote backend, packets a second",
        "XDP",
        Limit::Ratio(NODE_PORT_XDP),
    )
    .than("nftables", "nftables")
    .rows(
        "net",
        &["node port by frames, remote backend"],
        "UDP packets",
    )
    .explained("Packets a second by XDP"),
    Requirement::new(
        "one endpoint change, 10 000 services, event received to maps written, p50",
        "agent",
        Limit::Figure(CHANGE_P50),
    )
    .over("ms")
    .rows(
        "scale",
        &["1 endpoint"],
        "change received to maps written, p50",
    )
    .explained("One change"),
    Requirement::new(
        "one endpoint change, 10 000 services, event received to maps written, p99",
        "agent",
        Limit::Figure(CHANGE_P99),
    )
    .over("ms")
    .rows(
        "scale",
        &["1 endpoint"],
        "change received to maps written, p99",
    )
    .explained("One change"),
    Requirement::new(
        "kernel tables of 10 000 × 10 × 2",
        "agent",
        Limit::Figure(TABLES),
    )
    .over("MiB")
    .rows(
        "scale",
        &["10000 Services × 10 × 2"],
        "maps of services and backends, in all",
    )
    .explained("Memory"),
    Requirement::new(
        "the agent's own memory (`RssAnon`) with them",
        "agent",
        Limit::Figure(AGENT),
    )
    .over("MiB")
    .rows(
        "scale",
        &["10000 Services × 10 × 2"],
        "agent's own memory, peak",
    )
    .explained("Memory"),
    Requirement::new(
        "1 M IPv4 flows at 70 % load",
        "tables",
        Limit::Figure(MILLION_FLOWS),
    )
    .over("MiB")
    .rows(
        "datapath",
        &["tables"],
        "memory of 1 M IPv4 flows at 70 % load",
    )
    .explained("Memory"),
    Requirement::new("sweep of 1 M IPv4 flows", "agent", Limit::Figure(SWEEP))
        .over("ms of one core a second")
        .rows("scale", &["flows, IPv4"], "sweep, of one core a second")
        .explained("Sweep"),
    Requirement::new(
        "all programs loaded and verified",
        "tc",
        Limit::Figure(LOAD),
    )
    .over("s")
    .rows("datapath", &["load"], "all programs loaded")
    .explained("Loading"),
    Requirement::new("each program", "tc", Limit::Figure(VERIFIER))
        .over("instructions that the verifier looks at")
        .rows("datapath", &["lb_"], "instructions the verifier looked at")
        .explained("Loading"),
];

impl Requirement {
    /// A figure of this unit.
    const fn over(mut self, unit: &'static str) -> Self {
        self.than = unit;
        self
    }
}

#[cfg(test)]
mod tests;
