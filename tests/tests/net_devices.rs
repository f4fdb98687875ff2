//! Which devices are uplinks, while devices, addresses and routes come and go; and what the commands say
//! of a client that comes by one.
#![expect(
    clippy::tests_outside_test_module,
    reason = "an integration test is a test module"
)]

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    checks, clock,
    cluster::{Exposure, sockets},
    command::ip,
    lab::{CniShape, UPLINK, address},
    leak::Foreign,
    ns::Namespace,
    scenario::{Check, PORT, PROPAGATION, Stage, finish},
    traffic::{self, Greeting, LongFlow, Transport},
};

/// Node port of the Service `web`.
const NODE_PORT: u16 = 30_001;
/// The second network of node 1, of which its Node object says nothing.
const SECOND_NETWORK: &str = "10.201.0.0/24";
/// Node 1 on it.
const SECOND: &str = "10.201.0.1";
/// A device that a test adds to node 1.
const EXTRA: &str = "extra0";
/// Exchanges that a flow makes while something is different.
const EXCHANGES: u64 = 100;
/// How long a flow may wait for an answer, whatever changes around it.
const STALL: Duration = Duration::from_secs(1);

const CHECKS: &[Check] = checks![
    a_nic_with_an_address_that_takes_node_ports_is_an_uplink_and_takes_only_its_own_flows_along,
    an_external_address_that_a_device_gets_is_refused_until_it_is_gone,
    a_device_without_ethernet_headers_is_named_and_left_alone,
    an_uplink_that_loses_its_reason_for_a_moment_keeps_its_programs,
    a_connection_from_outside_is_explained_as_it_is_served_and_listed,
    an_explanation_names_what_stops_a_client_from_outside,
];

#[test]
fn uplinks_come_go_and_are_explained_with_routed_veths() {
    let outcome = build().and_then(|mut stage| {
        for (name, check) in CHECKS {
            let started = clock::now();
            check(&mut stage)
                .with_context(|| (*name).to_owned())
                .inspect_err(|_| stage.cluster.print_diagnosis())?;
            eprintln!("  {name} ({:.1?})", started.elapsed());
        }
        finish(stage, &Foreign::default())
    });
    outcome.unwrap_or_else(|error| panic!("{error:#}"));
}

/// The usual stage with a client outside, whose way to external addresses is node 1.
fn build() -> Result<Stage> {
    let mut stage = Stage::build_without_agents(CniShape::Routed)?;
    let lab = &mut stage.cluster.lab;
    lab.add_outside()?;
    let networks = [[address::EXTERNAL_V4, address::EXTERNAL_V6]];
    lab.outside().route(&networks, lab.node(1))?;
    let chosen = [address::NODES_V4, address::NODES_V6, SECOND_NETWORK].join("\", \"");
    stage.cluster.set_config(&format!(
        "services: {{nodePortAddresses: [\"{chosen}\"]}}\n"
    ))?;
    stage.web.exposure = Exposure::everywhere(1);
    stage.cluster.manifests.write(&stage.web)?;
    stage.start()?;
    for address in at_node(&stage) {
        await_served(&stage.cluster.lab.outside().ns, address)?;
    }
    Ok(stage)
}

/// The node port at both addresses of node 1.
fn at_node(stage: &Stage) -> [SocketAddr; 2] {
    let addresses = stage.cluster.lab.node(1).addresses();
    addresses.map(|address| SocketAddr::new(address, NODE_PORT))
}

fn await_served(client: &Namespace, address: SocketAddr) -> Result<Greeting> {
    let what = format!("{address} is served");
    clock::eventually(&what, PROPAGATION, || {
        Ok(traffic::connect_once(client, address).ok())
    })
}

/// A flow to one server, by whichever of several attempts gets to it.
fn flow_to(client: &Namespace, address: SocketAddr, server: &str) -> Result<LongFlow> {
    let what = format!("a flow to {server} through {address}");
    clock::eventually(&what, PROPAGATION, || {
        let flow = LongFlow::start(client, address, Transport::Tcp)?;
        Ok((flow.server == server).then_some(flow))
    })
}

fn await_exchanges(flow: &LongFlow) -> Result<()> {
    let goal = flow.exchanges() + EXCHANGES;
    clock::eventually("the flow goes on", PROPAGATION, || {
        Ok((flow.exchanges() >= goal).then_some(()))
    })
}

