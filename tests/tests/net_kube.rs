//! The agent with kernel maps and an API server, in a network namespace of its own: what the cluster
//! holds is programmed, and stays while the server is away and while no agent runs.

#![expect(
    clippy::tests_outside_test_module,
    reason = "a file of tests is a module of tests"
)]

use std::fs;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::thread::JoinHandle;

use lb_agent::agent::{self, AgentError};
use lb_agent::dataplane::bpffs::PinPaths;
use lb_agent::dataplane::maps::BpfDataplane;
use lb_agent::dataplane::{Actual, Dataplane as _};
use lb_agent::settings::{Settings, SourceSettings};
use lb_agent::status::AgentStatus;
use lb_tests::apiserver::{ApiServer, Resource};
use lb_tests::clock;
use lb_tests::observer::{NODE, PATIENCE, service_account};
use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

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
}

impl Machine {
    fn new() -> Self {
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
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}),
            service("web", 1),
            slice("web-1", "web", "10.244.0.1"),
        ] {
            server.apply(&object).unwrap();
        }
        Self { directory, server }
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
        umount(&self.directory.path().join("bpf")).unwrap();
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
