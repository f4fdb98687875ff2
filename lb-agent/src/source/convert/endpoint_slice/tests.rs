//! What of an `EndpointSlice` is kept, left out silently, or reported.

use lb_common::flow::Protocol;
use serde_json::{Value, json};

use super::*;

type Outcome = Result<Option<EndpointSlice>, FieldProblem>;

/// Converts a slice of service `svc` with these fields on top; the notes as `field: detail`.
fn convert_with(fields: Value) -> (Outcome, Vec<String>) {
    let mut slice = json!({
        "metadata": {"namespace": "ns", "name": "svc-1", "labels": {SERVICE_NAME: "svc"}},
        "addressType": "IPv4",
        "endpoints": [],
        "ports": [],
    });
    let Value::Object(fields) = fields else {
        panic!("fields of an object")
    };
    slice.as_object_mut().unwrap().extend(fields);
    let mut notes = Notes::new();
    let slice: ApiSlice<String> = serde_json::from_value(slice).unwrap();
    let outcome = convert(&slice, &mut Interner::default(), &mut notes);
    (
        outcome,
        notes
            .iter()
            .map(|note| format!("{}: {}", note.field, note.detail))
            .collect(),
    )
}

#[track_caller]
fn clean(fields: Value) -> EndpointSlice {
    let (outcome, notes) = convert_with(fields);
    assert_eq!(notes, Vec::<String>::new());
    outcome.unwrap().unwrap()
}

fn with_metadata(labels: Value, annotations: Value) -> Value {
    let mut metadata = json!({"namespace": "ns", "name": "svc-1"});
    metadata["labels"] = labels;
    metadata["annotations"] = annotations;
    json!({"metadata": metadata})
}

#[test]
fn a_slice_belongs_to_the_service_of_its_label_in_its_own_namespace() {
    let slice = clean(json!({}));
    assert_eq!(slice.service.to_string(), "ns/svc");
    assert_eq!(slice.name.to_string(), "ns/svc-1");
    assert_eq!(slice.weight, DEFAULT_WEIGHT);
}

#[test]
fn slices_of_names_and_headless_ones_are_left_out_silently() {
    let headless = json!({SERVICE_NAME: "svc", HEADLESS: ""});
    for fields in [
        json!({"addressType": "FQDN", "endpoints": [{"addresses": ["example.com"]}]}),
        with_metadata(headless, json!({})),
    ] {
        assert_eq!(convert_with(fields), (Ok(None), vec![]));
    }
}

#[test]
fn slices_of_no_service_or_no_address_type_are_left_out_and_reported() {
    for fields in [
        with_metadata(json!({}), json!({})),
        with_metadata(json!({SERVICE_NAME: ""}), json!({})),
        json!({"addressType": "IPX"}),
        json!({"addressType": ""}),
    ] {
        let (outcome, notes) = convert_with(fields);
        assert_eq!(outcome, Ok(None));
        assert_eq!(notes.len(), 1, "{notes:?}");
    }
}

