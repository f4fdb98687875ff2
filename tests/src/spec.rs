//! Scenario files: Kubernetes manifests in, what the maps then hold out.
//!
//! A file is words on what it shows, then sections:
//!
//! ```text
//! -- web.yaml --       writes this file into the agent's source directory
//! -- remove web.yaml --
//! -- machine --        addresses of the machine's devices, and `nodePortAddresses` of the settings
//! -- maps --           brings the tables to what the files say; they must then be this
//! -- plan --           what they should be, with what is kept out of the kernel, must be this
//! ```
//!
//! Every file is gone in the end, and the tables must be empty then. All of it runs with the
//! source's, the model's and the planner's own code, three times over: plainly, with one write in
//! ten failing, and with an agent that starts anew at every step, the change having happened while
//! none ran. The maps must be the same each time; the third time as far as packets can tell, since
//! a service that takes over another's frontend then takes over its id.
//!
//! `UPDATE=1 cargo test -p lb-tests --test scenario_files` rewrites the `maps` and `plan`
//! sections.

mod dump;
mod plan;

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use lb_agent::config::{self, value::NodePortAddress};
use lb_agent::dataplane::memory::{Flaky, Memory};
use lb_agent::dataplane::{Actual, Capacity, Dataplane as _, DataplaneError};
use lb_agent::model::index::Model;
use lb_agent::model::name::ObjectName;
use lb_agent::plan::desired::Desired;
use lb_agent::plan::{NodeView, ServiceView};
use lb_agent::reconcile::{Objects, Reconciler};
use lb_agent::settings::services::ServiceRules;
use lb_agent::source::directory::Reading;
use serde::Deserialize;

/// The node that the agent runs on.
const NODE: &str = "node-a";
/// Tables that have room for any scenario.
const CAPACITY: Capacity = Capacity {
    frontends: 64,
    services: 32,
    arena_words: 65_536,
    backends: 64,
    node_addresses: 64,
    source_ranges: 64,
};
/// Of 100 writes, how many fail where some do.
const FAILING: u64 = 10;
/// Failures in a row that no chance explains.
const MOST_FAILURES: u32 = 1000;

/// Something a scenario does.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Step {
    Write { name: String, text: String },
    Remove { name: String },
    Machine { text: String },
    Maps { expected: String },
    Plan { expected: String },
}

/// What else than objects the tables follow from.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Machine {
    /// Addresses of its devices; those of the Node where nothing is said.
    addresses: Option<Vec<IpAddr>>,
    /// The setting of that name.
    node_port_addresses: Option<Vec<NodePortAddress>>,
}

impl Machine {
    /// The addresses that take node ports.
    fn node_ports(&self, node: &NodeView<'_>) -> BTreeSet<IpAddr> {
        let mut rules = ServiceRules::default();
        if let Some(chosen) = &self.node_port_addresses {
            rules.node_port_addresses.clone_from(chosen);
        }
        let addresses = self.addresses.as_deref().unwrap_or(node.addresses);
        rules.node_ports().select(node, addresses.iter().copied())
    }
}

/// How a scenario is run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Manner {
    Plain,
    Failing,
    Restarting,
}

/// Runs the scenario in a file, in every manner.
pub fn check(path: &Path) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let (prose, steps) = parse(&text)?;
    ensure!(
        steps
            .iter()
            .any(|step| matches!(step, Step::Maps { .. } | Step::Plan { .. })),
        "the scenario expects nothing"
    );
    if std::env::var_os("UPDATE").is_some() {
        let updated = Run::new(Manner::Plain)?.update(&steps)?;
        return fs::write(path, prose + &updated)
            .with_context(|| format!("write {}", path.display()));
    }
    let meanings = Run::new(Manner::Plain)?.follow(&steps).context("plainly")?;
    let again = Run::new(Manner::Failing)?.follow(&steps);
    again.context("with failing writes")?;
    let restarted = Run::new(Manner::Restarting)?.follow(&steps);
    let restarted = restarted.context("with restarts")?;
    ensure!(
        restarted == meanings,
        "with restarts the maps mean\n{restarted:#?}\nnot\n{meanings:#?}"
    );
    Ok(())
}

fn title(of: &str) -> String {
    format!("-- {of} --\n")
}

