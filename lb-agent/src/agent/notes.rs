//! What is wrong, as Kubernetes Events: each thing once, and again while it lasts before its Event
//! would be forgotten.
//!
//! Nothing waits for an Event. One that finds no room, or no API server for ten minutes, is offered
//! again later; a cluster where much is wrong is told of the first things alone, and of all of them
//! by `steerage status`.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::{Agent, timers};
use crate::model::event::Kind;
use crate::model::index::Model;
use crate::model::name::ObjectName;
use crate::outside::report::{Reports, Subject};
use crate::plan::report::{Report, Table};
use crate::source::kubernetes::events::{EventSink, Gravity, Note, Regarding};
use crate::source::report::{Problem, SourceReport};

/// How often the same is told while it lasts: sooner than the source forgets the Event it counts in,
/// and than API servers forget Events (an hour).
const REPEAT: Duration = Duration::from_mins(20);
/// How many things are told at a time.
const MAX_TOLD: usize = 64;

/// What was told when.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Where Events go, if there is an API server.
    pub(super) sink: Option<EventSink>,
    told: BTreeMap<Note, Instant>,
    /// What is wrong with objects.
    objects: Vec<Note>,
}

impl Notes {
    /// Tells what is wrong now, unless it was told lately.
    fn tell(&mut self, wrong: impl Iterator<Item = Note>, now: Instant) {
        let Some(sink) = &self.sink else {
            return;
        };
        self.told
            .retain(|_, at| now.saturating_duration_since(*at) < REPEAT);
        for note in wrong.take(MAX_TOLD) {
            if let Entry::Vacant(untold) = self.told.entry(note) {
                // A full queue takes the next ones another time.
                if !sink.send(untold.key().clone()) {
                    return;
                }
                untold.insert(now);
            }
        }
    }

    /// What a source says of objects that it cannot use as they are.
    pub(super) fn set_objects(&mut self, report: &SourceReport, model: &Model) {
        if self.sink.is_some() {
            let problems = report.problems.iter();
            self.objects = problems
                .filter_map(|problem| of_object(problem, model))
                .collect();
        }
    }
}

const fn warning(
    regarding: Regarding,
    reason: &'static str,
    action: &'static str,
    text: String,
) -> Note {
    Note {
        gravity: Gravity::Warning,
        regarding,
        reason,
        action,
        text,
    }
}

fn about_service(name: &ObjectName, model: &Model) -> Regarding {
    let uid = model.service(name).map(|service| service.uid.to_string());
    Regarding::object(Kind::Service, name, uid.unwrap_or_default())
}

fn of_object(problem: &Problem, model: &Model) -> Option<Note> {
    let (kind, name) = problem.subject()?;
    let regarding = match kind {
        Kind::Service => about_service(&name, model),
        Kind::Node => Regarding::node(&name.name),
        Kind::EndpointSlice | Kind::ServiceCidr => Regarding::object(kind, &name, String::new()),
    };
    let text = problem.problem.to_string();
    Some(warning(regarding, "InvalidObject", "Read", text))
}

/// One Event for each table that is full, since many Services may be short of it.
fn of_tables(
    reports: &[(ObjectName, Report)],
    is_kernel_full: bool,
    node: &str,
) -> impl Iterator<Item = Note> {
    let full = reports.iter().filter_map(|(_, report)| match report {
        Report::TableFull { table, .. } => Some(table.name()),
        _ => None,
    });
    let kernel = is_kernel_full.then(|| Table::Frontends.name());
    let full: BTreeSet<_> = full.chain(kernel).collect();
    full.into_iter().map(move |table| {
        let text = format!(
            "table {table} has no room: some Services keep their earlier state; raise its size in \
             the settings and restart the agent"
        );
        warning(Regarding::node(node), "TableFull", "Program", text)
    })
}

fn of_servers(reports: &Reports, model: &Model, node: &str) -> Vec<Note> {
    let notes = reports.iter().map(|(subject, text)| {
        let regarding = match subject {
            Subject::Health | Subject::Metrics => Regarding::node(node),
            Subject::Service(name) => about_service(name, model),
        };
        warning(regarding, subject.reason(), "Listen", text.clone())
    });
    notes.collect()
}

