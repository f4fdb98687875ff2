//! Real maps damaged behind the agent's back: `steerage verify` names what differs, `--repair` and the
//! agent's own audit put it right, and a dead agent is told apart from a wrong one.
#![expect(
    clippy::tests_outside_test_module,
    reason = "a test binary is nothing but tests"
)]

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lb_agent::dataplane::layout::Table;
use lb_agent::dataplane::maps::BpfDataplane;
use lb_agent::dataplane::tables::WordTable;
use lb_agent::dataplane::{Actual, Dataplane as _, Write};
use lb_common::flow::Protocol;
use lb_common::id::BackendId;
use lb_common::table::backend::{BackendFlags, BackendRecord};
use lb_common::table::device::DeviceRecord;
use lb_common::table::frontend::{FrontendKey, FrontendKind, FrontendValue};
use lb_common::table::service::{Audience, ServiceWord};
use lb_common::table::source_range::SourceRangeKey;
use lb_tests::clock::eventually;
use lb_tests::command;
use lb_tests::lone_agent::LoneAgent;
use lb_tests::privilege::require_root;
use lb_tests::prometheus;
use lb_tests::scrape::get;
use serde_json::Value;

const NODE: &str = "node-a";
/// Ten times as long as anything takes.
const PATIENCE: Duration = Duration::from_mins(1);
const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10249);

