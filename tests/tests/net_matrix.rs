//! The matrix of sources, addresses, policies and endpoints between real sockets: a pairwise cover of
//! it, or with `STEERAGE_MATRIX=full` all of it.
#![expect(
    clippy::tests_outside_test_module,
    reason = "an integration test is a test module"
)]

use lb_tests::{
    lab::CniShape,
    matrix::{Selected, not_running, run},
};

#[track_caller]
fn check(shape: CniShape) {
    let outcome = run(Selected::from_environment(), shape);
    outcome.unwrap_or_else(|error| panic!("{shape}: {error:#}"));
}

#[test]
fn the_matrix_holds_with_routed_veths() {
    eprint!("cells that do not run:\n{}", not_running());
    check(CniShape::Routed);
}

#[test]
fn the_matrix_holds_on_a_bridge() {
    check(CniShape::Bridge { br_netfilter: true });
}

#[test]
fn the_matrix_holds_on_a_bridge_without_br_netfilter() {
    check(CniShape::Bridge {
        br_netfilter: false,
    });
}

#[test]
fn the_matrix_holds_over_vxlan() {
    check(CniShape::Vxlan);
}
