//! What a running agent shows to the outside, in a network namespace of its own: health, metrics,
//! health-check node ports, the kernel's connection tracking, and settings that change.

#![expect(
    clippy::tests_outside_test_module,
    reason = "a file of tests is a module of tests"
)]

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, ensure};
use lb_agent::agent::{self, AgentError};
use lb_agent::config::apply;
use lb_agent::config::layers::Layers;
use lb_agent::config::reload::{Effective, Watched};
use lb_agent::dataplane::bpffs::PinPaths;
use lb_agent::dataplane::maps::BpfDataplane;
use lb_agent::settings::Settings;
use lb_agent::status::AgentStatus;
use lb_agent::sysctl;
use lb_common::conntrack::State;
use lb_common::table::config;
use lb_tests::clock::eventually;
use lb_tests::privilege::require_root;
use lb_tests::prometheus;
use lb_tests::scrape::{get, try_get};
use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Ten times what anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);
const HEALTH: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10256);
const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10249);
const CHECK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 31234);
const CLOSE_WAIT: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait";

const MANIFESTS: &str = "\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10]
  ipFamilies: [IPv4]
  externalTrafficPolicy: Local
  healthCheckNodePort: 31234
  ports: [{name: http, port: 80, protocol: TCP, nodePort: 30080}]
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
";

const NODE: &str = "\
apiVersion: v1
kind: Node
metadata: {name: n1}
";

const SETTINGS: &str = "\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
healthzBindAddress: 127.0.0.1
nodePortAddresses: [localhost]
conntrack: {maxPerCore: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 1h}
---
apiVersion: steerage.dev/v1alpha1
kind: SteerageConfiguration
sizes: {services: 64, backends: 64, arenaWords: 4096, flowBucketsV4: 64, flowBucketsV6: 64}
";

/// Runs a command of this machine; what it says goes to the test's output.
fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let status = Command::new(program).args(arguments).status()?;
    ensure!(status.success(), "{program} {arguments:?}");
    Ok(())
}

/// A bpffs, manifests and a file of settings in a directory, removed at the end.
struct Machine(tempfile::TempDir);

impl Machine {
    /// Moves the calling thread to a network namespace of its own, whose loopback device is up and
    /// where the kernel tracks connections.
    fn new() -> Result<Self> {
        require_root()?;
        unshare(CloneFlags::CLONE_NEWNET)?;
        run("ip", &["link", "set", "lo", "up"])?;
        run(
            "nft",
            &["add table ip t; add chain ip t c; add rule ip t c ct state new accept"],
        )?;
        let machine = Self(tempfile::tempdir()?);
        for name in ["bpf", "manifests"] {
            fs::create_dir(machine.path(name))?;
        }
        mount(
            Some("bpf"),
            &machine.path("bpf"),
            Some("bpf"),
            MsFlags::empty(),
            None::<&str>,
        )?;
        machine.write("manifests/web.yaml", MANIFESTS)?;
        machine.write("manifests/node.yaml", NODE)?;
        machine.write("config.yaml", SETTINGS)?;
        Ok(machine)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Replaces a file as a whole.
    fn write(&self, name: &str, text: &str) -> Result<()> {
        let new = self.path("new");
        fs::write(&new, text)?;
        Ok(fs::rename(new, self.path(name))?)
    }

    /// Starts an agent in this thread's namespace.
    fn start(&self) -> Result<JoinHandle<Result<(), AgentError>>> {
        let namespace = fs::File::open("/proc/thread-self/ns/net")?;
        let file = self.path("config.yaml");
        let directory = self.0.path().to_owned();
        let read = move || effective(&directory).map_err(|error| error.to_string());
        let watched = Watched::new(vec![file], Box::new(read));
        let effective = watched.read().map_err(anyhow::Error::msg)?;
        Ok(std::thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            agent::run_watched(effective, watched)
        }))
    }

    fn status(&self) -> Option<AgentStatus> {
        serde_json::from_slice(&fs::read(self.path("state/status.json")).ok()?).ok()
    }

    /// How long connections in `state` may be idle, as the programs are told.
    fn timeout(&self, state: State) -> Result<u64> {
        let tables = BpfDataplane::open(&PinPaths::new(&self.path("bpf/steerage")))?;
        Ok(tables.config(config::TIMEOUTS + state.number()))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        umount(&self.path("bpf")).unwrap();
    }
}

fn effective(directory: &Path) -> Result<Effective> {
    let mut layers = Layers::new();
    layers.add_file(&directory.join("config.yaml"))?;
    let mut settings = Settings::new("n1".to_owned(), directory.join("manifests"));
    settings.pin_dir = directory.join("bpf/steerage");
    settings.state_dir = directory.join("state");
    apply(&layers.document()?, &mut settings);
    settings.validate()?;
    Ok(Effective { layers, settings })
}

/// Waits until the answer to `path` has this code.
fn answers(address: SocketAddr, path: &str, code: &str) -> Result<String> {
    eventually(&format!("{path} to be {code}"), PATIENCE, || {
        let answer = try_get(address, path)?;
        Ok(answer
            .filter(|(head, _)| head.starts_with(&format!("HTTP/1.1 {code} ")))
            .map(|(_, body)| body))
    })
}

