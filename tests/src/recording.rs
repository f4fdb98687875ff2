//! What a real API server sent, read from `tests/fixtures/recordings`: lists, and the changes that
//! followed them, in one order over all kinds, with the steps that caused them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use flate2::read::GzDecoder;
use lb_agent::model::name::ObjectName;
use serde_json::Value;

use crate::apiserver::{ApiServer, Resource};
use crate::oracle::Cluster;
use crate::replica::name_of;

/// A recorded session.
#[derive(Clone, Debug)]
pub struct Recording {
    /// The revision of the lists it begins with.
    pub revision: u64,
    /// The objects of these lists.
    pub lists: Vec<(Resource, Vec<Value>)>,
    /// What happened after them, by revision.
    pub changes: Vec<Change>,
    /// What was done to the cluster, in order.
    pub steps: Vec<Step>,
}

/// A recorded event of a watch.
#[derive(Clone, Debug)]
pub struct Change {
    /// Its revision; no two changes have the same.
    pub revision: u64,
    /// Of what.
    pub resource: Resource,
    /// Whether the object is gone.
    pub is_deleted: bool,
    /// The object, as the watch had it.
    pub object: Value,
}

/// A line of the timeline.
#[derive(Clone, Debug)]
pub struct Step {
    /// The newest revision when the step began: it and earlier ones belong to the steps before.
    pub revision: u64,
    /// What was done.
    pub name: String,
}

/// A file of the recordings; `.gz` is taken off.
pub fn read(name: &str) -> Result<String> {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "fixtures/recordings", name]
        .iter()
        .collect();
    let context = || format!("read {}", path.display());
    if path.extension().is_some_and(|extension| extension == "gz") {
        let mut text = String::new();
        let file = fs::File::open(&path).with_context(context)?;
        GzDecoder::new(file)
            .read_to_string(&mut text)
            .with_context(context)?;
        return Ok(text);
    }
    fs::read_to_string(&path).with_context(context)
}

/// The events of a recorded stream.
pub fn events(name: &str) -> Result<Vec<Value>> {
    let text = read(name)?;
    let lines = text.lines().filter(|line| !line.is_empty());
    let events = lines.map(|line| serde_json::from_str(line).with_context(|| name.to_owned()));
    events.collect()
}

/// A recorded list.
pub fn list(name: &str) -> Result<Value> {
    serde_json::from_str(&read(name)?).with_context(|| name.to_owned())
}

/// The `resourceVersion` of an object or list.
pub fn revision_of(object: &Value) -> Result<u64> {
    let revision = object.pointer("/metadata/resourceVersion");
    let revision = revision
        .and_then(Value::as_str)
        .context("no resourceVersion")?;
    Ok(revision.parse()?)
}

impl Recording {
    /// The recorded session. Of `EndpointSlices` it has those that kube-proxy's selector lets
    /// through, of the others all.
    pub fn load() -> Result<Self> {
        let files = [
            (
                Resource::Services,
                "list-services.json",
                "watch-services.jsonl",
            ),
            (
                Resource::EndpointSlices,
                "list-endpointslices.json",
                "watch-endpointslices-kubeproxy-selector.jsonl.gz",
            ),
            (Resource::Nodes, "list-nodes.json", "watch-nodes.jsonl"),
        ];
        let mut recording = Self {
            revision: 0,
            lists: Vec::new(),
            changes: Vec::new(),
            steps: steps()?,
        };
        for (resource, list_name, watch_name) in files {
            let list = list(list_name)?;
            recording.revision = revision_of(&list)?;
            let items = list.get("items").and_then(Value::as_array);
            recording
                .lists
                .push((resource, items.cloned().unwrap_or_default()));
            for mut event in events(watch_name)? {
                let kind = event
                    .get("type")
                    .and_then(Value::as_str)
                    .unwrap_or_default();
                if kind == "BOOKMARK" {
                    continue;
                }
                let is_deleted = kind == "DELETED";
                let object = event.get_mut("object").context("an event has an object")?;
                recording.changes.push(Change {
                    revision: revision_of(object)?,
                    resource,
                    is_deleted,
                    object: object.take(),
                });
            }
        }
        recording.changes.sort_by_key(|change| change.revision);
        Ok(recording)
    }

    /// Puts the objects of the first lists into a server that is empty.
    pub fn begin(&self, server: &ApiServer) -> Result<()> {
        let (revision, present) = self.present(0);
        present.fill(server, revision)
    }

