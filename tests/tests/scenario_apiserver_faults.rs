//! What goes wrong with the API server of the tests, goes wrong as it was asked to: a client that
//! survives it has survived something.
#![expect(
    clippy::tests_outside_test_module,
    reason = "a test binary is nothing but tests"
)]

use std::time::Duration;

use lb_tests::apiserver::{ApiServer, Cut, Fault, PolicyRule, Resource, Rule, Verb};
use lb_tests::clock;
use lb_tests::http::{self, Answer};
use serde_json::{Value, json};

/// Longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long nothing has to come for an answer to count as silent.
const SILENCE: Duration = Duration::from_millis(300);

const SERVICES: &str = "/api/v1/services";
const WATCH: &str = "/api/v1/services?watch=1&allowWatchBookmarks=true";

fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name, "namespace": "default" },
        "spec": { "clusterIP": "10.96.0.1" },
    })
}

/// A server with two Services.
fn server() -> ApiServer {
    let server = ApiServer::start().expect("a free port");
    for name in ["a", "b"] {
        server.apply(&service(name)).expect("a Service");
    }
    server
}

fn get(server: &ApiServer, path: &str) -> Answer {
    http::get(server.address(), path, &[], PATIENCE).expect("an answer")
}

/// Type and name of the next event.
fn next(answer: &mut Answer) -> (String, String) {
    let chunk = answer.chunk().expect("a chunk").expect("an event");
    let event: Value = serde_json::from_slice(&chunk).expect("one event a chunk");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (
        text(&event["type"]),
        text(&event["object"]["metadata"]["name"]),
    )
}

