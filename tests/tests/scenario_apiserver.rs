//! The API server of the tests is asked what a real one was asked, in the same state, and answers the
//! same: tests that rest on it rest on the recordings.
#![expect(
    clippy::tests_outside_test_module,
    reason = "a test binary is nothing but tests"
)]

use std::collections::BTreeSet;
use std::time::Duration;

use lb_tests::apiserver::{ApiServer, Resource};
use lb_tests::http::{self, Answer};
use lb_tests::recording::{self, Recording};
use serde_json::Value;

/// Longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(20);
/// The revision of the recorded lists with a Service of every shape.
const MID: u64 = 2339;
/// The revision of the last recorded lists.
const END: u64 = 2704;

const SERVICES: &str = "/api/v1/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
const NODES: &str = "/api/v1/nodes";
/// kube-proxy's selectors, as on the wire.
const OF_KUBE_PROXY: &str = "labelSelector=%21service.kubernetes.io%2Fservice-proxy-name%2C%21service.kubernetes.io%2Fheadless";

/// A server in the state the recording has at `revision`.
fn server_at(revision: u64) -> ApiServer {
    let server = ApiServer::start().expect("a free port");
    let recording = Recording::load().expect("the recordings");
    recording.begin(&server).expect("the first lists");
    let replayed = recording.replay_until(&server, revision);
    replayed.expect("the changes after them");
    server
}

fn get(server: &ApiServer, path: &str) -> Answer {
    http::get(server.address(), path, &[], PATIENCE).expect("an answer")
}

fn json(answer: Answer) -> Value {
    let body = answer.body().expect("a whole body");
    serde_json::from_slice(&body).expect("JSON")
}

/// Reads events, one a chunk, until there are `count`.
fn read_events(answer: &mut Answer, count: usize) -> Vec<Value> {
    let mut events = Vec::new();
    while events.len() < count {
        let chunk = answer.chunk().expect("a chunk").expect("more events");
        events.push(serde_json::from_slice(&chunk).expect("one event a chunk"));
    }
    events
}

fn without_bookmarks(events: Vec<Value>) -> Vec<Value> {
    let events = events.into_iter();
    events.filter(|event| event["type"] != "BOOKMARK").collect()
}

/// What [`OF_KUBE_PROXY`] lets through.
fn is_for_kube_proxy(object: &Value) -> bool {
    let labels = &object["metadata"]["labels"];
    ["service-proxy-name", "headless"]
        .iter()
        .all(|label| labels[format!("service.kubernetes.io/{label}")].is_null())
}

#[test]
fn lists_are_those_of_the_real_server() {
    for (revision, name) in [(99, "list"), (MID, "mid"), (END, "final")] {
        let server = server_at(revision);
        for (path, resource) in [
            (SERVICES, "services"),
            (SLICES, "endpointslices"),
            (NODES, "nodes"),
        ] {
            let file = format!("{name}-{resource}.json");
            let recorded = recording::list(&file).expect("a recorded list");
            let answer = json(get(&server, path));
            // The recorded changes of slices are those that kube-proxy asks for.
            let items = recorded["items"].as_array().expect("items").iter();
            let expected: Vec<_> = match path {
                SLICES => items.filter(|item| is_for_kube_proxy(item)).collect(),
                _ => items.collect(),
            };
            let found: Vec<_> = answer["items"].as_array().expect("items").iter().collect();
            assert_eq!(found, expected, "{file}");
            for field in ["kind", "apiVersion", "metadata"] {
                assert_eq!(answer[field], recorded[field], "{file}: {field}");
            }
        }
    }
}

#[test]
fn watches_tell_what_the_real_server_told() {
    let server = server_at(END);
    for (path, query, file) in [
        (SERVICES, "", "watch-services.jsonl"),
        (
            SERVICES,
            OF_KUBE_PROXY,
            "watch-services-kubeproxy-selector.jsonl",
        ),
        (
            SLICES,
            OF_KUBE_PROXY,
            "watch-endpointslices-kubeproxy-selector.jsonl.gz",
        ),
        (NODES, "", "watch-nodes.jsonl"),
        (
            NODES,
            "fieldSelector=metadata.name%3Dnode-a",
            "watch-nodes-fieldselector-node-a.jsonl",
        ),
    ] {
        let expected = without_bookmarks(recording::events(file).expect("a recorded watch"));
        let path = format!("{path}?watch=true&resourceVersion=99&{query}");
        let mut answer = get(&server, &path);
        let found = read_events(&mut answer, expected.len());
        assert_eq!(found, expected, "{file}");
    }
}

#[test]
fn streaming_lists_are_those_of_the_real_server() {
    let server = server_at(99);
    for (path, resource, file) in [
        (SERVICES, Resource::Services, "watchlist-services.jsonl"),
        (NODES, Resource::Nodes, "watchlist-nodes.jsonl"),
    ] {
        let recorded = recording::events(file).expect("a recorded watch");
        let is_bookmark = |event: &Value| event["type"] == "BOOKMARK";
        let end = recorded.iter().position(is_bookmark).expect("the end mark");
        let query = "watch=1&sendInitialEvents=true&allowWatchBookmarks=true\
            &resourceVersionMatch=NotOlderThan&resourceVersion=";
        let mut answer = get(&server, &format!("{path}?{query}"));
        let found = read_events(&mut answer, end + 1);
        assert_eq!(found, recorded[..=end], "{file}");
        server.send_bookmarks(resource);
        let bookmark = read_events(&mut answer, 1).remove(0);
        let keys = |value: &Value| -> BTreeSet<String> {
            let map = value["object"].as_object().expect("an object");
            map.keys().cloned().collect()
        };
        let later = recorded[end + 1..].iter().find(|it| is_bookmark(it));
        let later = later.expect("a later bookmark");
        assert_eq!(keys(&bookmark), keys(later), "{file}");
        assert_eq!(
            bookmark["object"]["metadata"]["resourceVersion"],
            recording::list("list-nodes.json").expect("a list")["metadata"]["resourceVersion"]
        );
    }
}
