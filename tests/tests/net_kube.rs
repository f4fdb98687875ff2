//! The agent with kernel maps and an API server, in a network namespace of its own: what the cluster
//! holds is programmed, and stays while the server is away or refuses, and while no agent runs; what
//! is wrong is told by Kubernetes Events, and what happens is counted.

#![expect(
    clippy::tests_outside_test_module,
    reason = "a file of tests is a module of tests"
)]
#![expect(
    clippy::significant_drop_tightening,
    reason = "a machine and its turn last as long as their test"
)]

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use lb_agent::agent::{self, AgentError};
use lb_agent::config::value::NodePortAddress;
use lb_agent::dataplane::bpffs::PinPaths;
use lb_agent::dataplane::maps::BpfDataplane;
use lb_agent::dataplane::{Actual, Dataplane as _};
use lb_agent::settings::{Settings, SourceSettings};
use lb_agent::status::AgentStatus;
use lb_tests::apiserver::{ApiServer, Cut, Resource, Verb};
use lb_tests::clock;
use lb_tests::observer::{NODE, PATIENCE, service_account};
use lb_tests::prometheus::{self, Metric};
use lb_tests::scrape;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10249);
/// Times from a change in the cluster until the tables said it.
const LATENCY: &str = "kubeproxy_network_programming_duration_seconds";
/// A health-check node port.
const CHECK: u16 = 31234;
/// Agents end by a signal to the process: one test at a time has some.
static TURN: Mutex<()> = Mutex::new(());

fn node() -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}})
}

fn service(name: &str, number: u8) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "ns"},
        "spec": {"clusterIP": format!("10.96.0.{number}"), "ports": [{"port": 80}]},
    })
}

fn slice(name: &str, service: &str, address: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "ns",
            "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address]}],
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
    })
}

/// A namespace of this thread, a bpffs, and an API server in the namespace.
struct Machine {
    directory: tempfile::TempDir,
    server: ApiServer,
    _turn: MutexGuard<'static, ()>,
}

impl Machine {
    fn new() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let up = std::process::Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(up.unwrap().success());
        let directory = tempfile::tempdir().unwrap();
        let bpf = directory.path().join("bpf");
        fs::create_dir(&bpf).unwrap();
        let none = None::<&str>;
        mount(Some("bpf"), &bpf, Some("bpf"), MsFlags::empty(), none).unwrap();
        let server = ApiServer::start_tls().unwrap();
        server.accept_tokens(&[("right", "system:node-proxier")]);
        for object in [
            node(),
            service("web", 1),
            slice("web-1", "web", "10.244.0.1"),
        ] {
            server.apply(&object).unwrap();
        }
        Self {
            directory,
            server,
            _turn: turn,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Starts an agent in this thread's namespace and waits for its first sync.
    fn start(&self) -> JoinHandle<Result<(), AgentError>> {
        let api = service_account(&self.server, self.directory.path(), "right").unwrap();
        let source = SourceSettings::Kubernetes(api);
        let mut settings = Settings::with_source(NODE.into(), source);
        settings.pin_dir = self.path("bpf/steerage");
        settings.state_dir = self.path("state");
        settings.sizes.frontends = 64;
        settings.sizes.arena_words = 65_536;
        settings.sizes.backends = 1024;
        settings.sizes.services = 1024;
        settings.sizes.flow_buckets_v4 = 64;
        settings.sizes.flow_buckets_v6 = 64;
        settings.outside.metrics = Some(METRICS);
        settings.outside.health_check_node_ports = true;
        settings.services.node_port_addresses = vec![NodePortAddress::Localhost];
        fs::remove_file(self.path("state/status.json")).ok();
        let namespace = fs::File::open("/proc/thread-self/ns/net").unwrap();
        let agent = std::thread::spawn(move || {
            nix::sched::setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            agent::run(settings)
        });
        clock::eventually("the agent has said something", PATIENCE, || {
            Ok((agent.is_finished() || self.path("state/status.json").exists()).then_some(()))
        })
        .unwrap();
        assert!(!agent.is_finished(), "the agent ended at its start");
        self.await_status("the first sync", |status| status.first_sync_at.is_some());
        agent
    }

    #[track_caller]
    fn await_status(&self, what: &str, is_so: impl Fn(&AgentStatus) -> bool) {
        let read = || fs::read(self.path("state/status.json")).unwrap_or_default();
        clock::eventually(what, PATIENCE, || {
            let status = serde_json::from_slice::<AgentStatus>(&read()).ok();
            Ok(status.is_some_and(|status| is_so(&status)).then_some(()))
        })
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&read())));
    }

    /// Waits until there is one problem, which says this.
    #[track_caller]
    fn await_problem(&self, part: &str) {
        self.await_status(part, |status| {
            let [problem] = &status.problems[..] else {
                return false;
            };
            problem.contains(part)
        });
    }

    /// Waits for an Event of this reason about an object of this kind and name.
    #[track_caller]
    fn await_event(&self, reason: &str, about: (&str, &str)) -> Value {
        clock::eventually(&format!("the Event {reason}"), PATIENCE, || {
            let mut events = self.server.objects(Resource::Events).into_iter();
            Ok(events.find(|event| {
                let regarding = &event["regarding"];
                event["reason"] == reason
                    && (regarding["kind"] == about.0)
                    && regarding["name"] == about.1
            }))
        })
        .unwrap_or_else(|error| panic!("{error}: {:#?}", self.server.objects(Resource::Events)))
    }

    fn tables(&self) -> Actual {
        let pins = PinPaths::new(&self.path("bpf/steerage"));
        BpfDataplane::open(&pins).unwrap().read_all().unwrap()
    }

    #[track_caller]
    fn await_backends(&self, ports: usize, addresses: &[&str]) {
        let what = format!("{ports} frontends, backends {addresses:?}");
        clock::eventually(&what, PATIENCE, || {
            let tables = self.tables();
            let frontends = tables.frontends.keys();
            let frontends = frontends.filter(|key| key.protocol().is_some()).count();
            let backends = tables.backends.values();
            let backends: Vec<String> = backends
                .map(|record| Ipv6Addr::from(record.address()).to_string())
                .collect();
            let is_so = frontends == ports
                && addresses
                    .iter()
                    .all(|address| backends.contains(&format!("::ffff:{address}")));
            Ok(is_so.then_some(()))
        })
        .unwrap();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // A test that failed leaves its agent, which still uses it.
        umount2(&self.directory.path().join("bpf"), MntFlags::MNT_DETACH).unwrap();
    }
}