impl Agent {
    /// Tells what is wrong by Kubernetes Events. `reports` are the planner's.
    pub(super) fn tell(&mut self, reports: &[(ObjectName, Report)]) {
        if self.notes.sink.is_none() {
            return;
        }
        let (model, node) = (&self.model, &*self.settings.node_name);
        let is_kernel_full = self.reconciler.parked().next().is_some();
        let tables = of_tables(reports, is_kernel_full, node);
        let services = reports.iter().map(|(name, report)| {
            let regarding = about_service(name, model);
            warning(
                regarding,
                report.event_reason(),
                "Program",
                report.to_string(),
            )
        });
        let servers = of_servers(&self.outside.reports(), model, node);
        let objects = std::mem::take(&mut self.notes.objects);
        let wrong = tables
            .chain(servers)
            .chain(services)
            .chain(objects.iter().cloned());
        self.notes.tell(wrong, timers::now());
        self.notes.objects = objects;
    }

    /// An Event about this Node, now.
    pub(super) fn note(&self, reason: &'static str, text: &str) {
        if let Some(sink) = &self.notes.sink {
            let node = Regarding::node(&self.settings.node_name);
            sink.send(warning(node, reason, "Program", text.to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::source::kubernetes::events::channel;
    use crate::source::report::{Detail, FieldProblem};

    fn name(name: &str) -> ObjectName {
        ObjectName {
            namespace: "ns".into(),
            name: name.into(),
        }
    }

    fn note(text: &str) -> Note {
        let text = text.to_owned();
        warning(Regarding::node("node-a"), "NodeMissing", "Program", text)
    }

    #[test]
    fn a_thing_is_told_once_and_again_while_it_lasts() {
        let (sink, mut receiver) = channel();
        let mut notes = Notes {
            sink: Some(sink),
            ..Notes::default()
        };
        let start = Instant::from_std(clock::instant());
        let mut told = Vec::new();
        for minute in 0..60 {
            let now = start + Duration::from_mins(minute);
            notes.tell([note("a")].into_iter(), now);
            if receiver.try_recv().is_ok() {
                told.push(minute);
            }
        }
        assert_eq!(told, [0, 20, 40]);
    }

    #[test]
    fn what_finds_no_room_is_told_later() {
        let (sink, mut receiver) = channel();
        let mut notes = Notes {
            sink: Some(sink),
            ..Notes::default()
        };
        let now = Instant::from_std(clock::instant());
        let wrong = || (0..50).map(|number| note(&number.to_string()));
        let mut told = BTreeSet::new();
        for _ in 0..2 {
            notes.tell(wrong(), now);
            while let Ok(note) = receiver.try_recv() {
                assert!(told.insert(note), "nothing is told twice");
            }
        }
        assert_eq!(told.len(), 50);
    }

    #[test]
    fn many_services_without_room_are_one_event_about_the_table() {
        let full = |table| (name("web"), Report::TableFull { table, capacity: 8 });
        let reports = [Table::Arena, Table::Arena, Table::Backends].map(full);
        let notes: Vec<_> = of_tables(&reports, false, "node-a").collect();
        assert_eq!(notes.len(), 2);
        assert!(notes.iter().all(|note| note.reason == "TableFull"));
        assert_eq!(of_tables(&[], true, "node-a").count(), 1);
    }

    #[test]
    fn a_wrong_object_is_told_about_the_object() {
        let problem = |object: &str| Problem {
            file: "API".into(),
            position: None,
            object: Some(object.to_owned()),
            problem: FieldProblem::new("spec.ports[0].port", Detail::InvalidPort { value: 0 }),
        };
        let model = Model::new("node-a");
        let note = of_object(&problem("EndpointSlice ns/web-1"), &model).unwrap();
        assert_eq!(
            note.regarding,
            Regarding::object(Kind::EndpointSlice, &name("web-1"), String::new())
        );
        assert_eq!(
            note.text,
            "spec.ports[0].port: 0 is not a port (1 to 65535); ignored"
        );
        let note = of_object(&problem("Node node-a"), &model).unwrap();
        assert_eq!(note.regarding, Regarding::node("node-a"));
        assert_eq!(of_object(&problem("ConfigMap ns/x"), &model), None);
    }
}
