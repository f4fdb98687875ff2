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
use serde_json::{Value, json};

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

fn body_of(answer: Answer) -> Value {
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
            let answer = body_of(get(&server, path));
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

/// Status and headers of a recorded answer, but for those that differ with every answer or that no
/// client reads.
fn recorded_head(file: &str) -> (u16, Vec<(String, String)>) {
    let text = recording::read(file).expect("a recorded head");
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let status = status.and_then(|code| code.parse().ok()).expect("a status");
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .filter(|(name, _)| {
            !["date", "content-length"].contains(&name.as_str())
                && !name.starts_with("x-kubernetes-pf-")
        });
    (status, headers.collect())
}

#[track_caller]
fn check_head(answer: &Answer, file: &str) {
    let (status, headers) = recorded_head(file);
    assert_eq!(answer.status, status, "{file}");
    for (name, value) in headers {
        let found = answer.header(&name);
        if name == "audit-id" {
            assert!(found.is_some(), "{file}: {name}");
        } else {
            assert_eq!(found, Some(value.as_str()), "{file}: {name}");
        }
    }
}

#[test]
fn errors_are_worded_as_by_the_real_server() {
    let server = ApiServer::start().expect("a free port");
    server.accept_tokens(&[("right", "system:node:a")]);
    server.advance(2645);
    server.compact();
    let expired = "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MjYyNywic3RhcnQiOiIvZXJyL3MwXHUwMDAwIn0";
    let check = |query: &str, token: &str, file: &str| {
        let authorization = format!("Bearer {token}");
        let headers = [("authorization", authorization.as_str())];
        let path = format!("/{query}");
        let answer = http::get(server.address(), &path, &headers, PATIENCE).expect("an answer");
        check_head(&answer, &format!("errors/{file}.headers"));
        let body = String::from_utf8(answer.body().expect("a body")).expect("text");
        let recorded = recording::read(&format!("errors/{file}")).expect("a recorded body");
        match serde_json::from_str::<Value>(&recorded) {
            Ok(recorded) => {
                let body: Value = serde_json::from_str(&body).expect("JSON");
                assert_eq!(body, recorded, "{file}");
            }
            Err(_) => assert_eq!(body.trim_end(), recorded.trim_end(), "{file}"),
        }
    };
    let services = "api/v1/services";
    for (query, file) in [
        (
            format!("{services}?watch=1&resourceVersion=abc"),
            "400-watch-bad-rv.json",
        ),
        (
            "api/v1/namespaces/err/services/nope".to_owned(),
            "404-get.json",
        ),
        (
            "apis/nope.example.com/v1/things".to_owned(),
            "404-unknown-api.txt",
        ),
        (
            format!("{services}?resourceVersion=1&resourceVersionMatch=Exact"),
            "410-list-exact-too-old.json",
        ),
        (
            format!("{services}?limit=2&continue={expired}"),
            "410-list-expired-continue.json",
        ),
        (
            format!("{services}?limit=2&resourceVersion=1"),
            "410-list-limit-old-rv.json",
        ),
        (
            format!("{services}?watch=1&resourceVersion=2627"),
            "410-watch-too-old.jsonl",
        ),
        (
            format!("{services}?watch=1&sendInitialEvents=true"),
            "422-sendInitialEvents-bad.json",
        ),
    ] {
        check(&query, "right", file);
    }
    check(services, "wrong", "401.json");
    server.advance(2651);
    let future = format!("{services}?resourceVersion=99999999&resourceVersionMatch=NotOlderThan");
    check(&future, "right", "504-list-too-large-rv.json");
}

#[test]
fn a_watch_from_the_future_is_silent_until_that_is_reached() {
    let server = server_at(99);
    let mut answer = get(&server, &format!("{SERVICES}?watch=1&resourceVersion=103"));
    check_head(&answer, "errors/504-watch-too-large-rv.jsonl.headers");
    let recording = Recording::load().expect("the recordings");
    recording.replay_until(&server, 115).expect("more changes");
    let first = read_events(&mut answer, 1).remove(0);
    assert_eq!(first["object"]["metadata"]["resourceVersion"], "105");
}

#[test]
fn pages_are_those_of_the_real_server_and_all_of_one_revision() {
    let server = server_at(99);
    let first = recording::list("list-nodes-limit2-page1.json").expect("a recorded page");
    assert_eq!(body_of(get(&server, &format!("{NODES}?limit=2"))), first);
    let recording = Recording::load().expect("the recordings");
    recording.replay_until(&server, END).expect("all changes");
    let token = first["metadata"]["continue"].as_str().expect("a token");
    let path = format!("{NODES}?limit=2&continue={token}");
    let second = recording::list("list-nodes-limit2-page2.json").expect("a recorded page");
    assert_eq!(body_of(get(&server, &path)), second);

    server.compact();
    let expired = get(&server, &path);
    assert_eq!(expired.status, 410);
    let renewed = body_of(expired)["metadata"]["continue"].clone();
    let renewed = renewed.as_str().expect("a token");
    let rest = body_of(get(&server, &format!("{NODES}?limit=2&continue={renewed}")));
    assert_eq!(rest["metadata"]["resourceVersion"], END.to_string());
    assert_eq!(rest["items"].as_array().map(Vec::len), Some(1));
}

#[test]
fn the_stream_of_a_watch_is_framed_and_ended_as_by_the_real_server() {
    let recorded = recording::read("http11-watch-services.raw").expect("a recorded stream");
    let (_, body) = recorded.split_once("\r\n\r\n").expect("a head and a body");
    let events: Vec<Value> = body
        .split("\r\n")
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).expect("one event a chunk"))
        .collect();
    let server = ApiServer::start().expect("a free port");
    let restored = server.restore(Resource::Services, &events[0]["object"], 69);
    restored.expect("the first object");
    server.advance(2693);
    let query = "watch=1&sendInitialEvents=true&allowWatchBookmarks=true\
        &resourceVersionMatch=NotOlderThan&timeoutSeconds=1";
    let mut answer = get(&server, &format!("{SERVICES}?{query}"));
    assert_eq!(read_events(&mut answer, 2), events);
    assert_eq!(answer.chunk().expect("an end in order"), None);
}