fn stop(agent: JoinHandle<Result<(), AgentError>>) {
    kill(Pid::this(), Signal::SIGTERM).unwrap();
    agent.join().unwrap().unwrap();
}

#[test]
fn a_cluster_is_programmed_and_stays_while_the_server_or_the_agent_is_away() {
    let machine = Machine::new();
    let server = &machine.server;
    let agent = machine.start();
    machine.await_backends(1, &["10.244.0.1"]);
    machine.await_status("the server is shown", |status| {
        let api = status.api.as_ref();
        status.source == "kubernetes"
            && status.problems.is_empty()
            && api.is_some_and(|api| {
                api.server == server.url()
                    && api.last_event_at.is_some()
                    && api.last_list_at.is_some()
            })
    });
    server.apply(&service("more", 2)).unwrap();
    server
        .apply(&slice("more-1", "more", "10.244.0.2"))
        .unwrap();
    machine.await_backends(2, &["10.244.0.1", "10.244.0.2"]);

    let before = machine.tables();
    server.close().unwrap();
    machine.await_status("the server is missed", |status| {
        status
            .problems
            .iter()
            .any(|problem| problem.contains("cannot be reached"))
    });
    assert_eq!(machine.tables().frontends, before.frontends);
    stop(agent);
    assert_eq!(machine.tables().frontends, before.frontends);

    server.delete(Resource::Services, "ns", "web").unwrap();
    server
        .delete(Resource::EndpointSlices, "ns", "web-1")
        .unwrap();
    server.apply(&service("new", 3)).unwrap();
    server.apply(&slice("new-1", "new", "10.244.0.3")).unwrap();
    server.compact();
    server.reopen().unwrap();
    let agent = machine.start();
    machine.await_backends(2, &["10.244.0.2", "10.244.0.3"]);
    stop(agent);
}

/// What can stand between an agent that runs and its server.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    Token,
    Authority,
    Unreachable,
    Permission,
    Node,
}

use Trouble::{Authority, Node, Permission, Token, Unreachable};

impl Trouble {
    /// What the line says, and the reason of the Event.
    const fn words(self) -> (&'static str, &'static str) {
        match self {
            Token => ("refuses the credentials (401)", "CredentialsRefused"),
            Authority => ("is not accepted", "ApiServerNotTrusted"),
            Unreachable => ("cannot be reached", "ApiServerUnreachable"),
            Permission => ("to list and watch EndpointSlice", "PermissionMissing"),
            Node => ("there is no Node named", "NodeMissing"),
        }
    }

