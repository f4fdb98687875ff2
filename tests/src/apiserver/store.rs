//! What the server holds: the objects, one sequence of revisions over all of them, and the changes
//! that a watch or a list of an older revision needs.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::object::{Object, Shared, path};
use super::resource::Resource;
use super::selector::Selector;

/// Changes kept for each resource; watches from further back are told that they are too old.
const KEPT_CHANGES: usize = 100_000;

/// Objects by namespace and name.
pub(super) type Objects = BTreeMap<String, Shared>;

/// One change of one object.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) revision: u64,
    old: Option<Shared>,
    new: Option<Shared>,
    /// The old state at the new revision: what those are told who no longer see the object.
    end: Option<Shared>,
}

/// What a watch says of a change.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum EventType {
    Added,
    Modified,
    Deleted,
}

impl EventType {
    /// As the stream has it.
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

impl Change {
    /// What a watch with this selector sees: an object that leaves the selection is deleted for it.
    pub(super) fn seen_by(&self, selector: &Selector) -> Option<(EventType, &Shared)> {
        let selected = |state: &Option<Shared>| {
            state
                .as_ref()
                .is_some_and(|object| selector.matches(object))
        };
        match (selected(&self.old), selected(&self.new)) {
            (false, true) => Some((EventType::Added, self.new.as_ref()?)),
            (true, true) => Some((EventType::Modified, self.new.as_ref()?)),
            (true, false) => Some((EventType::Deleted, self.end.as_ref()?)),
            (false, false) => None,
        }
    }
}

/// Objects and their history.
#[derive(Debug)]
pub(super) struct Store {
    revision: u64,
    /// From revisions before this one nothing can be told any more.
    compacted: u64,
    objects: BTreeMap<Resource, Objects>,
    changes: BTreeMap<Resource, VecDeque<Arc<Change>>>,
}

impl Store {
    /// An empty store. Revision 0 means "any" to clients, so the first is 1.
    pub(super) const fn new() -> Self {
        Self {
            revision: 1,
            compacted: 0,
            objects: BTreeMap::new(),
            changes: BTreeMap::new(),
        }
    }

    /// The newest revision.
    pub(super) const fn revision(&self) -> u64 {
        self.revision
    }

    /// The oldest revision that can still be told of.
    pub(super) const fn compacted(&self) -> u64 {
        self.compacted
    }

    /// Forgets what happened before `revision`.
    pub(super) fn compact(&mut self, revision: u64) {
        self.compacted = self.compacted.max(revision.min(self.revision));
        for changes in self.changes.values_mut() {
            while changes
                .front()
                .is_some_and(|change| change.revision <= self.compacted)
            {
                changes.pop_front();
            }
        }
    }

    /// Moves on to `revision` without a change, as other kinds of objects do.
    pub(super) fn advance(&mut self, revision: u64) {
        self.revision = self.revision.max(revision);
    }

    /// The objects now.
    pub(super) fn objects(&self, resource: Resource) -> Objects {
        self.objects.get(&resource).cloned().unwrap_or_default()
    }

    /// One object.
    pub(super) fn object(&self, resource: Resource, namespace: &str, name: &str) -> Option<Shared> {
        let objects = self.objects.get(&resource)?;
        objects.get(&path(namespace, name)).map(Arc::clone)
    }

    /// The objects as of an earlier revision, unless that is forgotten.
    pub(super) fn objects_at(&self, resource: Resource, revision: u64) -> Option<Objects> {
        if revision < self.compacted {
            return None;
        }
        let mut objects = self.objects(resource);
        let changes = self.changes.get(&resource).into_iter().flatten();
        for change in changes.rev().take_while(|it| it.revision > revision) {
            match (&change.old, &change.new) {
                (Some(old), _) => {
                    objects.insert(old.key.path(), Arc::clone(old));
                }
                (None, Some(new)) => {
                    objects.remove(&new.key.path());
                }
                (None, None) => {}
            }
        }
        Some(objects)
    }

