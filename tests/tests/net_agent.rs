//! The agent as a whole, in a network namespace of its own: what it programs, what it leaves in
//! place when it ends, and what the next one takes over.

#![expect(
    clippy::tests_outside_test_module,
    reason = "a file of tests is a module of tests"
)]

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use aya::maps::MapError;
use lb_agent::agent::{self, AgentError};
use lb_agent::dataplane::bpf::Wire;
use lb_agent::dataplane::bpffs::PinPaths;
use lb_agent::dataplane::clsact;
use lb_agent::dataplane::flows::FlowTables;
use lb_agent::dataplane::layout::Table;
use lb_agent::dataplane::load::LoadError;
use lb_agent::dataplane::maps::BpfDataplane;
use lb_agent::dataplane::mmap::Access;
use lb_agent::dataplane::readback::TableReader;
use lb_agent::dataplane::sweep::Sweeper;
use lb_agent::dataplane::syscall::{self, GracePeriod};
use lb_agent::dataplane::tables as pinned;
use lb_agent::dataplane::{Actual, Dataplane as _, DataplaneError, InUse, Write};
use lb_agent::lock::LockError;
use lb_agent::settings::{AttachmentMode, Settings};
use lb_agent::status::AgentStatus;
use lb_common::conntrack::State;
use lb_common::family::{Family as _, V4};
use lb_common::flow::{Direction, FlowEntry, FlowKey, FlowTuple, Hook, Path as FlowPath, Protocol};
use lb_common::flows::Insertion;
use lb_common::id::{BackendId, Seconds, ServiceId};
use lb_common::table::config;
use lb_common::table::frontend::{FrontendKey, FrontendKind, FrontendValue};
use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const DEADLINE: Duration = Duration::from_secs(20);

const MANIFESTS: &str = "\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10]
  ipFamilies: [IPv4]
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
- {addresses: [10.244.1.5], conditions: {ready: true}}
- {addresses: [10.244.1.6], conditions: {ready: true}}
---
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: kubernetes}
spec: {cidrs: [10.96.0.0/16]}
";

/// Waits until `probe` gives something.
#[track_caller]
#[expect(clippy::disallowed_methods, reason = "a deadline needs a clock")]
fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::yield_now();
    }
}

#[track_caller]
fn ip(arguments: &str) {
    let status = Command::new("ip")
        .args(arguments.split(' '))
        .status()
        .unwrap();
    assert!(status.success(), "ip {arguments}");
}

/// A bpffs, a directory of manifests and a pod's network namespace, removed at the end.
struct Machine {
    directory: tempfile::TempDir,
    pod: Child,
}

impl Machine {
    /// Moves the calling thread to a network namespace of its own.
    fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let directory = tempfile::tempdir().unwrap();
        for name in ["bpf", "manifests"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        mount(
            Some("bpf"),
            &directory.path().join("bpf"),
            Some("bpf"),
            MsFlags::empty(),
            None::<&str>,
        )
        .unwrap();
        fs::write(directory.path().join("manifests/web.yaml"), MANIFESTS).unwrap();
        let pod = Command::new("unshare")
            .args(["--net", "sleep", "300"])
            .spawn()
            .unwrap();
        let machine = Self { directory, pod };
        let own = fs::read_link("/proc/thread-self/ns/net").unwrap();
        let theirs = format!("/proc/{}/ns/net", machine.pod.id());
        eventually("the pod's namespace", || {
            fs::read_link(&theirs).ok().filter(|ns| *ns != own)
        });
        machine
    }

