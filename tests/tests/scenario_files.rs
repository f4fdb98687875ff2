//! The scenarios of `tests/scenarios`: one test for each file, of its name.

#![expect(
    clippy::tests_outside_test_module,
    reason = "a file of tests is a module of tests"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use lb_tests::spec;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios")
}

#[track_caller]
fn check(name: &str) {
    let path = directory().join(format!("{name}.txt"));
    spec::check(&path).unwrap_or_else(|error| panic!("{}: {error:#}", path.display()));
}

macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            check(stringify!($name));
        })*

        const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

scenarios![
    a_broken_file_leaves_what_it_held,
    a_local_policy_serves_or_drops_internal_clients,
    a_port_of_one_number_over_two_protocols_is_two_services,
    a_rolling_update_moves_new_flows_first,
    a_service_without_endpoints_is_refused,
    affinity_is_part_of_a_set,
    an_address_of_two_services_is_the_older_ones,
    an_endpoint_in_two_slices_counts_once,
    annotated_weights_divide_the_slots,
    conditions_decide_who_gets_new_flows,
    endpoints_of_several_slices_are_one_set,
    headless_and_external_name_services_are_left_alone,
    named_ports_lead_to_what_each_slice_says,
    services_of_two_families_have_a_side_in_each,
    what_another_proxy_serves_is_left_alone,
];

#[test]
fn every_scenario_has_a_test() {
    let files: BTreeSet<String> = fs::read_dir(directory())
        .expect("the scenarios can be listed")
        .map(|entry| entry.expect("the scenarios can be listed").path())
        .map(|path| {
            path.file_stem()
                .expect("a name")
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    let tests: BTreeSet<String> = NAMES.iter().map(ToString::to_string).collect();
    assert_eq!(files, tests);
}
