//! A million SYNs of clients that do not exist, while a thousand connections are open.
#![expect(
    clippy::tests_outside_test_module,
    reason = "an integration test is a test module"
)]

use std::{collections::BTreeSet, fs, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use lb_agent::dataplane::{bpffs::PinPaths, counters};
use lb_common::verdict::Reason;
use lb_tests::{
    checks, clock,
    cluster::{Endpoint, Exposure, Service},
    command,
    lab::{CniShape, address},
    scenario::{Check, PORT, Stage, on_stage},
    traffic::{self, TcpLine, TcpServer, Transport},
};
use serde_json::Value;

/// SYNs that the datapath has to have taken for the first packets of flows.
const SYNS: u64 = 1_000_000;
/// Those among them, of each family, that are sent to the Service that the connections are with, whose
/// endpoints answer and are mostly on other nodes: more than there are ports towards them.
const SHARED_SYNS: u64 = 100_000;
/// The port of an endpoint that answers no forged client.
const DEAF_TARGET: u16 = 8082;
/// SYNs that are sent between two looks.
const STEP: u32 = 25_000;
/// Connections of each family; those of IPv4 and IPv6 are in tables of their own.
const CONNECTIONS: usize = 500;
/// Kilobytes by which the agent's memory may differ: what it needs to look through its tables.
const AGENT_ROOM: u64 = 32 << 10;
/// How long a connection may wait for an echo in the flood. The machine's processors are busy with it.
const STALL: Duration = Duration::from_secs(4);

const CHECKS: &[Check] = checks![a_million_syns_take_nothing_from_a_thousand_connections];

#[test]
fn established_flows_outlive_a_flood() {
    let stage = Stage::build_with_outside(CniShape::Routed, "", |_lab| Ok(()));
    on_stage(CniShape::Routed, stage, CHECKS);
}

fn a_million_syns_take_nothing_from_a_thousand_connections(stage: &mut Stage) -> Result<()> {
    let mut lines = Vec::new();
    for address in stage.at_node(1) {
        for _ in 0..CONNECTIONS {
            let outside = &stage.cluster.lab.outside().ns;
            lines.push(TcpLine::open(outside, address, None)?);
        }
    }
    let servers: BTreeSet<_> = lines.iter().map(|line| &line.greeting.server).collect();
    ensure!(servers.len() == 3, "only {servers:?} took connections");
    echo_all(&mut lines, Duration::from_secs(2))?;
    let flows = flows_of_the_client(stage)?;
    ensure!(
        flows.len() == lines.len(),
        "{} flows of {} connections",
        flows.len(),
        lines.len()
    );
    let (maps, agent) = (map_sizes(stage)?, agent_memory(stage)?);

    let (_server, near) = near(stage)?;
    for (both, wanted) in [
        (stage.at_node(1), SHARED_SYNS),
        (near, SYNS / 2 - SHARED_SYNS),
    ] {
        for address in both {
            let started = clock::now();
            let sent = flood(stage, address, wanted, &mut lines)?;
            eprintln!("  {address}: {sent} SYNs in {:.1?}", started.elapsed());
        }
    }

    echo_all(&mut lines, STALL)?;
    ensure!(
        flows_of_the_client(stage)? == flows,
        "flows went to other backends, or are gone"
    );
    ensure!(map_sizes(stage)? == maps, "maps have changed their size");
    let grown = agent_memory(stage)?.saturating_sub(agent);
    ensure!(grown < AGENT_ROOM, "the agent has grown by {grown} KiB");
    // Towards endpoints elsewhere the flood had taken every port; after a second of silence they are
    // anyone's again.
    for address in stage.at_node(1) {
        clock::eventually("a new connection", Duration::from_secs(10), || {
            Ok(stage.ask_from_outside(address, Transport::Tcp).ok())
        })?;
    }
    lines.into_iter().try_for_each(TcpLine::reset)
}

/// A Service with one endpoint, which is on node 1 and takes no notice of who does not exist, and its
/// node port there. So most of the flood costs the test no answers.
fn near(stage: &Stage) -> Result<(TcpServer, [SocketAddr; 2])> {
    let pod = stage.cluster.lab.pod("web-1");
    let exposure = Exposure::everywhere(70);
    let port = exposure.node_port.context("a node port")?;
    let service = Service::new("near", 70).on(PORT, DEAF_TARGET);
    let service = service.to([Endpoint::of(pod)]).exposed(exposure);
    let deaf = format!(
        "table inet deaf {{
            chain input {{
                type filter hook prerouting priority raw;
                ip saddr {} tcp dport {DEAF_TARGET} drop
                ip6 saddr {} tcp dport {DEAF_TARGET} drop
            }}
        }}\n",
        address::FORGED_V4,
        address::FORGED_V6,
    );
    command::run(pod.ns.command("nft")?.args(["-f", "-"]), &deaf)?;
    let server = TcpServer::start(&pod.ns, "web-1", DEAF_TARGET)?;
    stage.cluster.manifests.write(&service)?;
    let addresses = stage.cluster.lab.node(1).addresses();
    let sockets = addresses.map(|address| SocketAddr::new(address, port));
    for address in sockets {
        stage.await_served(address)?;
    }
    Ok((server, sockets))
}

