//! Kubernetes Events as an API server gets them: what they say, how often, and what becomes of those
//! that it does not take.
#![expect(
    clippy::tests_outside_test_module,
    reason = "a test binary is nothing but tests"
)]

use std::time::Duration;

use lb_agent::model::event::Kind;
use lb_agent::model::name::ObjectName;
use lb_agent::source::kubernetes::events::{Gravity, Note, Regarding};
use lb_tests::apiserver::{ApiServer, Resource, Verb};
use lb_tests::clock;
use lb_tests::observer::{NODE, Observer, PATIENCE, quick, service_account};
use serde_json::{Value, json};
use tempfile::TempDir;

const UID: &str = "0a3f2c1e-7b64-4d2f-9c55-0e1d2c3b4a59";
/// Events that an agent may send in a row, and how often one more.
const BURST: usize = 20;
const REFILL: Duration = Duration::from_secs(10);

fn service(name: &str, number: u8) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "ns"},
        "spec": {"clusterIP": format!("10.96.0.{number}"), "ports": [{"port": 80}]},
    })
}

/// A server over TLS with this node and a Service, and an agent's source that follows it.
fn stage() -> (ApiServer, Observer, TempDir) {
    let server = ApiServer::start_tls().expect("a free port");
    server.accept_tokens(&[("right", "system:node-proxier")]);
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}});
    server.apply(&node).expect("a Node");
    server.apply(&service("web", 1)).expect("a Service");
    let place = tempfile::tempdir().expect("a directory");
    let api = service_account(&server, place.path(), "right").expect("files of an account");
    let observer = Observer::start(api, place.path(), quick()).expect("a thread");
    observer.await_services(&["ns/web 0"]).expect("a list");
    (server, observer, place)
}

fn note(text: &str) -> Note {
    let name = ObjectName {
        namespace: "ns".into(),
        name: "web".into(),
    };
    Note {
        gravity: Gravity::Warning,
        regarding: Regarding::object(Kind::Service, &name, UID.to_owned()),
        reason: "ExternalAddressRefused",
        action: "Program",
        text: text.to_owned(),
    }
}

/// Waits until the server's Events are as `is_so` says.
#[track_caller]
fn await_events(server: &ApiServer, what: &str, is_so: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    clock::eventually(what, PATIENCE, || {
        let events = server.objects(Resource::Events);
        Ok(is_so(&events).then_some(events))
    })
    .unwrap_or_else(|error| panic!("{error}: {:#?}", server.objects(Resource::Events)))
}

/// What was asked about Events, and how it was answered.
fn asked(server: &ApiServer) -> Vec<(Verb, u16)> {
    let requests = server.requests().into_iter();
    let about_events = requests.filter(|request| request.resource == Resource::Events);
    about_events
        .map(|request| (request.verb, request.status))
        .collect()
}

#[test]
fn an_event_is_created_as_tools_expect_it_and_patched_when_it_happens_again() {
    let (server, observer, _place) = stage();
    let sink = observer.sink().unwrap();
    assert!(sink.send(note("1.2.3.4 refused")));
    let events = await_events(&server, "one Event", |events| events.len() == 1);
    let event = &events[0];
    let regarding = json!({
        "apiVersion": "v1", "kind": "Service", "namespace": "ns", "name": "web", "uid": UID,
    });
    for (field, expected) in [
        ("/metadata/namespace", json!("ns")),
        ("/type", json!("Warning")),
        ("/reason", json!("ExternalAddressRefused")),
        ("/action", json!("Program")),
        ("/note", json!("1.2.3.4 refused")),
        ("/reportingController", json!("steerage.dev/steerage")),
        ("/reportingInstance", json!(NODE)),
        ("/regarding", regarding),
    ] {
        assert_eq!(event.pointer(field), Some(&expected), "{field}");
    }
    assert_eq!(event.pointer("/series"), None, "it has happened once");
    let name = event.pointer("/metadata/name").unwrap();
    assert!(name.as_str().unwrap().starts_with("web."), "{name}");

    for count in 2..=3 {
        assert!(sink.send(note("1.2.3.4 refused")));
        let what = format!("it has happened {count} times");
        let events = await_events(&server, &what, |events| {
            events[0].pointer("/series/count") == Some(&json!(count))
        });
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].pointer("/note"), event.pointer("/note"));
        let last = events[0].pointer("/series/lastObservedTime").unwrap();
        assert!(last.as_str() > event["eventTime"].as_str(), "{last}");
    }
    assert!(sink.send(note("5.6.7.8 refused")));
    await_events(&server, "another Event", |events| events.len() == 2);
    let expected = [
        (Verb::Create, 201),
        (Verb::Patch, 200),
        (Verb::Patch, 200),
        (Verb::Create, 201),
    ];
    assert_eq!(asked(&server), expected);
}

#[test]
fn a_flood_becomes_a_few_events_and_the_watches_go_on() {
    let (server, observer, _place) = stage();
    let sink = observer.sink().unwrap();
    let began = clock::now();
    for number in 0..100 {
        // What finds no room is not sent.
        sink.send(note(&format!("number {number}")));
    }
    // A slow machine sees one more.
    await_events(&server, "the first Events", |events| events.len() >= BURST);
    server.apply(&service("more", 2)).unwrap();
    observer.await_services(&["ns/more 0", "ns/web 0"]).unwrap();
    sink.send(note("one more"));
    clock::eventually("time for many more", PATIENCE, || {
        Ok((began.elapsed() >= Duration::from_secs(3)).then_some(()))
    })
    .unwrap();
    let count = server.objects(Resource::Events).len();
    let refilled = began.elapsed().div_duration_f64(REFILL) + 1.0;
    let most = f64::from(u32::try_from(BURST).unwrap()) + refilled;
    assert!(
        f64::from(u32::try_from(count).unwrap()) <= most,
        "{count} Events after {:?}",
        began.elapsed()
    );
}

#[test]
fn a_server_that_takes_no_events_disturbs_nothing() {
    let (server, observer, _place) = stage();
    server.forbid(Verb::Create, Resource::Events);
    let sink = observer.sink().unwrap();
    assert!(sink.send(note("1.2.3.4 refused")));
    clock::eventually("the Event is refused", PATIENCE, || {
        Ok((asked(&server) == [(Verb::Create, 403)]).then_some(()))
    })
    .unwrap();
    server.apply(&service("more", 2)).unwrap();
    observer.await_services(&["ns/more 0", "ns/web 0"]).unwrap();
    let api = observer.seen().report.api.clone().unwrap_or_default();
    assert_eq!(api.problems, []);
    assert_eq!(observer.warnings(), [""; 0]);
    assert_eq!(observer.seen().restarts, 4, "one list of each kind");
}

#[test]
fn what_happens_while_the_server_is_away_is_told_when_it_is_back() {
    let (server, observer, _place) = stage();
    server.close().unwrap();
    let sink = observer.sink().unwrap();
    assert!(sink.send(note("1.2.3.4 refused")));
    observer
        .await_seen("the server is missed", |seen| {
            let api = seen.report.api.as_ref();
            api.is_some_and(|api| !api.problems.is_empty())
        })
        .unwrap();
    server.reopen().unwrap();
    let has = |events: &[Value], reason: &str| events.iter().any(|it| it["reason"] == *reason);
    await_events(&server, "both Events", |events| {
        has(events, "ExternalAddressRefused") && has(events, "ApiServerUnreachable")
    });
}
