//! What the kernel would do with a packet, and why.

use std::net::SocketAddr;

use lb_common::family::Family;
use lb_common::flow::FlowTuple;
use lb_common::verdict::Kind;
use serde::Serialize;

use super::services::{BackendState, ServiceView, protocol_text};
use super::status::kind_text;
use crate::cli::explain::{Origin, Trace};
use crate::cli::inputs::address_of;

/// An explanation.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainView {
    /// The packet.
    pub packet: TupleView,
    /// Who sends it, by name.
    pub client: Option<String>,
    /// What was assumed of it.
    pub assumptions: Vec<String>,
    /// Where it is decided about.
    pub hook: &'static str,
    /// The service port that was dialled, as `namespace/name:port`.
    pub service: Option<String>,
    /// What was looked at, in order.
    pub steps: Vec<StepView>,
    /// Who may serve, who may not and why, who serves.
    pub candidates: Vec<CandidateView>,
    /// The outcome.
    pub verdict: VerdictView,
    /// The packet as it goes on, where it is translated.
    pub translated: Option<TupleView>,
    /// The packet as it leaves this node, where it gets an address of this node on its way out. The
    /// port is one that may be drawn.
    pub leaves: Option<TupleView>,
    /// The way of the reply, where the packet is translated.
    pub reply: Option<ReplyView>,
}

/// Addresses and ports of a packet.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TupleView {
    /// Where it comes from.
    pub source: SocketAddr,
    /// Where it goes.
    pub destination: SocketAddr,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: &'static str,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StepView {
    /// What was looked at.
    pub name: &'static str,
    /// What it said.
    pub finding: String,
}

/// An endpoint of the service port.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CandidateView {
    /// Address and port that serve.
    pub address: SocketAddr,
    /// Its Pod.
    pub pod: Option<String>,
    /// Its state.
    pub state: BackendState,
    /// Share of new flows, from 0 to 1.
    pub share: f64,
    /// Why it gets no new flows.
    pub excluded: Option<String>,
    /// Whether this packet goes to it.
    pub chosen: bool,
}

/// The outcome.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VerdictView {
    /// What becomes of the packet.
    pub kind: &'static str,
    /// The reason's name, as counters have it; `not_seen` where no program sees the packet.
    pub reason: &'static str,
    /// What it means.
    pub explanation: &'static str,
}

/// The way of a reply.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplyView {
    /// As the backend sends it.
    pub arrives: TupleView,
    /// As the client gets it.
    pub leaves: TupleView,
    /// Where it is translated.
    pub hook: &'static str,
}

/// The explanation that `trace` amounts to, with names from `services`.
#[must_use]
pub fn explanation<F: Family>(
    assumptions: &[String],
    client: Option<&str>,
    trace: &Trace<F>,
    services: &[ServiceView],
) -> ExplainView {
    let service = trace
        .service_index
        .or_else(|| trace.entry.map(|entry| entry.service.index()))
        .and_then(|index| services.iter().find(|service| service.index == index));
    let translated = trace.entry.map(|entry| tuple(&entry.translated));
    let chosen = translated.as_ref().map(|tuple| tuple.destination);
    let (hook, reply_hook) = match (trace.origin, trace.leaves) {
        _ if !trace.is_seen => ("no hook", "no hook"),
        (Origin::Pod, _) => (
            "tc ingress of the client's device",
            "tc egress of the client's device",
        ),
        (Origin::Elsewhere, None) => ("tc ingress of an uplink", "tc egress of an uplink"),
        (Origin::Elsewhere, Some(_)) => (
            "tc ingress of an uplink, and tc egress of the one it leaves by",
            "tc ingress and egress of the uplinks",
        ),
        (Origin::Node, _) => (
            "tc egress of the uplink that it leaves by",
            "tc ingress of the device that it comes by",
        ),
    };
    ExplainView {
        packet: tuple(&trace.tuple),
        client: client.map(str::to_owned),
        assumptions: assumptions.to_vec(),
        hook,
        service: service.map(ServiceView::title),
        steps: trace
            .steps
            .iter()
            .map(|step| StepView {
                name: step.name,
                finding: step.finding.clone(),
            })
            .collect(),
        candidates: service.map_or_else(Vec::new, |service| candidates(service, chosen)),
        verdict: verdict(trace),
        translated,
        leaves: trace.leaves.as_ref().map(tuple),
        reply: trace.entry.map(|entry| {
            let partner = entry.partner();
            let arrives = trace
                .leaves
                .map_or(partner.key.tuple, |left| left.reverse());
            ReplyView {
                arrives: tuple(&arrives),
                leaves: tuple(&partner.translated),
                hook: reply_hook,
            }
        }),
    }
}

fn verdict<F: Family>(trace: &Trace<F>) -> VerdictView {
    if !trace.is_seen {
        return VerdictView {
            kind: kind_text(Kind::Pass),
            reason: "not_seen",
            explanation: "No program sees the packet: it is the host's alone.",
        };
    }
    VerdictView {
        kind: kind_text(trace.reason.kind()),
        reason: trace.reason.name(),
        explanation: trace.reason.explanation().trim(),
    }
}

fn candidates(service: &ServiceView, chosen: Option<SocketAddr>) -> Vec<CandidateView> {
    service
        .backends
        .iter()
        .map(|backend| CandidateView {
            address: backend.address,
            pod: backend.pod.clone(),
            state: backend.state,
            share: backend.share,
            excluded: backend.excluded.clone(),
            chosen: Some(backend.address) == chosen,
        })
        .collect()
}

fn tuple<F: Family>(tuple: &FlowTuple<F>) -> TupleView {
    let socket =
        |address: F::Address, port: u16| SocketAddr::new(address_of(F::mapped(address)), port);
    TupleView {
        source: socket(tuple.source, tuple.source_port),
        destination: socket(tuple.destination, tuple.destination_port),
        protocol: protocol_text(tuple.protocol.number()),
    }
}