    fn settings(&self) -> Settings {
        let mut settings = Settings::new("n1".into(), self.path("manifests"));
        settings.pin_dir = self.path("bpf/steerage");
        settings.state_dir = self.path("state");
        settings.sizes.frontends = 4;
        settings.sizes.arena_words = 65_536;
        settings.sizes.backends = 1024;
        settings.sizes.services = 1024;
        settings.sizes.flow_buckets_v4 = 64;
        settings.sizes.flow_buckets_v6 = 64;
        settings
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn pins(&self) -> PinPaths {
        PinPaths::new(&self.path("bpf/steerage"))
    }

    fn add_pod(&self, name: &str) -> u32 {
        ip(&format!("link add {name} type veth peer name p-{name}"));
        ip(&format!("link set p-{name} netns {}", self.pod.id()));
        nix::net::if_::if_nametoindex(name).unwrap()
    }

    fn status(&self) -> Option<AgentStatus> {
        serde_json::from_slice(&fs::read(self.path("state/status.json")).ok()?).ok()
    }

    fn links(&self) -> BTreeSet<String> {
        fs::read_dir(self.pins().links()).map_or_else(
            |_| BTreeSet::new(),
            |entries| {
                entries
                    .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                    .collect()
            },
        )
    }

    /// Starts an agent in this thread's namespace and waits for its first sync.
    fn start(&self, settings: Settings) -> JoinHandle<Result<(), AgentError>> {
        let namespace = fs::File::open("/proc/thread-self/ns/net").unwrap();
        if self.path("state/status.json").exists() {
            fs::remove_file(self.path("state/status.json")).unwrap();
        }
        let agent = std::thread::spawn(move || {
            nix::sched::setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            agent::run(settings)
        });
        eventually("the first sync", || {
            assert!(!agent.is_finished(), "the agent ended");
            self.status()?.first_sync_at
        });
        agent
    }

    fn tables(&self) -> Actual {
        let reader = TableReader::open(&self.pins()).unwrap();
        reader.read_all().unwrap()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.pod.kill().unwrap();
        self.pod.wait().unwrap();
        umount(&self.directory.path().join("bpf")).unwrap();
    }
}

fn stop(agent: JoinHandle<Result<(), AgentError>>) {
    kill(Pid::this(), Signal::SIGTERM).unwrap();
    agent.join().unwrap().unwrap();
}

fn link_id(path: &Path) -> String {
    use std::os::fd::AsRawFd as _;

    let link = syscall::open_pin(path).unwrap();
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", link.as_raw_fd())).unwrap();
    info.lines()
        .find(|line| line.starts_with("link_id"))
        .unwrap()
        .to_owned()
}

/// What flows name is in use until they have been idle for long enough.
fn flows_are_walked_and_end(pins: &PinPaths) {
    let tuple = |source: [u8; 4], destination: [u8; 4], source_port, destination_port| FlowTuple {
        source,
        destination,
        source_port,
        destination_port,
        protocol: Protocol::Udp,
    };
    let entry = FlowEntry::<V4> {
        key: FlowKey {
            tuple: tuple([10, 244, 1, 9], [10, 96, 0, 10], 40_000, 80),
            hook: Hook::Ingress,
        },
        translated: tuple([10, 244, 1, 9], [10, 244, 1, 5], 40_000, 8080),
        direction: Direction::Original,
        path: FlowPath::Routed,
        is_from_outside: false,
        service: ServiceId::new(7, 1),
        backend: BackendId::new(9, 2),
    };
    let flows = FlowTables::open(pins).unwrap();
    let table = flows.table::<V4>().unwrap();
    let now = lb_agent::clock::flow_seconds();
    for half in [entry, entry.partner()] {
        assert!(matches!(
            table.insert(&half, State::UdpNew, now),
            Insertion::Inserted(_)
        ));
    }
    let in_use = flows.ids_in_use();
    assert_eq!(in_use.services, BTreeSet::from([entry.service]));
    assert_eq!(in_use.backends, BTreeSet::from([entry.backend]));
    let walk = |now| {
        let mut sweeper = Sweeper::default();
        eventually("the end of a walk", || sweeper.step(&flows, now))
    };
    let kept = walk(now);
    assert_eq!((kept.entries, kept.removed), (2, 0));
    let ended = walk(Seconds(now.0 + 60));
    assert_eq!((ended.entries, ended.removed), (0, 2));
    assert_eq!(flows.ids_in_use(), InUse::default());
    flows_of_a_lost_address_end(&flows, &entry);
}

/// Of two flows to another node, one left with an address that is gone.
fn flows_of_a_lost_address_end(flows: &FlowTables, of: &FlowEntry<V4>) {
    let table = flows.table::<V4>().unwrap();
    let now = lb_agent::clock::flow_seconds();
    let [lost, kept] = [[192, 0, 2, 1], [192, 0, 2, 2]];
    for own in [lost, kept] {
        let mut leaving = *of;
        leaving.key.hook = Hook::Egress;
        leaving.key.tuple.source = [198, 51, 100, own[3]];
        leaving.key.tuple.destination = of.translated.destination;
        leaving.translated = leaving.key.tuple;
        leaving.translated.source = own;
        for half in [leaving, leaving.partner()] {
            let inserted = table.insert(&half, State::UdpNew, now);
            assert!(matches!(inserted, Insertion::Inserted(_)));
        }
    }
    let mut sweeper = Sweeper::default();
    sweeper.set_gone([V4::mapped(lost)].into_iter());
    let walk = eventually("the end of a walk", || sweeper.step(flows, now));
    assert_eq!((walk.entries, walk.homeless, walk.removed), (2, 1, 0));
    let ended: Vec<_> = sweeper.take_homeless().into_iter().collect();
    assert_eq!(ended, [(V4::mapped(lost), 1)]);
}

/// Sizes and versions other than those of the pins.
fn other_tables_are_refused(machine: &Machine) {
    // Other sizes than those of the pins are refused by name.
    let mut larger = machine.settings();
    larger.sizes.arena_words = 131_072;
    let refused = agent::run(larger).unwrap_err();
    assert!(
        matches!(
            refused,
            AgentError::Load(LoadError::PinnedLayout {
                table: Table::Arena,
                ..
            })
        ),
        "{refused}"
    );
    fs::create_dir(machine.path("bpf/steerage/v0")).unwrap();
    let refused = agent::run(machine.settings()).unwrap_err();
    assert!(
        matches!(refused, AgentError::Load(LoadError::OtherVersion { .. })),
        "{refused}"
    );
    fs::remove_dir(machine.path("bpf/steerage/v0")).unwrap();
}

/// Devices on kernels without tcx.
fn filters_are_taken_over_and_removed(machine: &Machine) {
    // Without tcx: a filter on each side of a new device, which the next agent takes over too.
    let mut legacy = machine.settings();
    legacy.attachment = AttachmentMode::Clsact;
    let third_pod = machine.add_pod("pod3");
    let filters = || {
        let output = Command::new("tc")
            .args(["filter", "show", "dev", "pod3", "ingress"])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    for _ in 0..2 {
        stop(machine.start(legacy.clone()));
        assert!(machine.pins().clsact().join(third_pod.to_string()).exists());
        assert_eq!(
            filters().matches("handle 0x5354").count(),
            1,
            "{}",
            filters()
        );
    }

    // What cleanup does at such a device.
    clsact::remove(&machine.pins(), third_pod).unwrap();
    clsact::remove(&machine.pins(), third_pod).unwrap();
    assert_eq!(filters(), "");
    let qdiscs = Command::new("tc")
        .args(["qdisc", "show", "dev", "pod3"])
        .output()
        .unwrap();
    assert!(!String::from_utf8_lossy(&qdiscs.stdout).contains("clsact"));
    assert!(clsact::marked(&machine.pins()).unwrap().is_empty());
}

/// One test, since signals reach every agent of the process.
#[test]
fn an_agent_programs_attaches_outlives_itself_and_is_taken_over() {
    let machine = Machine::new();
    let first_pod = machine.add_pod("pod1");
    let agent = machine.start(machine.settings());

    let tables = machine.tables();
    let key = FrontendKey::new(V4::mapped([10, 96, 0, 10]), 80, Protocol::Tcp);
    let value = tables.frontends[&key];
    assert!(value.belongs_to(&key));
    assert!(tables.services.contains_key(&value.service_index()));
    let addresses: BTreeSet<_> = tables
        .backends
        .values()
        .map(|record| (V4::from_mapped(record.address()).unwrap(), record.port()))
        .collect();
    assert_eq!(
        addresses,
        BTreeSet::from([([10, 244, 1, 5], 8080), ([10, 244, 1, 6], 8080)])
    );
    let cidr = config::Cidr::<V4>::read(0, |word| tables.config[usize::try_from(word).unwrap()]);
    assert!(cidr.contains(Ipv4Addr::new(10, 96, 255, 1).octets()));
    let seed = tables.config[0];
    assert_ne!(seed, 0);
    let names = fs::read_to_string(machine.path("state/names.json")).unwrap();
    assert!(names.contains("\"web\""), "{names}");
    let both_sides =
        |index: u32| BTreeSet::from([format!("{index}-ingress"), format!("{index}-egress")]);
    assert_eq!(machine.links(), both_sides(first_pod));

    // A second agent is refused, with the process of the first.
    let refused = agent::run(machine.settings()).unwrap_err();
    let AgentError::Lock(LockError::Held { pid, .. }) = &refused else {
        panic!("{refused}");
    };
    assert_eq!(*pid, Some(std::process::id()));

    // Devices come and go.
    let second_pod = machine.add_pod("pod2");
    eventually("links of a new pod", || {
        machine
            .links()
            .is_superset(&both_sides(second_pod))
            .then_some(())
    });
    ip("link delete pod2");
    eventually("no links of a pod that is gone", || {
        (machine.links() == both_sides(first_pod)).then_some(())
    });

    // The datapath outlives the agent, and the next one takes it over.
    stop(agent);
    let ingress = machine.pins().link(first_pod, Hook::Ingress);
    let link = link_id(&ingress);
    assert_eq!(machine.tables(), tables);
    let agent = machine.start(machine.settings());
    assert_eq!(link_id(&ingress), link);
    assert_eq!(machine.tables(), tables);

    // What the commands open cannot be written.
    let mut opened = pinned::frontends(&machine.pins(), Access::Read).unwrap();
    let MapError::SyscallError(refused) = opened.insert(Wire(key), value.0, 0).unwrap_err() else {
        panic!("the kernel was not asked");
    };
    let kind = refused.io_error.kind();
    assert_eq!(kind, std::io::ErrorKind::PermissionDenied);

    // A map that is full leaves what it has.
    let mut dataplane = BpfDataplane::open(&machine.pins()).unwrap();
    let full = (1..=8_u8).find_map(|last| {
        let key = FrontendKey::new(V4::mapped([10, 96, 9, last]), 80, Protocol::Tcp);
        let value = FrontendValue::new(&key, FrontendKind::ClusterIp, 1, false);
        dataplane.apply(&Write::SetFrontend { key, value }).err()
    });
    assert!(
        matches!(
            full,
            Some(DataplaneError::Full {
                table: "FRONTENDS",
                capacity: 4
            })
        ),
        "{full:?}"
    );
    assert_eq!(machine.tables().frontends[&key], value);
    assert!(matches!(
        dataplane.apply(&Write::ClearBackend { index: 5000 }),
        Err(DataplaneError::OutOfRange { .. })
    ));
    dataplane.wait_for_readers().unwrap();
    GracePeriod::map_of_maps().unwrap().wait().unwrap();
    stop(agent);
    flows_are_walked_and_end(&machine.pins());

    other_tables_are_refused(&machine);
    filters_are_taken_over_and_removed(&machine);
    assert_eq!(link_id(&ingress), link);
}
