//! The files of `deploy/` against Kubernetes' own types and against the binary: what they name must
//! exist, and what the agent needs must be there.

#![expect(
    clippy::tests_outside_test_module,
    reason = "a file of tests is a module of tests"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Container, PodSpec, Probe, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use lb_agent::cli;
use lb_agent::config::apply;
use lb_agent::config::layers::Layers;
use lb_agent::settings::outside::HEALTH_PORT;
use lb_agent::settings::{DEFAULT_PIN_DIR, DEFAULT_STATE_DIR, Settings};
use lb_agent::source::kubernetes::events::{Gravity, Note, Regarding};
use lb_tests::apiserver::{ApiServer, Cut, PolicyRule, Request, Resource, Verb};
use lb_tests::clock;
use lb_tests::observer::{NODE, Observer, PATIENCE, Seen, quick, service_account};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// What kube-proxy may do: the rules of `system:node-proxier` by group and resource.
const NODE_PROXIER: [(&str, &str, &[&str]); 7] = [
    ("", "services", &["list", "watch"]),
    ("", "endpoints", &["list", "watch"]),
    ("", "nodes", &["get", "list", "watch"]),
    ("discovery.k8s.io", "endpointslices", &["list", "watch"]),
    ("networking.k8s.io", "servicecidrs", &["list", "watch"]),
    ("", "events", &["create", "patch", "update"]),
    ("events.k8s.io", "events", &["create", "patch", "update"]),
];

/// What an agent asks for, by group and resource: no more, and no less.
const ASKED: [(&str, &str, &[&str]); 5] = [
    ("", "nodes", &["list", "watch"]),
    ("", "services", &["list", "watch"]),
    ("discovery.k8s.io", "endpointslices", &["list", "watch"]),
    ("events.k8s.io", "events", &["create", "patch"]),
    ("networking.k8s.io", "servicecidrs", &["list", "watch"]),
];

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(name)
}

fn text(name: &str) -> String {
    fs::read_to_string(deploy(name)).unwrap()
}

/// The documents of a file.
fn documents(name: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(&text(name)).unwrap()
}

/// Reads an object, and refuses fields that its type does not have: they would be lost on the way
/// through the type and back.
#[track_caller]
fn strictly<T: DeserializeOwned + Serialize>(document: &Value) -> T {
    fn check(path: &str, given: &Value, kept: &Value) {
        match (given, kept) {
            (Value::Object(given), Value::Object(kept)) => {
                for (name, value) in given {
                    let path = format!("{path}.{name}");
                    let kept = kept.get(name);
                    check(
                        &path,
                        value,
                        kept.unwrap_or_else(|| panic!("no field {path}")),
                    );
                }
            }
            (Value::Array(given), Value::Array(kept)) => {
                assert_eq!(given.len(), kept.len(), "{path}");
                for (index, (given, kept)) in given.iter().zip(kept).enumerate() {
                    check(&format!("{path}[{index}]"), given, kept);
                }
            }
            _ => assert_eq!(given, kept, "{path}"),
        }
    }
    let object: T = serde_json::from_value(document.clone()).unwrap();
    check("", document, &serde_json::to_value(&object).unwrap());
    object
}

/// The only object of a kind in a file.
#[track_caller]
fn only<T: DeserializeOwned + Serialize>(file: &str, kind: &str) -> T {
    let documents = documents(file);
    let mut found = documents.iter().filter(|document| document["kind"] == kind);
    let document = found
        .next()
        .unwrap_or_else(|| panic!("no {kind} in {file}"));
    assert!(found.next().is_none(), "two of {kind} in {file}");
    strictly(document)
}

fn daemon_set() -> DaemonSet {
    only("daemonset.yaml", "DaemonSet")
}

fn pod() -> PodSpec {
    daemon_set().spec.unwrap().template.spec.unwrap()
}

fn agent() -> Container {
    let mut containers = pod().containers;
    assert_eq!(containers.len(), 1);
    containers.remove(0)
}

fn config_map() -> BTreeMap<String, String> {
    let map: ConfigMap = only("config.yaml", "ConfigMap");
    map.data.unwrap()
}

/// The arguments of the agent as the kubelet passes them on.
fn arguments() -> Vec<String> {
    let arguments = agent().args.unwrap();
    arguments
        .iter()
        .map(|argument| argument.replace("$(NODE_NAME)", "node-a"))
        .collect()
}