#[test]
fn absent_conditions_mean_ready_serving_and_not_terminating() {
    let slice = clean(json!({"endpoints": [
        {"addresses": ["10.0.0.1"]},
        {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
        {"addresses": ["10.0.0.3"], "conditions":
            {"ready": false, "serving": false, "terminating": true}},
        {"addresses": ["10.0.0.4"], "conditions": {"ready": null}},
    ]}));
    let flags: Vec<_> = slice
        .endpoints
        .iter()
        .map(|endpoint| (endpoint.ready, endpoint.serving, endpoint.terminating))
        .collect();
    assert_eq!(
        flags,
        [
            (true, true, false),
            (false, true, false),
            (false, false, true),
            (true, true, false)
        ]
    );
}

#[test]
fn only_the_first_address_counts_and_an_endpoint_without_one_is_none() {
    let slice = clean(json!({"endpoints": [
        {"addresses": ["10.180.00.001", "10.0.0.9"]}, {"addresses": []},
    ]}));
    let addresses: Vec<_> = slice
        .endpoints
        .iter()
        .map(|endpoint| endpoint.address.to_string())
        .collect();
    assert_eq!(addresses, ["10.180.0.1"]);
}

#[test]
fn null_lists_are_empty() {
    let slice = clean(json!({"endpoints": null, "ports": null}));
    assert!(slice.endpoints.is_empty() && slice.ports.is_empty());
}

#[test]
fn addresses_that_cannot_be_are_reported_and_the_others_stay() {
    let (outcome, notes) = convert_with(json!({"endpoints": [
        {"addresses": ["fd00::1"]}, {"addresses": ["10.0.0.1"]}, {"addresses": ["web-0"]},
    ]}));
    assert_eq!(outcome.unwrap().unwrap().endpoints.len(), 1);
    assert_eq!(
        notes,
        [
            "endpoints[0].addresses[0]: fd00::1 is not an IPv4 address; ignored",
            "endpoints[2].addresses[0]: \"web-0\" is not an IP address; ignored",
        ]
    );
}

#[test]
fn topology_and_the_pod_are_kept() {
    let slice = clean(json!({"endpoints": [
        {"addresses": ["10.0.0.1"], "nodeName": "node-a", "zone": "zone-a",
         "hints": {"forZones": [{"name": "zone-a"}, {"name": "zone-b"}],
            "forNodes": [{"name": "node-a"}]},
         "targetRef": {"kind": "Pod", "namespace": "ns", "name": "web-0"}},
        {"addresses": ["10.0.0.2"], "nodeName": "node-a",
         "targetRef": {"kind": "Node", "name": "x"}},
    ]}));
    let [first, second] = &slice.endpoints[..] else {
        panic!("two endpoints")
    };
    assert_eq!(first.zone.as_deref(), Some("zone-a"));
    assert_eq!(*first.zone_hints, ["zone-a".into(), "zone-b".into()]);
    assert_eq!(*first.node_hints, ["node-a".into()]);
    assert_eq!(first.pod.as_deref(), Some("web-0"));
    assert_eq!(second.pod, None);
    assert!(Arc::ptr_eq(
        first.node.as_ref().unwrap(),
        second.node.as_ref().unwrap()
    ));
}

#[test]
fn ports_without_name_or_number_are_none() {
    let slice = clean(json!({"ports": [
        {"port": 80}, {"name": "all"}, {"name": "zero", "port": 0},
        {"name": "", "port": 8080}, {"name": "dns", "port": 53, "protocol": "UDP"},
    ]}));
    let ports: Vec<_> = slice
        .ports
        .iter()
        .map(|port| (port.name.as_str(), port.protocol, port.port))
        .collect();
    assert_eq!(
        ports,
        [("", Protocol::Tcp, 8080), ("dns", Protocol::Udp, 53)]
    );
}

#[test]
fn ports_out_of_range_are_reported() {
    let (outcome, notes) = convert_with(json!({"ports": [
        {"name": "a", "port": -1}, {"name": "b", "port": 65536},
        {"name": "c", "port": 1, "protocol": "GRE"},
    ]}));
    assert_eq!(outcome.unwrap().unwrap().ports, []);
    assert_eq!(
        notes,
        [
            "ports[0].port: -1 is not a port (1 to 65535); ignored",
            "ports[1].port: 65536 is not a port (1 to 65535); ignored",
            "ports[2].protocol: \"GRE\" is none of TCP, UDP, SCTP; the port is ignored",
        ]
    );
}

#[test]
fn the_weight_is_an_annotation_from_0_to_1000() {
    let labels = json!({SERVICE_NAME: "svc"});
    for (text, expected) in [("0", 0), ("100", 100), ("1000", 1000)] {
        let slice = clean(with_metadata(labels.clone(), json!({WEIGHT: text})));
        assert_eq!(slice.weight, expected);
    }
    for text in ["1001", "-1", "heavy", "", "70000"] {
        let (outcome, notes) = convert_with(with_metadata(labels.clone(), json!({WEIGHT: text})));
        assert_eq!(outcome.unwrap().unwrap().weight, DEFAULT_WEIGHT);
        assert_eq!(
            notes,
            [format!(
                "metadata.annotations[steerage.dev/weight]: \"{text}\" is not a weight \
                 (0 to 1000); 100 is used"
            )]
        );
    }
}

#[test]
fn a_slice_of_more_endpoints_than_there_are_ports_is_refused() {
    let endpoint = json!({"addresses": ["10.0.0.1"]});
    let most = clean(json!({"endpoints": vec![endpoint.clone(); MAX_ENDPOINTS]}));
    assert_eq!(most.endpoints.len(), MAX_ENDPOINTS);
    let (outcome, _) = convert_with(json!({"endpoints": vec![endpoint; MAX_ENDPOINTS + 1]}));
    let detail = Detail::TooManyEndpoints {
        count: MAX_ENDPOINTS + 1,
        limit: MAX_ENDPOINTS,
    };
    assert_eq!(outcome, Err(FieldProblem::new("endpoints", detail)));
}

#[test]
fn the_time_of_the_change_is_kept_in_microseconds_where_it_can_be_read() {
    for (text, expected) in [
        ("2026-11-21T23:54:10Z", Some(1_795_305_250_000_000)),
        (
            "2026-11-21T23:54:10.123456789Z",
            Some(1_795_305_250_123_456),
        ),
        ("2026-11-22T00:54:10.5+01:00", Some(1_795_305_250_500_000)),
        ("yesterday", None),
        ("", None),
    ] {
        let labels = json!({SERVICE_NAME: "svc"});
        let slice = clean(with_metadata(labels, json!({TRIGGER_TIME: text})));
        assert_eq!(slice.triggered_micros, expected, "{text}");
    }
}