    /// What a file of the agent's account should say once this is mended, by its name.
    fn begin(self, machine: &Machine) -> Option<(&'static str, String)> {
        let server = &machine.server;
        let mut file = None;
        match self {
            Token => {
                server.accept_tokens(&[("next", "system:node-proxier")]);
                file = Some(("token", "next".to_owned()));
            }
            Authority => file = Some(("ca.crt", server.change_authority().unwrap())),
            Unreachable => server.close().unwrap(),
            Permission => {
                for verb in [Verb::List, Verb::Watch] {
                    server.forbid(verb, Resource::EndpointSlices);
                }
            }
            Node => drop(server.delete(Resource::Nodes, "", NODE).unwrap()),
        }
        if matches!(self, Authority) {
            // Connections that were trusted stay; later ones are not.
            server.close().unwrap();
            server.reopen().unwrap();
        } else if !matches!(self, Unreachable) {
            server.cut(Resource::Services, Cut::Abort);
            server.cut(Resource::EndpointSlices, Cut::Abort);
        }
        file
    }

    fn mend(self, machine: &Machine, file: Option<(&str, String)>) {
        if let Some((name, text)) = file {
            fs::write(machine.path(name), text).unwrap();
        }
        let server = &machine.server;
        match self {
            Token | Authority => {}
            Unreachable => server.reopen().unwrap(),
            Permission => server.forbid_nothing(),
            Node => drop(server.apply(&node()).unwrap()),
        }
    }
}

#[test]
fn every_trouble_with_the_server_is_one_line_and_one_event_and_the_tables_stay() {
    let machine = Machine::new();
    let agent = machine.start();
    machine.await_backends(1, &["10.244.0.1"]);
    let before = machine.tables();
    let troubles = [Token, Authority, Unreachable, Permission, Node];
    for trouble in troubles {
        let (line, reason) = trouble.words();
        let file = trouble.begin(&machine);
        machine.await_problem(line);
        let now = machine.tables();
        assert_eq!(now.frontends, before.frontends, "{trouble:?}");
        assert_eq!(now.services, before.services, "{trouble:?}");
        assert_eq!(now.backends, before.backends, "{trouble:?}");
        trouble.mend(&machine, file);
        machine.await_status("nothing is wrong", |status| status.problems.is_empty());
        machine.await_event(reason, ("Node", NODE));
        assert!(!agent.is_finished(), "{trouble:?}");
    }
    // What the agent hears of works as before.
    machine.server.apply(&service("more", 2)).unwrap();
    machine.await_backends(2, &["10.244.0.1"]);
    let events = machine.server.objects(Resource::Events);
    assert_eq!(events.len(), troubles.len(), "{events:#?}");
    stop(agent);
}

#[test]
fn what_cannot_be_done_is_told_about_the_object_by_an_event() {
    let machine = Machine::new();
    let server = &machine.server;
    // Somebody else has the health-check node port.
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, CHECK)).unwrap();
    let agent = machine.start();
    let mut wrong = service("wrong", 2);
    wrong["spec"]["externalIPs"] = json!(["127.0.0.9"]);
    server.apply(&wrong).unwrap();
    let mut balanced = service("balanced", 3);
    balanced["spec"]["type"] = "LoadBalancer".into();
    balanced["spec"]["externalTrafficPolicy"] = "Local".into();
    balanced["spec"]["healthCheckNodePort"] = CHECK.into();
    server.apply(&balanced).unwrap();
    let mut odd = service("odd", 4);
    odd["spec"]["loadBalancerSourceRanges"] = json!(["everybody"]);
    server.apply(&odd).unwrap();
    server.apply(&slice("web-2", "web", "127.0.0.1")).unwrap();

    for (reason, name, part) in [
        ("ExternalAddressRefused", "wrong", "127.0.0.9"),
        ("FailedToStartServiceHealthcheck", "balanced", "31234"),
        ("InvalidObject", "odd", "everybody"),
        ("EndpointsRefused", "web", "127.0.0.1"),
    ] {
        let event = machine.await_event(reason, ("Service", name));
        assert!(event["note"].as_str().unwrap().contains(part), "{event:#}");
        assert_eq!(event["type"], "Warning");
        let service = server
            .objects(Resource::Services)
            .into_iter()
            .find(|service| service["metadata"]["name"] == name)
            .unwrap();
        assert_eq!(event["regarding"]["uid"], service["metadata"]["uid"]);
    }
    // A full table is told about once, however many Services it concerns.
    for number in 10..80 {
        server
            .apply(&service(&format!("s{number}"), number))
            .unwrap();
    }
    machine.await_event("TableFull", ("Node", NODE));
    drop(taken);
    stop(agent);
}

