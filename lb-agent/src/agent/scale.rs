//! What a cluster costs the loop, from events to tables and names, and how that grows: processor time
//! of the thread, so that it matters little what else the machine does. Figures are printed.

#![expect(clippy::print_stdout, reason = "figures are printed")]

use std::sync::Arc;
use std::time::Duration;

use super::objects::ModelObjects;
use crate::clock;
use crate::dataplane::memory::Memory;
use crate::dataplane::{Capacity, Dataplane as _};
use crate::model::event::{Event, Kind};
use crate::model::index::Model;
use crate::plan::names::ServiceNames;
use crate::plan::tests::fixture::{address, endpoint, service, slice};
use crate::reconcile::Reconciler;

const CAPACITY: Capacity = Capacity {
    frontends: 65_536,
    services: 32_768,
    arena_words: 1 << 20,
    backends: 262_144,
    node_addresses: 64,
    source_ranges: 64,
};
/// Endpoints of a Service in each family.
const ENDPOINTS: u32 = 10;
/// Services of the smaller cluster.
const SMALL: u32 = 200;
/// Services of the larger one, which is so many times as large.
const LARGE: u32 = 3 * SMALL;
const TIMES: u64 = 3;
/// How often a cost is measured: the least counts.
const ROUNDS: usize = 3;

/// The slice of a family of Service `number`; its first endpoint is one of several.
fn slice_event(number: u32, is_v6: bool, version: u32) -> Event {
    let first = 0x10_0000 + number * ENDPOINTS;
    let endpoints = (0..ENDPOINTS).map(|member| {
        let moved = if member == 0 { version << 16 } else { 0 };
        let mut endpoint = endpoint(&address(first + member + moved, is_v6).to_string());
        endpoint.pod = Some(format!("pod-{number}-{member}").into());
        endpoint
    });
    let family = if is_v6 { "v6" } else { "v4" };
    let name = format!("s{number}-{family}");
    let slice = slice(&name, &format!("s{number}"), &[("http", 8080)], endpoints);
    Event::SliceApplied(Arc::new(slice))
}

fn cluster(services: u32) -> Vec<Event> {
    let mut events = Vec::new();
    for number in 0..services {
        let addresses = [false, true].map(|v6| address(0x60_0000 + number, v6).to_string());
        let addresses = addresses.each_ref().map(String::as_str);
        let service = service(&format!("s{number}"), &addresses, &[("http", 80)]);
        events.push(Event::ServiceApplied(Arc::new(service)));
        events.push(slice_event(number, false, 0));
        events.push(slice_event(number, true, 0));
    }
    events.extend(Kind::ALL.map(Event::Listed));
    events
}

/// A loop without kernel.
struct Loop {
    model: Model,
    reconciler: Reconciler<Memory>,
}

/// What something cost.
#[derive(Clone, Copy, Debug)]
struct Cost {
    time: Duration,
    writes: u64,
    names: usize,
}

impl Cost {
    fn least(self, other: Self) -> Self {
        if other.time < self.time { other } else { self }
    }
}

impl Loop {
    fn new() -> Self {
        Self {
            model: Model::new("node-a"),
            reconciler: Reconciler::start(Memory::new(CAPACITY)).unwrap(),
        }
    }

    /// Takes in events, writes the tables, and makes the names of what changed.
    fn take_in(&mut self, events: Vec<Event>, is_first: bool) -> Cost {
        let begin = clock::thread_time();
        let applied = self.reconciler.applied();
        let changed = self.model.apply_all(events);
        let objects = ModelObjects(&self.model);
        for name in changed.services {
            self.reconciler.changed(name);
        }
        if is_first {
            self.reconciler.listed(&objects);
        }
        self.reconciler.run(&objects).unwrap();
        let node = objects.node_view();
        let touched = self.reconciler.take_touched();
        let names: Vec<ServiceNames> = touched
            .iter()
            .filter_map(|name| {
                let service = self.model.shared_service(name)?;
                let slices = self.model.shared_slices(name);
                let planner = self.reconciler.planner();
                Some(planner.snapshot(service, slices, &node).names(&node))
            })
            .collect();
        assert!(self.reconciler.planner().reports().is_empty());
        Cost {
            time: clock::thread_time().saturating_sub(begin),
            writes: self.reconciler.applied() - applied,
            names: names.len(),
        }
    }
}