/// The words before the first section, and the sections.
fn parse(text: &str) -> Result<(String, Vec<Step>)> {
    let mut prose = String::new();
    let mut steps = Vec::new();
    for line in text.split_inclusive('\n') {
        let title = line.trim_end().strip_prefix("-- ");
        if let Some(title) = title.and_then(|rest| rest.strip_suffix(" --")) {
            steps.push(match title.strip_prefix("remove ") {
                Some(name) => Step::Remove { name: name.into() },
                None if title == "maps" => Step::Maps {
                    expected: String::new(),
                },
                None if title == "plan" => Step::Plan {
                    expected: String::new(),
                },
                None if title == "machine" => Step::Machine {
                    text: String::new(),
                },
                None => Step::Write {
                    name: title.into(),
                    text: String::new(),
                },
            });
            continue;
        }
        match steps.last_mut() {
            None => prose += line,
            Some(Step::Write { text, .. } | Step::Machine { text }) => *text += line,
            Some(Step::Maps { expected } | Step::Plan { expected }) => *expected += line,
            Some(Step::Remove { .. }) if line.trim().is_empty() => {}
            Some(Step::Remove { name }) => bail!("{line:?} after the removal of {name}"),
        }
    }
    Ok((prose, steps))
}

/// An agent without kernel and devices.
struct Run {
    manner: Manner,
    directory: tempfile::TempDir,
    reading: Reading,
    model: Model,
    machine: Machine,
    reconciler: Reconciler<Flaky<Memory>>,
    problems: Vec<String>,
    written: BTreeSet<String>,
}

impl Run {
    fn new(manner: Manner) -> Result<Self> {
        let directory = tempfile::tempdir().context("make a directory for manifests")?;
        Ok(Self {
            manner,
            reading: Reading::new(directory.path().to_owned()),
            directory,
            model: Model::new(NODE),
            machine: Machine::default(),
            reconciler: start(Memory::new(CAPACITY), manner)?,
            problems: Vec::new(),
            written: BTreeSet::new(),
        })
    }

    /// Does every step, compares the maps with what is expected, and says what they mean each time.
    fn follow(mut self, steps: &[Step]) -> Result<Vec<String>> {
        let mut meanings = Vec::new();
        for (number, step) in (1..).zip(steps) {
            let section = || format!("section {number}");
            match step {
                Step::Maps { expected } => {
                    let maps = self.maps().with_context(section)?;
                    meanings.push(dump::meaning(&self.actual()?));
                    ensure!(
                        maps == *expected || self.manner == Manner::Restarting,
                        "section {number}: the maps hold\n{maps}\nnot\n{expected}"
                    );
                }
                Step::Plan { expected } => {
                    let plan = self.plan().with_context(section)?;
                    ensure!(
                        plan == *expected,
                        "section {number}: the plan is\n{plan}\nnot\n{expected}"
                    );
                }
                Step::Write { .. } | Step::Remove { .. } | Step::Machine { .. } => {
                    self.change(step)?;
                }
            }
        }
        self.end()?;
        Ok(meanings)
    }

    fn actual(&self) -> Result<Actual> {
        Ok(self.reconciler.dataplane().read_all()?)
    }

    /// The sections with what the maps hold.
    fn update(mut self, steps: &[Step]) -> Result<String> {
        let mut text = String::new();
        for step in steps {
            match step {
                Step::Write { name, text: body } => text += &[&title(name), body.as_str()].concat(),
                Step::Remove { name } => text += &title(&format!("remove {name}")),
                Step::Machine { text: body } => text += &[title("machine"), body.clone()].concat(),
                Step::Maps { .. } => {
                    text += &[title("maps"), self.maps()?].concat();
                    continue;
                }
                Step::Plan { .. } => {
                    text += &[title("plan"), self.plan()?].concat();
                    continue;
                }
            }
            self.change(step)?;
        }
        self.end()?;
        Ok(text)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn change(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Write { name, text } => {
                self.written.insert(name.clone());
                fs::write(self.path(name), text).with_context(|| format!("write {name}"))
            }
            Step::Remove { name } => {
                fs::remove_file(self.path(name)).with_context(|| format!("remove {name}"))
            }
            Step::Machine { text } => {
                self.machine = config::text::parse(text)
                    .map_err(|mistake| anyhow!("what the machine has: {}", mistake.message))?;
                Ok(())
            }
            Step::Maps { .. } | Step::Plan { .. } => Ok(()),
        }
    }

