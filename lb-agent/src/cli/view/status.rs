//! How the node is: the agent, what it programmed, what the kernel counted.

use lb_common::table::counter::Counter;
use lb_common::verdict::{Kind, Reason};
use serde::Serialize;

use super::interfaces::InterfaceView;
use super::maps::{MapView, PRESSURE_WARNING_PERCENT};
use crate::dataplane::Actual;
use crate::plan::names::Names;
use crate::status::AgentStatus;

/// The state of one node.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusView {
    /// In a word.
    pub health: Health,
    /// The agent; `None` where it left no status.
    pub agent: Option<AgentView>,
    /// Service ports in the kernel, each family by itself.
    pub services: usize,
    /// Addresses and ports that clients may dial.
    pub frontends: usize,
    /// Backends in the kernel.
    pub backends: usize,
    /// Devices with programs.
    pub interfaces: usize,
    /// What each device is that has programs or should have them, and why.
    pub devices: Vec<InterfaceView>,
    /// Memory of all maps in bytes, by the kernel's own accounting.
    pub memory_bytes: u64,
    /// How that is made up.
    pub memory: Vec<MemoryView>,
    /// Maps by how full they are, fullest first, at most five.
    pub fullest: Vec<PressureView>,
    /// Packets by reason, those that were seen.
    pub counters: Vec<CounterView>,
    /// What is wrong, one line each.
    pub problems: Vec<String>,
}

/// The state of a node in a word.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Health {
    /// All is well.
    Ok,
    /// Traffic goes on, but something needs attention.
    Degraded,
    /// The agent is not running: traffic goes on, changes do not arrive.
    AgentDown,
    /// The agent runs and has not yet programmed everything once.
    Starting,
}

impl Health {
    /// The word that people read.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::AgentDown => "agent down",
            Self::Starting => "starting",
        }
    }
}

/// The agent.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentView {
    /// Whether its process lives.
    pub alive: bool,
    /// Its process id, while it lives or when it did.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// Where its objects come from.
    pub source: String,
    /// Seconds since it started.
    pub running_seconds: u64,
    /// Seconds since the tables last were what the source says; `None` if never.
    pub last_sync_seconds: Option<u64>,
    /// Writes that failed and are tried again.
    pub pending_writes: u64,
    /// How the API server is; `None` where objects come from elsewhere.
    pub api: Option<ApiView>,
}

/// How the API server is.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiView {
    /// The server that is asked.
    pub server: String,
    /// Seconds since an object last came from it; `None` if never.
    pub last_event_seconds: Option<u64>,
    /// Seconds since it last sent all Services and `EndpointSlices`; `None` if never.
    pub last_list_seconds: Option<u64>,
}

/// Memory of one map.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MemoryView {
    /// The map.
    pub map: String,
    /// Entries it can hold.
    pub capacity: u64,
    /// Bytes it takes.
    pub bytes: u64,
}

/// How full a map is.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PressureView {
    /// The map.
    pub map: String,
    /// Entries in use.
    pub used: u64,
    /// Entries it can hold.
    pub capacity: u64,
    /// Used entries of a hundred.
    pub percent: u64,
}

/// Packets of one reason.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CounterView {
    /// The reason's name.
    pub reason: &'static str,
    /// What became of the packets.
    pub kind: &'static str,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
    /// What it means.
    pub explanation: &'static str,
}

/// Everything a status is made of.
#[derive(Debug)]
pub struct StatusInputs<'a> {
    /// The tables.
    pub tables: &'a Actual,
    /// The names.
    pub names: &'a Names,
    /// The agent's file and whether its process lives.
    pub agent: Option<(&'a AgentStatus, bool)>,
    /// The maps.
    pub maps: &'a [MapView],
    /// Devices with programs, and those that should have them.
    pub interfaces: &'a [InterfaceView],
    /// The counters.
    pub counters: &'a [(Reason, Counter)],
    /// Seconds since the Unix epoch.
    pub now: u64,
}

