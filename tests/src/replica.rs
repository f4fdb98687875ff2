//! An agent's inside without its outside: the model, the planner and the reconciler of a real agent,
//! fed by hand, on tables in memory that fail now and then.

use std::collections::BTreeMap;

use anyhow::{Context as _, Error, Result, bail};
use k8s_openapi::api::core::v1::{Node, Service};
use lb_agent::audit::compare::{Sides, compare};
use lb_agent::audit::difference::Difference;
use lb_agent::audit::picture::{Filters, Picture};
use lb_agent::dataplane::memory::{Flaky, Memory};
use lb_agent::dataplane::{Actual, Capacity, Dataplane as _, DataplaneError};
use lb_agent::model::event::{Event, Kind};
use lb_agent::model::index::Model;
use lb_agent::model::name::ObjectName;
use lb_agent::plan::desired::Desired;
use lb_agent::plan::names::Names;
use lb_agent::plan::{NodeView, ServiceView};
use lb_agent::reconcile::audit::{Audit, AuditStep, Found};
use lb_agent::reconcile::{Objects, Reconciler};
use lb_agent::source::convert::{self, endpoint_slice::api::ApiSlice};
use lb_agent::source::intern::Interner;
use lb_agent::source::report::FieldProblem;
use serde_json::Value;

use crate::apiserver::Resource;

/// Tables with room for the recorded cluster, and little more.
pub const CAPACITY: Capacity = Capacity {
    frontends: 1024,
    services: 512,
    arena_words: 1 << 20,
    backends: 2048,
    node_addresses: 64,
    source_ranges: 64,
};
/// Failures in a row that no chance explains.
const MOST_FAILURES: u32 = 1000;
/// Of 100 calls of the tables, how many fail.
const FAILING: u64 = 10;

/// A model and the tables it is brought to.
#[derive(Debug)]
pub struct Replica {
    model: Model,
    /// `None` only while the agent is dead.
    reconciler: Option<Reconciler<Flaky<Memory>>>,
    is_listed: bool,
    interner: Interner,
    seed: u64,
}

impl Replica {
    /// An agent that begins with empty tables, whose calls fail as the seed says.
    pub fn new(node: &str, seed: u64) -> Result<Self> {
        let memory = Memory::new(CAPACITY);
        Ok(Self {
            model: Model::new(node),
            reconciler: Some(start(&memory, seed)?),
            is_listed: false,
            interner: Interner::default(),
            seed,
        })
    }

    /// Takes in what a source says, as the agent does.
    pub fn take_in(&mut self, events: Vec<Event>) -> Result<()> {
        let changed = self.model.apply_all(events);
        let reconciler = self.reconciler.as_mut().context("the agent is dead")?;
        let objects = ModelObjects(&self.model);
        for name in changed.services {
            reconciler.changed(name);
        }
        if changed.node || changed.cidrs {
            reconciler.all_changed(&objects);
        }
        if !self.is_listed && self.model.is_ready() {
            self.is_listed = true;
            reconciler.listed(&objects);
        }
        Ok(())
    }

    /// Writes until nothing is left to do; failures are retried at once.
    pub fn settle(&mut self) -> Result<()> {
        for _ in 0..MOST_FAILURES {
            if self.step(usize::MAX)? {
                return Ok(());
            }
        }
        bail!("{MOST_FAILURES} failures in a row: chance does not explain them");
    }

