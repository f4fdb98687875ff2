//! The demo: what an operator would try first, in under a minute, with every claim checked.
//!
//! It is a test that talks. Whatever it prints as true was asked of real sockets or of the kernel
//! just before, and the first claim that does not hold ends it with an error.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use crate::{
    clock,
    cluster::{Cluster, Endpoint, Service},
    lab::CniShape,
    leak::{self, Foreign},
    scenario::{PORT, PROPAGATION, TARGET, check_share, to_f64, tolerance},
    traffic::{
        self, FlowReport, Load, LoadReport, LongFlow, Spread, TcpServer, Transport, UdpServer,
    },
};

mod screen;

pub use self::screen::Screen;

/// Pods and their nodes. The client is where everything is asked from.
const PODS: [(&str, u8); 8] = [
    ("client", 1),
    ("web-1", 1),
    ("web-2", 2),
    ("web-3", 3),
    ("api-1", 2),
    ("api-2", 3),
    ("dns-1", 2),
    ("dns-2", 3),
];

/// A Service of the demo: how it is dialled, and each server's share.
struct Act {
    service: Service,
    transport: Transport,
    /// 0 is the IPv4 address, 1 the IPv6 address.
    family: usize,
    shares: Vec<(String, f64)>,
}

impl Act {
    fn new(
        cluster: &Cluster,
        (name, host): (&str, u8),
        (transport, family): (Transport, usize),
        weights: &[(&str, u16)],
    ) -> Self {
        let endpoints = weights
            .iter()
            .map(|(pod, weight)| Endpoint::of(cluster.lab.pod(pod)).weighing(*weight));
        let service = Service::new(name, host).on(PORT, TARGET).to(endpoints);
        let total: f64 = weights.iter().map(|(_, weight)| f64::from(*weight)).sum();
        let share = |(pod, weight): &(&str, u16)| ((*pod).to_owned(), f64::from(*weight) / total);
        Self {
            service,
            transport,
            family,
            shares: weights.iter().map(share).collect(),
        }
    }

    fn title(&self) -> String {
        let address = self.service.sockets(PORT)[self.family];
        format!("{}  {} {address}", self.service.name, self.transport)
    }
}

/// What the summary is made of.
#[derive(Default)]
struct Tally {
    connections: u64,
    flows: usize,
    exchanges: u64,
    longest_stall: Duration,
}

impl Tally {
    fn add_spread(&mut self, spread: &Spread) {
        self.connections += spread.values().sum::<u64>();
    }

    fn add_load(&mut self, report: &LoadReport) {
        self.connections += report.connections();
    }

    fn add_flow(&mut self, report: &FlowReport) {
        self.flows += 1;
        self.exchanges += report.exchanges;
        self.longest_stall = self.longest_stall.max(report.longest_stall);
    }
}

/// Runs the whole demo; an error is the first claim that did not hold.
pub fn run(shape: CniShape, connections: u32, screen: &mut Screen) -> Result<()> {
    let started = clock::now();
    screen.title(&format!(
        "Steerage: three nodes, one agent each, {shape} pods"
    ));
    let tally = play(shape, connections, screen)?;
    summary(&tally, started, screen);
    Ok(())
}

fn play(shape: CniShape, connections: u32, screen: &mut Screen) -> Result<Tally> {
    let mut cluster = Cluster::build(shape, 3)?;
    cluster.lab.add_pods(&PODS)?;
    let outcome = perform(&mut cluster, connections, screen);
    finish(cluster, outcome, screen)
}

/// Whatever happened, the cluster ends here.
fn finish(cluster: Cluster, outcome: Result<Tally>, screen: &mut Screen) -> Result<Tally> {
    let tally = outcome.inspect_err(|_| cluster.print_diagnosis())?;
    screen.step("Everything is removed");
    remove(cluster, screen)?;
    Ok(tally)
}

fn perform(cluster: &mut Cluster, connections: u32, screen: &mut Screen) -> Result<Tally> {
    let _servers = serve(cluster)?;
    let acts = acts(cluster);
    for act in &acts {
        cluster.manifests.write(&act.service)?;
    }
    show_topology(cluster, &acts, screen);

    screen.step("Three agents read a directory of Kubernetes manifests");
    let starting = clock::now();
    cluster.start_agents()?;
    screen.claim(&format!(
        "started, and the kernel programmed, in {:.1?}",
        starting.elapsed()
    ));

    let mut tally = Tally::default();
    screen.step(&format!("{connections} connections to each Service"));
    for act in &acts {
        tally.add_spread(&show_spread(cluster, act, connections, screen)?);
    }
    screen.step("An endpoint leaves under load");
    remove_endpoint(cluster, &acts[0].service, &mut tally, screen)?;
    screen.step("Every agent is killed under load (SIGKILL), and started again");
    crash(cluster, &acts[0].service, &mut tally, screen)?;
    Ok(tally)
}