fn event(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

#[test]
fn failing_answers_have_their_status_and_are_used_up() {
    for (fault, status) in [
        (Fault::Unauthorized, 401),
        (Fault::TooManyRequests { retry_after: 2 }, 429),
        (Fault::InternalError, 500),
        (Fault::GatewayTimeout, 504),
        (Fault::Gone, 410),
    ] {
        for path in [SERVICES, WATCH] {
            let server = server();
            server.inject(Rule::new(fault).on(Resource::Services).times(1));
            assert_eq!(get(&server, "/api/v1/nodes").status, 200, "{fault:?}");
            let answer = get(&server, path);
            assert_eq!(answer.status, status, "{fault:?} {path}");
            let retry_after = (status == 429).then_some("2");
            assert_eq!(answer.header("retry-after"), retry_after, "{fault:?}");
            assert_eq!(get(&server, path).status, 200, "{fault:?} is used up");
        }
    }
}

#[test]
fn a_watch_can_be_gone_though_its_status_is_200() {
    let server = server();
    server.inject(Rule::new(Fault::GoneInStream).when(Verb::Watch));
    assert_eq!(get(&server, SERVICES).status, 200);
    let mut answer = get(&server, &format!("{WATCH}&resourceVersion=1"));
    assert_eq!(answer.status, 200);
    let chunk = answer.chunk().expect("a chunk").expect("an event");
    let event: Value = serde_json::from_slice(&chunk).expect("an event");
    assert_eq!(
        (&event["type"], &event["object"]["code"]),
        (&json!("ERROR"), &json!(410))
    );
    assert_eq!(answer.chunk().expect("an end in order"), None);
}

#[test]
fn answers_break_off_in_the_middle_of_an_object() {
    let server = server();
    server.inject(Rule::new(Fault::CutMidObject(1)));
    let mut answer = get(&server, WATCH);
    assert_eq!(next(&mut answer), event("ADDED", "a"));
    let half = answer.chunk().expect("a chunk").expect("half an event");
    serde_json::from_slice::<Value>(&half).expect_err("only half an event");
    answer.chunk().expect_err("the connection broke");
    get(&server, SERVICES)
        .body()
        .expect_err("the list broke off");
    server.inject_nothing();
    get(&server, SERVICES).body().expect("a whole list");
}

#[test]
fn streams_end_in_order_after_so_many_events() {
    let server = server();
    server.inject(Rule::new(Fault::EndAfter(1)));
    let mut answer = get(&server, WATCH);
    assert_eq!(next(&mut answer), event("ADDED", "a"));
    assert_eq!(answer.chunk().expect("an end in order"), None);
}

#[test]
fn silence_keeps_the_connection_open() {
    let server = server();
    server.inject(Rule::new(Fault::Silent).times(1));
    let connection = http::connect(server.address(), PATIENCE).expect("a connection");
    let handle = connection.try_clone().expect("the same connection");
    let answer = http::ask(Box::new(connection), "GET", WATCH, &[], "");
    let mut answer = answer.expect("a head");
    assert_eq!(answer.status, 200);
    handle
        .set_read_timeout(Some(SILENCE))
        .expect("a shorter patience");
    let error = answer.chunk().expect_err("nothing comes");
    assert!(is_timeout(&error), "{error:#}");
    server.inject(Rule::new(Fault::Hang).times(1));
    let error = http::get(server.address(), SERVICES, &[], SILENCE).err();
    let error = error.expect("no answer");
    assert!(is_timeout(&error), "{error:#}");
    let log = server.requests();
    assert_eq!(log.last().map(|request| request.status), Some(0));
}

fn is_timeout(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref().map(std::io::Error::kind);
    matches!(
        kind,
        Some(std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
    )
}

#[test]
fn a_slow_answer_comes_in_small_pieces_and_is_whole() {
    let server = server();
    let whole = get(&server, SERVICES).body().expect("a list");
    let pause = Duration::from_millis(2);
    server.inject(Rule::new(Fault::SlowDrip { bytes: 16, pause }).times(2));
    let started = clock::now();
    let slow = get(&server, SERVICES).body().expect("a list");
    let pieces = u32::try_from(whole.len().div_ceil(16)).expect("a short list");
    assert!(started.elapsed() >= pause * pieces);
    assert_eq!(slow, whole);
    let chunk = get(&server, WATCH)
        .chunk()
        .expect("a chunk")
        .expect("a piece");
    assert_eq!(chunk.len(), 16);
}

#[test]
fn open_streams_are_cut_silenced_and_told_how_far_they_are() {
    for cut in [Cut::Graceful, Cut::Abort, Cut::MidObject] {
        let server = server();
        let mut answer = get(
            &server,
            &format!("{WATCH}&resourceVersion={}", server.revision()),
        );
        server
            .await_streams(Resource::Services, 1, PATIENCE)
            .expect("an open stream");
        server.send_bookmarks(Resource::Services);
        assert_eq!(next(&mut answer), event("BOOKMARK", ""));
        server.silence(Resource::Services, true);
        server.apply(&service("c")).expect("a Service");
        server.silence(Resource::Services, false);
        assert_eq!(next(&mut answer), event("ADDED", "c"));
        server.cut(Resource::Services, cut);
        let last = answer.chunk();
        match cut {
            Cut::Graceful => assert_eq!(last.expect("an end in order"), None),
            Cut::Abort => drop(last.expect_err("the connection broke")),
            Cut::MidObject => {
                let half = last.expect("a chunk").expect("half an object");
                serde_json::from_slice::<Value>(&half).expect_err("only half an object");
                answer.chunk().expect_err("the connection broke");
            }
        }
        server
            .await_streams(Resource::Services, 0, PATIENCE)
            .expect("no stream is open");
    }
}

#[test]
fn the_next_event_breaks_off_and_a_new_watch_has_it_whole() {
    let server = server();
    let path = format!("{WATCH}&resourceVersion={}", server.revision());
    let mut answer = get(&server, &path);
    server.break_next_event(Resource::Services);
    server
        .delete(Resource::Services, "default", "a")
        .expect("a Service");
    let half = answer.chunk().expect("a chunk").expect("half an event");
    serde_json::from_slice::<Value>(&half).expect_err("only half an event");
    answer.chunk().expect_err("the connection broke");
    assert_eq!(next(&mut get(&server, &path)), event("DELETED", "a"));
}

#[test]
fn an_object_that_leaves_a_selection_is_deleted_for_it_and_added_when_it_returns() {
    let server = server();
    let revision = server.revision();
    let selector = "labelSelector=!service.kubernetes.io/service-proxy-name";
    let mut narrow = get(
        &server,
        &format!("{WATCH}&resourceVersion={revision}&{selector}"),
    );
    let mut all = get(&server, &format!("{WATCH}&resourceVersion={revision}"));
    let mut labelled = service("a");
    labelled["metadata"]["labels"] = json!({ "service.kubernetes.io/service-proxy-name": "x" });
    server.apply(&labelled).expect("a Service");
    server.apply(&service("a")).expect("a Service");
    assert_eq!(next(&mut narrow), event("DELETED", "a"));
    assert_eq!(next(&mut narrow), event("ADDED", "a"));
    assert_eq!(next(&mut all), event("MODIFIED", "a"));
    assert_eq!(next(&mut all), event("MODIFIED", "a"));
}

#[test]
fn a_watch_of_a_forgotten_revision_is_gone() {
    let server = server();
    let old = server.revision();
    server.apply(&service("c")).expect("a Service");
    let path = format!("{WATCH}&resourceVersion={old}");
    assert_eq!(next(&mut get(&server, &path)), event("ADDED", "c"));
    server.compact();
    assert_eq!(next(&mut get(&server, &path)).0, "ERROR");
    // A list of no special revision always works.
    assert_eq!(get(&server, SERVICES).status, 200);
}

#[test]
fn a_server_without_streaming_lists_or_service_cidrs_says_so() {
    let server = server();
    let cidrs = "/apis/networking.k8s.io/v1/servicecidrs";
    assert_eq!(get(&server, cidrs).status, 200);
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
    assert_eq!(get(&server, &format!("{WATCH}&{query}")).status, 200);
    server.stream_lists(false);
    server.forget_resource(Resource::ServiceCidrs);
    assert_eq!(get(&server, cidrs).status, 404);
    assert_eq!(get(&server, &format!("{WATCH}&{query}")).status, 422);
}

#[test]
fn a_closed_server_refuses_connections_until_it_is_opened_at_the_same_port() {
    let server = server();
    let mut answer = get(&server, WATCH);
    assert_eq!(next(&mut answer), event("ADDED", "a"));
    server.close().expect("a closed port");
    let error = http::connect(server.address(), PATIENCE).expect_err("nobody listens");
    let kind = error.downcast_ref().map(std::io::Error::kind);
    assert_eq!(kind, Some(std::io::ErrorKind::ConnectionRefused));
    while let Ok(chunk) = answer.chunk() {
        assert!(chunk.is_some(), "the stream broke, it did not end");
    }
    server
        .apply(&service("c"))
        .expect("a Service, though nobody listens");
    server.reopen().expect("the same port");
    let list: Value =
        serde_json::from_slice(&get(&server, SERVICES).body().expect("a list")).expect("JSON");
    assert_eq!(list["items"].as_array().map(Vec::len), Some(3));
}

#[test]
fn only_who_knows_the_authority_trusts_the_server() {
    let server = ApiServer::start_tls().expect("a free port");
    assert!(server.url().starts_with("https://127.0.0.1:"));
    let authority = server.authority_pem().expect("an authority").to_owned();
    let connection = http::connect_tls(server.address(), &authority, PATIENCE).expect("trust");
    let answer = http::ask(connection, "GET", "/readyz", &[], "").expect("an answer");
    assert_eq!(answer.body().expect("a body"), b"ok");
    server.change_authority().expect("another authority");
    let error = http::connect_tls(server.address(), &authority, PATIENCE).err();
    let error = error.expect("no trust");
    assert!(error.to_string().contains("certificate"), "{error:#}");
}

#[test]
fn tokens_and_rules_decide_and_the_log_has_every_request() {
    let server = server();
    server.accept_tokens(&[("secret", "system:serviceaccount:kube-system:steerage")]);
    server.permit_only(vec![PolicyRule::new("", &["services", "nodes"], &["list"])]);
    let ask = |path: &str, token: &str| {
        let value = format!("Bearer {token}");
        let headers = [("authorization", value.as_str())];
        http::get(server.address(), path, &headers, PATIENCE).expect("an answer")
    };
    assert_eq!(ask(SERVICES, "secret").status, 200);
    assert_eq!(ask(SERVICES, "wrong").status, 401);
    assert_eq!(get(&server, SERVICES).status, 403, "nobody in particular");
    assert_eq!(ask(WATCH, "secret").status, 403);
    let slices = "/apis/discovery.k8s.io/v1/endpointslices?limit=5";
    let refused = ask(slices, "secret").body().expect("a body");
    let refused: Value = serde_json::from_slice(&refused).expect("a Status");
    assert_eq!(
        refused["message"],
        "endpointslices.discovery.k8s.io is forbidden: User \
         \"system:serviceaccount:kube-system:steerage\" cannot list resource \"endpointslices\" \
         in API group \"discovery.k8s.io\" at the cluster scope"
    );
    server.forbid(Verb::List, Resource::Services);
    assert_eq!(ask(SERVICES, "secret").status, 403);
    server.forbid_nothing();
    assert_eq!(ask(SERVICES, "secret").status, 200);
    let log = server.requests();
    let statuses: Vec<u16> = log.iter().map(|request| request.status).collect();
    assert_eq!(statuses, [200, 401, 403, 403, 403, 403, 200]);
    let of_slices = &log[4];
    assert_eq!(of_slices.resource, Resource::EndpointSlices);
    assert_eq!(of_slices.verb, Verb::List);
    assert_eq!(of_slices.user, "system:serviceaccount:kube-system:steerage");
    assert_eq!(of_slices.query.get("limit").map(String::as_str), Some("5"));
    assert_eq!(log[1].user, "", "the token was not known");
}

#[test]
fn events_are_created_once_and_patched_after_that() {
    let server = server();
    let path = "/apis/events.k8s.io/v1/namespaces/default/events";
    let send = |method, path: &str, body: &Value| {
        let connection = http::connect(server.address(), PATIENCE).expect("a connection");
        let body = body.to_string();
        http::ask(Box::new(connection), method, path, &[], &body).expect("an answer")
    };
    let event = json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": { "name": "e", "namespace": "default" },
        "reason": "Refused",
    });
    assert_eq!(send("POST", path, &event).status, 201);
    assert_eq!(send("POST", path, &event).status, 409);
    let patch = json!({ "series": { "count": 2, "lastObservedTime": "2026-01-01T00:00:00Z" } });
    assert_eq!(send("PATCH", &format!("{path}/e"), &patch).status, 200);
    assert_eq!(send("PATCH", &format!("{path}/f"), &patch).status, 404);
    assert_eq!(
        send("POST", "/api/v1/namespaces/default/services", &service("x")).status,
        400
    );
    let events = server.objects(Resource::Events);
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["series"]["count"], 2);
    assert_eq!(events[0]["reason"], "Refused");
}
