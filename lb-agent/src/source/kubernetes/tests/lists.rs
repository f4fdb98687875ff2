//! Lists: their forms, what they replace, and when the model may believe them.

use serde_json::json;

use super::super::Time;
use super::super::machine::Input;
use super::super::request::Form;
use super::rig::{Rig, added, bookmark, deleted, expired, node, service, slice};
use crate::model::event::{Event, Kind};

#[test]
fn every_kind_is_asked_for_at_once() {
    let rig = Rig::new(&["https://a"]);
    let kinds: Vec<Kind> = rig.open.iter().map(|(_, request)| request.kind).collect();
    assert_eq!(kinds, Kind::ALL);
    for (_, request) in &rig.open {
        assert!(matches!(request.form, Form::Stream { .. }));
    }
}

#[test]
fn the_model_is_not_ready_before_services_and_slices_are_both_listed() {
    let mut rig = Rig::new(&["https://a"]);
    rig.stream(Kind::Node, 5, &[node("node-a")]);
    rig.stream(Kind::Service, 5, &[service("web")]);
    assert!(!rig.model.is_ready());
    rig.head(Kind::EndpointSlice, 200);
    rig.line(Kind::EndpointSlice, &added(slice("web-1", "web"), 3));
    rig.line(Kind::EndpointSlice, &bookmark(4));
    assert!(!rig.model.is_ready(), "an ordinary bookmark ends no list");
    rig.line(Kind::EndpointSlice, &super::rig::end_of_list(5));
    assert!(rig.model.is_ready());
    assert_eq!(rig.services(), ["web 1"]);
}

#[test]
fn a_server_without_streaming_lists_is_asked_for_pages_at_once() {
    let mut rig = Rig::new(&["https://a"]);
    let invalid = json!({"code": 422, "reason": "Invalid", "message": "sendInitialEvents"});
    rig.refuse(Kind::Service, 422, &invalid);
    assert_eq!(
        rig.request(Kind::Service).unwrap().form,
        Form::Page { token: None }
    );
    assert_eq!(rig.said, Vec::<String>::new());
    rig.head(Kind::Service, 200);
    let page = json!({"kind": "ServiceList", "items": [service("a"), service("b")],
        "metadata": {"resourceVersion": "12", "continue": "next"}});
    let page = page.to_string();
    let (first, second) = page.as_bytes().split_at(page.len() / 2);
    rig.input(Input::Chunk(Kind::Service, first));
    rig.input(Input::Chunk(Kind::Service, second));
    rig.input(Input::End(Kind::Service));
    assert_eq!(
        rig.request(Kind::Service).unwrap().form,
        Form::Page {
            token: Some("next".into())
        }
    );
    rig.head(Kind::Service, 200);
    let page = json!({"metadata": {"resourceVersion": "12"}, "items": [service("c")]});
    rig.input(Input::Chunk(Kind::Service, page.to_string().as_bytes()));
    rig.input(Input::End(Kind::Service));
    let Form::Watch { version, .. } = rig.request(Kind::Service).unwrap().form else {
        panic!("a watch")
    };
    assert_eq!(version, "12");
    assert_eq!(rig.model.services().len(), 3);
}

#[test]
fn a_server_that_never_ends_a_streaming_list_is_asked_for_pages() {
    let mut rig = Rig::new(&["https://a"]);
    rig.head(Kind::Service, 200);
    rig.line(Kind::Service, &added(service("a"), 3));
    rig.pass(Time::from_secs(11));
    assert_eq!(
        rig.request(Kind::Service).unwrap().form,
        Form::Page { token: None }
    );
}

#[test]
fn a_server_without_the_field_selector_is_asked_without_it() {
    let mut rig = Rig::new(&["https://a"]);
    let bad = json!({"code": 400, "message": "field label not supported: spec.clusterIP"});
    rig.refuse(Kind::Service, 400, &bad);
    rig.refuse(Kind::Service, 400, &bad);
    let request = rig.request(Kind::Service).unwrap();
    assert!(!request.has_field_selector);
    assert_eq!(rig.said, Vec::<String>::new());
}

