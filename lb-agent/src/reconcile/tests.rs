//! The reconciler against tables that fail one call in ten: sound after every write, right in the
//! end, silent before the lists are complete.

use lb_common::family::{Family as _, MappedAddress, V4};
use lb_common::flow::Protocol;
use lb_common::id::{BackendId, Seconds, ServiceId};
use lb_common::table::affinity::{AffinityKey, AffinityValue};
use lb_common::table::service::{SERVICE_WORDS, ServiceWord};
use proptest::prelude::*;

use super::*;
use crate::dataplane::memory::{Flaky, Memory};
use crate::dataplane::{Actual, Capacity, CutStep, InUse, ServiceWords, UdpPair};
use crate::plan::tests::fixture::{World, endpoint, name, service, slice};
use crate::plan::tests::random::{Event, event, happen};

const CAPACITY: Capacity = Capacity {
    frontends: 64,
    services: 32,
    arena_words: 65_536,
    backends: 128,
    node_addresses: 64,
    source_ranges: 64,
};

/// Checks the tables after each write, so that no moment goes unseen.
struct Checked(Memory);

impl Dataplane for Checked {
    fn capacity(&self) -> Capacity {
        self.0.capacity()
    }

    fn apply(&mut self, write: &Write) -> Result<(), DataplaneError> {
        self.0.apply(write)?;
        if let Err(unsound) = self.0.check() {
            panic!("{unsound} after {write:?}");
        }
        Ok(())
    }

    fn wait_for_readers(&mut self) -> Result<(), DataplaneError> {
        self.0.wait_for_readers()
    }

    fn read_tables(&self) -> Result<Actual, DataplaneError> {
        self.0.read_tables()
    }

    fn read_regions(
        &self,
        services: &ServiceWords,
        each: &mut dyn FnMut(u32, &[u64]),
    ) -> Result<(), DataplaneError> {
        self.0.read_regions(services, each)
    }

    fn ids_in_use(&self) -> Result<InUse, DataplaneError> {
        self.0.ids_in_use()
    }

    fn cut_flows(
        &mut self,
        from: FlowCursor,
        is_stale: &dyn Fn(&UdpPair) -> bool,
    ) -> Result<CutStep, DataplaneError> {
        self.0.cut_flows(from, is_stale)
    }

    fn forget_affinity(
        &mut self,
        is_kept: &dyn Fn(ServiceId, BackendId) -> bool,
    ) -> Result<u64, DataplaneError> {
        self.0.forget_affinity(is_kept)
    }
}

type Tested = Reconciler<Flaky<Checked>>;

fn start(memory: Memory, percent: u64, seed: u64) -> Tested {
    let mut flaky = Flaky::new(Checked(memory), 0, seed);
    flaky.wait_for_readers().unwrap();
    let mut reconciler = Reconciler::start(flaky).unwrap();
    reconciler.dataplane_mut().percent = percent;
    reconciler
}

/// Tries until it works; a failure that never ends would end the test.
fn until_done(mut attempt: impl FnMut() -> Result<(), DataplaneError>) {
    let failures = (0..10_000).take_while(|_| attempt().is_err()).count();
    assert!(failures < 10_000, "no end of failures");
}

fn frontends(reconciler: &Tested) -> usize {
    reconciler.dataplane().inner.0.frontends.len()
}

fn web() -> World {
    let mut world = World::default();
    world.add_service(service("web", &["10.96.0.1"], &[("http", 80)]));
    let endpoints = [endpoint("10.0.0.1"), endpoint("10.0.0.2")];
    world.add_slice(slice("web", "web", &[("http", 8080)], endpoints));
    world
}

#[test]
fn nothing_is_written_before_the_lists_are_complete() {
    let world = web();
    let mut reconciler = start(Memory::new(CAPACITY), 0, 1);
    reconciler.changed(name("web"));
    reconciler.run(&world).unwrap();
    assert_eq!((reconciler.applied(), reconciler.is_synced()), (0, false));
    reconciler.listed(&world);
    reconciler.run(&world).unwrap();
    assert!(reconciler.is_synced());
    assert_eq!(frontends(&reconciler), 2);
}

#[test]
fn after_a_reset_nothing_is_deleted_until_everything_is_listed_again() {
    let mut reconciler = start(Memory::new(CAPACITY), 0, 1);
    reconciler.listed(&web());
    reconciler.run(&web()).unwrap();
    let empty = World::default();
    reconciler.reset();
    reconciler.changed(name("web"));
    reconciler.run(&empty).unwrap();
    assert_eq!(frontends(&reconciler), 2);
    reconciler.listed(&empty);
    reconciler.run(&empty).unwrap();
    assert_eq!(frontends(&reconciler), 0);
}

