//! `status`, with an agent that lives, is dead, never was, and one of an API server.

use lb_common::table::counter::Counter;
use lb_common::verdict::Reason;

use super::{check, device_inputs, document, map_inputs, names, tables};
use crate::cli::render;
use crate::cli::view::interfaces::interfaces;
use crate::cli::view::maps::maps;
use crate::cli::view::status::{StatusInputs, status};
use crate::status::{AgentStatus, ApiStatus};

#[test]
fn golden_status() {
    let agent = AgentStatus {
        version: 1,
        node: "n1".to_owned(),
        agent_version: "0.1.0".to_owned(),
        pid: 4711,
        started_at: 1_000,
        first_sync_at: Some(1_002),
        last_sync_at: Some(8_000),
        syncs: 4,
        first_sync_spent: None,
        first_sync_micros: Some(1_500),
        last_sync_micros: Some(800),
        source: "dir:/etc/steerage/manifests".to_owned(),
        api: None,
        devices: Vec::new(),
        pending_writes: 0,
        problems: vec!["web.yaml: document 2: line 14: spec.ports[0].port: missing".to_owned()],
    };
    let counter = |packets| Counter {
        packets,
        bytes: packets * 100,
    };
    let counters = [
        (Reason::NewFlow, counter(1207)),
        (Reason::Established, counter(90_000)),
        (Reason::UnknownPort, counter(3)),
        (Reason::FlowsFull, counter(0)),
        (Reason::FragmentWithoutFirst, counter(1)),
    ];
    let (tables, names, maps) = (tables(), names(), maps(&map_inputs()));
    let api_agent = AgentStatus {
        source: "kubernetes".to_owned(),
        api: Some(ApiStatus {
            server: "https://10.0.0.1:6443".to_owned(),
            last_event_at: Some(8_001),
            last_list_at: Some(1_002),
        }),
        problems: vec![],
        ..agent.clone()
    };
    for (name, agent) in [
        ("status", Some((&agent, true))),
        ("status-api", Some((&api_agent, true))),
        ("status-agent-down", Some((&agent, false))),
        ("status-no-agent", None),
    ] {
        let view = status(&StatusInputs {
            tables: &tables,
            names: &names,
            agent,
            maps: &maps,
            interfaces: &interfaces(&device_inputs()),
            counters: &counters,
            now: 8_012,
        });
        check(
            name,
            &document("Status", vec![view]),
            |out, items, style| {
                items
                    .iter()
                    .try_for_each(|status| render::status::status_into(out, "n1", status, style))
            },
        );
    }
}