/// Every pod but the client serves, by both protocols.
fn serve(cluster: &Cluster) -> Result<Vec<(TcpServer, UdpServer)>> {
    let pods = cluster.lab.pods().iter().filter(|pod| pod.name != "client");
    pods.map(|pod| {
        let tcp = TcpServer::start(&pod.ns, &pod.name, TARGET)?;
        Ok((tcp, UdpServer::start(&pod.ns, &pod.name, TARGET)?))
    })
    .collect()
}

/// Between them: both protocols, both families, equal and unequal weights.
fn acts(cluster: &Cluster) -> Vec<Act> {
    let web = [("web-1", 100), ("web-2", 100), ("web-3", 100)];
    vec![
        Act::new(cluster, ("web", 10), (Transport::Tcp, 0), &web),
        Act::new(
            cluster,
            ("api", 20),
            (Transport::Tcp, 1),
            &[("api-1", 300), ("api-2", 100)],
        ),
        Act::new(
            cluster,
            ("dns", 53),
            (Transport::Udp, 0),
            &[("dns-1", 100), ("dns-2", 100)],
        ),
    ]
}

fn show_topology(cluster: &Cluster, acts: &[Act], screen: &mut Screen) {
    for node in cluster.lab.nodes() {
        screen.line(&format!("  {}   {}   {}", node.name, node.v4, node.v6));
        for pod in cluster
            .lab
            .pods()
            .iter()
            .filter(|pod| pod.node == node.number)
        {
            screen.line(&format!(
                "    └ {:8} {:14} {}",
                pod.name,
                pod.v4.to_string(),
                pod.v6
            ));
        }
    }
    screen.line("");
    for act in acts {
        let Service {
            name,
            v4,
            v6,
            endpoints,
            ..
        } = &act.service;
        let list: Vec<String> = endpoints
            .iter()
            .map(|one| format!("{} (weight {})", one.pod, one.weight))
            .collect();
        screen.line(&format!(
            "  Service {name}   {v4}   {v6}   port {PORT} → {}",
            list.join(", ")
        ));
    }
}

fn show_spread(
    cluster: &Cluster,
    act: &Act,
    connections: u32,
    screen: &mut Screen,
) -> Result<Spread> {
    let client = &cluster.lab.pod("client").ns;
    let address = act.service.sockets(PORT)[act.family];
    let started = clock::now();
    let count = usize::try_from(connections)?;
    let spread = traffic::spread(client, address, act.transport, count)?;
    screen.line(&format!("  {}   {:.1?}", act.title(), started.elapsed()));
    for (name, share) in &act.shares {
        let got = spread.get(name).copied().unwrap_or_default();
        let total = u64::from(connections);
        let bound = tolerance(total, *share, act.shares.len());
        screen.bar(
            name,
            got,
            to_f64(got) / to_f64(total),
            share * to_f64(total),
            bound,
        );
    }
    let shares: Vec<(&str, f64)> = act
        .shares
        .iter()
        .map(|(name, share)| (name.as_str(), *share))
        .collect();
    check_share(&spread, &shares)?;
    Ok(spread)
}

/// Load on both families and protocols, and long flows, at least one to every server of `web`.
fn start_traffic(cluster: &Cluster, web: &Service) -> Result<(Vec<LongFlow>, Load)> {
    let client = &cluster.lab.pod("client").ns;
    let [v4, v6] = web.sockets(PORT);
    let load = Load::start(
        client,
        &[
            (v4, Transport::Tcp),
            (v6, Transport::Tcp),
            (v4, Transport::Udp),
            (v6, Transport::Udp),
        ],
    )?;
    let mut flows: Vec<LongFlow> = Vec::new();
    for address in [v4, v6] {
        let mut missing: Vec<&str> = web.endpoints.iter().map(|one| one.pod.as_str()).collect();
        clock::eventually("a flow to every server", PROPAGATION, || {
            let flow = LongFlow::start(client, address, Transport::Tcp)?;
            missing.retain(|name| *name != flow.server);
            flows.push(flow);
            Ok(missing.is_empty().then_some(()))
        })?;
    }
    load.wait_for(300)?;
    Ok((flows, load))
}

