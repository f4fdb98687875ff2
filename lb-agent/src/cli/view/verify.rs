//! What `verify` found.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::audit::difference::{Behind, Difference};
use crate::audit::report::AuditReport;
use crate::cli::render::units;

/// Whether there is an agent to compare with.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum AgentState {
    /// It runs.
    Alive,
    /// It does not: what it said last is not compared.
    Dead,
    /// None has left a status.
    Unknown,
}

/// How much was compared.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Compared {
    /// Frontends, service addresses included.
    pub frontends: usize,
    /// Service ports, each in each family.
    pub service_ports: usize,
    /// Backends.
    pub backends: usize,
    /// Devices with programs.
    pub interfaces: usize,
}

/// What the view is made of.
#[derive(Clone, Copy, Debug)]
pub struct VerifyInputs<'a> {
    /// Whether there is an agent.
    pub agent: AgentState,
    /// Where the objects come from.
    pub source: &'a str,
    /// How much was compared.
    pub compared: Compared,
    /// The agent's last audit.
    pub audit: Option<&'a AuditReport>,
    /// The audit that was asked for.
    pub repair: Option<&'a AuditReport>,
    /// What differs.
    pub differences: &'a [Difference],
}

/// What `verify` found.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VerificationView {
    /// Whether nothing differs.
    pub clean: bool,
    /// Whether there was an agent to compare with.
    pub agent: AgentState,
    /// Where the objects come from.
    pub source: String,
    /// How much was compared.
    pub compared: Compared,
    /// The agent's last audit of its own; `None` before the first.
    pub audit: Option<AuditView>,
    /// The repair that was asked for.
    pub repair: Option<AuditView>,
    /// What differs, by table.
    pub differences: Vec<DifferenceView>,
}

/// One of the agent's audits.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditView {
    /// When it ended: RFC 3339, in UTC.
    pub at: String,
    /// Entries that were not as the agent had planned them, by table.
    pub entries: BTreeMap<String, u64>,
    /// How many were written again.
    pub repaired: u64,
}

/// A difference. What a side does not have is null.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DifferenceView {
    /// The kernel table it is in.
    pub table: &'static str,
    /// What is different.
    pub about: String,
    /// The service port it belongs to.
    pub service: Option<String>,
    /// Which step is behind.
    pub behind: Behind,
    /// What the source asks for.
    pub source: Option<String>,
    /// What the agent says.
    pub agent: Option<String>,
    /// What the kernel has.
    pub kernel: Option<String>,
}

/// The view of what was found.
#[must_use]
pub fn verification(inputs: &VerifyInputs<'_>) -> VerificationView {
    let audit = |report: &AuditReport| AuditView {
        at: units::timestamp(report.at),
        entries: report.entries.clone(),
        repaired: report.repaired,
    };
    let differences: Vec<_> = inputs
        .differences
        .iter()
        .map(|difference| DifferenceView {
            table: difference.table.name(),
            about: difference.about.clone(),
            service: difference.service.clone(),
            behind: difference.behind,
            source: difference.source.clone(),
            agent: difference.agent.clone(),
            kernel: difference.kernel.clone(),
        })
        .collect();
    VerificationView {
        clean: differences.is_empty(),
        agent: inputs.agent,
        source: inputs.source.to_owned(),
        compared: inputs.compared,
        audit: inputs.audit.map(audit),
        repair: inputs.repair.map(audit),
        differences,
    }
}