/// Sends SYNs until `wanted` of them have begun a flow; how many that took. A tenth of the connections
/// talks meanwhile, the others are silent.
fn flood(stage: &Stage, address: SocketAddr, wanted: u64, lines: &mut [TcpLine]) -> Result<u32> {
    let router = &stage.cluster.lab.outside().router;
    let before = begun(stage)?;
    let mut next = 0;
    while begun(stage)? - before < wanted {
        ensure!(
            next + STEP <= traffic::DISTINCT,
            "{next} SYNs were sent, and {} arrived",
            begun(stage)? - before
        );
        traffic::flood(router, address, next..next + STEP)?;
        next += STEP;
        let talkative = lines.iter_mut().step_by(10);
        for line in talkative {
            echo(line, STALL)?;
        }
    }
    Ok(next)
}

/// Flows that were begun on node 1, ever.
fn begun(stage: &Stage) -> Result<u64> {
    counted(stage, Reason::NewFlow)
}

/// Packets that node 1 has counted for this reason.
fn counted(stage: &Stage, wanted: Reason) -> Result<u64> {
    let pins = PinPaths::new(&stage.cluster.agents()[0].pins);
    let counters = counters::read(&pins).context("read the counters")?;
    let found = counters.iter().find(|(reason, _)| *reason == wanted);
    Ok(found.map_or(0, |(_, counter)| counter.packets))
}

fn echo_all(lines: &mut [TcpLine], patience: Duration) -> Result<()> {
    lines.iter_mut().try_for_each(|line| echo(line, patience))
}

fn echo(line: &mut TcpLine, patience: Duration) -> Result<()> {
    let started = clock::now();
    let said = line.echo(b"still there?");
    said.with_context(|| format!("the connection {}", line.greeting))?;
    let took = started.elapsed();
    ensure!(took < patience, "{}: {took:?}", line.greeting);
    Ok(())
}

/// Client, frontend and backend of the flows that the table has of the client outside.
fn flows_of_the_client(stage: &Stage) -> Result<BTreeSet<String>> {
    let mut flows = BTreeSet::new();
    for address in stage.cluster.lab.outside().addresses() {
        let address = address.to_string();
        let list = ["conntrack", "list", "-o", "json", "--client", &address];
        for item in items(stage, &list)? {
            if item["state"] == "established" {
                let ends = ["client", "frontend", "backend"].map(|end| item[end].to_string());
                flows.insert(ends.join(" "));
            }
        }
    }
    Ok(flows)
}

/// Name, entries and bytes of every map.
fn map_sizes(stage: &Stage) -> Result<Vec<String>> {
    let items = items(stage, &["maps", "-o", "json"])?;
    let of = |item: &Value| {
        let size = ["name", "capacity", "memoryBytes"].map(|field| item[field].to_string());
        size.join(" ")
    };
    Ok(items.iter().map(of).collect())
}

fn items(stage: &Stage, command: &[&str]) -> Result<Vec<Value>> {
    let text = stage.cluster.steerage(1, command)?;
    let list: Value = serde_json::from_str(&text).context("read a list")?;
    let items = list["items"].as_array();
    items
        .cloned()
        .with_context(|| format!("no items in {text}"))
}

/// Kilobytes of the agent's own memory.
fn agent_memory(stage: &Stage) -> Result<u64> {
    let pid = stage.cluster.agents()[0].pid().context("a running agent")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    // Not the pages of maps that it looks at: those are the kernel's, whoever sees them.
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let Some(kilobytes) = line.and_then(|line| line.split_whitespace().next()) else {
        bail!("no RssAnon of process {pid}");
    };
    Ok(kilobytes.parse()?)
}
