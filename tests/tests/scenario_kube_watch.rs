//! The API source against a real connection: what the cluster does reaches the tables, and nothing
//! that goes wrong on the way takes anything from them.
#![expect(
    clippy::tests_outside_test_module,
    reason = "a test binary is nothing but tests"
)]

use std::time::Duration;

use lb_agent::settings::ApiSettings;
use lb_agent::source::kubernetes::Timing;
use lb_tests::apiserver::{ApiServer, Cut, Fault, Resource, Rule, Verb};
use lb_tests::clock;
use lb_tests::observer::{NODE, Observer, PATIENCE, Seen, quick, services};
use lb_tests::recording::Recording;
use serde_json::{Value, json};
use tempfile::TempDir;

const LABEL_PROXY: &str = "service.kubernetes.io/service-proxy-name";
const LABEL_HEADLESS: &str = "service.kubernetes.io/headless";

fn service(name: &str, number: u8) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "ns"},
        "spec": {"clusterIP": format!("10.96.0.{number}"), "ports": [{"port": 80}]},
    })
}

fn slice(name: &str, service: &str, endpoints: &[&str]) -> Value {
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|it| json!({"addresses": [it]}))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "ns",
            "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
    })
}

fn node() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": NODE, "labels": {"topology.kubernetes.io/zone": "zone-a"}},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]},
    })
}

/// A server with this node, `web` of two endpoints, and `old` of one.
fn server() -> ApiServer {
    let server = ApiServer::start().expect("a free port");
    for object in [
        node(),
        service("web", 1),
        service("old", 2),
        slice("web-1", "web", &["10.244.0.1", "10.244.0.2"]),
        slice("old-1", "old", &["10.244.0.9"]),
    ] {
        server.apply(&object).expect("an object");
    }
    server
}

/// A source of that server, and where it keeps its state.
fn observer(server: &ApiServer, timing: Timing) -> (Observer, TempDir) {
    let directory = tempfile::tempdir().expect("a directory");
    let api = ApiSettings {
        servers: vec![server.url()],
        service_account: directory.path().to_owned(),
        ..ApiSettings::default()
    };
    for file in ["token", "ca.crt"] {
        std::fs::write(directory.path().join(file), "none").expect("a file");
    }
    let observer = Observer::start(api, directory.path(), timing).expect("a source");
    (observer, directory)
}

#[test]
fn a_cluster_is_listed_and_followed() {
    let server = server();
    let (observer, _directory) = observer(&server, quick());
    observer.await_services(&["ns/old 1", "ns/web 2"]).unwrap();
    server
        .apply(&slice("web-2", "web", &["10.244.0.3"]))
        .unwrap();
    server.delete(Resource::Services, "ns", "old").unwrap();
    observer.await_services(&["ns/web 3"]).unwrap();
    assert_eq!(observer.seen().memory().frontends.len(), 2);
    server.apply(&service("new", 3)).unwrap();
    observer.await_services(&["ns/new 0", "ns/web 3"]).unwrap();
    for name in ["web", "new"] {
        server.delete(Resource::Services, "ns", name).unwrap();
    }
    observer
        .await_seen("no frontend is left", |seen| {
            seen.memory().frontends.is_empty()
        })
        .unwrap();
    assert_eq!(observer.warnings(), Vec::<String>::new());
    observer.end().unwrap();
}

#[test]
fn requests_are_narrowed_by_the_server() {
    let server = server();
    let (observer, _directory) = observer(&server, quick());
    observer.await_services(&["ns/old 1", "ns/web 2"]).unwrap();
    // The Node and the networks are not waited for by the tables.
    observer
        .await_seen("all kinds are asked for", |seen| seen.restarts == 4)
        .unwrap();
    for resource in [Resource::Nodes, Resource::ServiceCidrs] {
        server.await_streams(resource, 1, PATIENCE).unwrap();
    }
    let requests = server.requests();
    let query = |resource: Resource, name: &str| {
        let request = requests.iter().find(|it| it.resource == resource).unwrap();
        request.query.get(name).cloned().unwrap_or_default()
    };
    assert_eq!(
        query(Resource::Services, "labelSelector"),
        format!("!{LABEL_PROXY}")
    );
    assert_eq!(
        query(Resource::Services, "fieldSelector"),
        "spec.clusterIP!=None"
    );
    assert_eq!(
        query(Resource::EndpointSlices, "labelSelector"),
        format!("!{LABEL_HEADLESS}")
    );
    assert_eq!(
        query(Resource::Nodes, "fieldSelector"),
        format!("metadata.name={NODE}")
    );
    for request in &requests {
        assert_eq!(request.verb, Verb::Watch, "streaming lists: {request:?}");
    }
}