    /// Every object after the first `changes` changes, with the newest revision then.
    pub fn present(&self, changes: usize) -> (u64, Present<'_>) {
        let mut present = Present::default();
        for (resource, objects) in &self.lists {
            for object in objects {
                present.apply(*resource, object);
            }
        }
        let mut revision = self.revision;
        for change in self.changes.iter().take(changes) {
            revision = change.revision;
            present.happen(change);
        }
        (revision, present)
    }

    /// The changes of a step, which is one of [`steps`](Self::steps).
    pub fn changes_of(&self, step: usize) -> &[Change] {
        let begin = self.steps.get(step).map_or(u64::MAX, |it| it.revision);
        let end = self.steps.get(step + 1).map_or(u64::MAX, |it| it.revision);
        let position = |revision| {
            self.changes
                .partition_point(|change| change.revision <= revision)
        };
        let (begin, end) = (position(begin), position(end));
        self.changes.get(begin..end).unwrap_or_default()
    }

    /// Replays everything up to and including `revision`.
    pub fn replay_until(&self, server: &ApiServer, revision: u64) -> Result<()> {
        let reached = server.revision();
        for change in &self.changes {
            if change.revision > reached && change.revision <= revision {
                change.replay(server)?;
            }
        }
        server.advance(revision);
        Ok(())
    }
}

/// The objects at some point of a recording.
#[derive(Clone, Debug, Default)]
pub struct Present<'a>(BTreeMap<(Resource, ObjectName), &'a Value>);

impl<'a> Present<'a> {
    /// An object is there, or has changed.
    fn apply(&mut self, resource: Resource, object: &'a Value) {
        self.0.insert((resource, name_of(object)), object);
    }

    /// Something more happens.
    pub fn happen(&mut self, change: &'a Change) {
        if change.is_deleted {
            let name = name_of(&change.object);
            self.0.remove(&(change.resource, name));
        } else {
            self.apply(change.resource, &change.object);
        }
    }

    /// Every object.
    pub fn objects(&self) -> impl Iterator<Item = (Resource, &'a Value)> {
        let objects = self.0.iter();
        objects.map(|((resource, _), object)| (*resource, *object))
    }

    /// What the API says to the agent of a node.
    pub fn cluster(&self, node_name: &str) -> Cluster {
        let all = |wanted: Resource| -> Vec<Value> {
            let objects = self.objects().filter(|(resource, _)| *resource == wanted);
            objects.map(|(_, object)| object.clone()).collect()
        };
        let nodes = all(Resource::Nodes);
        let node = nodes.iter().find(|node| *name_of(node).name == *node_name);
        Cluster {
            services: all(Resource::Services),
            slices: all(Resource::EndpointSlices),
            service_cidrs: all(Resource::ServiceCidrs),
            node: node.cloned().unwrap_or_default(),
            node_name: node_name.to_owned(),
        }
    }

    /// Puts every object into a server that is empty, each at its own revision, and moves it on to
    /// `revision`.
    pub fn fill(&self, server: &ApiServer, revision: u64) -> Result<()> {
        let objects = self.objects();
        let objects = objects.map(|(of, object)| Ok((revision_of(object)?, of, object)));
        let mut objects: Vec<_> = objects.collect::<Result<_>>()?;
        objects.sort_by_key(|(revision, ..)| *revision);
        for (revision, resource, object) in objects {
            server.restore(resource, object, revision)?;
        }
        server.advance(revision);
        Ok(())
    }
}

impl Change {
    /// Does to a server what this change did to the real one.
    pub fn replay(&self, server: &ApiServer) -> Result<()> {
        if !self.is_deleted {
            return server.restore(self.resource, &self.object, self.revision);
        }
        let name = name_of(&self.object);
        let place = (&*name.namespace, &*name.name);
        server.restore_deletion(self.resource, place, self.revision)
    }
}

/// Lines such as `3.261 rv=99 create service cip-tcp`.
fn steps() -> Result<Vec<Step>> {
    let text = read("timeline.txt")?;
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines
        .map(|line| {
            let (_, rest) = line.trim().split_once(" rv=").context(line.to_owned())?;
            let (revision, name) = rest.split_once(' ').context(line.to_owned())?;
            Ok(Step {
                revision: revision.parse()?,
                name: name.to_owned(),
            })
        })
        .collect()
}
