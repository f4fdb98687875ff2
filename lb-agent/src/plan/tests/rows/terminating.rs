//! Table 11.7: endpoints that terminate.

use super::*;
use crate::model::service::TrafficPolicy;

const READY: [u8; 3] = [1, 1, 0];
const ENDING: [u8; 3] = [0, 1, 1];
const ENDED: [u8; 3] = [0, 0, 1];

fn stage(policy: TrafficPolicy, endpoints: Vec<Endpoint>) -> Stage {
    Stage::new(one(endpoints, |svc| {
        svc.load_balancer_ips = addresses(&["1.2.3.4"]);
        svc.external_policy = policy;
    }))
}

fn address(number: u8) -> String {
    format!("10.0.1.{number}")
}

fn at_home(number: u8, state: [u8; 3]) -> Endpoint {
    conditions(state, here(&address(number)))
}

fn away(number: u8, state: [u8; 3]) -> Endpoint {
    conditions(state, elsewhere(&address(number)))
}

fn numbers(numbers: &[u8]) -> Outcome {
    let texts: Vec<_> = numbers
        .iter()
        .map(|n| format!("{}:80", address(*n)))
        .collect();
    to(&texts.iter().map(String::as_str).collect::<Vec<_>>())
}

#[track_caller]
fn check(
    row: &str,
    policy: TrafficPolicy,
    endpoints: Vec<Endpoint>,
    pod: Outcome,
    outside: Outcome,
) {
    let stage = stage(policy, endpoints);
    let found = (
        stage.resolve("10.0.0.2", "172.30.0.41:80", Protocol::Tcp),
        stage.resolve("203.0.113.2", "1.2.3.4:80", Protocol::Tcp),
    );
    let expected = (pod, outside);
    let what = "pod -> cluster address, external -> load balancer";
    assert_eq!(found, expected, "11.7.{row}: {what}");
}

#[test]
fn row_11_7_terminating_endpoints_under_policy_local() {
    let local = TrafficPolicy::Local;
    let check = |row, endpoints, pod, outside| check(row, local, endpoints, pod, outside);
    let mixed = vec![
        at_home(1, READY),
        at_home(2, READY),
        at_home(3, ENDING),
        at_home(4, ENDED),
        away(5, READY),
    ];
    check("a", mixed, numbers(&[1, 2, 5]), numbers(&[1, 2]));
    let ending = vec![
        at_home(2, ENDING),
        at_home(3, ENDING),
        at_home(4, ENDED),
        away(5, READY),
    ];
    check("b", ending, numbers(&[5]), numbers(&[2, 3]));
    check("d", vec![away(5, ENDING)], numbers(&[5]), Drop);
    check("e", vec![at_home(5, ENDED), away(6, ENDED)], Reject, Reject);
    check("f", vec![], Reject, Reject);
}

#[test]
fn row_11_7_terminating_endpoints_under_policy_cluster() {
    let cluster = TrafficPolicy::Cluster;
    let check = |row, endpoints, both: Outcome| check(row, cluster, endpoints, both.clone(), both);
    let mixed = vec![
        at_home(1, READY),
        at_home(2, READY),
        away(3, ENDING),
        away(4, ENDED),
        away(5, READY),
    ];
    check("a", mixed, numbers(&[1, 2, 5]));
    let ending = vec![
        at_home(2, ENDING),
        at_home(3, ENDING),
        away(4, ENDED),
        away(5, ENDING),
    ];
    check("c", ending, numbers(&[2, 3, 5]));
    check("d", vec![away(5, ENDING)], numbers(&[5]));
    check("e", vec![at_home(5, ENDED), away(6, ENDED)], Reject);
    check("f", vec![], Reject);
}