/// Waits for a line about a device in the list of interfaces, or for there to be none.
fn await_listed(stage: &Stage, device: &str, expected: Option<&str>) -> Result<String> {
    let what = format!("{device} is listed as {expected:?}");
    clock::eventually(&what, PROPAGATION, || {
        let text = stage
            .cluster
            .steerage(1, &["interface", "list", "-o", "wide"])?;
        let is_its = |line: &&str| line.split_whitespace().nth(1) == Some(device);
        let line = text.lines().find(is_its);
        Ok(match (line, expected) {
            (Some(line), Some(words)) if line.contains(words) => Some(line.to_owned()),
            (None, None) => Some(String::new()),
            _ => None,
        })
    })
}

/// Connects node 1 to the fabric by another cable, called [`EXTRA`] there.
fn plug_in(stage: &Stage) -> Result<()> {
    let node = stage.cluster.lab.node(1).ns.name();
    let fabric = stage.cluster.lab.fabric().name();
    ip(
        fabric,
        &format!(
            "link add extra type veth peer name {EXTRA} netns {node}\n\
             link set extra up\n"
        ),
    )?;
    ip(node, &format!("link set {EXTRA} up\n")).map(drop)
}

fn a_nic_with_an_address_that_takes_node_ports_is_an_uplink_and_takes_only_its_own_flows_along(
    stage: &mut Stage,
) -> Result<()> {
    plug_in(stage)?;
    let node = stage.cluster.lab.node(1).ns.name().to_owned();
    let fabric = stage.cluster.lab.fabric();
    ip(&node, &format!("addr add {SECOND}/24 dev {EXTRA}\n"))?;
    ip(fabric.name(), "addr add 10.201.0.2/24 dev extra\n")?;
    await_listed(stage, EXTRA, Some("has an address that takes node ports"))?;
    // To a backend here and to one elsewhere, which answers another address of this node.
    let address = SocketAddr::new(SECOND.parse()?, NODE_PORT);
    for server in ["web-1", "web-2"] {
        let flow = flow_to(fabric, address, server)?;
        await_exchanges(&flow)?;
        let report = flow.stop()?;
        ensure!(report.failure.is_none(), "{server}: {report:?}");
    }
    // The uplink disappears under a flow of its own and beside another.
    let doomed = flow_to(fabric, address, "web-2")?;
    let [other, _] = at_node(stage);
    let other = flow_to(&stage.cluster.lab.outside().ns, other, "web-2")?;
    ip(&node, &format!("link del {EXTRA}\n"))?;
    await_listed(stage, EXTRA, None)?;
    await_exchanges(&other)?;
    let report = other.stop()?;
    ensure!(
        report.failure.is_none() && report.longest_stall < STALL,
        "{report:?}"
    );
    drop(doomed);
    await_healthy(stage)
}

/// Waits until nothing is wrong.
fn await_healthy(stage: &Stage) -> Result<()> {
    clock::eventually("node 1 is healthy", PROPAGATION, || {
        Ok(stage.cluster.steerage(1, &["status", "--check"]).ok())
    })
    .map(drop)
}

fn an_external_address_that_a_device_gets_is_refused_until_it_is_gone(
    stage: &mut Stage,
) -> Result<()> {
    let node = stage.cluster.lab.node(1).ns.name().to_owned();
    let outside = &stage.cluster.lab.outside().ns;
    let external = stage.web.exposure.external.context("an external address")?;
    let [v4, v6] = sockets(external, PORT);
    for address in [v4, v6] {
        await_served(outside, address)?;
    }
    let bear = |action: &str| {
        let (v4, v6) = (v4.ip(), v6.ip());
        ip(
            &node,
            &format!("addr {action} {v4}/32 dev {UPLINK}\naddr {action} {v6}/128 dev {UPLINK}\n"),
        )
    };
    bear("add")?;
    for address in [v4, v6] {
        let what = format!("{address} is the node's own");
        clock::eventually(&what, PROPAGATION, || {
            Ok(traffic::connect_once(outside, address).err())
        })?;
        let text = format!(
            "external address {} refused, since it is an address of this node",
            address.ip()
        );
        clock::eventually(&text, PROPAGATION, || {
            let status = stage.cluster.steerage(1, &["status"])?;
            Ok(status.contains(&text).then_some(()))
        })?;
    }
    // What the tables say is what the objects and the devices say.
    stage.cluster.steerage(1, &["verify"])?;
    bear("del")?;
    for address in [v4, v6] {
        await_served(outside, address)?;
    }
    await_healthy(stage)
}

