//! Everything that goes wrong: what is asked next, when, what is said, and that nothing is lost.

use serde_json::json;

use super::super::machine::Input;
use super::super::request::Form;
use super::super::{Fault, Time};
use super::rig::{Rig, added, bookmark, expired, node, service, slice};
use crate::model::event::Kind;

fn unreachable() -> Fault {
    Fault::Unreachable("Connection refused (os error 111)".into())
}

/// The version a watch goes on from.
#[track_caller]
fn version(form: &Form) -> &str {
    match form {
        Form::Watch { version, .. } => version,
        _ => panic!("{form:?} is no watch"),
    }
}

#[test]
fn a_stream_cut_within_an_object_goes_on_from_the_last_whole_one() {
    let mut rig = Rig::listed(&["https://a"], &[], &[]);
    rig.line(Kind::Service, &added(service("one"), 11));
    let half = added(service("two"), 12).to_string();
    rig.input(Input::Chunk(Kind::Service, &half.as_bytes()[..100]));
    rig.fault(Kind::Service, Fault::Cut);
    assert_eq!(rig.services(), ["one 0"]);
    assert_eq!(version(&rig.wait_for(Kind::Service).form), "11");
    rig.head(Kind::Service, 200);
    rig.line(Kind::Service, &added(service("two"), 12));
    assert_eq!(rig.services(), ["one 0", "two 0"]);
    assert_eq!(rig.said, Vec::<String>::new());
}

#[test]
fn a_clean_end_within_an_object_is_a_cut_too() {
    let mut rig = Rig::listed(&["https://a"], &[], &[]);
    rig.input(Input::Chunk(Kind::Service, b"{\"type\":\"ADDED\",\"obj"));
    rig.input(Input::End(Kind::Service));
    assert_eq!(version(&rig.wait_for(Kind::Service).form), "10");
    assert_eq!(rig.services(), Vec::<String>::new());
}

#[test]
fn bookmarks_move_the_version_from_which_a_watch_goes_on() {
    let mut rig = Rig::listed(&["https://a"], &[], &[]);
    rig.pass(Time::from_mins(1));
    rig.line(Kind::EndpointSlice, &bookmark(77));
    rig.input(Input::End(Kind::EndpointSlice));
    let request = rig.request(Kind::EndpointSlice).expect("asked at once");
    assert_eq!(version(&request.form), "77");
}

#[test]
fn a_silent_stream_is_given_up_and_a_version_that_stays_silent_too() {
    let mut rig = Rig::listed(&["https://a"], &[service("web")], &[]);
    let before = rig.asked;
    rig.pass(Time::from_secs(149));
    assert_eq!(rig.asked, before);
    rig.pass(Time::from_secs(3));
    assert_eq!(version(&rig.wait_for(Kind::Service).form), "10");
    rig.head(Kind::Service, 200);
    rig.pass(Time::from_secs(152));
    let request = rig.wait_for(Kind::Service);
    assert!(matches!(request.form, Form::Stream { .. }), "{request:?}");
    assert!(rig.has_service("web"), "what is programmed stays");
}

#[test]
fn no_answer_at_all_is_said() {
    let mut rig = Rig::new(&["https://a"]);
    rig.pass(Time::from_secs(31));
    assert_eq!(
        rig.said,
        ["API server https://a does not answer; what is programmed stays"]
    );
}

#[test]
fn a_server_that_ends_every_watch_at_once_is_not_hammered() {
    let mut rig = Rig::listed(&["https://a"], &[], &[]);
    let before = rig.asked;
    let end = rig.now + Time::from_mins(10);
    while rig.now < end {
        rig.wait_for(Kind::Service);
        rig.head(Kind::Service, 200);
        rig.line(Kind::Service, &bookmark(10));
        rig.input(Input::End(Kind::Service));
    }
    assert!(rig.asked - before < 120, "{}", rig.asked - before);
}

#[test]
fn a_server_whose_lists_are_always_too_old_is_not_hammered() {
    let mut rig = Rig::listed(&["https://a"], &[], &[]);
    let before = rig.asked;
    let end = rig.now + Time::from_mins(10);
    while rig.now < end {
        rig.line(Kind::Service, &expired());
        rig.stream(Kind::Service, 20, &[service("web")]);
    }
    assert!(rig.asked - before < 120, "{}", rig.asked - before);
}

#[test]
fn retry_after_is_kept_to_and_spread() {
    for (status, header, body) in [
        (429, Some(40), json!({"code": 429})),
        (
            504,
            None,
            json!({"code": 504, "details": {"retryAfterSeconds": 40}}),
        ),
    ] {
        let mut rig = Rig::new(&["https://a"]);
        rig.open.clear();
        rig.input(Input::Head(Kind::Service, status, header));
        rig.input(Input::Chunk(Kind::Service, body.to_string().as_bytes()));
        rig.input(Input::End(Kind::Service));
        rig.pass(Time::from_secs(39));
        assert!(rig.request(Kind::Service).is_none(), "{status}");
        rig.pass(Time::from_secs(13));
        assert!(rig.request(Kind::Service).is_some(), "{status}");
        let busy = rig
            .said
            .iter()
            .filter(|it| it.contains(&status.to_string()));
        assert_eq!(busy.count(), 1, "{:?}", rig.said);
    }
}

