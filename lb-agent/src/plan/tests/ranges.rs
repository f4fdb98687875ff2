//! `SOURCE_RANGES` beside `FRONTENDS`: whoever may dial before and after a change may dial at every
//! moment of it, and a frontend is never open for want of its networks.

use lb_common::table::source_range::SourceRangeKey;
use proptest::prelude::*;

use super::*;
use crate::model::service::Service;

/// What a Service may say of its clients.
const RANGES: [&[(&str, u8)]; 5] = [
    &[],
    &[("203.0.113.0", 25)],
    &[("203.0.113.0", 24), ("198.51.100.7", 32)],
    &[("198.51.100.0", 24)],
    &[("0.0.0.0", 0)],
];

fn ranged(name: &str, address: &str, ranges: &[(&str, u8)]) -> Service {
    let mut service = service(name, &["10.96.0.1"], &[("http", 80)]);
    service.load_balancer_ips = vec![address.parse().unwrap()];
    service.source_ranges = ranges
        .iter()
        .map(|(network, length)| (network.parse().unwrap(), *length))
        .collect();
    service
}

/// The networks of the service behind the load balancer's frontend; `None` where everybody may dial.
fn networks(memory: &Memory) -> Option<Vec<SourceRangeKey>> {
    let value = memory.frontends.get(&key("1.2.3.4", 80))?;
    let index = value.service_index().to_be_bytes();
    let of_service = |key: &&SourceRangeKey| key.data()[..4] == index;
    value.has_source_ranges().then(|| {
        let keys = memory.source_ranges.iter().filter(of_service);
        keys.copied().collect()
    })
}

/// Whether `client` may dial; `None` while the frontend is not there.
fn may_dial(memory: &Memory, client: IpAddr) -> Option<bool> {
    let value = memory.frontends.get(&key("1.2.3.4", 80))?;
    let asked = SourceRangeKey::client(value.service_index(), mapped(client));
    let is_open = !value.has_source_ranges();
    Some(is_open || memory.source_ranges.iter().any(|held| held.holds(&asked)))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn a_client_that_may_dial_before_and_after_a_change_may_dial_in_between(
        steps in proptest::collection::vec((0..RANGES.len(), any::<bool>()), 1..8),
    ) {
        let (mut planner, mut memory) = (Planner::new(CAPACITY), Memory::new(CAPACITY));
        let clients = ["203.0.113.1", "203.0.113.200", "198.51.100.7", "9.9.9.9"]
            .map(|text| text.parse::<IpAddr>().unwrap());
        for (ranges, is_restarted) in steps {
            let mut world = World::default();
            world.add_service(ranged("web", "1.2.3.4", RANGES[ranges]));
            if is_restarted {
                planner = restart(&mut memory);
            }
            let before = clients.map(|client| may_dial(&memory, client));
            let writes = planner.plan_service(&world.views()[0], &NODE);
            let mut after = memory.clone();
            for write in &writes {
                after.apply(write).unwrap();
            }
            let wanted = clients.map(|client| may_dial(&after, client));
            for write in &writes {
                memory.apply(write).unwrap();
                for ((client, before), wanted) in clients.iter().zip(before).zip(wanted) {
                    let now = may_dial(&memory, *client);
                    // The frontend may be absent yet; once there, it is as before or as it will be.
                    let is_known = [None, before, wanted].contains(&now);
                    prop_assert!(is_known, "{client}: {before:?}, {now:?}, {wanted:?}");
                }
            }
            let writes = planner.remove_unclaimed();
            apply(&mut memory, writes);
            let held = memory.source_ranges.len();
            prop_assert_eq!(held, networks(&memory).map_or(0, |networks| networks.len()));
        }
        settle(&mut planner, &mut memory, &World::default());
        sweep(&mut planner, &mut memory);
        prop_assert!(memory.is_empty());
    }
}

#[test]
fn a_service_whose_networks_have_no_room_keeps_its_state_and_says_so() {
    let capacity = Capacity {
        source_ranges: 2,
        ..CAPACITY
    };
    let (mut planner, mut memory) = (Planner::new(capacity), Memory::new(capacity));
    let mut world = World::default();
    world.add_service(ranged("web", "1.2.3.4", RANGES[1]));
    settle(&mut planner, &mut memory, &world);
    let before = networks(&memory);
    assert_eq!(before.as_ref().map(Vec::len), Some(1));
    // Two more are needed while the one is still there.
    world.add_service(ranged("web", "1.2.3.4", RANGES[2]));
    settle(&mut planner, &mut memory, &world);
    assert_eq!(networks(&memory), before);
    let [(_, report)] = &planner.reports()[..] else {
        panic!("{:?}", planner.reports())
    };
    let text = report.to_string();
    assert!(text.contains("SOURCE_RANGES (2 entries)"), "{text}");
    world.add_service(ranged("web", "1.2.3.4", RANGES[3]));
    settle(&mut planner, &mut memory, &world);
    assert!(planner.reports().is_empty());
    assert_eq!(networks(&memory).map(|held| held.len()), Some(1));
    assert_ne!(networks(&memory), before);
}
