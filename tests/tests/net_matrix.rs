//! The matrix of sources, addresses, policies and endpoints between real sockets: a pairwise cover of
//! it, or with `STEERAGE_MATRIX=full` all of it.
#![expect(
    clippy::tests_outside_test_module,
    reason = "an integration test is a test module"
)]

use lb_tests::{
    in_every_shape,
    lab::CniShape,
    matrix::{Selected, not_running, run},
};

#[track_caller]
fn check(shape: CniShape) {
    if shape == CniShape::Routed {
        eprint!("cells that do not run:\n{}", not_running());
    }
    let outcome = run(Selected::from_environment(), shape);
    outcome.unwrap_or_else(|error| panic!("{shape}: {error:#}"));
}

in_every_shape!(the_matrix_holds, check);