#[test]
fn an_expired_token_leads_to_a_list_in_one_piece() {
    let mut rig = Rig::new(&["https://a"]);
    rig.refuse(Kind::Service, 422, &json!({}));
    rig.head(Kind::Service, 200);
    let page = json!({"metadata": {"continue": "next"}, "items": [service("gone")]});
    rig.input(Input::Chunk(Kind::Service, page.to_string().as_bytes()));
    rig.input(Input::End(Kind::Service));
    let fresh = json!({"code": 410, "reason": "Expired", "metadata": {"continue": "inconsistent"}});
    rig.refuse(Kind::Service, 410, &fresh);
    assert_eq!(rig.wait_for(Kind::Service).form, Form::Whole);
    rig.head(Kind::Service, 200);
    let whole = json!({"metadata": {"resourceVersion": "9"}, "items": [service("web")]});
    rig.input(Input::Chunk(Kind::Service, whole.to_string().as_bytes()));
    rig.input(Input::End(Kind::Service));
    rig.stream(Kind::EndpointSlice, 9, &[]);
    assert_eq!(rig.services(), ["web 0"], "the half list is forgotten");
    assert_eq!(rig.said, Vec::<String>::new());
}

#[test]
fn a_version_that_is_too_old_leads_to_a_list_that_replaces_everything() {
    let slices = [slice("web-1", "web"), slice("old-1", "old")];
    let mut rig = Rig::listed(&["https://a"], &[service("web"), service("old")], &slices);
    assert_eq!(rig.services(), ["old 1", "web 1"]);
    for kind in [Kind::Service, Kind::EndpointSlice] {
        rig.line(kind, &expired());
    }
    rig.stream(Kind::Service, 90, &[service("web"), service("new")]);
    assert_eq!(
        rig.services(),
        ["new 0", "old 1", "web 1"],
        "nothing is gone before the slices are back"
    );
    rig.stream(Kind::EndpointSlice, 91, &[slice("web-2", "web")]);
    assert_eq!(rig.services(), ["new 0", "web 1"]);
    assert_eq!(
        rig.said,
        Vec::<String>::new(),
        "this is part of the protocol"
    );
}

#[test]
fn nothing_is_gone_while_it_is_unknown_whether_the_other_kind_missed_something() {
    let mut rig = Rig::listed(
        &["https://a"],
        &[service("web"), service("old")],
        &[slice("old-1", "old")],
    );
    // Both streams end; Services must be listed, and slices may or may not be.
    rig.input(Input::End(Kind::Service));
    rig.input(Input::End(Kind::EndpointSlice));
    rig.wait_for(Kind::Service);
    rig.head(Kind::Service, 200);
    rig.line(Kind::Service, &expired());
    rig.stream(Kind::Service, 50, &[service("web")]);
    assert!(rig.has_service("old"));
    rig.wait_for(Kind::EndpointSlice);
    rig.head(Kind::EndpointSlice, 200);
    assert!(rig.has_service("old"), "200 is no proof: 410 may follow");
    rig.line(Kind::EndpointSlice, &bookmark(51));
    assert!(!rig.has_service("old"));
}

#[test]
fn a_quiet_watch_is_believed_after_a_moment() {
    let mut rig = Rig::listed(&["https://a"], &[service("old")], &[]);
    rig.input(Input::End(Kind::EndpointSlice));
    rig.line(Kind::Service, &expired());
    rig.stream(Kind::Service, 50, &[]);
    rig.wait_for(Kind::EndpointSlice);
    rig.head(Kind::EndpointSlice, 200);
    assert!(rig.has_service("old"));
    rig.pass(Time::from_secs(1));
    assert!(!rig.has_service("old"));
}