fn a_device_without_ethernet_headers_is_named_and_left_alone(stage: &mut Stage) -> Result<()> {
    let node = stage.cluster.lab.node(1).ns.name().to_owned();
    ip(
        &node,
        &format!(
            "tuntap add dev {EXTRA} mode tun\n\
             link set {EXTRA} up\n\
             addr add {SECOND}/24 dev {EXTRA}\n"
        ),
    )?;
    let line = await_listed(stage, EXTRA, Some("no Ethernet header"))?;
    ensure!(
        line.contains("none") && line.contains("not attached"),
        "{line}"
    );
    let status = stage.cluster.steerage(1, &["status"])?;
    let named = format!("problem     device {EXTRA} has an address that takes node ports, but its");
    ensure!(status.contains(&named), "{status}");
    ip(&node, &format!("tuntap del dev {EXTRA} mode tun\n"))?;
    await_listed(stage, EXTRA, None)?;
    await_healthy(stage)
}

fn an_uplink_that_loses_its_reason_for_a_moment_keeps_its_programs(
    stage: &mut Stage,
) -> Result<()> {
    let node = stage.cluster.lab.node(1).ns.name().to_owned();
    plug_in(stage)?;
    let route = |action: &str| {
        ip(
            &node,
            &format!("route {action} 0.0.0.0/0 dev {EXTRA} metric 5000\n"),
        )
    };
    route("add")?;
    await_listed(stage, EXTRA, Some("has a default route"))?;
    let log = stage.cluster.directory().join("node1.log");
    let attached = || -> Result<usize> {
        let text = fs::read_to_string(&log)?;
        let is_its = |line: &&str| line.contains("attached to") && line.contains(EXTRA);
        Ok(text.lines().filter(is_its).count())
    };
    let before = attached()?;
    route("del")?;
    await_listed(stage, EXTRA, Some("keeps its role for a moment"))?;
    route("add")?;
    await_listed(stage, EXTRA, Some("has a default route"))?;
    ensure!(attached()? == before, "it was attached to anew");
    // For good: a veth without a reason to be an uplink looks like a pod's.
    route("del")?;
    await_listed(stage, EXTRA, Some("has its other end in another namespace"))?;
    ensure!(attached()? == before + 1, "it still is an uplink");
    ip(&node, &format!("link del {EXTRA}\n"))?;
    await_listed(stage, EXTRA, None)?;
    Ok(())
}

/// The line of an explanation that begins so.
fn line<'t>(text: &'t str, head: &str) -> Result<&'t str> {
    let mut lines = text.lines();
    let found = lines.find_map(|line| line.trim_start().strip_prefix(head));
    found
        .map(str::trim)
        .with_context(|| format!("no {head:?} in\n{text}"))
}