/// The value of `--flag=value`, if it is given.
fn value(flag: &str) -> Vec<String> {
    let prefix = format!("--{flag}=");
    arguments()
        .iter()
        .filter_map(|argument| argument.strip_prefix(&prefix))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_flag_and_variable_is_the_binarys_own() {
    let command = cli::command();
    let run = command.find_subcommand("run").unwrap();
    let known: BTreeSet<_> = command
        .get_arguments()
        .chain(run.get_arguments())
        .filter_map(|argument| argument.get_long())
        .collect();
    let given = arguments();
    assert_eq!(given[0], "run");
    for argument in &given[1..] {
        let flag = argument.strip_prefix("--").unwrap();
        let (flag, _) = flag.split_once('=').unwrap();
        assert!(known.contains(flag), "steerage run has no --{flag}");
    }
    // The values too.
    let all = ["steerage"]
        .into_iter()
        .chain(given.iter().map(String::as_str));
    cli::command().try_get_matches_from(all).unwrap();
    let variables: BTreeSet<_> = command
        .get_arguments()
        .chain(run.get_arguments())
        .filter_map(|argument| argument.get_env()?.to_str())
        .collect();
    for variable in agent().env.unwrap() {
        let is_ours = variables.contains(variable.name.as_str());
        assert!(is_ours || variable.name == "NODE_NAME", "{}", variable.name);
    }
}

#[test]
fn every_path_is_mounted_and_is_where_the_agent_looks() {
    let mounts = agent().volume_mounts.unwrap();
    let volumes: BTreeMap<_, _> = pod()
        .volumes
        .unwrap()
        .into_iter()
        .map(|volume| (volume.name.clone(), volume))
        .collect();
    assert_eq!(mounts.len(), volumes.len());
    let mount_of = |path: &str| {
        mounts
            .iter()
            .find(|mount| Path::new(path).starts_with(&mount.mount_path))
            .unwrap_or_else(|| panic!("{path} is not mounted"))
    };
    assert_eq!(value("pin-dir"), [DEFAULT_PIN_DIR]);
    assert_eq!(value("state-dir"), [DEFAULT_STATE_DIR]);
    for path in [DEFAULT_PIN_DIR, DEFAULT_STATE_DIR] {
        let mount = mount_of(path);
        // As on the host, so that the commands work there too.
        let host = volumes[&mount.name].host_path.as_ref().unwrap();
        assert_eq!(host.path, mount.mount_path);
        assert_ne!(mount.read_only, Some(true), "{path}");
    }
    let files = config_map();
    for path in value("config") {
        let mount = mount_of(&path);
        let map = volumes[&mount.name].config_map.as_ref().unwrap();
        assert_eq!(map.name, "steerage");
        let name = Path::new(&path).strip_prefix(&mount.mount_path).unwrap();
        assert!(files.contains_key(name.to_str().unwrap()), "{path}");
    }
    // The sysctls: of the host's network, below where the agent is told that /proc/sys is.
    let variables = agent().env.unwrap();
    let proc_sys = variables
        .iter()
        .find(|variable| variable.name == "STEERAGE_PROC_SYS")
        .and_then(|variable| variable.value.clone())
        .unwrap();
    let mount = mount_of(&format!("{proc_sys}/net"));
    let host = volumes[&mount.name].host_path.as_ref().unwrap();
    assert_eq!(host.path, "/proc/sys/net");
    assert_ne!(mount.read_only, Some(true));
}

/// The settings that the `ConfigMap` amounts to, read in the order of the flags.
fn settings() -> Settings {
    let files = config_map();
    let mut layers = Layers::new();
    for path in value("config") {
        let name = Path::new(&path).file_name().unwrap().to_str().unwrap();
        layers.add_text(Path::new(&path), &files[name]).unwrap();
    }
    assert_eq!(layers.warnings, [""; 0]);
    let mut settings = Settings::new("node-a".to_owned(), "/manifests".into());
    apply(&layers.document().unwrap(), &mut settings);
    settings.validate().unwrap();
    settings
}

#[test]
fn the_settings_are_valid_and_the_kubeconfig_is_where_they_say() {
    let settings = settings();
    let path = settings.client.kubeconfig.unwrap();
    let directory = Path::new("/etc/steerage");
    let name = path.strip_prefix(directory).unwrap().to_str().unwrap();
    let kubeconfig: Value = serde_saphyr::from_str(&config_map()[name]).unwrap();
    let account = "/var/run/secrets/kubernetes.io/serviceaccount/";
    let user = &kubeconfig["users"][0]["user"]["tokenFile"];
    assert!(user.as_str().unwrap().starts_with(account));
    let server = kubeconfig["clusters"][0]["cluster"]["server"]
        .as_str()
        .unwrap();
    assert!(server.starts_with("https://"), "{server}");
    assert_eq!(settings.conntrack.tcp_close_wait_seconds, 3600);
}

#[test]
fn probes_and_ports_are_those_that_are_served() {
    let agent = agent();
    let ports = agent.ports.unwrap();
    let health = settings().outside.health.unwrap();
    assert_eq!(health.port(), HEALTH_PORT);
    assert!(health.ip().is_unspecified(), "probes ask at 127.0.0.1");
    let port = ports
        .iter()
        .find(|port| port.name.as_deref() == Some("health"))
        .unwrap();
    assert_eq!(port.container_port, i32::from(HEALTH_PORT));
    assert_eq!(port.host_port, Some(port.container_port));
    let path = |probe: &Option<Probe>| {
        let get = probe.as_ref().unwrap().http_get.clone().unwrap();
        assert_eq!(get.port, IntOrString::String("health".to_owned()));
        assert_eq!(get.host.as_deref(), Some("127.0.0.1"));
        get.path.unwrap()
    };
    // Liveness must not wait for an API server that is away; readiness is to.
    assert_eq!(path(&agent.startup_probe), "/livez");
    assert_eq!(path(&agent.liveness_probe), "/livez");
    assert_eq!(path(&agent.readiness_probe), "/healthz");
}

#[test]
fn the_agent_has_three_capabilities_and_no_more() {
    let security = agent().security_context.unwrap();
    assert_eq!(security.privileged, Some(false));
    assert_eq!(security.allow_privilege_escalation, Some(false));
    assert_eq!(security.read_only_root_filesystem, Some(true));
    let capabilities = security.capabilities.unwrap();
    assert_eq!(capabilities.drop.unwrap(), ["ALL"]);
    assert_eq!(capabilities.add.unwrap(), ["BPF", "NET_ADMIN", "PERFMON"]);
}

#[test]
fn an_agent_runs_on_every_node_and_is_the_last_to_go() {
    let spec = daemon_set().spec.unwrap();
    let labels = spec.template.metadata.unwrap().labels.unwrap();
    assert_eq!(spec.selector.match_labels.unwrap(), labels);
    let strategy = spec.update_strategy.unwrap();
    assert_eq!(strategy.type_.as_deref(), Some("RollingUpdate"));
    let rolling = strategy.rolling_update.unwrap();
    assert_eq!(rolling.max_unavailable, Some(IntOrString::Int(1)));
    let pod = pod();
    assert_eq!(pod.host_network, Some(true));
    assert_ne!(pod.dns_policy.as_deref(), Some("ClusterFirstWithHostNet"));
    assert_eq!(
        pod.priority_class_name.as_deref(),
        Some("system-node-critical")
    );
    let tolerations = pod.tolerations.unwrap();
    assert!(tolerations.iter().any(|toleration| {
        toleration.operator.as_deref() == Some("Exists")
            && toleration.key.is_none()
            && toleration.effect.is_none()
    }));
    let account: ServiceAccount = only("rbac.yaml", "ServiceAccount");
    assert_eq!(pod.service_account_name, account.metadata.name);
}

#[test]
fn the_rights_are_enough_and_no_wider_than_kube_proxys() {
    let role: ClusterRole = only("rbac.yaml", "ClusterRole");
    let mut granted: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    for rule in role.rules.unwrap() {
        assert_eq!(rule.non_resource_urls, None);
        for group in rule.api_groups.unwrap() {
            for resource in rule.resources.clone().unwrap() {
                let verbs = granted.entry((group.clone(), resource)).or_default();
                verbs.extend(rule.verbs.iter().cloned());
            }
        }
    }
    for ((group, resource), verbs) in &granted {
        let (_, _, allowed) = NODE_PROXIER
            .iter()
            .find(|(g, r, _)| g == group && r == resource)
            .unwrap_or_else(|| panic!("kube-proxy has no right to {group}/{resource}"));
        for verb in verbs {
            assert!(
                allowed.contains(&verb.as_str()),
                "{verb} {group}/{resource}"
            );
        }
    }
    for (group, resource, verbs) in ASKED {
        let key = (group.to_owned(), resource.to_owned());
        let granted = granted.get(&key).cloned().unwrap_or_default();
        for verb in verbs {
            assert!(
                granted.contains(*verb),
                "{verb} {group}/{resource} is missing"
            );
        }
    }
    let binding: ClusterRoleBinding = only("rbac.yaml", "ClusterRoleBinding");
    assert_eq!(Some(binding.role_ref.name), role.metadata.name);
    let subjects = binding.subjects.unwrap();
    let account: ServiceAccount = only("rbac.yaml", "ServiceAccount");
    assert_eq!(subjects.len(), 1);
    assert_eq!(Some(&subjects[0].name), account.metadata.name.as_ref());
    assert_eq!(subjects[0].namespace, account.metadata.namespace);
}

/// The rules of `deploy/rbac.yaml`, as an API server has them.
fn rules() -> Vec<PolicyRule> {
    let mut documents = documents("rbac.yaml").into_iter();
    let role = documents
        .find(|document| document["kind"] == "ClusterRole")
        .unwrap();
    serde_json::from_value(role["rules"].clone()).unwrap()
}

/// What a source did in a life with everything in it: lists in streams and in pages, changes, a
/// stream that is cut, a history that is forgotten, an Event and the same again.
fn requests_of_a_life() -> Vec<Request> {
    let server = ApiServer::start_tls().unwrap();
    server.accept_tokens(&[("right", "system:serviceaccount:kube-system:steerage")]);
    server.permit_only(rules());
    // A Node that is missing would be an Event more.
    let node = serde_json::json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}});
    server.apply(&node).unwrap();
    let mut requests = Vec::new();
    for streams_lists in [true, false] {
        server.stream_lists(streams_lists);
        let place = tempfile::tempdir().unwrap();
        let api = service_account(&server, place.path(), "right").unwrap();
        let observer = Observer::start(api, place.path(), quick()).unwrap();
        observer
            .await_seen("everything is listed", Seen::is_listed)
            .unwrap();
        let note = Note {
            gravity: Gravity::Warning,
            regarding: Regarding::node(NODE),
            reason: "Tested",
            action: "Test",
            text: format!("streaming lists: {streams_lists}"),
        };
        let sink = observer.sink().unwrap();
        for verb in [Verb::Create, Verb::Patch] {
            assert!(sink.send(note.clone()));
            clock::eventually("the Event is taken", PATIENCE, || {
                let mut asked = server.requests().into_iter();
                Ok(asked
                    .find(|request| request.resource == Resource::Events && request.verb == verb))
            })
            .unwrap();
        }
        server.compact();
        for resource in [Resource::Services, Resource::EndpointSlices] {
            server.cut(resource, Cut::Abort);
        }
        let web = serde_json::json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "web", "namespace": "ns"},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
        });
        server.apply(&web).unwrap();
        observer.await_services(&["ns/web 0"]).unwrap();
        observer.end().unwrap();
        requests.extend(server.requests());
        server.delete(Resource::Services, "ns", "web").unwrap();
        server.forget_requests();
    }
    requests
}

