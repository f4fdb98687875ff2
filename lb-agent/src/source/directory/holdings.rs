//! What each file holds, and what changes when files change.
//!
//! Two files may hold the same object: the first by file name counts, and the second takes over
//! when the first lets go. What a file held before one of its documents broke stays, but gives way
//! to the same object in another file.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::object::{Key, Object};
use crate::model::event::Event;
use crate::source::report::{Detail, FieldProblem, Position, Problem, SourceReport};

/// What was read from a file.
#[derive(Debug, Default)]
pub(super) struct FileContent {
    pub(super) objects: BTreeMap<Arc<Key>, (Object, Position)>,
    pub(super) problems: Vec<Problem>,
    /// Whether a part of it could not be understood, so that what it held before must stay.
    pub(super) is_partial: bool,
}

#[derive(Debug)]
struct Held {
    object: Object,
    /// Where it stands; none for what stays from before a document broke.
    position: Option<Position>,
}

/// What all files hold.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    files: BTreeMap<Arc<str>, BTreeMap<Arc<Key>, Held>>,
    problems: BTreeMap<Arc<str>, Vec<Problem>>,
    /// Per object the files that hold it, sorted.
    holders: BTreeMap<Arc<Key>, Vec<Arc<str>>>,
}

impl Holdings {
    /// Replaces what these files hold (`None` for a file that is gone), and says what that changes.
    pub(super) fn replace(&mut self, changes: Vec<(Arc<str>, Option<FileContent>)>) -> Vec<Event> {
        // Over all files at once: an object that moves from one to another never goes away.
        let mut before = BTreeMap::new();
        for (file, content) in &changes {
            let held = self.files.get(file).into_iter().flat_map(BTreeMap::keys);
            let read = content.iter().flat_map(|content| content.objects.keys());
            for key in held.chain(read) {
                if !before.contains_key(key) {
                    before.insert(
                        Arc::clone(key),
                        self.winner(key).map(|(_, held)| held.clone()),
                    );
                }
            }
        }
        for (file, content) in changes {
            self.replace_file(&file, content);
        }
        self.events(&before)
    }

    /// All that is wrong, duplicates included.
    pub(super) fn report(&self) -> SourceReport {
        let mut problems: Vec<_> = self.problems.values().flatten().cloned().collect();
        for (key, holders) in self.holders.iter().filter(|(_, holders)| holders.len() > 1) {
            let Some((winner, _)) = self.winner(key) else {
                continue;
            };
            for file in holders.iter().filter(|file| *file != winner) {
                let held = self.files.get(file).and_then(|objects| objects.get(key));
                if let Some(position) = held.and_then(|held| held.position) {
                    problems.push(Problem {
                        file: Arc::clone(file),
                        position: Some(position),
                        object: Some(key.to_string()),
                        problem: FieldProblem::new(
                            "",
                            Detail::Duplicate {
                                winner: Arc::clone(winner),
                            },
                        ),
                    });
                }
            }
        }
        problems.sort();
        SourceReport {
            problems,
            api: None,
        }
    }

    /// The names of the files that hold something or have problems.
    pub(super) fn file_names(&self) -> BTreeSet<Arc<str>> {
        self.files
            .keys()
            .chain(self.problems.keys())
            .cloned()
            .collect()
    }

    fn replace_file(&mut self, file: &Arc<str>, content: Option<FileContent>) {
        let mut before = self.files.remove(file).unwrap_or_default();
        for key in before.keys() {
            if let Some(holders) = self.holders.get_mut(key) {
                holders.retain(|holder| holder != file);
                if holders.is_empty() {
                    self.holders.remove(key);
                }
            }
        }
        self.problems.remove(file);
        let Some(content) = content else { return };
        if !content.problems.is_empty() {
            self.problems.insert(Arc::clone(file), content.problems);
        }
        let mut objects: BTreeMap<_, _> = content
            .objects
            .into_iter()
            .map(|(key, (object, position))| {
                // The model holds the value that was there, and hears nothing of an equal one.
                let (key, object) = match before.remove_entry(&key) {
                    Some((key, held)) if held.object == object => (key, held.object),
                    _ => (key, object),
                };
                let position = Some(position);
                (key, Held { object, position })
            })
            .collect();
        if content.is_partial {
            for (key, held) in before {
                objects.entry(key).or_insert(Held {
                    position: None,
                    ..held
                });
            }
        }
        for key in objects.keys() {
            let holders = self.holders.entry(Arc::clone(key)).or_default();
            let place = holders.partition_point(|holder| holder < file);
            holders.insert(place, Arc::clone(file));
        }
        if !objects.is_empty() {
            self.files.insert(Arc::clone(file), objects);
        }
    }

    /// The file and value that count for an object.
    fn winner(&self, key: &Arc<Key>) -> Option<(&Arc<str>, &Object)> {
        let held = self.holders.get(key)?.iter().filter_map(|file| {
            let held = self.files.get(file)?.get(key)?;
            Some((file, held))
        });
        let (file, held) = held.min_by_key(|(_, held)| held.position.is_none())?;
        Some((file, &held.object))
    }

