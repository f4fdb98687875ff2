//! How the API source finds servers and identifies, and what it says when it cannot.
#![expect(
    clippy::tests_outside_test_module,
    reason = "a test binary is nothing but tests"
)]

use std::fs;
use std::net::TcpListener;

use lb_agent::settings::ApiSettings;
use lb_tests::apiserver::{ApiServer, PolicyRule, Resource, Verb};
use lb_tests::clock;
use lb_tests::observer::{NODE, Observer, PATIENCE, quick, service_account};
use serde_json::{Value, json};
use tempfile::TempDir;

fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "ns"},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
    })
}

/// A server over TLS with this node and a Service, which accepts the token `right`.
fn server() -> ApiServer {
    let server = ApiServer::start_tls().expect("a free port");
    server.accept_tokens(&[("right", "system:node-proxier")]);
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}});
    server.apply(&node).expect("a Node");
    server.apply(&service("web")).expect("a Service");
    server
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

/// The Events that the server was sent, by reason.
fn reasons(server: &ApiServer) -> Vec<String> {
    let events = server.objects(Resource::Events);
    let mut reasons: Vec<String> = events
        .iter()
        .map(|event| {
            assert_eq!(event["regarding"]["name"], NODE);
            assert_eq!(event["type"], "Warning");
            event["reason"].as_str().unwrap_or_default().to_owned()
        })
        .collect();
    reasons.sort();
    reasons
}

#[track_caller]
fn await_events(server: &ApiServer, expected: &[&str]) {
    clock::eventually("the Events are there", PATIENCE, || {
        Ok((reasons(server) == expected).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error}: {:?}", reasons(server)));
}

/// Waits for a problem, then until it is over, and gives back the lines that were logged of it.
#[track_caller]
fn trouble(observer: &Observer, mend: impl FnOnce()) -> Vec<String> {
    observer
        .await_seen("something is wrong", |seen| {
            seen.report
                .api
                .as_ref()
                .is_some_and(|api| !api.problems.is_empty())
        })
        .unwrap();
    // Time enough for a line at each try, if there were one.
    let tries = clock::now();
    clock::eventually("several tries", PATIENCE, || {
        Ok((tries.elapsed().as_secs() >= 2).then_some(()))
    })
    .unwrap();
    mend();
    observer
        .await_seen("nothing is wrong", |seen| {
            seen.report
                .api
                .as_ref()
                .is_some_and(|api| api.problems.is_empty())
        })
        .unwrap();
    observer.warnings()
}

#[test]
fn a_wrong_token_is_one_line_and_an_event_and_a_right_one_is_read_when_it_comes() {
    let (server, place) = (server(), directory());
    let api = service_account(&server, place.path(), "wrong").unwrap();
    let observer = Observer::start(api, place.path(), quick()).unwrap();
    let lines = trouble(&observer, || {
        assert!(!observer.seen().is_listed());
        fs::write(place.path().join("token"), "right").unwrap();
    });
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(
        lines[0].contains("refuses the credentials (401)"),
        "{lines:?}"
    );
    observer.await_services(&["ns/web 0"]).unwrap();
    await_events(&server, &["CredentialsRefused"]);
}

#[test]
fn a_token_that_is_replaced_while_running_is_read_again() {
    let (server, place) = (server(), directory());
    let api = service_account(&server, place.path(), "right").unwrap();
    let observer = Observer::start(api, place.path(), quick()).unwrap();
    observer.await_services(&["ns/web 0"]).unwrap();
    server.accept_tokens(&[("next", "system:node-proxier")]);
    fs::write(place.path().join("token"), "next").unwrap();
    for resource in [Resource::Services, Resource::EndpointSlices] {
        server.cut(resource, lb_tests::apiserver::Cut::Abort);
    }
    server.apply(&service("more")).unwrap();
    observer.await_services(&["ns/more 0", "ns/web 0"]).unwrap();
}

#[test]
fn a_wrong_authority_is_one_line_and_nothing_is_programmed() {
    let (server, other, place) = (server(), server(), directory());
    let api = service_account(&server, place.path(), "right").unwrap();
    fs::write(place.path().join("ca.crt"), other.authority_pem().unwrap()).unwrap();
    let observer = Observer::start(api, place.path(), quick()).unwrap();
    let lines = trouble(&observer, || {
        assert!(!observer.seen().is_listed());
        assert!(
            server.requests().is_empty(),
            "no token is sent to a stranger"
        );
        fs::write(place.path().join("ca.crt"), server.authority_pem().unwrap()).unwrap();
    });
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(lines[0].contains("is not accepted"), "{lines:?}");
    observer.await_services(&["ns/web 0"]).unwrap();
    await_events(&server, &["ApiServerNotTrusted"]);
}

#[test]
fn an_unreachable_server_is_one_line_and_an_event_once_it_is_back() {
    let (server, place) = (server(), directory());
    let api = service_account(&server, place.path(), "right").unwrap();
    server.close().unwrap();
    let observer = Observer::start(api, place.path(), quick()).unwrap();
    let lines = trouble(&observer, || server.reopen().unwrap());
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(lines[0].contains("Connection refused"), "{lines:?}");
    observer.await_services(&["ns/web 0"]).unwrap();
    await_events(&server, &["ApiServerUnreachable"]);
}

#[test]
fn a_missing_permission_is_one_line_and_an_event_and_the_tables_stay() {
    let (server, place) = (server(), directory());
    let api = service_account(&server, place.path(), "right").unwrap();
    let observer = Observer::start(api, place.path(), quick()).unwrap();
    observer.await_services(&["ns/web 0"]).unwrap();
    let before = observer.seen().memory().frontends.clone();
    for verb in [Verb::List, Verb::Watch] {
        server.forbid(verb, Resource::Services);
    }
    server.cut(Resource::Services, lb_tests::apiserver::Cut::Abort);
    let lines = trouble(&observer, || {
        assert_eq!(observer.seen().memory().frontends, before);
        server.forbid_nothing();
    });
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(
        lines[0].contains("no permission to list and watch Service"),
        "{lines:?}"
    );
    await_events(&server, &["PermissionMissing"]);
}

#[test]
fn a_node_that_does_not_exist_is_one_line_and_an_event_and_services_work() {
    let (server, place) = (server(), directory());
    server.delete(Resource::Nodes, "", NODE).unwrap();
    let api = service_account(&server, place.path(), "right").unwrap();
    let observer = Observer::start(api, place.path(), quick()).unwrap();
    let lines = trouble(&observer, || {
        assert!(observer.seen().is_listed());
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}});
        server.apply(&node).unwrap();
    });
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(lines[0].contains("there is no Node named"), "{lines:?}");
    await_events(&server, &["NodeMissing"]);
}