#[test]
fn an_agent_with_these_rights_is_refused_nothing_and_asks_for_nothing_else() {
    let mut asked: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    let requests = requests_of_a_life();
    for request in &requests {
        assert!(!matches!(request.status, 401 | 403), "{request:?}");
        let key = (request.resource.group(), request.resource.plural());
        asked.entry(key).or_default().insert(request.verb.name());
    }
    let asked: Vec<(&str, &str, Vec<&str>)> = asked
        .into_iter()
        .map(|((group, resource), verbs)| (group, resource, verbs.into_iter().collect()))
        .collect();
    let expected: Vec<_> = ASKED
        .iter()
        .map(|(group, resource, verbs)| (*group, *resource, verbs.to_vec()))
        .collect();
    assert_eq!(asked, expected);
}

#[test]
fn every_document_is_one_that_is_looked_at() {
    for (file, expected) in [
        (
            "rbac.yaml",
            &["ServiceAccount", "ClusterRole", "ClusterRoleBinding"][..],
        ),
        ("config.yaml", &["ConfigMap"]),
        ("daemonset.yaml", &["DaemonSet"]),
    ] {
        let kinds: Vec<_> = documents(file)
            .iter()
            .map(|document| document["kind"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(kinds, expected, "{file}");
    }
}

#[test]
fn the_image_is_made_of_debian_and_crates_and_holds_the_binary_alone() {
    let dockerfile = text("Dockerfile");
    let stages: Vec<_> = dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix("FROM "))
        .collect();
    assert_eq!(stages, ["debian:bookworm AS build", "scratch"]);
    for word in ["curl", "wget", "ADD ", "rustup"] {
        assert!(!dockerfile.contains(word), "{word}");
    }
    let (_, last) = dockerfile.split_once("FROM scratch").unwrap();
    assert!(last.contains("ENTRYPOINT [\"/usr/bin/steerage\"]"));
    assert!(last.contains("CMD [\"run\"]"));
    // The DaemonSet passes arguments only: the image's entry point is the binary.
    assert_eq!(agent().command, None);
}