#[test]
fn labels_act_live() {
    let server = server();
    let (observer, _directory) = observer(&server, quick());
    observer.await_services(&["ns/old 1", "ns/web 2"]).unwrap();

    let mut other = service("web", 1);
    other["metadata"]["labels"] = json!({LABEL_PROXY: ""});
    server.apply(&other).unwrap();
    observer.await_services(&["ns/old 1"]).unwrap();
    server.apply(&service("web", 1)).unwrap();
    observer.await_services(&["ns/old 1", "ns/web 2"]).unwrap();

    let mut headless = slice("web-1", "web", &["10.244.0.1", "10.244.0.2"]);
    headless["metadata"]["labels"][LABEL_HEADLESS] = "".into();
    server.apply(&headless).unwrap();
    observer.await_services(&["ns/old 1", "ns/web 0"]).unwrap();
    headless["metadata"]["labels"]
        .as_object_mut()
        .unwrap()
        .remove(LABEL_HEADLESS);
    server.apply(&headless).unwrap();
    observer.await_services(&["ns/old 1", "ns/web 2"]).unwrap();
    assert_eq!(observer.seen().restarts, 4, "no list was needed: one each");
}

#[test]
fn a_server_without_streaming_lists_is_listed_in_pages() {
    let server = server();
    server.stream_lists(false);
    for number in 0..600_u32 {
        let name = format!("many-{number}");
        server
            .apply(&slice(&name, "many", &["10.244.1.1"]))
            .unwrap();
    }
    server.apply(&service("many", 3)).unwrap();
    let (observer, _directory) = observer(&server, quick());
    observer
        .await_services(&["ns/many 600", "ns/old 1", "ns/web 2"])
        .unwrap();
    let pages = server.requests();
    let pages = pages
        .iter()
        .filter(|it| it.verb == Verb::List && it.resource == Resource::EndpointSlices);
    assert_eq!(pages.count(), 2);
    server
        .apply(&slice("web-2", "web", &["10.244.0.3"]))
        .unwrap();
    observer
        .await_services(&["ns/many 600", "ns/old 1", "ns/web 3"])
        .unwrap();
    assert_eq!(observer.warnings(), Vec::<String>::new());
}

#[test]
fn a_server_without_service_cidrs_is_gone_on_without() {
    let server = server();
    server.forget_resource(Resource::ServiceCidrs);
    let (observer, _directory) = observer(&server, quick());
    observer.await_services(&["ns/old 1", "ns/web 2"]).unwrap();
    assert_eq!(observer.warnings(), Vec::<String>::new());
}

#[test]
fn streams_that_break_in_every_way_go_on_where_they_were() {
    let server = server();
    let (observer, _directory) = observer(&server, quick());
    observer.await_services(&["ns/old 1", "ns/web 2"]).unwrap();
    let mut expected = 2;
    for cut in [Cut::Graceful, Cut::Abort, Cut::MidObject] {
        server.cut(Resource::EndpointSlices, cut);
        server.cut(Resource::Services, cut);
        expected += 1;
        let address = format!("10.244.0.{expected}");
        let name = format!("web-{expected}");
        server.apply(&slice(&name, "web", &[&address])).unwrap();
        observer
            .await_services(&["ns/old 1", &format!("ns/web {expected}")])
            .unwrap();
    }
    server.break_next_event(Resource::EndpointSlices);
    server
        .apply(&slice("web-9", "web", &["10.244.0.99"]))
        .unwrap();
    observer.await_services(&["ns/old 1", "ns/web 6"]).unwrap();
    assert_eq!(observer.seen().restarts, 4, "no new list was needed");
    assert_eq!(observer.warnings(), Vec::<String>::new());
}

