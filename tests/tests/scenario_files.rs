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
    a_balancer_that_proxies_keeps_its_own_address,
    a_broken_file_leaves_what_it_held,
    a_deployment_of_three_replicas_is_rolled_over_as_its_controllers_write_it,
    a_health_check_counts_the_ready_addresses_of_this_node,
    a_local_policy_serves_or_drops_internal_clients,
    a_port_of_one_number_over_two_protocols_is_two_services,
    a_rolling_update_moves_new_flows_first,
    a_service_goes_through_the_types_and_every_old_frontend_dies,
    a_service_without_endpoints_is_refused,
    a_slice_may_come_before_its_service_and_outlive_it,
    addresses_with_leading_zeros_are_read_as_decimal,
    affinity_is_apart_for_each_family_protocol_and_port,
    affinity_is_of_the_service_port_and_can_be_switched,
    affinity_is_part_of_a_set,
    an_address_of_two_services_is_the_older_ones,
    an_endpoint_in_two_slices_counts_once,
    an_external_policy_of_a_service_without_other_addresses_means_nothing,
    an_external_policy_of_local_is_for_clients_from_outside,
    an_update_that_says_the_same_changes_nothing,
    annotated_weights_divide_the_slots,
    both_policies_local_still_let_pods_go_anywhere_from_external_addresses,
    cluster_addresses_go_by_the_families_of_the_service,
    conditions_decide_who_gets_new_flows,
    endpoints_of_several_slices_are_one_set,
    every_verdict_in_its_turn,
    external_addresses_are_frontends_of_every_type_of_service,
    external_addresses_that_shadow_others_are_refused,
    headless_and_external_name_services_are_left_alone,
    local_and_cluster_fall_back_to_terminating_endpoints_each_for_itself,
    named_ports_lead_to_what_each_slice_says,
    node_hints_come_before_zone_hints,
    node_ports_are_opened_at_the_addresses_that_are_chosen,
    node_ports_count_whatever_the_type_and_once_a_protocol,
    of_doubles_that_which_does_not_terminate_counts,
    of_two_external_addresses_the_oldest_service_has_it,
    only_cluster_addresses_refuse_ports_that_nobody_has,
    ports_without_a_number_or_addresses_without_a_text_are_none,
    published_unready_endpoints_serve_while_they_terminate,
    service_addresses_without_a_service_are_dropped,
    services_of_two_families_have_a_side_in_each,
    slices_of_names_or_of_nobody_are_left_alone,
    source_ranges_are_for_load_balancer_addresses_alone,
    tcp_udp_and_sctp_are_served_and_nothing_else,
    what_another_proxy_serves_is_left_alone,
    what_does_not_concern_a_proxy_is_not_read,
    zone_hints_keep_traffic_in_the_zone_of_the_node,
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

/// The page on conformance says which feature each file shows.
#[test]
fn every_scenario_is_named_where_features_are_listed_and_no_other() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/conformance.md");
    let page = fs::read_to_string(page).expect("the page can be read");
    let pieces = page.split('`').skip(1).step_by(2);
    let listed: BTreeSet<&str> = pieces.filter_map(|it| it.strip_suffix(".txt")).collect();
    assert_eq!(listed, NAMES.iter().copied().collect());
}
