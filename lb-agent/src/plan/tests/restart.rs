//! A planner that begins with the tables an earlier one left.

use super::*;

#[test]
fn a_restart_with_the_same_objects_writes_nothing() {
    let (mut planner, mut memory) = (Planner::new(CAPACITY), Memory::new(CAPACITY));
    let world = web();
    settle(&mut planner, &mut memory, &world);
    let mut planner = restart(&mut memory);
    assert_eq!(settle(&mut planner, &mut memory, &world), []);
    assert_eq!(planner.remove_unclaimed(), []);
    assert_eq!(settle(&mut planner, &mut memory, &world), []);
}

#[test]
fn a_restart_removes_what_is_gone_and_keeps_the_rest() {
    let (mut planner, mut memory) = (Planner::new(CAPACITY), Memory::new(CAPACITY));
    let mut world = web();
    world.add_service(service("gone", &["10.96.0.7"], &[("http", 80)]));
    world.add_slice(slice(
        "gone",
        "gone",
        &[("http", 80)],
        [endpoint("10.0.7.1")],
    ));
    settle(&mut planner, &mut memory, &world);
    world.services.remove(&fixture::name("gone"));
    let mut planner = restart(&mut memory);
    assert_eq!(settle(&mut planner, &mut memory, &world), []);
    let writes = planner.remove_unclaimed();
    let writes = apply(&mut memory, writes);
    assert_eq!(
        writes.len(),
        2 + 3 + 1,
        "frontends, words, flags of a backend"
    );
    sweep(&mut planner, &mut memory);
    settle(&mut planner, &mut memory, &World::default());
    sweep(&mut planner, &mut memory);
    assert!(memory.is_empty());
}

#[test]
fn ids_that_only_flows_name_are_not_given_out_after_a_restart() {
    let mut memory = Memory::new(CAPACITY);
    memory.in_use.services.insert(ServiceId::new(1, 5));
    let mut planner = restart(&mut memory);
    assert!(planner.remove_unclaimed().is_empty());
    settle(&mut planner, &mut memory, &web());
    assert!(!memory.services.contains_key(&1));
    memory.in_use = InUse::default();
    sweep(&mut planner, &mut memory);
    assert_eq!(planner.services.available(), CAPACITY.services - 1 - 4);
}