const MANIFESTS: &str = "\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10]
  ports: [{name: http, port: 80, protocol: TCP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-1
  namespace: default
  labels: {kubernetes.io/service-name: web}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints:
- {addresses: [10.244.1.5], nodeName: n1, conditions: {ready: true}}
- {addresses: [10.244.2.6], nodeName: n2, conditions: {ready: true}}
---
apiVersion: v1
kind: Service
metadata: {name: open, namespace: default}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.20
  clusterIPs: [10.96.0.20]
  loadBalancerSourceRanges: [198.51.100.0/24]
  ports: [{name: http, port: 80, protocol: TCP, nodePort: 30080}]
status: {loadBalancer: {ingress: [{ip: 203.0.113.20}]}}
---
apiVersion: v1
kind: Node
metadata: {name: node-a}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
";

fn machine() -> Result<LoneAgent> {
    require_root()?;
    let mut agent = LoneAgent::new(NODE)?;
    let name = agent.namespace.name();
    command::ip(name, "link add eth0 type veth peer name eth1")?;
    command::ip(name, "address add 192.0.2.1/24 dev eth0")?;
    command::ip(name, "link set eth0 up")?;
    let manifests = agent.path("manifests");
    fs::create_dir(&manifests)?;
    fs::write(manifests.join("web.yaml"), MANIFESTS)?;
    agent.set_source(&["--source", &format!("dir:{}", manifests.display())]);
    Ok(agent)
}

/// Runs `verify` with further arguments: its exit code, and the document it printed.
fn verify(agent: &LoneAgent, arguments: &[&str]) -> Result<(i32, Value)> {
    let mut all = vec!["verify", "-o", "json"];
    all.extend(arguments);
    let output = agent.cli(&all)?;
    let code = output.status.code().context("it was killed")?;
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    let document: Value = serde_json::from_slice(&output.stdout).with_context(|| complaint)?;
    Ok((code, document["items"][0].clone()))
}

const fn address() -> [u8; 16] {
    Ipv4Addr::new(10, 96, 0, 10).to_ipv6_mapped().octets()
}

const fn web() -> FrontendKey {
    FrontendKey::new(address(), 80, Protocol::Tcp)
}

/// The index of the Service, and where its backends are.
fn place(tables: &Actual) -> (u32, u32) {
    let index = tables.frontends[&web()].service_index();
    (index, tables.services[&index][0].offset())
}

type Damage = fn(&LoneAgent, &mut BpfDataplane, &Actual) -> Result<()>;

/// Damages one entry; and says in which table, and how `verify` calls it.
const DAMAGES: [(Table, &str, Damage); 13] = [
    (Table::Frontends, "10.96.0.10:80/TCP", |_, maps, _| {
        Ok(maps.apply(&Write::RemoveFrontend { key: web() })?)
    }),
    (Table::Frontends, "10.96.0.99:80/TCP", |_, maps, tables| {
        let address = Ipv4Addr::new(10, 96, 0, 99).to_ipv6_mapped().octets();
        let key = FrontendKey::new(address, 80, Protocol::Tcp);
        let index = place(tables).0;
        let value = FrontendValue::new(&key, FrontendKind::ClusterIp, index, false);
        Ok(maps.apply(&Write::SetFrontend { key, value })?)
    }),
    (Table::Services, "service entry", |_, maps, tables| {
        let word = ServiceWord::new(place(tables).1, 0);
        for audience in Audience::ALL {
            maps.apply(&Write::SetService {
                index: 900,
                audience,
                word,
            })?;
        }
        Ok(())
    }),
    (
        Table::Arena,
        "slots of the Maglev table",
        |_, maps, tables| {
            let offset = place(tables).1;
            let mut words = tables.regions[&offset].clone();
            words[5] = words[5].rotate_left(16) ^ 1;
            Ok(maps.apply(&Write::WriteRegion { offset, words })?)
        },
    ),
    (Table::Backends, "10.244.1.5:8080/TCP", |_, maps, tables| {
        let five = Ipv4Addr::new(10, 244, 1, 5).to_ipv6_mapped().octets();
        let mut records = tables.backends.iter();
        let (&index, record) = records
            .find(|(_, record)| record.address() == five)
            .context("the backend is there")?;
        let id = BackendId::new(index, record.generation());
        let flags = BackendFlags(BackendFlags::SERVING | BackendFlags::LOCAL);
        let record = BackendRecord::new(id, five, 8080, Protocol::Tcp, flags);
        Ok(maps.apply(&Write::SetBackend { id, record })?)
    }),
    (Table::ServiceFilter, "10.96.0.10", |agent, _, _| {
        clear(agent, Table::ServiceFilter)
    }),
    (Table::BackendFilter, "10.244.1.5", |agent, _, _| {
        clear(agent, Table::BackendFilter)
    }),
    (
        Table::Config,
        "timeout of connection state 3",
        |_, maps, _| {
            let word = lb_common::table::config::TIMEOUTS + 3;
            Ok(maps.apply(&Write::SetConfig { word, value: 77 })?)
        },
    ),
    (
        Table::NodePorts,
        "node port 30080/TCP (IPv4)",
        |agent, _, _| clear(agent, Table::NodePorts),
    ),
    (Table::SourceRanges, "192.0.2.128/25", |_, maps, tables| {
        let address = Ipv4Addr::new(203, 0, 113, 20).to_ipv6_mapped().octets();
        let open = FrontendKey::new(address, 80, Protocol::Tcp);
        let index = tables.frontends[&open].service_index();
        let network = Ipv4Addr::new(192, 0, 2, 128).to_ipv6_mapped().octets();
        let key = SourceRangeKey::network(index, network, 25, false);
        Ok(maps.apply(&Write::AddSourceRange { key })?)
    }),
    (Table::SourceRanges, "198.51.100.0/24", |_, maps, tables| {
        let key = *tables.source_ranges.first().context("there is a range")?;
        Ok(maps.apply(&Write::RemoveSourceRange { key })?)
    }),
    (Table::NodeAddresses, "192.0.2.1", |_, maps, _| {
        let address = Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped().octets();
        Ok(maps.apply(&Write::RemoveNodeAddress { address })?)
    }),
    (Table::Devices, "eth0", |_, maps, _| {
        let records = maps.device_records()?;
        let (&index, _) = records.first_key_value().context("eth0 is an uplink")?;
        Ok(maps.set_device(index, DeviceRecord::workload(index, 0))?)
    }),
];

fn clear(agent: &LoneAgent, table: Table) -> Result<()> {
    for word in WordTable::open(&agent.pins(), table)?.words() {
        word.store(0, Ordering::Release);
    }
    Ok(())
}

#[test]
fn damage_to_any_real_map_is_found_and_named_and_repaired_when_asked_for() -> Result<()> {
    let mut agent = machine()?;
    agent.configure("audit: {interval: 24h}\n")?;
    agent.start()?;
    agent.await_sync()?;
    let (code, clean) = verify(&agent, &[])?;
    ensure!(code == 0 && clean["clean"] == true, "{clean:#}");
    ensure!(clean["agent"] == "alive", "{clean:#}");
    for (table, about, damage) in DAMAGES {
        let mut maps = agent.dataplane()?;
        damage(&agent, &mut maps, &agent.tables()?)?;
        let (code, drift) = verify(&agent, &["--settle", "0s"])?;
        ensure!(code == 5, "{table}: exit {code}: {drift:#}");
        let found = drift["differences"].as_array().context("a list")?;
        let is_named = |it: &Value| it["table"] == table.name() && it["about"] == about;
        ensure!(found.iter().any(is_named), "{table} {about}: {drift:#}");
        ensure!(
            found.iter().all(|it| it["table"] == table.name()),
            "nothing else differs: {drift:#}"
        );
        let (code, repaired) = verify(&agent, &["--settle", "0s", "--repair"])?;
        ensure!(code == 0, "{table}: {repaired:#}\n{}", agent.log());
        let entries = &repaired["repair"]["entries"];
        ensure!(
            entries[table.name()]
                .as_u64()
                .is_some_and(|count| count > 0),
            "the agent found it too: {repaired:#}"
        );
        // It looks again a second later, and is not to be met doing so.
        eventually("an audit that finds nothing", PATIENCE, || {
            let text = fs::read_to_string(agent.path("state/audit.json"))?;
            Ok(text.contains("\"entries\":{}").then_some(()))
        })?;
    }
    agent.terminate()
}

#[test]
fn the_agents_own_audit_finds_counts_and_repairs_damage_that_nobody_asked_about() -> Result<()> {
    let mut agent = machine()?;
    agent.configure("audit: {interval: 1s, repair: false}\n")?;
    agent.start()?;
    agent.await_sync()?;
    let mut maps = agent.dataplane()?;
    // What takes the Service's frontend away comes last.
    for (_, _, damage) in DAMAGES.into_iter().rev() {
        damage(&agent, &mut maps, &agent.tables()?)?;
    }
    let told = |metric: &'static str, least: f64| {
        eventually(metric, PATIENCE, || {
            let (_, text) = agent.namespace.run(|| get(METRICS, "/metrics"))?;
            let metrics = prometheus::parse(&text)?;
            let is_so = DAMAGES.iter().all(|(table, ..)| {
                let value = metrics[metric].value(("table", table.name()));
                value.is_some_and(|value| {
                    if least == 0.0 {
                        value == 0.0
                    } else {
                        value >= least
                    }
                })
            });
            Ok(is_so.then_some(()))
        })
        .with_context(|| agent.log())
    };
    told("steerage_drift_entries", 1.0)?;
    let (code, _) = verify(&agent, &["--settle", "0s"])?;
    ensure!(code == 5, "it is only told, as the settings say");
    agent.configure("audit: {interval: 1s}\n")?;
    told("steerage_drift_entries", 0.0)?;
    let (code, clean) = verify(&agent, &[])?;
    ensure!(code == 0, "{clean:#}\n{}", agent.log());
    let log = agent.log();
    ensure!(
        log.contains("entries of the tables were not as planned") && log.contains(", repaired:"),
        "{log}"
    );
    agent.terminate()
}

#[test]
fn repairs_that_are_asked_for_at_the_same_time_are_each_answered() -> Result<()> {
    let mut agent = machine()?;
    agent.configure("audit: {interval: 24h}\n")?;
    agent.start()?;
    agent.await_sync()?;
    let mut maps = agent.dataplane()?;
    maps.apply(&Write::RemoveFrontend { key: web() })?;
    let ask = || verify(&agent, &["--settle", "0s", "--repair"]);
    let answers = thread::scope(|scope| {
        let all = [(); 3].map(|()| scope.spawn(ask));
        all.map(|one| one.join().expect("a verify that ends"))
    });
    for answer in answers {
        let (code, repaired) = answer?;
        ensure!(code == 0, "{repaired:#}\n{}", agent.log());
    }
    ensure!(agent.tables()?.frontends.contains_key(&web()));
    agent.terminate()
}

#[test]
fn without_an_agent_two_sides_are_compared_and_repairs_wait_for_its_start() -> Result<()> {
    let mut agent = machine()?;
    agent.start()?;
    agent.await_sync()?;
    agent.kill()?;
    let (code, clean) = verify(&agent, &[])?;
    ensure!(code == 0 && clean["agent"] == "dead", "{clean:#}");
    let more = MANIFESTS.replace("10.244.2.6", "10.244.2.7");
    fs::write(agent.path("manifests/web.yaml"), more)?;
    let (code, drift) = verify(&agent, &["--settle", "0s"])?;
    ensure!(code == 5, "{drift:#}");
    let found = drift["differences"].as_array().context("a list")?;
    let abouts: Vec<_> = found.iter().filter_map(|it| it["about"].as_str()).collect();
    ensure!(
        abouts.contains(&"endpoint 10.244.2.7:8080/TCP"),
        "{abouts:?}"
    );
    ensure!(found.iter().all(|it| it["behind"] == "tables"), "{drift:#}");
    let output = agent.cli(&["verify", "--settle", "0s", "--repair"])?;
    ensure!(output.status.code() == Some(4), "{output:?}");
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(complaint.contains("start it"), "{complaint}");
    agent.start()?;
    agent.await_sync()?;
    let (code, clean) = verify(&agent, &[])?;
    ensure!(code == 0, "{clean:#}");
    agent.terminate()
}

/// Writes the manifests with this network of the Node's pods.
fn write_node(agent: &LoneAgent, network: &str) -> Result<()> {
    let node = format!("spec: {{podCIDRs: [{network}]}}\nstatus: {{addresses");
    let text = MANIFESTS.replace("status: {addresses", &node);
    Ok(fs::write(agent.path("manifests/web.yaml"), text)?)
}

/// No agent runs, so that what is said of the machine's addresses and of the Node's networks is the
/// command's own.
#[test]
fn what_the_machine_and_its_node_have_is_seen_by_the_command_itself() -> Result<()> {
    const EXTERNAL: &str = "198.51.100.7";
    let mut agent = machine()?;
    let far = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: far, namespace: default}}\n\
         spec: {{clusterIP: 10.96.0.30, externalIPs: [{EXTERNAL}], ports: [{{port: 80}}]}}\n"
    );
    fs::write(agent.path("manifests/far.yaml"), far)?;
    write_node(&agent, "10.244.1.0/24")?;
    agent.configure("localTraffic: {mode: NodeCIDR}\nlog: {format: Json}\n")?;
    agent.start()?;
    agent.await_sync()?;
    let (code, clean) = verify(&agent, &[])?;
    ensure!(code == 0, "{clean:#}\n{}", agent.log());
    agent.kill()?;
    let name = agent.namespace.name().to_owned();
    command::ip(&name, &format!("address add {EXTERNAL}/32 dev eth0"))?;
    write_node(&agent, "10.244.7.0/24")?;
    let (code, drift) = verify(&agent, &["--settle", "0s"])?;
    ensure!(code == 5, "{drift:#}");
    let found = drift["differences"].as_array().context("a list")?;
    for (table, about) in [
        (Table::Frontends, "198.51.100.7:80/TCP"),
        (Table::NodeAddresses, EXTERNAL),
        (Table::Config, ""),
    ] {
        let is_it = |it: &Value| {
            let said = it["about"].as_str().unwrap_or_default();
            it["table"] == table.name() && (about.is_empty() || said == about)
        };
        ensure!(found.iter().any(is_it), "{table} {about}: {drift:#}");
    }
    agent.start()?;
    agent.await_sync()?;
    let (code, clean) = verify(&agent, &[])?;
    ensure!(code == 0, "{clean:#}\n{}", agent.log());
    // And a living agent follows both.
    command::ip(&name, &format!("address del {EXTERNAL}/32 dev eth0"))?;
    write_node(&agent, "10.244.8.0/24")?;
    let (code, clean) = verify(&agent, &["--settle", "30s"])?;
    ensure!(code == 0, "{clean:#}\n{}", agent.log());
    for line in agent.log().lines() {
        let said: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        ensure!(said["fields"]["message"].is_string(), "{line}");
    }
    agent.terminate()
}
