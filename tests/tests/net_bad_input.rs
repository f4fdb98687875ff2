//! What an operator gets wrong: one clear line, the exit code scripts know, and services that go on
//! as they did.

#![expect(
    clippy::tests_outside_test_module,
    reason = "a file of tests is a module of tests"
)]

use std::{
    fmt::Write as _,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use lb_agent::{
    dataplane::{Actual, Dataplane as _, bpffs::PinPaths, maps::BpfDataplane},
    status::AgentStatus,
};
use lb_common::{
    family::{Family as _, V4},
    flow::Protocol,
    table::frontend::FrontendKey,
};
use lb_tests::{
    clock,
    cluster::{BPF_FS, PIN_PREFIX, Program, mount_bpf_fs},
    command,
    ns::{self, Namespace},
    privilege,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// How long anything may take, on a machine that does other things too.
const PATIENCE: Duration = Duration::from_mins(1);

/// A service with one address and one endpoint, as a JSON list.
fn service(name: &str, address: &str, port: u16, endpoint: &str) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"List","items":[
{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"{name}"}},"spec":{{"clusterIP":"{address}","clusterIPs":["{address}"],"ports":[{{"name":"p","port":{port}}}]}}}},
{{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{{"name":"{name}-1","labels":{{"kubernetes.io/service-name":"{name}"}}}},"addressType":"IPv4","ports":[{{"name":"p","port":8080}}],"endpoints":[{{"addresses":["{endpoint}"]}}]}}]}}"#
    )
}

/// A node with one good service in its manifests, all of which goes on drop.
struct Machine {
    program: Program,
    namespace: Namespace,
    directory: tempfile::TempDir,
    pins: PathBuf,
    agent: Option<Child>,
}

impl Machine {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        privilege::require_root().unwrap();
        ns::sweep(Path::new(BPF_FS));
        mount_bpf_fs().unwrap();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}{}-bad{number}", ns::PREFIX, std::process::id());
        let machine = Self {
            program: Program::find().unwrap(),
            namespace: Namespace::create(name.clone()).unwrap(),
            directory: tempfile::tempdir().unwrap(),
            pins: Path::new(BPF_FS).join(format!("{PIN_PREFIX}{name}")),
            agent: None,
        };
        fs::create_dir(machine.path("manifests")).unwrap();
        machine.write(
            "good.json",
            &service("good", "10.96.0.10", 80, "10.244.1.5"),
        );
        machine.sizes("frontends: 1024");
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path("new"), text).unwrap();
        fs::rename(self.path("new"), self.path("manifests").join(name)).unwrap();
    }

    /// Settings with these sizes, and flow tables that are quick to make.
    fn sizes(&self, sizes: &str) {
        let text = format!(
            "apiVersion: steerage.dev/v1alpha1\nkind: SteerageConfiguration\nsizes: \
             {{flowBucketsV4: 64, flowBucketsV6: 64, {sizes}}}\n"
        );
        fs::write(self.path("config.yaml"), text).unwrap();
    }

    /// `steerage` with these arguments, this pin directory and this node's state directory.
    fn command(&self, pins: &Path, arguments: &[&str]) -> Command {
        self.program
            .command(&self.namespace, [pins, &self.path("state")], arguments)
            .unwrap()
    }

    fn run_command(&self, pins: &Path, manifests: &Path) -> Command {
        let source = format!("dir:{}", manifests.display());
        let config = self.path("config.yaml").display().to_string();
        self.command(
            pins,
            &[
                "run",
                "--node-name",
                "n1",
                "--source",
                &source,
                "--config",
                &config,
            ],
        )
    }

    /// Starts the agent and waits until its tables are complete.
    fn start(&mut self) {
        let mut command = self.run_command(&self.pins, &self.path("manifests"));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = self
            .agent
            .insert(command.stdin(Stdio::null()).spawn().unwrap());
        let pid = child.id();
        clock::eventually("the first sync", PATIENCE, || {
            assert_eq!(child.try_wait().unwrap(), None, "the agent ended");
            Ok(status(&self.directory.path().join("state"))
                .filter(|status| status.pid == pid && status.first_sync_at.is_some()))
        })
        .unwrap();
    }

    fn stop(&mut self) {
        let mut agent = self.agent.take().unwrap();
        let pid = Pid::from_raw(agent.id().try_into().unwrap());
        kill(pid, Signal::SIGTERM).unwrap();
        assert!(agent.wait().unwrap().success());
    }

    fn tables(&self) -> Actual {
        BpfDataplane::open(&PinPaths::new(&self.pins))
            .unwrap()
            .read_all()
            .unwrap()
    }

    /// Waits until one of the problems in the status has all these parts in it.
    fn await_problem(&self, parts: &[&str]) {
        let mut last = Vec::new();
        let found = clock::eventually("a problem is said", PATIENCE, || {
            let status = status(&self.path("state"));
            last = status.map(|status| status.problems).unwrap_or_default();
            let is_it = |line: &String| parts.iter().all(|part| line.contains(part));
            Ok(last.iter().any(is_it).then_some(()))
        });
        found.unwrap_or_else(|error| panic!("{parts:?}: {error}: {last:#?}"));
        for line in &last {
            assert_eq!(line.lines().count(), 1, "{line:?}");
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill().ok();
            agent.wait().ok();
        }
        let mut cleanup = self.command(&self.pins, &["cleanup"]);
        let cleaned = command::run(&mut cleanup, "");
        let is_left = self.pins.exists();
        if is_left {
            fs::remove_dir_all(&self.pins).ok();
        }
        // Not in the middle of another failure: it would hide that one.
        if !std::thread::panicking() {
            cleaned.unwrap();
            assert!(!is_left, "left: {}", self.pins.display());
        }
    }
}

