//! Random sequences of objects: after every single write the tables are sound, at the end they are
//! what a planner that begins from nothing makes of the same objects, and deleting everything
//! empties them.

use lb_common::table::region::RegionHeader;
use lb_common::table::service::SERVICE_WORDS;
use proptest::prelude::*;

use super::*;
use crate::model::endpoint::{Endpoint, Hints};
use crate::model::service::{Service, TrafficPolicy};
use crate::plan::desired::Desired;
use crate::plan::expand::PortKey;

/// What clients of one frontend see: everything but ids and offsets.
type Seen = BTreeMap<FrontendKey, Option<[SeenSet; SERVICE_WORDS]>>;
/// A set's header, its backends, and who has each slot.
type SeenSet = (RegionHeader, Vec<SeenBackend>, Vec<SeenBackend>);
/// Address, port and flags.
type SeenBackend = (IpAddr, u16, u8);

/// The tables without ids and offsets.
fn seen(memory: &Memory) -> Seen {
    let look = |offset| {
        let words = memory.region(offset).unwrap();
        let header = RegionHeader::decode([words[0], words[1]]);
        let backends = (0..header.count).map(|position| {
            let (word, is_upper) = RegionHeader::id_word(position);
            let raw = words[word as usize] >> if is_upper { 32 } else { 0 };
            let id = lb_common::id::BackendId::from_raw(lb_common::hash::lower(raw));
            let record = memory.backends[&id.index()];
            let address = std::net::Ipv6Addr::from(record.address()).to_canonical();
            (address, record.port(), record.flags().0)
        });
        let mut backends: Vec<_> = backends.collect();
        // By address: the order of the list is that of ids, which are the planner's own.
        let slots = (0..header.table_size).map(|slot| {
            let (word, shift) = header.slot_word(slot);
            backends[(words[word as usize] >> shift & 0xffff) as usize]
        });
        let slots = slots.collect();
        backends.sort_unstable();
        (header, backends, slots)
    };
    let frontends = memory.frontends.iter();
    frontends
        .map(|(key, value)| {
            let words = memory.services.get(&value.service_index());
            (
                *key,
                words.map(|words| words.map(|word| look(word.offset()))),
            )
        })
        .collect()
}

#[derive(Clone, Debug)]
pub(crate) enum Event {
    Service {
        service: u8,
        ports: u8,
        policies: u8,
        externals: u8,
        is_dual: bool,
    },
    DeleteService(u8),
    Slice {
        slice: u8,
        service: u8,
        endpoints: Vec<(u8, u8)>,
        weight: u16,
        is_v6: bool,
    },
    DeleteSlice(u8),
    Sweep,
    Restart,
}

pub(crate) fn event() -> impl Strategy<Value = Event> {
    let endpoints = proptest::collection::vec((0..12_u8, 0..32_u8), 0..6);
    prop_oneof![
        4 => (0..5_u8, 1..4_u8, 0..8_u8, 0..32_u8, any::<bool>()).prop_map(
            |(service, ports, policies, externals, is_dual)| Event::Service {
                service, ports, policies, externals, is_dual }),
        2 => (0..5_u8).prop_map(Event::DeleteService),
        6 => (0..8_u8, 0..5_u8, endpoints, prop_oneof![Just(0_u16), Just(100), 1..1000_u16], any::<bool>())
            .prop_map(|(slice, service, endpoints, weight, is_v6)| Event::Slice {
                slice, service, endpoints, weight, is_v6 }),
        2 => (0..8_u8).prop_map(Event::DeleteSlice),
        2 => Just(Event::Sweep),
        1 => Just(Event::Restart),
    ]
}

const PORTS: [(&str, u16); 3] = [("http", 80), ("tls", 443), ("www", 80)];

fn policy(bits: u8) -> TrafficPolicy {
    if bits == 0 {
        TrafficPolicy::Cluster
    } else {
        TrafficPolicy::Local
    }
}

fn random_endpoint(number: u8, bits: u8, is_v6: bool) -> Endpoint {
    let address = fixture::address(0x100 + u32::from(number), is_v6);
    Endpoint {
        ready: bits & 1 == 0,
        serving: bits & 3 != 1,
        terminating: bits & 4 != 0,
        node: Some(if bits & 8 == 0 { "node-a" } else { "node-b" }.into()),
        zone_hints: if bits & 16 == 0 {
            Hints::default()
        } else {
            ["zone-a".into()].into_iter().collect()
        },
        ..endpoint(&address.to_string())
    }
}