    /// Does at most so many steps of the reconciler; true once nothing is left to do, false after a
    /// failure or where steps are.
    pub fn step(&mut self, count: usize) -> Result<bool> {
        let reconciler = self.reconciler.as_mut().context("the agent is dead")?;
        let objects = ModelObjects(&self.model);
        for _ in 0..count {
            match reconciler.step(&objects) {
                Ok(true) => {}
                Ok(false) => return Ok(true),
                Err(DataplaneError::Kernel { .. }) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(false)
    }

    /// The agent dies, wherever it is, and another begins with the tables as they are.
    pub fn restart(&mut self) -> Result<()> {
        let reconciler = self.reconciler.take().context("the agent is dead")?;
        let memory = reconciler.dataplane().inner.clone();
        self.seed = self.seed.wrapping_add(1);
        self.model = Model::new(self.model.node_name());
        self.is_listed = false;
        self.reconciler = Some(start(&memory, self.seed)?);
        Ok(())
    }

    /// Frees what nothing needs any more, as the agent does every minute; a failure is left to the
    /// next time.
    pub fn sweep(&mut self) -> Result<()> {
        let reconciler = self.reconciler.as_mut().context("the agent is dead")?;
        match reconciler.sweep() {
            Ok(()) | Err(DataplaneError::Kernel { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// All objects.
    pub const fn model(&self) -> &Model {
        &self.model
    }

    /// Whether both lists have been there, so that tables are written.
    pub const fn is_listed(&self) -> bool {
        self.is_listed
    }

    /// The tables themselves; `None` while the agent is dead.
    pub fn memory(&self) -> Option<&Memory> {
        let reconciler = self.reconciler.as_ref()?;
        Some(&reconciler.dataplane().inner)
    }

    /// Whether both lists are there and the tables say what they say.
    pub fn is_synced(&self) -> bool {
        let reconciler = self.reconciler.as_ref();
        self.is_listed && reconciler.is_some_and(Reconciler::is_synced)
    }

    /// How many writes this agent has made.
    pub fn applied(&self) -> u64 {
        self.reconciler.as_ref().map_or(0, Reconciler::applied)
    }

    /// What the tables hold; an error if they contradict each other.
    pub fn tables(&self) -> Result<Actual> {
        let reconciler = self.reconciler.as_ref().context("the agent is dead")?;
        let memory = &reconciler.dataplane().inner;
        memory.check()?;
        Ok(memory.read_all()?)
    }

    /// What `steerage verify` says of the tables of `other`: compared with a plan made from nothing,
    /// of the objects that this one knows.
    pub fn verify(&self, other: &Self) -> Result<Vec<Difference>> {
        let reconciler = other.reconciler.as_ref().context("the agent is dead")?;
        let memory = &reconciler.dataplane().inner;
        let objects = ModelObjects(&self.model);
        let views = self.model.services();
        let views = views.map(|it| ServiceView::new(it, self.model.slices(&it.name)));
        let desired = Desired::of(views, &objects.node());
        let source = Picture::of_desired(&desired, BTreeMap::new());
        let filters = Filters {
            services: memory.service_filter.clone(),
            backends: memory.backend_filter.clone(),
            node_ports: memory.node_ports.clone(),
        };
        let names = Names::default();
        let kernel = Picture::of_tables(&memory.read_all()?, filters, &source, &names);
        Ok(compare(Sides {
            source: &source,
            agent: None,
            kernel: &kernel,
        }))
    }

    /// What the agent's own audit finds, once it is synced.
    pub fn audit(&mut self) -> Result<Found> {
        let reconciler = self.reconciler.as_mut().context("the agent is dead")?;
        let mut audit = Audit::new(false);
        loop {
            match reconciler.audit(&mut audit)? {
                AuditStep::More => {}
                AuditStep::Done(found) => return Ok(found),
                AuditStep::Waits => bail!("writes are under way"),
            }
        }
    }

    /// The event of an object that is there; `None` for one that is nobody's business, which counts
    /// as gone.
    pub fn event_of(&mut self, resource: Resource, object: &Value) -> Result<Event> {
        let notes = &mut Vec::new();
        let interner = &mut self.interner;
        let name = name_of(object);
        let object = object.clone();
        Ok(match resource {
            Resource::Services => {
                let object: Service = serde_json::from_value(object)?;
                match convert::service::convert(&object, interner, notes)
                    .map_err(|problem| unread(&problem))?
                {
                    Some(service) => Event::ServiceApplied(service.into()),
                    None => Event::ServiceRemoved(name),
                }
            }
            Resource::EndpointSlices => {
                let object: ApiSlice<String> = serde_json::from_value(object)?;
                match convert::endpoint_slice::convert(&object, interner, notes)
                    .map_err(|problem| unread(&problem))?
                {
                    Some(slice) => Event::SliceApplied(slice.into()),
                    None => Event::SliceRemoved(name),
                }
            }
            Resource::Nodes => {
                let object: Node = serde_json::from_value(object)?;
                let node = convert::node::convert(&object, interner, notes)
                    .map_err(|problem| unread(&problem))?;
                Event::NodeApplied(node.context("a Node is always used")?.into())
            }
            other => bail!("no source reads {}", other.plural()),
        })
    }

    /// The event of an object that is gone.
    pub fn event_without(resource: Resource, object: &Value) -> Result<Event> {
        let name = name_of(object);
        Ok(match resource {
            Resource::Services => Event::ServiceRemoved(name),
            Resource::EndpointSlices => Event::SliceRemoved(name),
            Resource::Nodes => Event::NodeRemoved(name.name.to_string()),
            other => bail!("no source reads {}", other.plural()),
        })
    }

    /// A full list of every kind, as a source begins with.
    pub fn listed(&mut self, objects: &[(Resource, &Value)]) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        let kinds = BTreeMap::from([
            (Resource::Services, Kind::Service),
            (Resource::EndpointSlices, Kind::EndpointSlice),
            (Resource::Nodes, Kind::Node),
        ]);
        for (resource, kind) in kinds {
            events.push(Event::Restarted(kind));
            for (_, object) in objects.iter().filter(|(of, _)| *of == resource) {
                events.push(self.event_of(resource, object)?);
            }
            events.push(Event::Listed(kind));
        }
        Ok(events)
    }
}

fn start(memory: &Memory, seed: u64) -> Result<Reconciler<Flaky<Memory>>> {
    let mut last = None;
    for attempt in 0..u64::from(MOST_FAILURES) {
        let seed = seed.wrapping_mul(0x9e37_79b9).wrapping_add(attempt);
        match Reconciler::start(Flaky::new(memory.clone(), FAILING, seed)) {
            Ok(reconciler) => return Ok(reconciler),
            Err(error) => last = Some(error),
        }
    }
    Err(last.context("no attempt at all")?.into())
}

fn unread(problem: &FieldProblem) -> Error {
    Error::msg(format!("{problem:?}"))
}

/// Namespace and name of an object.
pub fn name_of(object: &Value) -> ObjectName {
    let text = |pointer| {
        let text = object.pointer(pointer).and_then(Value::as_str);
        text.unwrap_or_default().into()
    };
    ObjectName {
        namespace: text("/metadata/namespace"),
        name: text("/metadata/name"),
    }
}

/// The model as the reconciler reads it.
struct ModelObjects<'a>(&'a Model);

impl Objects for ModelObjects<'_> {
    fn view(&self, name: &ObjectName) -> Option<ServiceView<'_>> {
        let service = self.0.service(name)?;
        Some(ServiceView::new(service, self.0.slices(name)))
    }

    fn names(&self) -> Vec<ObjectName> {
        let services = self.0.services();
        services.map(|service| service.name.clone()).collect()
    }

    fn node(&self) -> NodeView<'_> {
        let node = self.0.node();
        NodeView {
            name: self.0.node_name(),
            zone: node.and_then(|node| node.zone.as_deref()),
            addresses: node.map_or(&[], |node| &node.addresses),
            device_addresses: &[],
            service_cidrs: self.0.service_cidrs(),
        }
    }
}