/// The status that `inputs` amount to.
#[must_use]
pub fn status(inputs: &StatusInputs<'_>) -> StatusView {
    let mut fullest: Vec<PressureView> = inputs.maps.iter().filter_map(pressure).collect();
    fullest.sort_by(|a, b| b.percent.cmp(&a.percent).then(a.map.cmp(&b.map)));
    fullest.truncate(5);
    let problems = problems(inputs, &fullest);
    StatusView {
        health: health(inputs, &problems),
        agent: inputs.agent.map(|(agent, alive)| AgentView {
            alive,
            pid: agent.pid,
            version: agent.agent_version.clone(),
            source: agent.source.clone(),
            running_seconds: inputs.now.saturating_sub(agent.started_at),
            last_sync_seconds: agent
                .last_sync_at
                .map(|last| inputs.now.saturating_sub(last)),
            pending_writes: agent.pending_writes,
            api: agent.api.as_ref().map(|api| ApiView {
                server: api.server.clone(),
                last_event_seconds: api.last_event_at.map(|at| inputs.now.saturating_sub(at)),
                last_list_seconds: api.last_list_at.map(|at| inputs.now.saturating_sub(at)),
            }),
        }),
        services: inputs.tables.services.len(),
        frontends: inputs
            .tables
            .frontends
            .keys()
            .filter(|key| key.protocol().is_some())
            .count(),
        backends: inputs.tables.backends.len(),
        interfaces: inputs.interfaces.iter().filter(has_programs).count(),
        devices: inputs.interfaces.to_vec(),
        memory_bytes: inputs.maps.iter().map(|map| map.memory_bytes).sum(),
        memory: memory(inputs.maps),
        fullest,
        counters: inputs
            .counters
            .iter()
            .filter(|(_, counter)| counter.packets > 0)
            .map(|(reason, counter)| CounterView {
                reason: reason.name(),
                kind: kind_text(reason.kind()),
                packets: counter.packets,
                bytes: counter.bytes,
                explanation: reason.explanation().trim(),
            })
            .collect(),
        problems,
    }
}

const fn has_programs(interface: &&InterfaceView) -> bool {
    interface.obstacle.is_none()
}

const fn health(inputs: &StatusInputs<'_>, problems: &[String]) -> Health {
    match inputs.agent {
        None | Some((_, false)) => Health::AgentDown,
        Some((agent, true)) if agent.first_sync_at.is_none() => Health::Starting,
        Some(_) if problems.is_empty() => Health::Ok,
        Some(_) => Health::Degraded,
    }
}

fn problems(inputs: &StatusInputs<'_>, fullest: &[PressureView]) -> Vec<String> {
    let mut problems = Vec::new();
    match inputs.agent {
        None => problems.push(
            "the agent left no status: it never ran with this --state-dir, or was cleaned up"
                .to_owned(),
        ),
        Some((agent, false)) => problems.push(format!(
            "the agent (process {}) is not running: traffic goes on, changes do not arrive",
            agent.pid
        )),
        Some((agent, true)) => problems.extend(agent.problems.iter().cloned()),
    }
    for report in &inputs.names.reports {
        let name = super::services::title(&report.namespace, &report.name, "");
        problems.push(format!("Service {name}: {}", report.text));
    }
    for map in fullest {
        if map.percent >= PRESSURE_WARNING_PERCENT {
            problems.push(format!(
                "map {} is {} % full: raise its size in the settings",
                map.map, map.percent
            ));
        }
    }
    problems
}

fn pressure(map: &MapView) -> Option<PressureView> {
    Some(PressureView {
        map: map.name.clone(),
        used: map.used?,
        capacity: map.capacity,
        percent: map.pressure_percent?,
    })
}

fn memory(maps: &[MapView]) -> Vec<MemoryView> {
    let mut memory: Vec<MemoryView> = maps
        .iter()
        .map(|map| MemoryView {
            map: map.name.clone(),
            capacity: map.capacity,
            bytes: map.memory_bytes,
        })
        .collect();
    memory.sort_by(|a, b| b.bytes.cmp(&a.bytes).then(a.map.cmp(&b.map)));
    memory
}

/// The word for what becomes of a packet.
#[must_use]
pub const fn kind_text(kind: Kind) -> &'static str {
    match kind {
        Kind::Pass => "pass",
        Kind::Translate => "translate",
        Kind::Answer => "answer",
        Kind::Drop => "drop",
        Kind::Note => "note",
    }
}