#[test]
fn a_restart_writes_nothing_and_then_removes_what_is_gone() {
    let mut reconciler = start(Memory::new(CAPACITY), 0, 1);
    reconciler.listed(&web());
    reconciler.run(&web()).unwrap();
    let memory = reconciler.dataplane().inner.0.clone();
    let mut again = start(memory.clone(), 0, 1);
    again.listed(&web());
    again.run(&web()).unwrap();
    assert_eq!((again.applied(), again.is_synced()), (0, true));
    let mut bare = start(memory, 0, 1);
    bare.run(&World::default()).unwrap();
    assert_eq!(frontends(&bare), 2, "not listed yet");
    bare.listed(&World::default());
    bare.run(&World::default()).unwrap();
    bare.sweep().unwrap();
    assert!(bare.dataplane().inner.0.is_empty());
}

#[test]
fn an_arena_without_room_for_a_copy_waits_for_readers_once_and_goes_on() {
    // Room for two tables of 251 slots and one copy; each change gives one up.
    let capacity = Capacity {
        arena_words: 8 + 72 * 2,
        ..CAPACITY
    };
    let mut world = web();
    let mut reconciler = start(Memory::new(capacity), 0, 1);
    reconciler.listed(&world);
    for weight in [100, 200, 300, 400, 500] {
        world.add_slice(slice("b", "web", &[("http", 8080)], []));
        let mut heavier = slice("c", "web", &[("http", 8080)], [endpoint("10.0.0.2")]);
        heavier.weight = weight;
        world.add_slice(heavier);
        reconciler.changed(name("web"));
        reconciler.run(&world).unwrap();
        assert_eq!(reconciler.planner().reports(), []);
    }
}

#[test]
fn a_frontend_the_kernel_has_no_room_for_is_put_aside_and_tried_again() {
    let mut memory = Memory::new(Capacity {
        frontends: 2,
        ..CAPACITY
    });
    // Something else fills the table while the planner believes that it has room.
    let mut reconciler = start(memory.clone(), 0, 1);
    let foreign = FrontendKey::service_address([7; 16]);
    let value = lb_common::table::frontend::FrontendValue(0);
    memory.frontends.insert(foreign, value);
    memory.service_filter.fill(u64::MAX);
    reconciler.dataplane_mut().inner.0 = memory;
    reconciler.listed(&web());
    reconciler.run(&web()).unwrap();
    assert_eq!(reconciler.parked().count(), 1);
    reconciler
        .dataplane_mut()
        .inner
        .0
        .frontends
        .remove(&foreign);
    reconciler.run(&web()).unwrap();
    assert_eq!(
        (reconciler.parked().count(), frontends(&reconciler)),
        (0, 2)
    );
}

/// Services `web` and `also` over UDP, of the same endpoints.
fn two_of_the_same() -> World {
    let mut world = World::default();
    for (service_name, address) in [("web", "10.96.0.1"), ("also", "10.96.0.2")] {
        let mut service = service(service_name, &[address], &[("dns", 53)]);
        service.ports[0].protocol = Protocol::Udp;
        world.add_service(service);
        let endpoints = [endpoint("10.0.0.1"), endpoint("10.0.0.2")];
        let mut slice = slice(service_name, service_name, &[("dns", 53)], endpoints);
        slice.ports[0].protocol = Protocol::Udp;
        world.add_slice(slice);
    }
    world
}

/// A flow of every service to every backend that it has.
fn all_pairs(reconciler: &Tested) -> BTreeSet<UdpPair> {
    let memory = &reconciler.dataplane().inner.0;
    let services = memory.services.iter();
    let of = |(&index, words): (&u32, &[ServiceWord; SERVICE_WORDS])| {
        let service = ServiceId::new(index, words[0].generation());
        let backends = memory.backends.iter();
        backends.map(move |(&index, record)| UdpPair {
            service,
            backend: BackendId::new(index, record.generation()),
        })
    };
    services.flat_map(of).collect()
}

fn cut_all(reconciler: &mut Tested) {
    while reconciler.has_flows_to_cut() {
        until_done(|| reconciler.cut().map(drop));
    }
}