/// Ends flows and load; an error if any of them met anything but answers.
fn stop_traffic(flows: Vec<LongFlow>, load: Load, tally: &mut Tally) -> Result<String> {
    let report = load.stop()?;
    ensure!(report.failures == 0, "new connections failed: {report:?}");
    tally.add_load(&report);
    let count = flows.len();
    for flow in flows {
        let server = flow.server.clone();
        let report = flow.stop()?;
        ensure!(
            report.failure.is_none(),
            "a flow to {server} broke: {report:?}"
        );
        ensure!(
            report.servers.len() == 1,
            "a flow to {server} was moved: {report:?}"
        );
        tally.add_flow(&report);
    }
    Ok(format!(
        "{} new connections, none failed, the slowest took {:.1?}; {count} long flows, none broken",
        report.connections(),
        report.slowest,
    ))
}

fn remove_endpoint(
    cluster: &Cluster,
    web: &Service,
    tally: &mut Tally,
    screen: &mut Screen,
) -> Result<()> {
    let (flows, load) = start_traffic(cluster, web)?;
    let mut without = web.clone();
    without.endpoints.retain(|endpoint| endpoint.pod != "web-2");
    let written = clock::now();
    cluster.manifests.write(&without)?;
    let client = &cluster.lab.pod("client").ns;
    for address in web.sockets(PORT) {
        for transport in Transport::ALL {
            clock::eventually("web-2 gets no new connections", PROPAGATION, || {
                let spread = traffic::spread(client, address, transport, 60)?;
                Ok((!spread.contains_key("web-2")).then_some(()))
            })?;
        }
    }
    screen.claim(&format!(
        "web-2 got its last new connection within {:.1?}",
        written.elapsed()
    ));
    // What began before may be answered after.
    load.settle()?;
    let quiet = load.snapshot();
    load.wait_for_each(75)?;
    let got = |report: &LoadReport| report.by_server.get("web-2").copied();
    ensure!(
        got(&quiet) == got(&load.snapshot()),
        "web-2 still gets new connections"
    );
    let kept = flows.iter().filter(|flow| flow.server == "web-2").count();
    for flow in flows.iter().filter(|flow| flow.server == "web-2") {
        let before = flow.exchanges();
        clock::eventually("a flow to web-2 goes on", PROPAGATION, || {
            Ok((flow.exchanges() > before).then_some(()))
        })?;
    }
    screen.claim(&format!(
        "its {kept} established flows go on, served by the same process"
    ));
    screen.claim(&stop_traffic(flows, load, tally)?);
    cluster.manifests.write(web)
}

fn crash(
    cluster: &mut Cluster,
    web: &Service,
    tally: &mut Tally,
    screen: &mut Screen,
) -> Result<()> {
    let client = &cluster.lab.pod("client").ns;
    clock::eventually("web-2 is back", PROPAGATION, || {
        let spread = traffic::spread(client, web.sockets(PORT)[1], Transport::Tcp, 60)?;
        Ok(spread.contains_key("web-2").then_some(()))
    })?;
    let (flows, load) = start_traffic(cluster, web)?;
    for node in 1..=3 {
        cluster.agent(node).kill()?;
    }
    load.wait_for_each(75)?;
    screen.claim("with no agent alive, connections are balanced as before");
    let starting = clock::now();
    cluster.start_agents()?;
    screen.claim(&format!("agents are back after {:.1?}", starting.elapsed()));
    load.wait_for_each(75)?;
    screen.claim(&stop_traffic(flows, load, tally)?);
    Ok(())
}

fn remove(cluster: Cluster, screen: &mut Screen) -> Result<()> {
    let prefix = cluster.lab.prefix().to_owned();
    let directory = cluster.directory().to_owned();
    let agents: Vec<u32> = cluster
        .agents()
        .iter()
        .filter_map(crate::cluster::Agent::pid)
        .collect();
    cluster.finish(&Foreign::default())?;
    screen.claim("no program on any hook, no qdisc, no pin, no program loaded");
    leak::check_namespaces(&prefix)?;
    for pid in agents {
        ensure!(
            !Path::new("/proc").join(pid.to_string()).exists(),
            "agent {pid} still runs"
        );
    }
    ensure!(!directory.exists(), "{} is left", directory.display());
    screen.claim("no namespace, no process, no file");
    Ok(())
}

fn summary(tally: &Tally, started: Instant, screen: &mut Screen) {
    screen.title("It held");
    screen.line(&format!("  {} connections, 0 failed", tally.connections));
    screen.line(&format!(
        "  {} long flows, {} exchanges, 0 broken, longest wait for an answer {:.1?}",
        tally.flows, tally.exchanges, tally.longest_stall,
    ));
    screen.line("  1 endpoint removed, 3 agents killed, 0 things left behind");
    screen.line(&format!("  {:.0?} in all", started.elapsed()));
}
