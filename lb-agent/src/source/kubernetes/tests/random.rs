//! A small API server that misbehaves at random: the model always ends up with what it holds.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::super::backoff::Jitter;
use super::super::machine::Input;
use super::super::request::Form;
use super::super::{Fault, Time};
use super::rig::{Rig, added, bookmark, deleted, end_of_list, expired, node, service, slice};
use crate::model::event::Kind;

/// What the server holds of one kind, and what happened to it.
#[derive(Default)]
struct Store {
    objects: BTreeMap<String, Value>,
    /// Versions and lines, as far back as they are kept.
    history: Vec<(u64, Value)>,
    /// The oldest version from which a watch may go on.
    oldest: u64,
}

struct Server {
    version: u64,
    stores: BTreeMap<Kind, Store>,
    /// Bytes that an open answer has still to send, and whether it ends after them.
    answers: BTreeMap<Kind, (Vec<u8>, bool)>,
    random: Jitter,
}

impl Server {
    fn below(&mut self, bound: u64) -> u64 {
        let time = self.random.between(Time::ZERO, Time::from_micros(bound));
        u64::try_from(time.as_micros()).unwrap()
    }

    /// Something happens in the cluster.
    fn change(&mut self) {
        self.version += 1;
        let version = self.version;
        let number = self.below(6);
        let (kind, object) = if self.below(2) == 0 {
            (Kind::Service, service(&format!("s{number}")))
        } else {
            let of = format!("s{}", self.below(6));
            (Kind::EndpointSlice, slice(&format!("e{number}"), &of))
        };
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let is_deleted = self.below(3) == 0;
        let store = self.stores.entry(kind).or_default();
        let line = if is_deleted {
            let Some(object) = store.objects.remove(&name) else {
                return;
            };
            deleted(object, version)
        } else {
            store.objects.insert(name, object.clone());
            added(object, version)
        };
        store.history.push((version, line.clone()));
        if let Some((bytes, false)) = self.answers.get_mut(&kind) {
            bytes.extend_from_slice(format!("{line}\n").as_bytes());
        }
    }

    fn compact(&mut self) {
        for store in self.stores.values_mut() {
            store.history.clear();
            store.oldest = self.version;
        }
    }

    /// Begins the answer to a request: its status.
    fn answer(&mut self, kind: Kind, form: &Form) -> u16 {
        let version = self.version;
        let store = self.stores.entry(kind).or_default();
        let mut text = String::new();
        let mut ends = false;
        match form {
            Form::Stream { .. } => {
                for object in store.objects.values() {
                    writeln!(text, "{}", added(object.clone(), version)).unwrap();
                }
                writeln!(text, "{}", end_of_list(version)).unwrap();
            }
            Form::Page { .. } | Form::Whole => {
                let items: Vec<_> = store.objects.values().collect();
                let metadata = json!({"resourceVersion": version.to_string()});
                text = json!({"metadata": metadata, "items": items}).to_string();
                ends = true;
            }
            Form::Watch { version, .. } => {
                let from: u64 = version.parse().unwrap();
                if from < store.oldest {
                    text = format!("{}\n", expired());
                    ends = true;
                } else {
                    for (_, line) in store.history.iter().filter(|(at, _)| *at > from) {
                        writeln!(text, "{line}").unwrap();
                    }
                }
            }
        }
        self.answers.insert(kind, (text.into_bytes(), ends));
        200
    }
}

fn run(seed: u64) {
    let mut rig = Rig::new(&["https://a", "https://b"]);
    let mut server = Server {
        version: 100,
        stores: BTreeMap::new(),
        answers: BTreeMap::new(),
        random: Jitter::new(seed),
    };
    let nodes = server.stores.entry(Kind::Node).or_default();
    nodes.objects.insert("node-a".into(), node("node-a"));
    let mut answered: Vec<Kind> = vec![];
    for step in 0..600 {
        let is_calm = step >= 500;
        if !is_calm {
            match server.below(10) {
                0..4 => server.change(),
                4 => server.compact(),
                _ => {}
            }
        }
        rig.pass(Time::from_millis(server.below(3_000)));
        // Answers to requests that were given up are gone with them.
        answered.retain(|kind| rig.request(*kind).is_some());
        let open: Vec<_> = rig.open.iter().map(|(_, it)| it.clone()).collect();
        for request in open {
            let kind = request.kind;
            if !answered.contains(&kind) {
                server.answers.remove(&kind);
                match if is_calm { 9 } else { server.below(10) } {
                    0 => rig.fault(kind, Fault::Unreachable("gone".into())),
                    1 => rig.refuse(kind, 500, &json!({"code": 500})),
                    2 => rig.refuse(kind, 429, &json!({"code": 429})),
                    3 if matches!(request.form, Form::Stream { .. }) => {
                        rig.refuse(kind, 422, &json!({"code": 422}));
                    }
                    _ => {
                        let status = server.answer(kind, &request.form);
                        rig.head(kind, status);
                        answered.push(kind);
                    }
                }
                continue;
            }
            let (bytes, ends) = server.answers.get(&kind).cloned().unwrap_or_default();
            if !is_calm && server.below(12) == 0 {
                // Cut anywhere.
                let length = server.below(bytes.len() as u64 + 1);
                let length = usize::try_from(length).unwrap();
                rig.input(Input::Chunk(kind, &bytes[..length]));
                answered.retain(|it| *it != kind);
                if rig.request(kind).is_some() {
                    rig.fault(kind, Fault::Cut);
                }
                continue;
            }
            if bytes.is_empty() && !ends {
                if is_calm || server.below(5) == 0 {
                    rig.line(kind, &bookmark(server.version));
                }
                continue;
            }
            server.answers.insert(kind, (Vec::new(), ends));
            rig.input(Input::Chunk(kind, &bytes));
            if ends && rig.request(kind).is_some() {
                answered.retain(|it| *it != kind);
                rig.open.retain(|(_, it)| it.kind != kind);
                rig.input(Input::End(kind));
            }
        }
    }
    let held: Vec<String> = server.stores[&Kind::Service]
        .objects
        .keys()
        .cloned()
        .collect();
    let model: Vec<String> = rig
        .model
        .services()
        .map(|service| service.name.name.to_string())
        .collect();
    assert_eq!(model, held, "seed {seed}");
    for service in rig.model.services() {
        let mut slices: Vec<String> = rig
            .model
            .slices(&service.name)
            .map(|slice| slice.name.name.to_string())
            .collect();
        slices.sort();
        let expected: Vec<String> = server.stores[&Kind::EndpointSlice]
            .objects
            .iter()
            .filter(|(_, slice)| {
                let label = &slice["metadata"]["labels"]["kubernetes.io/service-name"];
                label.as_str() == Some(&*service.name.name)
            })
            .map(|(name, _)| name.clone())
            .collect();
        assert_eq!(slices, expected, "seed {seed}, {}", service.name);
    }
    assert!(rig.machine.problems().is_empty(), "seed {seed}");
}

#[test]
fn whatever_a_server_does_the_model_ends_up_with_what_it_holds() {
    for seed in 0..60 {
        run(seed);
    }
}