    fn events(&self, before: &BTreeMap<Arc<Key>, Option<Object>>) -> Vec<Event> {
        let mut events = Vec::new();
        let mut has_other_cidrs = false;
        for (key, before) in before {
            let before = before.as_ref();
            let after = self.winner(key).map(|(_, object)| object);
            if before == after {
                continue;
            }
            let is_cidrs = |object: Option<&Object>| matches!(object, Some(Object::Cidrs(_)));
            has_other_cidrs |= is_cidrs(before) || is_cidrs(after);
            if let Some(applied) = after.and_then(Object::applied) {
                events.push(applied);
            } else if before.is_some_and(|object| object.applied().is_some()) {
                events.extend(key.removed());
            }
        }
        if has_other_cidrs {
            events.push(self.cidrs());
        }
        events
    }

    /// The networks of all `ServiceCIDR`s, each once.
    fn cidrs(&self) -> Event {
        let mut cidrs = Vec::new();
        for key in self.holders.keys() {
            if let Some((_, Object::Cidrs(networks))) = self.winner(key) {
                for network in networks.iter() {
                    if !cidrs.contains(network) {
                        cidrs.push(*network);
                    }
                }
            }
        }
        Event::ServiceCidrs(cidrs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::event::Kind;
    use crate::model::name::ObjectName;
    use crate::model::node::Node;

    fn key(name: &str) -> Arc<Key> {
        let name = ObjectName {
            namespace: Arc::default(),
            name: name.into(),
        };
        Arc::new(Key {
            kind: Kind::Node,
            name,
        })
    }

    fn node(name: &str, zone: &str) -> Arc<Node> {
        Arc::new(Node {
            name: name.into(),
            zone: Some(zone.into()),
            ..Node::default()
        })
    }

    /// A file that holds these nodes, by name and zone.
    fn file(nodes: &[(&str, &str)], is_partial: bool) -> FileContent {
        let position = Position {
            document: 1,
            line: 1,
        };
        let objects = nodes
            .iter()
            .map(|(name, zone)| (key(name), (Object::Node(node(name, zone)), position)))
            .collect();
        FileContent {
            objects,
            problems: vec![],
            is_partial,
        }
    }

    fn applied(name: &str, zone: &str) -> Event {
        Event::NodeApplied(node(name, zone))
    }

    #[test]
    fn the_first_file_by_name_counts_and_the_next_takes_over() {
        let mut holdings = Holdings::default();
        let later = holdings.replace(vec![("b".into(), Some(file(&[("n", "from-b")], false)))]);
        assert_eq!(later, [applied("n", "from-b")]);
        let first = holdings.replace(vec![("a".into(), Some(file(&[("n", "from-a")], false)))]);
        assert_eq!(first, [applied("n", "from-a")]);
        let report = holdings.report();
        assert_eq!(report.problems.len(), 1);
        assert_eq!(
            report.problems[0].to_string(),
            "b:1: document 1: Node n: defined in a already; this one is ignored"
        );
        assert_eq!(
            holdings.replace(vec![("a".into(), None)]),
            [applied("n", "from-b")]
        );
        assert_eq!(
            holdings.replace(vec![("b".into(), None)]),
            [Event::NodeRemoved("n".into())]
        );
        assert!(holdings.file_names().is_empty() && holdings.holders.is_empty());
    }

    #[test]
    fn what_did_not_change_in_a_file_that_did_is_held_once() {
        let mut holdings = Holdings::default();
        let first = Some(file(&[("m", "z"), ("n", "z")], false));
        let events = holdings.replace(vec![("a".into(), first)]);
        let [Event::NodeApplied(told), _] = events.as_slice() else {
            panic!("{events:?}");
        };
        let second = Some(file(&[("m", "z"), ("n", "other")], false));
        let changed = holdings.replace(vec![("a".into(), second)]);
        assert_eq!(changed, [applied("n", "other")]);
        // One here, one with whoever was told.
        assert_eq!(Arc::strong_count(told), 2);
    }

    #[test]
    fn an_object_that_moves_to_another_file_says_nothing() {
        let mut holdings = Holdings::default();
        assert_eq!(
            holdings
                .replace(vec![("a".into(), Some(file(&[("n", "z")], false)))])
                .len(),
            1
        );
        let moved = vec![
            ("a".into(), Some(file(&[], false))),
            ("b".into(), Some(file(&[("n", "z")], false))),
        ];
        assert_eq!(holdings.replace(moved), []);
    }

    #[test]
    fn what_a_broken_file_held_stays_until_another_file_or_its_repair_says_otherwise() {
        let mut holdings = Holdings::default();
        let both = Some(file(&[("m", "z"), ("n", "z")], false));
        assert_eq!(holdings.replace(vec![("a".into(), both)]).len(), 2);
        let broken = Some(file(&[("m", "new")], true));
        assert_eq!(
            holdings.replace(vec![("a".into(), broken)]),
            [applied("m", "new")]
        );
        let elsewhere = vec![("b".into(), Some(file(&[("n", "other")], false)))];
        assert_eq!(holdings.replace(elsewhere), [applied("n", "other")]);
        assert!(holdings.report().problems.is_empty());
        assert_eq!(
            holdings.replace(vec![("b".into(), None)]),
            [applied("n", "z")]
        );
        let repaired = Some(file(&[("m", "new")], false));
        assert_eq!(
            holdings.replace(vec![("a".into(), repaired)]),
            [Event::NodeRemoved("n".into())]
        );
    }
}
