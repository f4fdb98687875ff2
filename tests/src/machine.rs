//! One node without pods, for what an agent does with its input: a namespace, a directory of
//! manifests with one good Service, and an agent that may run there.

#![expect(
    clippy::missing_panics_doc,
    reason = "whatever goes wrong here ends a test by a panic"
)]

use std::{
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
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    clock,
    cluster::{BPF_FS, PIN_PREFIX, Program, mount_bpf_fs},
    command,
    ns::{self, Namespace},
    privilege,
};

/// How long anything may take, on a machine that does other things too.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// The endpoints of the Service that is there from the beginning, and what it is dialled by.
pub const GOOD: (&str, &str) = ("10.244.1.5", "10.96.0.10:80");

/// A Service with one address, and its endpoints, as a JSON list.
pub fn service(name: &str, address: &str, port: u16, endpoints: &[&str]) -> String {
    let endpoints: Vec<String> = endpoints
        .iter()
        .map(|address| format!(r#"{{"addresses":["{address}"]}}"#))
        .collect();
    let endpoints = endpoints.join(",");
    format!(
        r#"{{"apiVersion":"v1","kind":"List","items":[
{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"{name}"}},"spec":{{"clusterIP":"{address}","clusterIPs":["{address}"],"ports":[{{"name":"p","port":{port}}}]}}}},
{{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{{"name":"{name}-1","labels":{{"kubernetes.io/service-name":"{name}"}}}},"addressType":"IPv4","ports":[{{"name":"p","port":8080}}],"endpoints":[{endpoints}]}}]}}"#
    )
}

/// A node with one good service in its manifests, all of which goes on drop.
#[derive(Debug)]
pub struct Machine {
    program: Program,
    /// Where the agent runs.
    pub namespace: Namespace,
    directory: tempfile::TempDir,
    /// The agent's pins.
    pub pins: PathBuf,
    agent: Option<Child>,
}

impl Machine {
    /// Makes it; the agent is not started.
    #[expect(clippy::new_without_default, reason = "it makes namespaces and files")]
    pub fn new() -> Self {
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
        machine.write("good.json", &service("good", "10.96.0.10", 80, &[GOOD.0]));
        machine.sizes("frontends: 1024");
        machine
    }

    /// Of something in its directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file of manifests, whole.
    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path("new"), text).unwrap();
        fs::rename(self.path("new"), self.path("manifests").join(name)).unwrap();
    }

    /// Settings with these sizes, and flow tables that are quick to make.
    pub fn sizes(&self, sizes: &str) {
        let text = format!(
            "apiVersion: steerage.dev/v1alpha1\nkind: SteerageConfiguration\nsizes: \
             {{flowBucketsV4: 64, flowBucketsV6: 64, {sizes}}}\n"
        );
        fs::write(self.path("config.yaml"), text).unwrap();
    }

    /// `steerage` with these arguments, this pin directory and this node's state directory.
    pub fn command(&self, pins: &Path, arguments: &[&str]) -> Command {
        self.program
            .command(&self.namespace, [pins, &self.path("state")], arguments)
            .unwrap()
    }

    /// The agent with these pins and manifests.
    pub fn run_command(&self, pins: &Path, manifests: &Path) -> Command {
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
    pub fn start(&mut self) {
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

    /// Ends the agent with SIGTERM.
    pub fn stop(&mut self) {
        let mut agent = self.agent.take().unwrap();
        let pid = Pid::from_raw(agent.id().try_into().unwrap());
        kill(pid, Signal::SIGTERM).unwrap();
        assert!(agent.wait().unwrap().success());
    }

    /// What the maps hold.
    pub fn tables(&self) -> Actual {
        BpfDataplane::open(&PinPaths::new(&self.pins))
            .unwrap()
            .read_all()
            .unwrap()
    }

    /// Fails unless a packet to the good Service would be sent to its endpoint, as the pinned tables
    /// and the kernel programs' own decision have it.
    #[track_caller]
    pub fn still_serves(&self) {
        let arguments = ["explain", "10.244.1.9", GOOD.1];
        let output = command::output(&mut self.command(&self.pins, &arguments), "").unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let wanted = format!("-> {}:8080", GOOD.0);
        assert!(text.contains(&wanted), "{text}");
    }

    /// Waits until nothing is wrong any more.
    pub fn await_no_problem(&self, within: Duration) {
        let mut last = Vec::new();
        let none = clock::eventually("no problem is left", within, || {
            let status = status(&self.path("state"));
            last = status.map_or_else(Vec::new, |status| status.problems);
            Ok(last.is_empty().then_some(()))
        });
        none.unwrap_or_else(|error| panic!("{error}: {last:#?}"));
    }

    /// Waits until one of the problems in the status has all these parts in it.
    pub fn await_problem(&self, parts: &[&str]) {
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

/// The key of a TCP port at 10.96.0.`last`.
pub fn key(last: u8, port: u16) -> FrontendKey {
    let address = V4::mapped(Ipv4Addr::new(10, 96, 0, last).octets());
    FrontendKey::new(address, port, Protocol::Tcp)
}

/// The command ends with `code`, and the last of what it says is an error with these parts.
#[track_caller]
pub fn fails(command: &mut Command, code: i32, parts: &[&str]) {
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