#[test]
fn udp_flows_leave_a_backend_that_only_another_service_still_has() {
    for percent in [0, 30] {
        let mut world = two_of_the_same();
        let mut reconciler = start(Memory::new(CAPACITY), percent, 1);
        reconciler.listed(&world);
        until_done(|| reconciler.run(&world));
        let all = all_pairs(&reconciler);
        assert_eq!(all.len(), 4);
        reconciler.dataplane_mut().inner.0.in_use.udp_pairs = all.clone();
        cut_all(&mut reconciler);
        let in_use = |tested: &Tested| tested.dataplane().inner.0.in_use.udp_pairs.clone();
        assert_eq!(in_use(&reconciler), all, "every pair is served");

        world.slice_mut("web").endpoints.pop();
        // One that ends goes on serving its flows.
        world.slice_mut("also").endpoints[1].ready = false;
        world.slice_mut("also").endpoints[1].terminating = true;
        reconciler.all_changed(&world);
        until_done(|| reconciler.run(&world));
        assert_eq!(in_use(&reconciler), all, "tables first");
        cut_all(&mut reconciler);
        let gone: Vec<_> = all.difference(&in_use(&reconciler)).copied().collect();
        let [gone] = gone[..] else { panic!("{gone:?}") };
        let memory = &reconciler.dataplane().inner.0;
        let web = memory.frontends[&dns([10, 96, 0, 1])].service_index();
        let second = V4::mapped([10, 0, 0, 2]);
        assert_eq!(gone.service.index(), web);
        assert_eq!(memory.backends[&gone.backend.index()].address(), second);
    }
}

#[test]
fn udp_flows_that_lost_their_backend_while_no_agent_ran_leave_it_too() {
    let mut world = two_of_the_same();
    let mut reconciler = start(Memory::new(CAPACITY), 0, 1);
    reconciler.listed(&world);
    reconciler.run(&world).unwrap();
    let mut memory = reconciler.dataplane().inner.0.clone();
    memory.in_use.udp_pairs = all_pairs(&reconciler);
    world.slice_mut("web").endpoints.pop();
    world.services.remove(&name("also"));
    let mut again = start(memory, 0, 1);
    again.cut().unwrap();
    assert_eq!(again.dataplane().inner.0.in_use.udp_pairs.len(), 4);
    again.listed(&world);
    again.run(&world).unwrap();
    cut_all(&mut again);
    assert_eq!(again.dataplane().inner.0.in_use.udp_pairs.len(), 1);
}

/// A client of every service at every backend that it has.
fn remember_all(reconciler: &mut Tested) {
    let pairs = all_pairs(reconciler);
    let affinity = &mut reconciler.dataplane_mut().inner.0.affinity;
    for pair in pairs {
        let [.., number] = pair.backend.raw().to_be_bytes();
        let key = AffinityKey::new::<V4>(pair.service, [10, 0, 9, number]);
        affinity.insert(key, AffinityValue::new(&key, pair.backend, Seconds(1)));
    }
}

/// Which services' clients are remembered, with the addresses of their backends.
fn remembered(reconciler: &Tested) -> Vec<(u32, MappedAddress)> {
    let memory = &reconciler.dataplane().inner.0;
    let of = |(key, value): (&AffinityKey, &AffinityValue)| {
        let record = memory.backends[&value.backend(key).index()];
        (key.service().index(), record.address())
    };
    memory.affinity.iter().map(of).collect()
}

fn sticky() -> World {
    let mut world = two_of_the_same();
    for service in world.services.values_mut() {
        service.affinity_seconds = Some(10_800);
    }
    world
}

