//! `verify`, clean and not, with and without an agent.

use std::collections::BTreeMap;

use super::{check, document};
use crate::audit::difference::{Behind, Difference};
use crate::audit::report::AuditReport;
use crate::cli::render;
use crate::cli::view::verify::{AgentState, Compared, VerifyInputs, verification};
use crate::dataplane::layout::Table;

fn differences() -> Vec<Difference> {
    let text = |text: &str| Some(text.to_owned());
    vec![
        Difference {
            table: Table::Frontends,
            about: "10.96.0.1:80/TCP".to_owned(),
            service: text("default/web:http (IPv4)"),
            source: text("cluster address of default/web:http (IPv4)"),
            agent: text("cluster address of default/web:http (IPv4)"),
            kernel: None,
            behind: Behind::Kernel,
        },
        Difference {
            table: Table::Arena,
            about: "other clients: endpoint 10.0.1.10:8080/TCP".to_owned(),
            service: text("default/web:http (IPv4)"),
            source: None,
            agent: text("serves"),
            kernel: text("serves"),
            behind: Behind::Agent,
        },
    ]
}

#[test]
fn golden_verify() {
    let compared = Compared {
        frontends: 4,
        service_ports: 3,
        backends: 4,
        interfaces: 2,
    };
    let audit = AuditReport {
        version: 1,
        request: None,
        at: 8_000,
        took_micros: 1_200,
        entries: BTreeMap::from([("FRONTENDS".to_owned(), 1)]),
        repaired: 1,
        examples: vec![],
    };
    let found = differences();
    let clean = VerifyInputs {
        agent: AgentState::Alive,
        source: "kubernetes",
        compared,
        audit: None,
        repair: None,
        differences: &[],
    };
    for (name, inputs) in [
        ("verify", clean),
        (
            "verify-drift",
            VerifyInputs {
                audit: Some(&audit),
                differences: &found,
                ..clean
            },
        ),
        (
            "verify-repaired",
            VerifyInputs {
                audit: Some(&audit),
                repair: Some(&audit),
                ..clean
            },
        ),
        (
            "verify-agent-down",
            VerifyInputs {
                agent: AgentState::Dead,
                ..clean
            },
        ),
    ] {
        let view = verification(&inputs);
        check(
            name,
            &document("Verification", vec![view]),
            |out, items, style| {
                items
                    .iter()
                    .try_for_each(|view| render::verify::verification_into(out, view, style))
            },
        );
    }
}
