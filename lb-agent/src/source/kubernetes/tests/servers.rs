//! Several API servers: turns, and what is learnt of them.

use serde_json::{Value, json};

use super::super::{Fault, Time};
use super::rig::{Rig, added, bookmark};
use crate::model::event::Kind;

const A: &str = "https://a:6443";
const B: &str = "https://b:6443";

fn unreachable() -> Fault {
    Fault::Unreachable("No route to host (os error 113)".into())
}

fn api_slice(name: &str, addresses: &[&str]) -> Value {
    let endpoints: Vec<_> = addresses
        .iter()
        .map(|address| json!({"addresses": [address]}))
        .collect();
    json!({
        "metadata": {"namespace": "default", "name": name, "resourceVersion": "1",
            "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": if name.ends_with("v6") { "IPv6" } else { "IPv4" },
        "endpoints": endpoints,
        "ports": [{"name": "other", "port": 1}, {"name": "https", "port": 6443}],
    })
}

#[test]
fn the_next_server_is_asked_at_once_when_one_cannot_be_reached() {
    let mut rig = Rig::new(&[A, B]);
    for kind in Kind::ALL {
        rig.fault(kind, unreachable());
    }
    rig.pass(Time::from_millis(200));
    for kind in Kind::ALL {
        assert_eq!(rig.server(kind), B);
    }
    assert_eq!(rig.said.len(), 1, "{:?}", rig.said);
    for kind in Kind::ALL {
        rig.stream(kind, 5, &[]);
    }
    assert_eq!(rig.machine.working().map(|it| &**it), Some(B));
    assert!(
        rig.said.iter().any(|it| it == "recovered"),
        "{:?}",
        rig.said
    );
}

#[test]
fn with_all_servers_gone_each_has_its_turn_and_waits_grow() {
    let mut rig = Rig::new(&[A, B]);
    let mut turns = Vec::new();
    while rig.now < Time::from_mins(4) {
        rig.wait_for(Kind::Service);
        turns.push((rig.server(Kind::Service).to_owned(), rig.now));
        rig.fault(Kind::Service, unreachable());
        for kind in [Kind::EndpointSlice, Kind::Node, Kind::ServiceCidr] {
            if rig.request(kind).is_some() {
                rig.fault(kind, unreachable());
            }
        }
    }
    let of_a = turns.iter().filter(|(server, _)| server == A).count();
    let of_b = turns.len() - of_a;
    assert!(of_a > 3 && of_b > 3, "{turns:?}");
    assert!(turns.len() < 60, "{}", turns.len());
    assert_eq!(rig.said.len(), 2, "{:?}", rig.said);
}

#[test]
fn quiet_streams_of_a_server_that_is_gone_move_on_with_the_first_that_notices() {
    let mut rig = Rig::listed(&[A, B], &[], &[]);
    rig.pass(Time::from_mins(1));
    rig.line(Kind::EndpointSlice, &bookmark(20));
    rig.fault(Kind::Node, Fault::Cut);
    rig.wait_for(Kind::Node);
    assert_eq!(rig.server(Kind::Node), A);
    rig.fault(Kind::Node, unreachable());
    rig.pass(Time::from_millis(200));
    assert_eq!(rig.server(Kind::Node), B);
    assert_eq!(rig.server(Kind::Service), B);
    assert_eq!(rig.server(Kind::EndpointSlice), A, "it spoke just now");
}

#[test]
fn a_server_that_keeps_failing_loses_its_turn_and_a_certificate_at_once() {
    let mut rig = Rig::new(&[A, B]);
    rig.refuse(Kind::Service, 503, &json!({}));
    assert_eq!(rig.machine.server().to_string(), A);
    rig.wait_for(Kind::Service);
    rig.refuse(Kind::Service, 503, &json!({}));
    assert_eq!(rig.machine.server().to_string(), B);

    let mut rig = Rig::new(&[A, B]);
    rig.fault(Kind::Service, Fault::Certificate("UnknownIssuer".into()));
    assert_eq!(rig.machine.server().to_string(), B);
    assert_eq!(rig.renewed.len(), 1);
    assert!(rig.said[0].starts_with("the certificate of API server https://a:6443"));
}

#[test]
fn the_endpoints_of_the_api_are_kept_and_asked_when_the_settings_server_is_gone() {
    let mut rig = Rig::new(&[A]);
    rig.stream(
        Kind::EndpointSlice,
        5,
        &[
            api_slice("kubernetes", &["10.0.0.2", "10.0.0.1"]),
            api_slice("kubernetes-v6", &["fd00::1"]),
        ],
    );
    let (servers, last) = rig.remembered.last().unwrap();
    let servers: Vec<&str> = servers.iter().map(|it| &**it).collect();
    assert_eq!(
        servers,
        [
            "https://10.0.0.1:6443",
            "https://10.0.0.2:6443",
            "https://[fd00::1]:6443"
        ]
    );
    assert_eq!(**last, *A);
    rig.fault(Kind::Service, unreachable());
    rig.wait_for(Kind::Service);
    assert_eq!(rig.server(Kind::Service), "https://10.0.0.1:6443");
    rig.stream(Kind::Service, 6, &[]);
    let (_, last) = rig.remembered.last().unwrap();
    assert_eq!(
        **last, *"https://10.0.0.1:6443",
        "it is asked first the next time"
    );
}

#[test]
fn a_cluster_without_api_endpoints_is_not_believed() {
    let mut rig = Rig::new(&[A]);
    rig.stream(
        Kind::EndpointSlice,
        5,
        &[api_slice("kubernetes", &["10.0.0.1"])],
    );
    let kept = rig.remembered.len();
    rig.line(Kind::EndpointSlice, &added(api_slice("kubernetes", &[]), 6));
    assert_eq!(rig.remembered.len(), kept);
    rig.line(
        Kind::EndpointSlice,
        &added(api_slice("kubernetes", &["10.0.0.9"]), 7),
    );
    assert_eq!(rig.remembered.len(), kept + 1);
}
