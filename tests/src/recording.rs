//! What a real API server sent, read from `tests/fixtures/recordings`: lists, and the changes that
//! followed them, in one order over all kinds, with the steps that caused them.

use std::fs;
use std::io::Read as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use flate2::read::GzDecoder;
use serde_json::Value;

use crate::apiserver::{ApiServer, Resource};

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
        let objects = self.lists.iter().flat_map(|(resource, objects)| {
            let objects = objects.iter();
            objects.map(|object| Ok((revision_of(object)?, *resource, object)))
        });
        let mut objects: Vec<_> = objects.collect::<Result<_>>()?;
        objects.sort_by_key(|(revision, ..)| *revision);
        for (revision, resource, object) in objects {
            server.restore(resource, object, revision)?;
        }
        server.advance(self.revision);
        Ok(())
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

impl Change {
    /// Does to a server what this change did to the real one.
    pub fn replay(&self, server: &ApiServer) -> Result<()> {
        if !self.is_deleted {
            return server.restore(self.resource, &self.object, self.revision);
        }
        let text = |pointer| self.object.pointer(pointer).and_then(Value::as_str);
        let namespace = text("/metadata/namespace").unwrap_or_default();
        let name = text("/metadata/name").unwrap_or_default();
        server.restore_deletion(self.resource, (namespace, name), self.revision)
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
