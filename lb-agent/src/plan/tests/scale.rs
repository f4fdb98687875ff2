//! What planning costs, at a tenth of the size that is promised: 10 endpoints and two families for
//! each of 1000 Services. Figures, processor time of the thread, are printed; growth is asserted.

#![expect(clippy::print_stdout, reason = "figures are printed")]

use std::time::Duration;

use super::*;
use crate::clock::thread_time;

const LARGE: Capacity = Capacity {
    frontends: 65_536,
    services: 32_768,
    arena_words: 6_291_456,
    backends: 262_144,
    node_addresses: 64,
    source_ranges: 64,
};

fn world(services: u32) -> World {
    let mut world = World::default();
    for number in 0..services {
        let name = format!("s{number}");
        let addresses =
            [false, true].map(|v6| fixture::address(0x60_0000 + number, v6).to_string());
        let addresses = [addresses[0].as_str(), addresses[1].as_str()];
        world.add_service(service(&name, &addresses, &[("http", 80)]));
        for (is_v6, family) in [(false, "v4"), (true, "v6")] {
            let endpoints = (0..10)
                .map(|n| endpoint(&fixture::address(0x100 + number * 10 + n, is_v6).to_string()));
            let slice = slice(
                &format!("{name}-{family}"),
                &name,
                &[("http", 8080)],
                endpoints,
            );
            world.add_slice(slice);
        }
    }
    world
}

fn views(world: &World) -> Vec<ServiceView<'_>> {
    let slice = |service: &ObjectName, family| {
        let name = format!("{}-{family}", service.name);
        &world.slices[&fixture::name(&name)]
    };
    let services = world.services.values();
    services
        .map(|service| {
            let slices = ["v4", "v6"].map(|family| slice(&service.name, family));
            ServiceView::new(service, slices)
        })
        .collect()
}

fn plan_all(planner: &mut Planner, views: &[ServiceView<'_>]) -> Duration {
    let begin = thread_time();
    let mut writes = 0;
    for view in views {
        writes += planner.plan_service(view, &NODE).len();
    }
    assert!(writes > views.len() * 20);
    thread_time().saturating_sub(begin)
}

/// What planning `services` costs, and then a change of one of them.
fn costs(services: u32) -> [Duration; 2] {
    let mut world = world(services);
    let mut planner = Planner::new(LARGE);
    let total = plan_all(&mut planner, &views(&world));
    assert_eq!(planner.reports(), []);
    for slice in world.slices.values_mut() {
        slice.endpoints.pop();
    }
    let views = views(&world);
    let begin = thread_time();
    for view in &views[..100] {
        assert!(!planner.plan_service(view, &NODE).is_empty());
    }
    let change = thread_time().saturating_sub(begin) / 100;
    println!("plan/all/{services}x10x2: {total:?}; plan/endpoint-gone/{services}: {change:?}");
    [total, change]
}

#[test]
fn planning_costs_grow_with_the_services_and_a_change_costs_its_service() {
    // The least of three: others on the machine make a measurement larger, never smaller.
    let mut least = [[Duration::MAX; 2]; 2];
    for _ in 0..3 {
        for (least, services) in least.iter_mut().zip([250, 1000]) {
            let [total, change] = costs(services);
            *least = [least[0].min(total), least[1].min(change)];
        }
    }
    let [small, large] = least;
    let growth = |of: usize| large[of].as_secs_f64() / small[of].as_secs_f64();
    assert!(
        growth(0) < 4.0 * 3.0,
        "four times the services cost {} times as much",
        growth(0)
    );
    assert!(
        growth(1) < 3.0,
        "a change costs {} times as much among four times the services",
        growth(1)
    );
    assert!(large[1] < Duration::from_millis(50), "{large:?}");
}
