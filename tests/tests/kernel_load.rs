//! The running kernel takes every program of the object.

#![expect(
    clippy::tests_outside_test_module,
    reason = "a file of tests is a module of tests"
)]

use aya::EbpfLoader;
use aya::programs::{ProgramError, SchedClassifier};
use lb_agent::dataplane::load::{OBJECT_PATH_VARIABLE, WORKLOAD_EGRESS, WORKLOAD_INGRESS};
use lb_tests::privilege::require_root;

/// The end of a verifier's log: what is wrong, and how it came to be looked at.
const LAST_LINES: usize = 60;

fn load(program: &mut SchedClassifier) -> Result<(), String> {
    program.load().map_err(|error| {
        let ProgramError::LoadError { verifier_log, .. } = &error else {
            return error.to_string();
        };
        let log = verifier_log.to_string();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines.get(lines.len().saturating_sub(LAST_LINES)..);
        last.unwrap_or_default().join("\n")
    })
}

#[test]
fn the_verifier_takes_every_program() {
    require_root().unwrap();
    let path = std::env::var_os(OBJECT_PATH_VARIABLE).expect("xtask names the object");
    let object = std::fs::read(path).unwrap();
    let mut ebpf = EbpfLoader::new().load(&object).unwrap();
    let names: Vec<&str> = ebpf.programs().map(|(name, _)| name).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    for name in [WORKLOAD_INGRESS, WORKLOAD_EGRESS] {
        let program = ebpf.program_mut(name).expect("the object has it");
        let program = program.try_into().expect("it is a classifier");
        if let Err(log) = load(program) {
            panic!("{name} is refused:\n{log}");
        }
    }
}