type Metrics = BTreeMap<String, Metric>;

fn metrics(path: &str) -> Metrics {
    let (_, text) = scrape::get(METRICS, path).unwrap();
    prometheus::parse(&text).unwrap()
}

/// The only sample of this name.
fn sample(metrics: &Metrics, metric: &str, name: &str) -> f64 {
    let samples = metrics[metric].samples.iter();
    samples
        .filter(|sample| sample.name == name)
        .map(|sample| sample.value)
        .sum()
}

#[test]
fn a_change_is_timed_from_its_cause_and_requests_are_counted() {
    let machine = Machine::new();
    let server = &machine.server;
    let triggered = |mut slice: Value, seconds_ago: i64| {
        let at = Timestamp::now() - SignedDuration::from_secs(seconds_ago);
        slice["metadata"]["annotations"] =
            json!({"endpoints.kubernetes.io/last-change-trigger-time": at.to_string()});
        slice
    };
    // The agent did not run then: not its delay.
    let old = triggered(slice("web-1", "web", "10.244.0.1"), 3600);
    server.apply(&old).unwrap();
    let agent = machine.start();
    let count = format!("{LATENCY}_count");
    // One series for each family of this host.
    let series = &metrics("/metrics")[LATENCY].samples;
    let series = series.iter().filter(|sample| sample.name == count).count();
    let families = f64::from(u8::try_from(series).unwrap());
    assert!(sample(&metrics("/metrics"), LATENCY, &count) < 0.5);
    let new = triggered(slice("web-1", "web", "10.244.0.7"), 0);
    server.apply(&new).unwrap();
    machine.await_backends(1, &["10.244.0.7"]);
    clock::eventually("the change is timed", PATIENCE, || {
        let counted = sample(&metrics("/metrics"), LATENCY, &count);
        Ok(((counted - families).abs() < 0.5).then_some(()))
    })
    .unwrap();
    let took = sample(&metrics("/metrics"), LATENCY, &format!("{LATENCY}_sum")) / families;
    assert!(took < PATIENCE.as_secs_f64(), "{took}");

    let shown = metrics("/metrics");
    let watches: f64 = shown["rest_client_requests"]
        .samples
        .iter()
        .filter(|sample| sample.labels["code"] == "200" && sample.labels["method"] == "GET")
        .map(|sample| sample.value)
        .sum();
    assert!(watches >= 4.0, "{watches}");
    let host = server.address().to_string();
    let requests = shown["rest_client_requests"].samples.iter();
    assert!(requests.clone().all(|sample| sample.labels["host"] == host));
    let timed = sample(
        &shown,
        "rest_client_request_duration_seconds",
        "rest_client_request_duration_seconds_count",
    );
    assert!(timed >= watches, "{timed}");
    let relists = shown["steerage_api_watch_relists"].value(("kind", "Service"));
    assert_eq!(relists, Some(1.0));
    let active = shown["steerage_api_server_active"].value(("server", &*server.url()));
    assert_eq!(active, Some(1.0));
    clock::eventually("the time of the last object", PATIENCE, || {
        let at = "steerage_api_last_event_timestamp_seconds";
        Ok((sample(&metrics("/metrics"), at, at) > 1e9).then_some(()))
    })
    .unwrap();
    server.close().unwrap();
    clock::eventually("requests without an answer", PATIENCE, || {
        let shown = metrics("/metrics");
        let mut requests = shown["rest_client_requests"].samples.iter();
        Ok(requests
            .any(|sample| sample.labels["code"] == "<error>")
            .then_some(()))
    })
    .unwrap();
    let slis = metrics("/metrics/slis");
    let checks = slis["kubernetes_healthcheck"].samples.iter();
    let is_well = |name: &str, kind: &str| {
        let mut checks = checks.clone();
        let check = checks.find(|it| it.labels["name"] == name && it.labels["type"] == kind);
        check.is_some_and(|check| check.value > 0.5)
    };
    assert!(
        is_well("tables", "healthz") && is_well("tables", "livez") && is_well("node", "healthz")
    );
    stop(agent);
}