#[test]
fn null_lists_and_bookmarks_of_empty_objects_are_nothing_to_stumble_over() {
    for streams in [true, false] {
        let server = server();
        server.stream_lists(streams);
        let null = |name: &str| {
            let mut slice = slice(name, "old", &[]);
            slice["endpoints"] = Value::Null;
            slice["ports"] = Value::Null;
            slice
        };
        // Listed, ...
        server.apply(&null("old-2")).unwrap();
        let (observer, _directory) = observer(&server, quick());
        observer.await_services(&["ns/old 1", "ns/web 2"]).unwrap();
        // ... and told of; a real server's bookmarks have the nulls too.
        server.apply(&null("old-1")).unwrap();
        for resource in [Resource::Services, Resource::EndpointSlices] {
            server.await_streams(resource, 1, PATIENCE).unwrap();
            server.send_bookmarks(resource);
        }
        server
            .apply(&slice("web-2", "web", &["10.244.0.3"]))
            .unwrap();
        observer.await_services(&["ns/old 0", "ns/web 3"]).unwrap();
        assert_eq!(observer.warnings(), Vec::<String>::new());
        assert_eq!(observer.seen().report.problems, []);
    }
}

#[test]
fn requests_without_an_answer_or_a_body_are_given_up_and_asked_again() {
    for fault in [Fault::Hang, Fault::Silent] {
        let server = server();
        let timing = Timing {
            answer: Duration::from_secs(1),
            initial: Duration::from_secs(1),
            idle: Duration::from_secs(2),
            ..quick()
        };
        for resource in [Resource::Services, Resource::EndpointSlices] {
            server.inject(Rule::new(fault).on(resource).times(2));
        }
        let (observer, _directory) = observer(&server, timing);
        observer
            .await_services(&["ns/old 1", "ns/web 2"])
            .unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        let requests = server.requests();
        let asked = requests
            .iter()
            .filter(|it| it.resource == Resource::Services);
        assert!(asked.count() >= 3, "{fault:?}");
    }
}

#[test]
fn a_silent_stream_is_opened_again() {
    let server = server();
    let timing = Timing {
        idle: Duration::from_secs(1),
        ..quick()
    };
    let (observer, _directory) = observer(&server, timing);
    observer.await_services(&["ns/old 1", "ns/web 2"]).unwrap();
    server.silence(Resource::EndpointSlices, true);
    server.forget_requests();
    clock::eventually("the slices are asked for again", PATIENCE, || {
        let requests = server.requests();
        let again = requests
            .iter()
            .any(|it| it.resource == Resource::EndpointSlices);
        Ok(again.then_some(()))
    })
    .unwrap();
    server.silence(Resource::EndpointSlices, false);
    server
        .apply(&slice("web-2", "web", &["10.244.0.3"]))
        .unwrap();
    observer.await_services(&["ns/old 1", "ns/web 3"]).unwrap();
}

#[test]
fn every_error_of_the_server_is_survived() {
    for fault in [
        Fault::Unauthorized,
        Fault::TooManyRequests { retry_after: 1 },
        Fault::InternalError,
        Fault::GatewayTimeout,
        Fault::Gone,
        Fault::GoneInStream,
        Fault::EndAfter(1),
        Fault::CutMidObject(1),
        Fault::SlowDrip {
            bytes: 7,
            pause: Duration::from_millis(1),
        },
    ] {
        let server = server();
        server.inject(Rule::new(fault).on(Resource::Services).times(2));
        server.inject(Rule::new(fault).on(Resource::EndpointSlices).times(3));
        let (observer, _directory) = observer(&server, quick());
        observer
            .await_services(&["ns/old 1", "ns/web 2"])
            .unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        server.inject(Rule::new(fault).on(Resource::EndpointSlices).times(2));
        server.cut(Resource::EndpointSlices, Cut::Abort);
        server
            .apply(&slice("web-2", "web", &["10.244.0.3"]))
            .unwrap();
        observer
            .await_services(&["ns/old 1", "ns/web 3"])
            .unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        observer
            .await_seen("nothing is wrong", |seen| {
                seen.report
                    .api
                    .as_ref()
                    .is_some_and(|api| api.problems.is_empty())
            })
            .unwrap_or_else(|error| panic!("{fault:?}: {error}"));
    }
}