fn a_connection_from_outside_is_explained_as_it_is_served_and_listed(
    stage: &mut Stage,
) -> Result<()> {
    let outside = &stage.cluster.lab.outside().ns;
    let own: [IpAddr; 2] = stage.cluster.lab.outside().addresses();
    for (address, own) in at_node(stage).into_iter().zip(own) {
        let node = address.ip();
        // A backend elsewhere sees this node, one here the client.
        for (server, seen) in [("web-2", node), ("web-1", own)] {
            let flow = flow_to(outside, address, server)?;
            let text = stage.cluster.steerage(
                1,
                &[
                    "conntrack",
                    "list",
                    "--client",
                    &own.to_string(),
                    "-o",
                    "wide",
                ],
            )?;
            let backend = stage.cluster.lab.pod(server).addresses();
            let backend = backend[usize::from(node.is_ipv6())].to_string();
            let is_its = |line: &&str| {
                let fields: Vec<_> = line.split_whitespace().collect();
                fields.get(2) == Some(&address.to_string().as_str())
                    && fields.get(3).is_some_and(|it| it.contains(&backend))
                    && line.contains("established")
            };
            let listed = text.lines().find(is_its);
            let listed = listed.with_context(|| format!("no flow to {backend} in\n{text}"))?;
            let fields: Vec<_> = listed.split_whitespace().collect();
            let client: SocketAddr = fields[1].parse()?;
            let halves = if seen == own { "both" } else { "all 4" };
            ensure!(listed.contains(halves), "{listed}");
            let seen_as = if seen == own {
                ensure!(fields[4] == "client", "{listed}");
                client
            } else {
                let source: SocketAddr = fields[4].parse()?;
                ensure!(source.ip() == node, "{listed}");
                ensure!((1024..30_000).contains(&source.port()), "{listed}");
                source
            };
            // The same of an explanation of its next packet.
            let text = stage.cluster.steerage(
                1,
                &[
                    "explain",
                    "--tcp-flags",
                    "ack",
                    &client.to_string(),
                    &address.to_string(),
                ],
            )?;
            ensure!(
                text.contains(&format!("leads over {UPLINK}, an uplink")),
                "{text}"
            );
            ensure!(line(&text, "verdict")?.contains("established"), "{text}");
            ensure!(line(&text, "goes on as")?.contains(&backend), "{text}");
            if seen == own {
                ensure!(!text.contains("leaves as"), "{text}");
            } else {
                let leaves = line(&text, "leaves as")?;
                ensure!(leaves.contains(&seen_as.to_string()), "{leaves}: {listed}");
            }
            await_exchanges(&flow)?;
            flow.stop()?;
        }
        // A new one of a port that is chosen beforehand goes where the explanation says.
        let client = SocketAddr::new(own, 41_234);
        let text = stage
            .cluster
            .steerage(1, &["explain", &client.to_string(), &address.to_string()])?;
        ensure!(line(&text, "verdict")?.contains("new_flow"), "{text}");
        let greeting = traffic::connect_once_from(outside, address, 41_234)?;
        let served = stage.cluster.lab.pod(&greeting.server).addresses();
        let served = served[usize::from(node.is_ipv6())].to_string();
        ensure!(
            line(&text, "goes on as")?.contains(&served),
            "{text}\n{greeting}"
        );
        // What it would have written stayed with it: nothing is listed that was only explained.
        let ghost = SocketAddr::new(own, 41_235);
        stage
            .cluster
            .steerage(1, &["explain", &ghost.to_string(), &address.to_string()])?;
        let text = stage.cluster.steerage(1, &["conntrack", "list"])?;
        ensure!(!text.contains(&ghost.to_string()), "{text}");
    }
    Ok(())
}

fn explain(stage: &Stage, client: IpAddr, address: SocketAddr, more: &[&str]) -> Result<String> {
    let (client, address) = (client.to_string(), address.to_string());
    let arguments = [&["explain", &client, &address], more].concat();
    stage.cluster.steerage(1, &arguments)
}

fn an_explanation_names_what_stops_a_client_from_outside(stage: &mut Stage) -> Result<()> {
    let before = stage.web.clone();
    stage.web.exposure.source_ranges = vec!["192.0.2.0/24".into(), "2001:db8:99::/64".into()];
    stage.cluster.manifests.write(&stage.web)?;
    let balancer = before
        .exposure
        .balancer
        .context("a load balancer's address")?;
    let own = stage.cluster.lab.outside().addresses();
    for (address, own) in sockets(balancer, PORT).into_iter().zip(own) {
        let what = format!("{address} is closed to {own}");
        let text = clock::eventually(&what, PROPAGATION, || {
            let text = explain(stage, own, address, &[])?;
            Ok(text.contains("drop (source_range)").then_some(text))
        })?;
        ensure!(text.contains("none holds the client"), "{text}");
        traffic::refusal(
            &stage.cluster.lab.outside().ns,
            address,
            Transport::Tcp,
            Duration::from_millis(400),
        )?;
    }
    // Without endpoints here a client from outside is dropped under the policy, a pod is not.
    let [address, _] = at_node(stage);
    stage.web = before.clone();
    stage.web.exposure.external_policy = lb_tests::cluster::Policy::Local;
    stage.set_endpoints(&["web-2"])?;
    let what = "the policy stops clients from outside";
    clock::eventually(what, PROPAGATION, || {
        let text = explain(stage, own[0], address, &[])?;
        Ok(text.contains("drop (no_local_endpoints)").then_some(()))
    })?;
    let text = explain(stage, own[0], address, &["--from", "pod"])?;
    ensure!(line(&text, "verdict")?.contains("new_flow"), "{text}");
    stage.web = before;
    stage.set_endpoints(&["web-1", "web-2", "web-3"])?;
    await_served(&stage.cluster.lab.outside().ns, address)?;
    Ok(())
}
