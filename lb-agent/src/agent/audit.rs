//! Audits: one every few minutes, and one whenever `steerage verify --repair` asks for it.
//!
//! A pass takes many steps, each well below a millisecond but for the largest sets, with pauses
//! between them in which the loop does what it is there for.

mod node;

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use super::objects::ModelObjects;
use super::timers::now;
use super::{Agent, AgentError};
use crate::audit::basis::{self, Basis};
use crate::audit::node::NodeTables;
use crate::audit::report::{self, AuditReport};
use crate::audit::words::word_name;
use crate::clock;
use crate::dataplane::layout::Table;
use crate::dataplane::{Dataplane as _, Write};
use crate::reconcile::audit::{Audit, AuditStep, Found};
use crate::settings::Settings;
use crate::state_file::write_json;

/// Pause between two steps of a pass that nobody waits for.
const PAUSE: Duration = Duration::from_millis(20);
/// When to try again while writes are under way.
const WAIT: Duration = Duration::from_millis(100);
/// How soon a pass that found something is followed by another, which says whether it lasts.
const CONFIRMATION: Duration = Duration::from_secs(1);
/// How often a request is looked for.
pub(super) const REQUEST_INTERVAL: Duration = Duration::from_millis(500);

/// The audits of one agent.
#[derive(Debug)]
pub(super) struct AuditKeeper {
    state_dir: PathBuf,
    /// The pass that runs.
    pass: Option<Audit>,
    began: Instant,
    due: Instant,
    /// The word of the request that the pass answers.
    request: Option<String>,
    /// Whether the last pass found something.
    has_found: bool,
    /// What commands were told of the node.
    node_tables: Option<NodeTables>,
}

impl AuditKeeper {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            state_dir: settings.state_dir.clone(),
            pass: None,
            began: now(),
            due: now() + settings.audit.interval,
            request: None,
            has_found: false,
            node_tables: None,
        }
    }

    /// When to call [`Agent::audit`].
    pub(super) const fn due_at(&self) -> Instant {
        self.due
    }

    /// The time between passes may be shorter than before.
    pub(super) fn hasten(&mut self, settings: &Settings) {
        self.due = self.due.min(now() + settings.audit.interval);
    }

    /// The word of a request, which is taken away.
    fn take_request(&self) -> Option<String> {
        let path = self.state_dir.join(report::REQUEST_NAME);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!("reading {}: {error}", path.display());
                }
                return None;
            }
        };
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!("removing {}: {error}", path.display());
            return None;
        }
        let word = text.trim();
        (word.len() <= report::MAX_REQUEST).then(|| word.to_owned())
    }
}

/// Writes what commands need to make the agent's plan themselves.
pub(super) fn write_basis(settings: &Settings) -> Result<(), AgentError> {
    let path = settings.state_dir.join(basis::FILE_NAME);
    write_json(&path, &Basis::of(settings)).map_err(|source| AgentError::State { path, source })
}

impl Agent {
    /// Begins a pass if somebody asks for one: everything is planned again, and then compared.
    pub(super) fn look_for_request(&mut self) {
        let Some(word) = self.audits.take_request() else {
            return;
        };
        tracing::info!("asked to repair the tables");
        self.reconciler.all_changed(&ModelObjects(&self.model));
        self.has_work = true;
        self.audits.request = Some(word);
        self.audits.pass = None;
        self.audits.due = now();
    }

    /// Goes on with a pass, or begins one.
    pub(super) fn audit(&mut self) {
        let is_asked = self.audits.request.is_some();
        if self.audits.pass.is_none() {
            self.audits.began = now();
        }
        let repairs = is_asked || self.settings.audit.repair;
        let pass = self.audits.pass.get_or_insert_with(|| Audit::new(repairs));
        let pause = match self.reconciler.audit(pass) {
            Ok(AuditStep::Waits) => WAIT,
            Ok(AuditStep::More) if is_asked => Duration::ZERO,
            Ok(AuditStep::More) => PAUSE,
            Ok(AuditStep::Done(found)) => {
                self.audits.pass = None;
                self.audited(found, repairs)
            }
            Err(error) => {
                self.postpone(&error);
                WAIT
            }
        };
        self.audits.due = now() + pause;
    }

    /// A pass is over; says when the next one begins.
    fn audited(&mut self, mut found: Found, repairs: bool) -> Duration {
        self.audit_config(&mut found, repairs);
        self.audit_node(&mut found, repairs);
        self.outside.outside().metrics.audited(&found);
        let has_found = found.total() > 0;
        if has_found {
            let text = drift_text(&found, repairs);
            tracing::warn!("{text}");
            let reason = if repairs {
                "DriftRepaired"
            } else {
                "DriftFound"
            };
            // What is not repaired is said once while it lasts.
            if repairs || !self.audits.has_found {
                self.note(reason, &text);
            }
        }
        let is_new = has_found && !self.audits.has_found;
        self.audits.has_found = has_found;
        self.write_audit(&found);
        if is_new {
            CONFIRMATION
        } else {
            self.settings.audit.interval
        }
    }

    fn write_audit(&mut self, found: &Found) {
        let took = now().duration_since(self.audits.began);
        let entries = found.entries.iter();
        let report = AuditReport {
            version: report::VERSION,
            request: self.audits.request.take(),
            at: clock::unix_seconds(),
            took_micros: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            entries: entries
                .map(|(table, &count)| (table.name().to_owned(), count))
                .collect(),
            repaired: found.repaired,
            examples: found.examples.clone(),
        };
        let path = self.audits.state_dir.join(report::FILE_NAME);
        // Nothing of the datapath depends on it: whoever waits for it says so.
        if let Err(error) = write_json(&path, &report) {
            tracing::warn!("writing {}: {error}", path.display());
        }
    }

    /// The words of `CONFIG` that follow from settings, objects and devices.
    fn audit_config(&mut self, found: &mut Found, repairs: bool) {
        let mut words = Basis::of(&self.settings).config;
        words.extend(self.range_words().words);
        let dataplane = self.reconciler.dataplane_mut();
        for (word, value) in words {
            let actual = dataplane.config(word);
            if actual == value {
                continue;
            }
            let what = word_name(word);
            let text = format!("{what}: {actual:#x} instead of {value:#x}");
            found.add(Table::Config, text);
            if !repairs {
                continue;
            }
            match dataplane.apply(&Write::SetConfig { word, value }) {
                Ok(()) => found.repaired += 1,
                Err(error) => tracing::error!("{error}"),
            }
        }
    }
}

/// One line for the log and the Event.
fn drift_text(found: &Found, repairs: bool) -> String {
    let counts = found.entries.iter();
    let counts: Vec<_> = counts
        .map(|(table, count)| format!("{count} of {}", table.name()))
        .collect();
    let total = found.total();
    let outcome = if !repairs {
        "not repaired, as the settings say".to_owned()
    } else if found.repaired == total {
        "repaired".to_owned()
    } else {
        format!("{} repaired", found.repaired)
    };
    let examples = found.examples.join("; ");
    format!(
        "{total} entries of the tables were not as planned ({}), {outcome}: {examples}",
        counts.join(", ")
    )
}