#[test]
fn an_api_away_and_back_with_everything_changed_replaces_everything() {
    let server = server();
    let (observer, _directory) = observer(&server, quick());
    observer.await_services(&["ns/old 1", "ns/web 2"]).unwrap();
    let before = observer.seen().memory().clone();
    server.close().unwrap();
    observer
        .await_seen("the server is missed", |seen| {
            seen.report
                .api
                .as_ref()
                .is_some_and(|api| !api.problems.is_empty())
        })
        .unwrap();
    server.delete(Resource::Services, "ns", "old").unwrap();
    server
        .delete(Resource::EndpointSlices, "ns", "old-1")
        .unwrap();
    server
        .delete(Resource::EndpointSlices, "ns", "web-1")
        .unwrap();
    server
        .apply(&slice("web-7", "web", &["10.244.7.7"]))
        .unwrap();
    server.apply(&service("new", 3)).unwrap();
    server.compact();
    let now = observer.seen().memory().clone();
    assert_eq!(now.frontends, before.frontends, "what is programmed stays");
    assert_eq!(now.backends, before.backends);
    // Slices are back first, and nothing is taken for gone by them alone.
    server.inject(Rule::new(Fault::InternalError).on(Resource::Services));
    server.reopen().unwrap();
    observer
        .await_seen("the slices are back", |seen| {
            services(seen.replica.model()) == ["ns/old 1", "ns/web 3"]
        })
        .unwrap();
    server.inject_nothing();
    observer.await_services(&["ns/new 0", "ns/web 1"]).unwrap();
    let warnings = observer.warnings();
    let unreachable = warnings
        .iter()
        .filter(|it| it.contains("cannot be reached"));
    assert_eq!(unreachable.count(), 1, "{warnings:#?}");
}

#[test]
fn nothing_is_written_before_both_kinds_are_listed() {
    for missing in [Resource::Services, Resource::EndpointSlices] {
        let server = server();
        server.inject(Rule::new(Fault::GatewayTimeout).on(missing));
        let (observer, _directory) = observer(&server, quick());
        let other = if missing == Resource::Services {
            Resource::EndpointSlices
        } else {
            Resource::Services
        };
        server.await_streams(other, 1, PATIENCE).unwrap();
        observer
            .await_seen("the other kind is known", |seen| {
                seen.report
                    .api
                    .as_ref()
                    .is_some_and(|api| api.last_event_at.is_some() && !api.problems.is_empty())
            })
            .unwrap();
        assert!(!observer.seen().is_listed());
        assert!(observer.seen().memory().is_empty());
        server.inject_nothing();
        observer.await_services(&["ns/old 1", "ns/web 2"]).unwrap();
    }
}

#[test]
fn a_recorded_cluster_arrives_whole_whatever_happens_to_its_streams() {
    let recording = Recording::load().unwrap();
    let server = ApiServer::start().unwrap();
    recording.begin(&server).unwrap();
    let (followed, _directory) = observer(&server, quick());
    followed
        .await_seen("it is listed", Seen::is_listed)
        .unwrap();
    let middle = recording
        .steps
        .iter()
        .find(|step| step.name.contains("bookmarks"))
        .map(|step| step.revision)
        .unwrap();
    let mut counts = Vec::new();
    for end in [middle, u64::MAX] {
        let changes = recording.changes.iter().enumerate();
        for (index, change) in changes.filter(|(_, change)| change.revision <= end) {
            if change.revision <= server.revision() {
                continue;
            }
            recording.replay_until(&server, change.revision).unwrap();
            if index % 40 == 7 {
                server.cut(Resource::EndpointSlices, Cut::MidObject);
            }
            if index % 60 == 11 {
                server.cut(Resource::Services, Cut::Abort);
            }
            if index % 150 == 100 {
                server.compact();
                server.cut(Resource::Services, Cut::Abort);
                server.cut(Resource::EndpointSlices, Cut::Abort);
            }
        }
        // A source that starts now sees the objects of this moment alone.
        let (fresh, _directory) = observer(&server, quick());
        fresh.await_seen("it is listed", Seen::is_listed).unwrap();
        let expected = services(fresh.seen().replica.model());
        counts.push(expected.len());
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        followed.await_services(&expected).unwrap();
        let (followed, fresh) = (followed.seen(), fresh.seen());
        let frontends = |seen: &Seen| {
            let tables = seen.memory();
            tables.frontends.keys().copied().collect::<Vec<_>>()
        };
        assert_eq!(frontends(&followed), frontends(&fresh));
    }
    assert!(counts[0] > 20 && counts[1] < 5, "{counts:?}");
}