fn status(state: &Path) -> Option<AgentStatus> {
    serde_json::from_slice(&fs::read(state.join("status.json")).ok()?).ok()
}

fn key(last: u8, port: u16) -> FrontendKey {
    let address = V4::mapped(Ipv4Addr::new(10, 96, 0, last).octets());
    FrontendKey::new(address, port, Protocol::Tcp)
}

/// The command ends with `code`, and the last of what it says is an error with these parts.
#[track_caller]
fn fails(command: &mut Command, code: i32, parts: &[&str]) {
    let Output { status, stderr, .. } = command::output(command, "").unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(code), "{command:?}: {stderr}");
    let errors: Vec<&str> = stderr
        .lines()
        .filter(|it| it.starts_with("error: "))
        .collect();
    assert_eq!(errors.len(), 1, "{stderr}");
    assert_eq!(stderr.lines().last(), Some(errors[0]), "{stderr}");
    for part in parts {
        assert!(errors[0].contains(part), "{:?} lacks {part:?}", errors[0]);
    }
}

#[test]
fn an_agent_that_cannot_start_says_why_and_leaves_what_is_there() {
    let mut machine = Machine::new();
    machine.start();
    machine.stop();
    let tables = machine.tables();
    assert!(tables.frontends.contains_key(&key(10, 80)));
    let manifests = machine.path("manifests");

    let mut unknown = machine.run_command(&machine.pins, &manifests);
    let output = command::output(unknown.arg("--nonsense"), "").unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--nonsense"));

    let mut absent = machine.run_command(&machine.pins, &machine.path("absent"));
    fails(&mut absent, 1, &["absent", "--source", "name a directory"]);
    let mut file = machine.run_command(&machine.pins, &machine.path("config.yaml"));
    fails(
        &mut file,
        1,
        &["config.yaml", "--source", "name a directory"],
    );

    let elsewhere = machine.path("pins");
    let mut elsewhere_run = machine.run_command(&elsewhere, &manifests);
    fails(
        &mut elsewhere_run,
        1,
        &["is not on a BPF filesystem", "mount -t bpf"],
    );
    assert!(!elsewhere.exists());

    let mut without = machine.namespace.command("setpriv").unwrap();
    without.args(["--bounding-set", "-all", "--inh-caps", "-all"]);
    let run = machine.run_command(&machine.pins, &manifests);
    without.arg(run.get_program()).args(run.get_args());
    for (name, value) in run.get_envs() {
        without.env(name, value.unwrap_or_default());
    }
    fails(&mut without, 6, &["CAP_BPF", "run as root"]);

    fs::create_dir(machine.pins.join("v0")).unwrap();
    let mut other = machine.run_command(&machine.pins, &manifests);
    fails(&mut other, 4, &["v0", "steerage cleanup", "--pin-dir"]);
    fs::remove_dir(machine.pins.join("v0")).unwrap();
    machine.sizes("frontends: 2048");
    let mut larger = machine.run_command(&machine.pins, &manifests);
    fails(
        &mut larger,
        4,
        &["FRONTENDS", "1024", "2048", "steerage cleanup"],
    );

    assert_eq!(machine.tables(), tables);
}

#[test]
fn objects_that_cannot_be_are_named_and_leave_the_others_alone() {
    let mut machine = Machine::new();
    machine.start();
    let tables = machine.tables();
    let good = tables.frontends[&key(10, 80)];

    machine.write(
        "nameless.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {}\nspec: {clusterIP: 10.96.0.11}\n",
    );
    machine.await_problem(&["nameless.yaml:", "metadata.name"]);
    machine.write("port.json", &service("port", "10.96.0.12", 0, "10.244.1.6"));
    machine.await_problem(&["port.json:", "spec.ports[0].port", "0 is not a port"]);
    machine.write("mixed.json", &service("mixed", "10.96.0.13", 80, "fd00::1"));
    machine.await_problem(&["mixed.json:", "fd00::1", "IPv4"]);
    for (name, address, words) in [
        ("loop", "127.0.0.1", "loopback"),
        ("link", "169.254.169.254", "link-local"),
        ("many", "224.0.0.1", "multicast"),
    ] {
        machine.write(
            &format!("{name}.json"),
            &service(name, "10.96.0.14", 80, address),
        );
        machine.await_problem(&[name, address, words, "correct the EndpointSlice"]);
    }

    let now = machine.tables();
    assert_eq!(now.frontends[&key(10, 80)], good);
    let index = good.service_index();
    assert_eq!(now.services[&index], tables.services[&index]);
    assert_eq!(
        now.backends, tables.backends,
        "no address of those became a backend"
    );
    machine.stop();
}

#[test]
fn a_million_endpoints_are_refused_and_the_service_keeps_what_it_had() {
    let mut machine = Machine::new();
    machine.start();
    let tables = machine.tables();
    let mut slice = r#"{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{"name":"good-1","labels":{"kubernetes.io/service-name":"good"}},"addressType":"IPv4","ports":[{"name":"p","port":8080}],"endpoints":["#.to_owned();
    for number in 0..1_000_000 {
        let address = Ipv4Addr::from_bits(0x0a00_0000 + number);
        let comma = if number == 0 { "" } else { "," };
        write!(slice, r#"{comma}{{"addresses":["{address}"]}}"#).unwrap();
    }
    slice += "]}";
    let good = service("good", "10.96.0.10", 80, "10.244.1.5");
    let (head, _) = good.split_once(",\n{\"apiVersion\":\"discovery").unwrap();
    machine.write("good.json", &format!("{head},\n{slice}]}}"));
    machine.await_problem(&["good.json:", "1000000 endpoints", "split the slice"]);
    assert_eq!(machine.tables(), tables);
    machine.stop();
}