#[test]
fn nothing_but_the_rights_of_node_proxier_is_needed() {
    let (server, place) = (server(), directory());
    server.permit_only(vec![
        PolicyRule::new("", &["services", "endpoints"], &["list", "watch"]),
        PolicyRule::new("", &["nodes"], &["get", "list", "watch"]),
        PolicyRule::new("discovery.k8s.io", &["endpointslices"], &["list", "watch"]),
        PolicyRule::new("networking.k8s.io", &["servicecidrs"], &["list", "watch"]),
        PolicyRule::new("events.k8s.io", &["events"], &["create", "patch", "update"]),
    ]);
    server.delete(Resource::Nodes, "", NODE).unwrap();
    let api = service_account(&server, place.path(), "right").unwrap();
    let observer = Observer::start(api, place.path(), quick()).unwrap();
    observer.await_services(&["ns/web 0"]).unwrap();
    await_events(&server, &["NodeMissing"]);
    for request in server.requests() {
        assert!(matches!(request.status, 200 | 201), "{request:?}");
    }
}

#[test]
fn the_next_server_is_asked_when_the_first_is_gone() {
    let (first, second, place) = (server(), server(), directory());
    // Two servers of one cluster have one authority.
    let both = format!(
        "{}{}",
        first.authority_pem().unwrap(),
        second.authority_pem().unwrap()
    );
    let mut api = service_account(&first, place.path(), "right").unwrap();
    fs::write(place.path().join("ca.crt"), both).unwrap();
    api.servers.push(second.url());
    let observer = Observer::start(api, place.path(), quick()).unwrap();
    observer.await_services(&["ns/web 0"]).unwrap();
    second.apply(&service("more")).unwrap();
    first.close().unwrap();
    observer.await_services(&["ns/more 0", "ns/web 0"]).unwrap();
    observer
        .await_seen("the second server is shown", |seen| {
            seen.report
                .api
                .as_ref()
                .is_some_and(|api| api.server == second.url())
        })
        .unwrap();
}

#[test]
fn a_kubeconfig_is_read() {
    let (server, place) = (server(), directory());
    fs::write(place.path().join("ca.pem"), server.authority_pem().unwrap()).unwrap();
    let path = place.path().join("kubeconfig");
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": {
            "server": server.url(), "certificate-authority": "ca.pem"}}],
        "users": [{"name": "u", "user": {"token": "right"}}],
    });
    fs::write(&path, kubeconfig.to_string()).unwrap();
    let api = ApiSettings {
        kubeconfigs: vec![path.clone()],
        ..ApiSettings::default()
    };
    let observer = Observer::start(api.clone(), place.path(), quick()).unwrap();
    observer.await_services(&["ns/web 0"]).unwrap();
    observer.end().unwrap();

    fs::write(&path, "clusters: [").unwrap();
    let observer = Observer::start(api, place.path(), quick()).unwrap();
    clock::eventually("the source ends", PATIENCE, || {
        Ok(observer.is_over().then_some(()))
    })
    .unwrap();
    let error = observer.end().unwrap_err().to_string();
    assert!(error.contains("kubeconfig"), "{error}");
}

#[test]
fn the_endpoints_of_the_api_are_found_again_without_its_service_address() {
    let (server, place) = (server(), directory());
    let address = server.address();
    server
        .apply(&json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "kubernetes", "namespace": "default",
                "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [address.ip().to_string()]}],
            "ports": [{"name": "https", "port": address.port(), "protocol": "TCP"}],
        }))
        .unwrap();
    let api = service_account(&server, place.path(), "right").unwrap();
    let observer = Observer::start(api.clone(), place.path(), quick()).unwrap();
    observer.await_services(&["ns/web 0"]).unwrap();
    let kept = place.path().join("api-servers.json");
    clock::eventually("the addresses are kept", PATIENCE, || {
        Ok(kept.exists().then_some(()))
    })
    .unwrap();
    observer.end().unwrap();

    // As in a pod: the environment names the Service address, at which nobody answers.
    let nobody = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let in_pod = ApiSettings {
        servers: vec![],
        environment: Some(format!("https://{nobody}")),
        ..api
    };
    let observer = Observer::start(in_pod, place.path(), quick()).unwrap();
    observer.await_services(&["ns/web 0"]).unwrap();
    assert_eq!(observer.warnings(), Vec::<String>::new());
    let server_shown = observer
        .seen()
        .report
        .api
        .clone()
        .unwrap_or_default()
        .server;
    assert_eq!(server_shown, server.url());
}
