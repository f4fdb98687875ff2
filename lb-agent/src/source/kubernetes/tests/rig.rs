//! A machine, the model it feeds, and answers put into its hands.

use serde_json::{Value, json};

use super::super::machine::{Action, Input, Machine, Output};
use super::super::problem::Saying;
use super::super::request::{Form, Request};
use super::super::servers::{Servers, Url};
use super::super::{Fault, Time, Timing};
use crate::model::event::{Event, Kind};
use crate::model::index::Model;
use crate::model::name::ObjectName;

pub(super) struct Rig {
    pub(super) machine: Machine,
    pub(super) model: Model,
    pub(super) now: Time,
    /// Requests under way, at most one of a kind.
    pub(super) open: Vec<(Url, Request)>,
    /// How many requests there were.
    pub(super) asked: usize,
    pub(super) said: Vec<String>,
    pub(super) remembered: Vec<(Vec<Url>, Url)>,
    pub(super) renewed: Vec<Url>,
    /// Events of the last input.
    pub(super) events: Vec<Event>,
}

impl Rig {
    pub(super) fn new(servers: &[&str]) -> Self {
        let servers = servers.iter().map(|&server| server.into()).collect();
        let servers = Servers::new(servers, vec![], None, None).unwrap();
        let mut rig = Self {
            machine: Machine::new("node-a", servers, true, Timing::default(), 7),
            model: Model::new("node-a"),
            now: Time::ZERO,
            open: vec![],
            asked: 0,
            said: vec![],
            remembered: vec![],
            renewed: vec![],
            events: vec![],
        };
        rig.input(Input::Tick);
        rig
    }

    pub(super) fn input(&mut self, input: Input<'_>) {
        let Output { events, actions } = self.machine.handle(input, self.now);
        self.events.clone_from(&events);
        drop(self.model.apply_all(events));
        for action in actions {
            match action {
                Action::Ask(server, request) => {
                    self.open.retain(|(_, open)| open.kind != request.kind);
                    self.open.push((server, request));
                    self.asked += 1;
                }
                Action::Drop(kind) => self.open.retain(|(_, open)| open.kind != kind),
                Action::Renew(server) => self.renewed.push(server),
                Action::Remember(servers, last) => self.remembered.push((servers, last)),
                Action::Say(Saying::Problem(problem)) => self.said.push(problem.to_string()),
                Action::Say(Saying::Recovered { .. }) => self.said.push("recovered".into()),
                Action::Say(Saying::Absent(kind)) => {
                    self.said.push(format!("no {}", kind.name()));
                }
            }
        }
    }

    /// Lets time pass, with ticks whenever they are due.
    pub(super) fn pass(&mut self, time: Time) {
        let end = self.now + time;
        while self.machine.due() <= end {
            self.now = self.machine.due().max(self.now);
            self.input(Input::Tick);
        }
        self.now = end;
    }

    /// Waits for the next request of a kind, at most two minutes.
    #[track_caller]
    pub(super) fn wait_for(&mut self, kind: Kind) -> Request {
        let end = self.now + Time::from_mins(2);
        while self.request(kind).is_none() {
            self.now = self.machine.due().max(self.now);
            assert!(self.now <= end, "no request for {kind:?}");
            self.input(Input::Tick);
        }
        self.request(kind).unwrap()
    }

    pub(super) fn request(&self, kind: Kind) -> Option<Request> {
        let open = self.open.iter().find(|(_, request)| request.kind == kind);
        open.map(|(_, request)| request.clone())
    }

    pub(super) fn server(&self, kind: Kind) -> &str {
        let open = self.open.iter().find(|(_, request)| request.kind == kind);
        &open.unwrap().0
    }

    pub(super) fn head(&mut self, kind: Kind, status: u16) {
        self.input(Input::Head(kind, status, None));
    }

    pub(super) fn line(&mut self, kind: Kind, line: &Value) {
        self.input(Input::Chunk(kind, format!("{line}\n").as_bytes()));
    }

    /// An answer that is an error.
    pub(super) fn refuse(&mut self, kind: Kind, status: u16, body: &Value) {
        self.open.retain(|(_, open)| open.kind != kind);
        self.head(kind, status);
        self.input(Input::Chunk(kind, body.to_string().as_bytes()));
        self.input(Input::End(kind));
    }

    pub(super) fn fault(&mut self, kind: Kind, fault: Fault) {
        self.open.retain(|(_, open)| open.kind != kind);
        self.input(Input::Fault(kind, fault));
    }

    /// Answers a request for a streaming list.
    #[track_caller]
    pub(super) fn stream(&mut self, kind: Kind, version: u64, objects: &[Value]) {
        let request = self.wait_for(kind);
        assert!(matches!(request.form, Form::Stream { .. }), "{request:?}");
        self.head(kind, 200);
        for object in objects {
            self.line(kind, &json!({"type": "ADDED", "object": object}));
        }
        self.line(kind, &end_of_list(version));
    }

    /// Every kind listed by streams, with these Services and slices.
    pub(super) fn listed(servers: &[&str], services: &[Value], slices: &[Value]) -> Self {
        let mut rig = Self::new(servers);
        rig.stream(Kind::Service, 10, services);
        rig.stream(Kind::EndpointSlice, 10, slices);
        rig.stream(Kind::Node, 10, &[node("node-a")]);
        rig.stream(Kind::ServiceCidr, 10, &[]);
        rig
    }

    /// Names of the Services the model has, with the number of their slices.
    pub(super) fn services(&self) -> Vec<String> {
        let names = self.model.services().map(|service| {
            let count = self.model.slices(&service.name).len();
            format!("{} {count}", service.name.name)
        });
        names.collect()
    }

    pub(super) fn has_service(&self, name: &str) -> bool {
        let name = ObjectName {
            namespace: "ns".into(),
            name: name.into(),
        };
        self.model.service(&name).is_some()
    }
}

pub(super) fn service(name: &str) -> Value {
    json!({
        "metadata": {"namespace": "ns", "name": name, "resourceVersion": "1",
            "managedFields": [{"manager": "x", "fieldsV1": {"f:spec": {}}}]},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
    })
}

pub(super) fn slice(name: &str, service: &str) -> Value {
    json!({
        "metadata": {"namespace": "ns", "name": name, "resourceVersion": "1",
            "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.244.0.1"]}],
        "ports": [{"name": "", "port": 8080}],
    })
}

pub(super) fn node(name: &str) -> Value {
    json!({"metadata": {"name": name, "resourceVersion": "1"}})
}

pub(super) fn added(mut object: Value, version: u64) -> Value {
    object["metadata"]["resourceVersion"] = version.to_string().into();
    json!({"type": "ADDED", "object": object})
}

pub(super) fn deleted(mut object: Value, version: u64) -> Value {
    object["metadata"]["resourceVersion"] = version.to_string().into();
    json!({"type": "DELETED", "object": object})
}

pub(super) fn bookmark(version: u64) -> Value {
    json!({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": version.to_string()},
        "addressType": "", "endpoints": null, "ports": null, "spec": {}, "status": {}}})
}

pub(super) fn end_of_list(version: u64) -> Value {
    let mut line = bookmark(version);
    line["object"]["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    line
}

pub(super) fn expired() -> Value {
    json!({"type": "ERROR", "object": {"kind": "Status", "apiVersion": "v1", "metadata": {},
        "status": "Failure", "message": "too old resource version: 1 (2645)",
        "reason": "Expired", "code": 410}})
}