    /// Brings the tables to what the files say.
    fn sync(&mut self) -> Result<()> {
        if self.manner == Manner::Restarting {
            let memory = self.reconciler.dataplane().inner.clone();
            self.reconciler = start(memory, self.manner)?;
            self.reconciler.listed(&Held(&self.model));
        }
        let (events, report) = self
            .reading
            .read(&std::mem::take(&mut self.written))
            .context("read the manifests")?;
        self.problems = report.problems.iter().map(ToString::to_string).collect();
        let was_ready = self.model.is_ready();
        let mut changed = self.model.apply_all(events);
        let addresses = self.machine.addresses.clone().unwrap_or_default();
        changed.merge(self.model.set_device_addresses(addresses));
        let objects = Held(&self.model);
        for name in changed.services {
            self.reconciler.changed(name);
        }
        if changed.node || changed.cidrs {
            self.reconciler.all_changed(&objects);
        }
        if !was_ready {
            ensure!(self.model.is_ready(), "not everything is listed");
            self.reconciler.listed(&objects);
        }
        until_done(|| self.reconciler.run(&objects))?;
        ensure!(self.reconciler.is_synced(), "something was left to do");
        let memory = &self.reconciler.dataplane().inner;
        memory.check().context("the tables contradict each other")
    }

    /// Brings the tables to what the files say, and says what they should hold.
    fn plan(&mut self) -> Result<String> {
        self.sync()?;
        let objects = Held(&self.model);
        let names = objects.names();
        let views = names.iter().filter_map(|name| objects.view(name));
        let desired = Desired::of(views, &objects.node());
        let node_ports = self.machine.node_ports(&objects.node());
        Ok(plan::dump(&desired, &objects.node(), &node_ports))
    }

    /// Brings the tables to what the files say, and says what they hold.
    fn maps(&mut self) -> Result<String> {
        self.sync()?;
        let mut text = dump::dump(&self.actual()?);
        let reports = self.reconciler.planner().reports();
        let reports = reports
            .iter()
            .map(|(name, report)| format!("{name}: {report}"));
        for problem in self.problems.iter().cloned().chain(reports) {
            text += &["problem: ", &problem, "\n"].concat();
        }
        Ok(text)
    }

    /// Removes every file; nothing may be left.
    fn end(mut self) -> Result<()> {
        for entry in fs::read_dir(self.directory.path()).context("list the manifests")? {
            let path = entry.context("list the manifests")?.path();
            fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        }
        self.maps()?;
        until_done(|| self.reconciler.sweep())?;
        let memory = &self.reconciler.dataplane().inner;
        ensure!(
            memory.is_empty() && self.problems.is_empty(),
            "left in the end:\n{}{:?}",
            dump::dump(&self.actual()?),
            self.problems
        );
        Ok(())
    }
}

fn start(memory: Memory, manner: Manner) -> Result<Reconciler<Flaky<Memory>>> {
    let mut reconciler =
        Reconciler::start(Flaky::new(memory, 0, 1)).context("begin with the tables")?;
    if manner == Manner::Failing {
        reconciler.dataplane_mut().percent = FAILING;
    }
    Ok(reconciler)
}

fn until_done(mut attempt: impl FnMut() -> Result<(), DataplaneError>) -> Result<()> {
    for _ in 0..MOST_FAILURES {
        if attempt().is_ok() {
            return Ok(());
        }
    }
    bail!("{MOST_FAILURES} failures in a row")
}

/// The model as the reconciler reads it.
struct Held<'a>(&'a Model);

impl Objects for Held<'_> {
    fn view(&self, name: &ObjectName) -> Option<ServiceView<'_>> {
        let service = self.0.service(name)?;
        Some(ServiceView::new(service, self.0.slices(name)))
    }

    fn names(&self) -> Vec<ObjectName> {
        self.0
            .services()
            .map(|service| service.name.clone())
            .collect()
    }

    fn node(&self) -> NodeView<'_> {
        let node = self.0.node();
        NodeView {
            name: NODE,
            zone: node.and_then(|node| node.zone.as_deref()),
            addresses: node.map_or(&[], |node| &node.addresses),
            device_addresses: self.0.device_addresses(),
            service_cidrs: self.0.service_cidrs(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_is_prose_and_sections() {
        let text = "It shows\nthis.\n-- a.yaml --\nkind: x\n-- maps --\n1\n-- remove a.yaml --\n\n";
        let (prose, steps) = parse(text).unwrap();
        assert_eq!(prose, "It shows\nthis.\n");
        let name = || "a.yaml".to_owned();
        let expected = [
            Step::Write {
                name: name(),
                text: "kind: x\n".into(),
            },
            Step::Maps {
                expected: "1\n".into(),
            },
            Step::Remove { name: name() },
        ];
        assert_eq!(steps, expected);
        assert!(parse("-- remove a --\nx\n").is_err());
    }
}