/// The least cost of a cluster's start, of its restart, and of one changed endpoint.
fn costs(services: u32) -> [Cost; 3] {
    let round = || {
        let mut first = Loop::new();
        let start = first.take_in(cluster(services), true);
        let change = (1..=12)
            .map(|version| {
                let number = services / 13 * version;
                first.take_in(vec![slice_event(number, false, version)], false)
            })
            .reduce(Cost::least)
            .unwrap();
        let memory = first.reconciler.dataplane().clone();
        assert_eq!(
            memory.read_all().unwrap().services.len(),
            2 * services as usize
        );
        let mut again = Loop {
            reconciler: Reconciler::start(memory).unwrap(),
            ..Loop::new()
        };
        let restart = again.take_in(cluster(services), true);
        [start, restart, change]
    };
    let rounds: Vec<_> = (0..ROUNDS).map(|_| round()).collect();
    [0, 1, 2].map(|which| {
        rounds
            .iter()
            .map(|it| it[which])
            .reduce(Cost::least)
            .unwrap()
    })
}

#[test]
fn three_times_the_cluster_costs_three_times_as_much_and_a_change_costs_the_same() {
    let small = costs(SMALL);
    let large = costs(LARGE);
    println!("{SMALL}: {small:?}\n{LARGE}: {large:?}");
    let [start, restart, change] = [0, 1, 2].map(|which| (small[which], large[which]));

    // A frontend, a service address, two words and their marks; ten records and their bits.
    assert!(start.0.writes >= u64::from(SMALL) * 2 * (u64::from(ENDPOINTS) + 5));
    assert!(start.1.writes <= TIMES * start.0.writes);
    assert_eq!(
        (start.1.names, start.0.names),
        (LARGE as usize, SMALL as usize)
    );
    assert!(restart.1.writes <= TIMES * restart.0.writes);
    assert!(restart.1.writes < start.1.writes / 10);
    assert_eq!((change.0.names, change.1.names), (1, 1));
    assert!(change.1.writes <= 10, "{change:?}");

    // What grows with the square would cost nine times as much, and a change three times. Other
    // programs share the processor's caches, so half of that is borne.
    let growth = |(small, large): (Cost, Cost)| large.time.as_secs_f64() / small.time.as_secs_f64();
    for pair in [start, restart] {
        assert!(growth(pair) < 5.0, "{pair:?}");
    }
    assert!(growth(change) < 2.5, "{change:?}");
}

/// Endpoints of a slice of the large Service.
const OF_SLICE: u32 = 100;
/// What a change of one slice of 5 000 endpoints in 50 slices may cost.
const TARGET: Duration = Duration::from_millis(10);

/// One slice of a Service of many; its first endpoint is one of several.
fn slice_of_large(number: u32, version: u32) -> Event {
    let first = 0x10_0000 + number * OF_SLICE;
    let endpoints = (0..OF_SLICE).map(|member| {
        let moved = if member == 0 { version << 16 } else { 0 };
        endpoint(&address(first + member + moved, false).to_string())
    });
    let slice = slice(&format!("s-{number}"), "s", &[("http", 8080)], endpoints);
    Event::SliceApplied(Arc::new(slice))
}

/// The least cost of one changed slice where a Service has so many.
fn change_of_large(slices: u32) -> Cost {
    let mut agent = Loop::new();
    let service = service("s", &["10.96.0.1"], &[("http", 80)]);
    let mut events = vec![Event::ServiceApplied(Arc::new(service))];
    events.extend((0..slices).map(|number| slice_of_large(number, 0)));
    events.extend(Kind::ALL.map(Event::Listed));
    agent.take_in(events, true);
    (1..=5)
        .map(|version| agent.take_in(vec![slice_of_large(slices / 2, version)], false))
        .reduce(Cost::least)
        .unwrap()
}

#[test]
fn one_slice_of_a_service_of_fifty_costs_in_proportion_to_the_service() {
    let (small, large) = (change_of_large(10), change_of_large(50));
    println!("10 slices: {small:?}\n50 slices: {large:?}");
    let growth = large.time.as_secs_f64() / small.time.as_secs_f64();
    // The square would be 25.
    assert!(growth < 8.0, "{growth}");
    assert!(large.time < 10 * TARGET, "{large:?}");
    // One backend comes, one goes, and a region of as many words takes the place of the other.
    assert!(large.writes <= small.writes + 4, "{small:?} {large:?}");
}