#[test]
fn clients_are_forgotten_when_their_backend_leaves_and_when_affinity_ends() {
    for percent in [0, 30] {
        let mut world = sticky();
        let mut reconciler = start(Memory::new(CAPACITY), percent, 1);
        let settle = |reconciler: &mut Tested, world: &World| {
            reconciler.all_changed(world);
            until_done(|| reconciler.run(world));
            cut_all(reconciler);
        };
        reconciler.listed(&world);
        settle(&mut reconciler, &world);
        remember_all(&mut reconciler);
        let indices = [[10, 96, 0, 1], [10, 96, 0, 2]].map(|address| {
            let memory = &reconciler.dataplane().inner.0;
            memory.frontends[&dns(address)].service_index()
        });
        let [web, also] = indices;
        let [first, second] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(V4::mapped);
        let mut all = [(web, first), (web, second), (also, first), (also, second)];
        all.sort_unstable();
        settle(&mut reconciler, &world);
        assert_eq!(remembered(&reconciler), all, "nothing has changed");

        let endpoint = world.slice_mut("web").endpoints.pop().unwrap();
        settle(&mut reconciler, &world);
        world.slice_mut("web").endpoints.push(endpoint);
        settle(&mut reconciler, &world);
        let mut expected = vec![(web, first), (also, first), (also, second)];
        expected.sort_unstable();
        assert_eq!(remembered(&reconciler), expected, "it returns alone");

        let also_service = world.services.get_mut(&name("also")).unwrap();
        also_service.affinity_seconds = None;
        settle(&mut reconciler, &world);
        world
            .services
            .get_mut(&name("also"))
            .unwrap()
            .affinity_seconds = Some(10_800);
        settle(&mut reconciler, &world);
        assert_eq!(remembered(&reconciler), [(web, first)], "off and on");

        world.services.remove(&name("web"));
        settle(&mut reconciler, &world);
        assert_eq!(remembered(&reconciler), []);
    }
}

#[test]
fn clients_whose_backend_left_while_no_agent_ran_are_forgotten_and_the_others_kept() {
    let mut world = sticky();
    let mut reconciler = start(Memory::new(CAPACITY), 0, 1);
    reconciler.listed(&world);
    reconciler.run(&world).unwrap();
    remember_all(&mut reconciler);
    let memory = reconciler.dataplane().inner.0.clone();
    world.slice_mut("web").endpoints.pop();
    let mut again = start(memory, 0, 1);
    again.cut().unwrap();
    assert_eq!(remembered(&again).len(), 4, "nothing is known yet");
    again.listed(&world);
    again.run(&world).unwrap();
    cut_all(&mut again);
    assert_eq!(remembered(&again).len(), 3);
}

fn dns(address: [u8; 4]) -> FrontendKey {
    FrontendKey::new(V4::mapped(address), 53, Protocol::Udp)
}

#[test]
fn retries_slow_down_to_five_seconds() {
    let delays: Vec<_> = [1, 2, 3, 9, 10, 11, 40, u32::MAX]
        .map(|failures| retry_delay(failures).as_millis())
        .into();
    assert_eq!(delays, [10, 20, 40, 2560, 5000, 5000, 5000, 5000]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(32) })]

    /// One call in ten fails, and the agent dies now and then between two writes.
    #[test]
    fn failures_delay_the_right_tables_and_never_make_unsound_ones(
        events in proptest::collection::vec(event(), 1..16),
        seed in any::<u64>(),
    ) {
        let mut world = World::default();
        let mut reconciler = start(Memory::new(CAPACITY), 10, seed);
        reconciler.listed(&world);
        for event in &events {
            happen(&mut world, event);
            match event {
                Event::Sweep => until_done(|| reconciler.sweep()),
                Event::Restart => {
                    // Killed with writes still waiting, wherever the first failure left it.
                    reconciler.all_changed(&world);
                    let _died = reconciler.run(&world);
                    reconciler = start(reconciler.dataplane().inner.0.clone(), 10, seed);
                    reconciler.listed(&world);
                }
                _ => {
                    reconciler.all_changed(&world);
                    // Perhaps it gets all the way, perhaps the next event comes first.
                    let _progress = reconciler.run(&world);
                }
            }
        }
        until_done(|| reconciler.run(&world));
        prop_assert!(reconciler.is_synced());
        let mut steady = start(Memory::new(CAPACITY), 0, seed);
        steady.listed(&world);
        steady.run(&world).unwrap();
        let keys = |tested: &Tested| -> Vec<_> {
            tested.dataplane().inner.0.frontends.keys().copied().collect()
        };
        prop_assert_eq!(keys(&reconciler), keys(&steady));
        let records = |tested: &Tested| {
            let records = tested.dataplane().inner.0.backends.values();
            let mut serving: Vec<_> = records
                .filter(|record| record.flags().0 & 2 != 0)
                .map(|record| (record.address(), record.port(), record.flags().0))
                .collect();
            serving.sort_unstable();
            serving
        };
        prop_assert_eq!(records(&reconciler), records(&steady));
        let empty = World::default();
        reconciler.listed(&empty);
        until_done(|| reconciler.run(&empty));
        until_done(|| reconciler.sweep());
        prop_assert!(reconciler.dataplane().inner.0.is_empty());
    }
}