/// External addresses that Services contend for, one of them a cluster address of others.
fn add_externals(service: &mut Service, number: u8, bits: u8) {
    let addresses = [
        (1, format!("192.0.2.{}", number % 2)),
        (2, "10.96.0.1".to_owned()),
        (4, "2001:db8::1".to_owned()),
    ];
    for (bit, address) in addresses {
        if bits & bit != 0 {
            service.external_ips.push(address.parse().unwrap());
        }
    }
    if bits & 8 != 0 {
        service.load_balancer_ips.push("192.0.2.0".parse().unwrap());
    }
    if bits & 16 != 0 {
        let range = ("203.0.113.0".parse().unwrap(), 25);
        service.source_ranges.push(range);
    }
}

/// The published frontends with the service ports behind them.
fn owners(planner: &Planner, memory: &Memory) -> Vec<(FrontendKey, PortKey)> {
    let ports = memory
        .frontends
        .iter()
        .filter(|(key, _)| key.protocol().is_some());
    ports
        .map(|(key, value)| {
            let port = planner.services.key(value.service_index()).unwrap();
            (*key, PortKey::clone(port))
        })
        .collect()
}

pub(crate) fn happen(world: &mut World, event: &Event) {
    match event {
        Event::Service {
            service: number,
            ports,
            policies,
            externals,
            is_dual,
        } => {
            let v4 = format!("10.96.0.{}", number / 2);
            let v6 = format!("fd00:96::{number}");
            let addresses: &[&str] = if *is_dual { &[&v4, &v6] } else { &[&v4] };
            let first = usize::from(*policies) % 2;
            let last = (first + usize::from(*ports)).min(PORTS.len());
            let mut service = service(&format!("s{number}"), addresses, &PORTS[first..last]);
            service.created_seconds = Some(i64::from(number % 3));
            service.internal_policy = policy(policies & 1);
            service.external_policy = policy(policies & 2);
            service.ports[0].node_port = u16::from(policies & 4) * 7500;
            service.affinity_seconds = (policies & 6 == 6).then_some(10_800);
            add_externals(&mut service, *number, *externals);
            world.add_service(service);
        }
        Event::DeleteService(number) => {
            world.services.remove(&fixture::name(&format!("s{number}")));
        }
        Event::Slice {
            slice: number,
            service,
            endpoints,
            weight,
            is_v6,
        } => {
            let endpoints = endpoints
                .iter()
                .map(|&(n, bits)| random_endpoint(n, bits, *is_v6));
            let service = format!("s{service}");
            let mut slice = slice(&format!("e{number}"), &service, &PORTS, endpoints);
            (slice.weight, slice.is_v6) = (*weight, *is_v6);
            world.add_slice(slice);
        }
        Event::DeleteSlice(number) => {
            world.slices.remove(&fixture::name(&format!("e{number}")));
        }
        Event::Sweep | Event::Restart => {}
    }
}

fn run(capacity: Capacity, events: &[Event]) -> Result<(), TestCaseError> {
    let (mut planner, mut memory) = (Planner::new(capacity), Memory::new(capacity));
    let mut world = World::default();
    for event in events {
        happen(&mut world, event);
        match event {
            Event::Sweep => sweep(&mut planner, &mut memory),
            Event::Restart => {
                planner = restart(&mut memory);
                settle(&mut planner, &mut memory, &world);
                let writes = planner.remove_unclaimed();
                apply(&mut memory, writes);
            }
            _ => {}
        }
        settle(&mut planner, &mut memory, &world);
        let kept_back =
            planner.kept_back().next().is_some() || planner.frontends.waiting().next().is_some();
        if !kept_back {
            let (mut fresh, mut expected) = (Planner::new(CAPACITY), Memory::new(CAPACITY));
            settle(&mut fresh, &mut expected, &world);
            prop_assert_eq!(seen(&memory), seen(&expected));
            let desired = Desired::of(world.views(), &NODE);
            let published: Vec<_> = desired
                .frontends
                .iter()
                .map(|(key, owner)| (*key, owner.port.clone()))
                .collect();
            prop_assert_eq!(owners(&planner, &memory), published);
        }
    }
    settle(&mut planner, &mut memory, &World::default());
    sweep(&mut planner, &mut memory);
    prop_assert!(memory.is_empty());
    prop_assert_eq!(planner.regions.count(), 0);
    let free = u64::from(capacity.arena_words / arena::UNIT * arena::UNIT - arena::UNIT);
    prop_assert_eq!(planner.regions.arena.free_words(), free);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    #[test]
    fn tables_are_sound_after_every_write(events in proptest::collection::vec(event(), 1..16)) {
        run(CAPACITY, &events)?;
    }

    #[test]
    fn tables_are_sound_when_they_are_too_small(events in proptest::collection::vec(event(), 1..16)) {
        run(Capacity { frontends: 12, services: 9, arena_words: 2048, backends: 24, node_addresses: 8, source_ranges: 8 }, &events)?;
    }
}