fn close_wait() -> Result<u64> {
    Ok(fs::read_to_string(CLOSE_WAIT)?.trim().parse()?)
}

#[test]
fn a_running_agent_shows_itself_and_takes_over_changed_settings() -> Result<()> {
    let machine = Machine::new()?;
    let close_wait_before = close_wait()?;
    ensure!(close_wait_before != 3600, "the kernel's own value");
    let agent = machine.start()?;
    let shown = shows_itself(&machine).and_then(|()| takes_over_settings(&machine));
    kill(Pid::this(), Signal::SIGTERM)?;
    agent.join().unwrap()?;
    shown?;
    // The kernel's settings outlive the agent, and cleanup puts back what was there.
    assert_eq!(close_wait()?, 3600);
    sysctl::restore(&machine.path("state"))?;
    assert_eq!(close_wait()?, close_wait_before);
    Ok(())
}

fn shows_itself(machine: &Machine) -> Result<()> {
    let body = answers(HEALTH, "/healthz", "200")?;
    ensure!(
        body.contains("\"nodeEligible\":true,\"healthy\":true,\"status\":{\"IPv4\""),
        "{body}"
    );
    // One of the two endpoints is on this node.
    let (head, body) = get(CHECK, "/anything")?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
    ensure!(
        head.contains("x-load-balancing-endpoint-weight: 1\r\n"),
        "{head}"
    );
    ensure!(body.contains("\"name\": \"web\""), "{body}");
    let (_, text) = get(METRICS, "/metrics")?;
    let metrics = prometheus::parse(&text)?;
    let entries = |map| metrics["steerage_map_entries"].value(("map", map));
    ensure!(
        entries("SERVICES").is_some_and(|count| count >= 1.0),
        "{text}"
    );
    ensure!(!metrics["steerage_drops"].samples.is_empty(), "{text}");
    let syncs = &metrics["kubeproxy_sync_full_proxy_rules_duration_seconds"];
    let count = syncs
        .samples
        .iter()
        .find(|sample| sample.name.ends_with("_count"));
    ensure!(count.is_some_and(|count| count.value >= 1.0), "{text}");
    ensure!(close_wait()? == 3600, "the kernel's value is set");
    // The Node is about to go: load balancers are to let go of it, the agent lives on.
    machine.write(
        "manifests/node.yaml",
        &format!(
            "{NODE}spec:\n  taints: [{{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}}]\n"
        ),
    )?;
    let body = answers(HEALTH, "/healthz", "503")?;
    ensure!(
        body.contains("\"nodeEligible\":false,\"healthy\":true"),
        "{body}"
    );
    answers(HEALTH, "/livez", "200")?;
    ensure!(
        get(CHECK, "/")?.0.starts_with("HTTP/1.1 200 "),
        "the proxy itself is well"
    );
    // The endpoint of this node goes, and with the Service its port.
    machine.write(
        "manifests/web.yaml",
        &MANIFESTS.replace("nodeName: n1", "nodeName: n3"),
    )?;
    answers(CHECK, "/", "503")?;
    machine.write("manifests/web.yaml", "# nothing\n")?;
    eventually("the node port to be closed", PATIENCE, || {
        Ok(try_get(CHECK, "/")?.is_none().then_some(()))
    })
}

fn takes_over_settings(machine: &Machine) -> Result<()> {
    ensure!(machine.timeout(State::UdpNew)? == 30, "the default");
    machine.write(
        "config.yaml",
        &format!("{SETTINGS}timeouts: {{udp_new: 7s}}\nmetrics: {{bindAddress: \"Off\"}}\n"),
    )?;
    eventually("the metrics to be closed", PATIENCE, || {
        Ok(try_get(METRICS, "/metrics")?.is_none().then_some(()))
    })?;
    ensure!(machine.timeout(State::UdpNew)? == 7, "the new timeout");
    // What needs a restart is refused, and what stands beside it too.
    let mixed = SETTINGS.replace("services: 64", "services: 128");
    machine.write(
        "config.yaml",
        &format!("{mixed}timeouts: {{udp_new: 9s}}\n"),
    )?;
    let problem = |part: &'static str| {
        eventually(part, PATIENCE, || {
            let problems = machine.status().map(|status| status.problems);
            Ok(problems
                .into_iter()
                .flatten()
                .find(|problem| problem.contains(part)))
        })
    };
    let refused = problem("need a restart of the agent")?;
    ensure!(refused.contains("sizes.services"), "{refused}");
    ensure!(machine.timeout(State::UdpNew)? == 7, "never a silent half");
    ensure!(
        try_get(METRICS, "/metrics")?.is_none(),
        "never a silent half"
    );
    machine.write(
        "config.yaml",
        "apiVersion: steerage.dev/v1alpha1\nkind: SteerageConfiguration\ncolour: red\n",
    )?;
    let refused = problem("colour")?;
    ensure!(refused.contains("config.yaml:3:"), "{refused}");
    // As it was at first: taken over, and the problem is gone.
    machine.write("config.yaml", SETTINGS)?;
    get(METRICS, "/healthz")?;
    eventually("the problem to go", PATIENCE, || {
        let problems = machine.status().map(|status| status.problems);
        let is_there = problems
            .into_iter()
            .flatten()
            .any(|problem| problem.contains("settings"));
        Ok((!is_there).then_some(()))
    })
}