#[test]
fn refused_credentials_are_read_again_and_said_once() {
    let mut rig = Rig::listed(&["https://a"], &[service("web")], &[]);
    for kind in Kind::ALL {
        rig.input(Input::End(kind));
    }
    let unauthorized = json!({"code": 401, "reason": "Unauthorized", "message": "Unauthorized"});
    for _ in 0..4 {
        for kind in Kind::ALL {
            rig.wait_for(kind);
            rig.refuse(kind, 401, &unauthorized);
        }
    }
    assert_eq!(
        rig.said,
        [
            "API server https://a refuses the credentials (401); what is programmed stays; \
          check the token or the client certificate"
        ]
    );
    assert_eq!(rig.renewed.len(), 16);
    assert_eq!(rig.machine.problems().len(), 1);
    assert_eq!(rig.services(), ["web 0"]);
    for kind in Kind::ALL {
        rig.wait_for(kind);
        rig.head(kind, 200);
        rig.line(kind, &bookmark(20));
    }
    assert_eq!(rig.said.last().map(String::as_str), Some("recovered"));
    assert!(rig.machine.problems().is_empty());
}

#[test]
fn a_missing_permission_names_the_kind_and_the_others_go_on() {
    let mut rig = Rig::new(&["https://a", "https://b"]);
    rig.stream(Kind::Service, 5, &[service("web")]);
    let forbidden = json!({"code": 403, "reason": "Forbidden", "message": "no endpointslices"});
    for _ in 0..5 {
        rig.wait_for(Kind::EndpointSlice);
        rig.refuse(Kind::EndpointSlice, 403, &forbidden);
    }
    assert_eq!(
        rig.said,
        [
            "no permission to list and watch EndpointSlice objects (403: no endpointslices); \
          what is programmed stays; bind the role system:node-proxier"
        ]
    );
    assert!(
        !rig.model.is_ready(),
        "nothing is programmed from half the objects"
    );
    assert_eq!(
        **rig.machine.server(),
        *"https://a",
        "the server is not at fault"
    );
    rig.stream(Kind::EndpointSlice, 6, &[]);
    assert!(rig.model.is_ready());
    assert!(rig.machine.problems().is_empty());
}

#[test]
fn errors_of_the_server_are_retried_from_the_version_and_then_by_a_list() {
    for status in [500, 504] {
        let mut rig = Rig::listed(&["https://a"], &[service("web")], &[]);
        rig.pass(Time::from_secs(10));
        rig.input(Input::End(Kind::Service));
        let body = json!({"code": status, "message": "etcdserver: request timed out"});
        for _ in 0..3 {
            assert_eq!(version(&rig.wait_for(Kind::Service).form), "10");
            rig.refuse(Kind::Service, status, &body);
        }
        let request = rig.wait_for(Kind::Service);
        assert!(matches!(request.form, Form::Stream { .. }));
        assert_eq!(rig.services(), ["web 0"]);
        assert_eq!(rig.said.len(), 1, "{:?}", rig.said);
    }
}

#[test]
fn a_node_that_does_not_exist_is_said_and_found_when_it_comes() {
    let mut rig = Rig::new(&["https://a"]);
    rig.stream(Kind::Node, 5, &[]);
    let expected = "there is no Node named \"node-a\": this node's zone and addresses are \
                    unknown; check --node-name";
    assert_eq!(rig.said, [expected]);
    rig.line(Kind::Node, &bookmark(6));
    assert_eq!(rig.said.len(), 1);
    rig.line(Kind::Node, &added(node("node-a"), 7));
    assert!(rig.machine.problems().is_empty());
    assert!(rig.model.node().is_some());
    rig.line(Kind::Node, &super::rig::deleted(node("node-a"), 8));
    assert_eq!(rig.machine.problems().len(), 1);
}

#[test]
fn garbage_is_given_up_and_asked_for_again() {
    let mut rig = Rig::listed(&["https://a"], &[], &[]);
    for garbage in ["not json\n", "{}\n", "{\"type\":\"NEWS\",\"object\":{}}\n"] {
        rig.input(Input::Chunk(Kind::Service, garbage.as_bytes()));
        assert!(rig.request(Kind::Service).is_none(), "{garbage}");
        assert_eq!(version(&rig.wait_for(Kind::Service).form), "10");
        rig.head(Kind::Service, 200);
    }
}

#[test]
fn an_api_away_for_hours_leaves_everything_and_is_replaced_when_it_is_back() {
    let services = [service("web"), service("old")];
    let slices = [slice("web-1", "web"), slice("old-1", "old")];
    let mut rig = Rig::listed(&["https://a"], &services, &slices);
    let before = rig.services();
    for kind in Kind::ALL {
        rig.fault(kind, Fault::Cut);
    }
    let end = rig.now + Time::from_hours(6);
    let asked = rig.asked;
    while rig.now < end {
        for kind in Kind::ALL {
            rig.wait_for(kind);
            rig.fault(kind, unreachable());
        }
    }
    assert_eq!(rig.services(), before);
    // Every half a minute at most, in the mean three quarters of that.
    let tries = (rig.asked - asked) / Kind::ALL.len();
    assert!((720..1_600).contains(&tries), "{tries}");
    assert!(rig.said.len() <= 6 * 12 + 1, "{}", rig.said.len());
    assert!(rig.said[0].contains("cannot be reached (Connection refused"));

    for kind in Kind::ALL {
        rig.wait_for(kind);
        rig.head(kind, 200);
        rig.line(kind, &expired());
    }
    rig.stream(Kind::EndpointSlice, 900, &[slice("new-1", "new")]);
    assert_eq!(rig.services(), before);
    rig.stream(Kind::Service, 901, &[service("new")]);
    assert_eq!(rig.services(), ["new 1"]);
}