#[test]
fn changes_of_the_labels_act_as_the_selectors_make_them() {
    let mut rig = Rig::listed(&["https://a"], &[service("web")], &[slice("web-1", "web")]);
    rig.line(Kind::Service, &deleted(service("web"), 11));
    assert!(!rig.has_service("web"), "it has another proxy now");
    rig.line(Kind::Service, &added(service("web"), 12));
    assert_eq!(rig.services(), ["web 1"]);
    rig.line(Kind::EndpointSlice, &deleted(slice("web-1", "web"), 13));
    assert_eq!(rig.services(), ["web 0"], "the slice is headless now");
    rig.line(Kind::EndpointSlice, &added(slice("web-1", "web"), 14));
    assert_eq!(rig.services(), ["web 1"]);
}

#[test]
fn networks_are_told_all_at_once_and_anew_when_one_changes() {
    let cidr = |name: &str, network: &str| json!({"metadata": {"name": name, "resourceVersion": "1"}, "spec": {"cidrs": [network]}});
    let mut rig = Rig::new(&["https://a"]);
    rig.stream(
        Kind::ServiceCidr,
        3,
        &[cidr("a", "10.96.0.0/16"), cidr("b", "10.97.0.0/16")],
    );
    assert_eq!(rig.model.service_cidrs().len(), 2);
    rig.line(Kind::ServiceCidr, &added(cidr("c", "10.98.0.0/16"), 4));
    assert_eq!(rig.model.service_cidrs().len(), 3);
    rig.line(Kind::ServiceCidr, &deleted(cidr("a", "10.96.0.0/16"), 5));
    assert_eq!(rig.model.service_cidrs().len(), 2);
    rig.line(Kind::ServiceCidr, &expired());
    rig.stream(Kind::ServiceCidr, 9, &[cidr("c", "10.98.0.0/16")]);
    assert_eq!(
        rig.model.service_cidrs(),
        [("10.98.0.0".parse().unwrap(), 16)]
    );
}

#[test]
fn a_server_without_service_cidrs_is_gone_on_without() {
    let mut rig = Rig::new(&["https://a"]);
    rig.stream(Kind::Service, 3, &[]);
    rig.stream(Kind::EndpointSlice, 3, &[]);
    for _ in 0..3 {
        rig.refuse(Kind::ServiceCidr, 404, &json!("404 page not found"));
        rig.pass(Time::from_mins(5));
    }
    let absent = rig.said.iter().filter(|it| *it == "no ServiceCIDR");
    assert_eq!(absent.count(), 1, "once");
    assert!(rig.model.is_ready());
}

#[test]
fn an_object_that_is_not_understood_is_named_and_what_was_held_stays() {
    let mut rig = Rig::listed(&["https://a"], &[service("web")], &[]);
    let mut broken = service("web");
    broken["spec"]["ports"] = "eighty".into();
    rig.line(Kind::Service, &added(broken, 11));
    assert!(rig.has_service("web"));
    assert!(rig.machine.take_object_news());
    let problems = rig.machine.object_problems();
    assert_eq!(problems.len(), 1);
    let text = problems[0].to_string();
    assert!(text.starts_with("API: Service ns/web: "), "{text}");
    rig.line(Kind::Service, &added(service("web"), 12));
    assert!(rig.machine.take_object_news());
    assert!(rig.machine.object_problems().is_empty());
    assert!(
        matches!(&rig.events[..], [Event::ServiceApplied(_)]),
        "{:?}",
        rig.events
    );
}

#[test]
fn what_is_wrong_with_an_object_that_a_new_list_does_not_name_is_forgotten() {
    let mut broken = service("bad");
    broken["spec"]["ports"] = json!([{"port": 0}]);
    let mut rig = Rig::listed(&["https://a"], &[broken], &[]);
    assert_eq!(rig.machine.object_problems().len(), 1);
    rig.line(Kind::Service, &expired());
    rig.stream(Kind::Service, 50, &[]);
    assert!(rig.machine.object_problems().is_empty());
}