#[test]
fn a_watch_with_a_timeout_says_how_far_it_is_and_ends() {
    let recorded = recording::events("watch-services-timeout5.jsonl").expect("a recorded watch");
    assert!(recorded.iter().any(|event| event["type"] == "BOOKMARK"));
    let expected = without_bookmarks(recorded);
    let server = server_at(212);
    let query = "watch=1&allowWatchBookmarks=true&resourceVersion=99&timeoutSeconds=3";
    let mut answer = get(&server, &format!("{SERVICES}?{query}"));
    assert_eq!(read_events(&mut answer, expected.len()), expected);
    let bookmark = read_events(&mut answer, 1).remove(0);
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["resourceVersion"], "212");
    assert_eq!(answer.chunk().expect("an end in order"), None);
}

#[test]
fn large_lists_are_compressed_for_those_who_take_it() {
    let server = ApiServer::start().expect("a free port");
    let large = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": "large", "annotations": { "a": "x".repeat(128 * 1024) } },
    });
    server.apply(&large).expect("a large object");
    let gzip = [("accept-encoding", "gzip")];
    let ask = |path, headers: &[(&str, &str)]| {
        http::get(server.address(), path, headers, PATIENCE).expect("an answer")
    };
    let answer = ask(SERVICES, &gzip);
    assert_eq!(answer.header("content-encoding"), Some("gzip"));
    let body = answer.body().expect("a body");
    let list: Value =
        serde_json::from_reader(flate2::read::GzDecoder::new(&body[..])).expect("JSON in gzip");
    let plain = ask(SERVICES, &[]);
    assert_eq!(plain.header("content-encoding"), None);
    assert_eq!(list, body_of(plain));
    assert_eq!(ask(NODES, &gzip).header("content-encoding"), None);
}