    /// The changes after `revision`, oldest first.
    pub(super) fn changes_after(
        &self,
        resource: Resource,
        revision: u64,
    ) -> impl Iterator<Item = &Arc<Change>> {
        let changes = self.changes.get(&resource);
        let start = changes.map_or(0, |changes| {
            changes.partition_point(|change| change.revision <= revision)
        });
        changes.into_iter().flat_map(move |it| it.range(start..))
    }

    /// Writes an object, at the next revision or at a given later one; the revision it got.
    pub(super) fn put(
        &mut self,
        resource: Resource,
        value: &Value,
        revision: Option<u64>,
    ) -> Result<u64> {
        let revision = self.next(revision)?;
        let new = Arc::new(Object::new(resource, value, revision)?);
        let objects = self.objects.entry(resource).or_default();
        let old = objects.insert(new.key.path(), Arc::clone(&new));
        // Without other labels or another spec.type and the like, no selector lets go of it.
        let may_leave = |old: &&Shared| resource == Resource::Services || old.labels != new.labels;
        let end = old
            .as_ref()
            .filter(may_leave)
            .map(|old| old.moved_to(resource, revision))
            .transpose()?;
        self.record(
            resource,
            Change {
                revision,
                old,
                new: Some(new),
                end: end.map(Arc::new),
            },
        );
        Ok(revision)
    }

    /// Removes an object; the revision of that, or `None` if it is not there.
    pub(super) fn remove(
        &mut self,
        resource: Resource,
        (namespace, name): (&str, &str),
        revision: Option<u64>,
    ) -> Result<Option<u64>> {
        let Some(old) = self.object(resource, namespace, name) else {
            return Ok(None);
        };
        let revision = self.next(revision)?;
        let objects = self.objects.entry(resource).or_default();
        objects.remove(&path(namespace, name));
        let end = old.moved_to(resource, revision)?;
        self.record(
            resource,
            Change {
                revision,
                old: Some(old),
                new: None,
                end: Some(Arc::new(end)),
            },
        );
        Ok(Some(revision))
    }

    /// `value` with what a server adds to a new object, or keeps of an old one.
    pub(super) fn with_identity(&self, resource: Resource, value: &Value) -> Result<Value> {
        let mut value = value.clone();
        let revision = self.revision + 1;
        let metadata = value
            .get_mut("metadata")
            .and_then(Value::as_object_mut)
            .context("an object has metadata")?;
        let text = |field: &str| metadata.get(field).and_then(Value::as_str);
        let name = text("name").context("an object has a name")?.to_owned();
        let namespace = if resource.is_namespaced() {
            text("namespace").unwrap_or("default").to_owned()
        } else {
            String::new()
        };
        if resource.is_namespaced() {
            metadata.insert("namespace".to_owned(), namespace.clone().into());
        }
        let old = self.object(resource, &namespace, &name);
        let old = old.map(|old| old.value()).unwrap_or_default();
        let defaults = [
            (
                "uid",
                json!(format!("00000000-0000-4000-8000-{revision:012x}")),
            ),
            ("creationTimestamp", json!("2026-01-01T00:00:00Z")),
        ];
        for (field, default) in defaults {
            if !metadata.contains_key(field) {
                let kept = old.get("metadata").and_then(|it| it.get(field));
                metadata.insert(field.to_owned(), kept.cloned().unwrap_or(default));
            }
        }
        Ok(value)
    }

    fn next(&mut self, revision: Option<u64>) -> Result<u64> {
        let revision = revision.unwrap_or(self.revision + 1);
        anyhow::ensure!(
            revision > self.revision,
            "revision {revision} is not after {}",
            self.revision
        );
        self.revision = revision;
        Ok(revision)
    }

    fn record(&mut self, resource: Resource, change: Change) {
        let changes = self.changes.entry(resource).or_default();
        changes.push_back(Arc::new(change));
        if changes.len() > KEPT_CHANGES
            && let Some(forgotten) = changes.pop_front()
        {
            self.compacted = self.compacted.max(forgotten.revision);
        }
    }
}
