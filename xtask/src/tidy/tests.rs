//! Each rule finds what it forbids, and nothing else.

use super::*;

#[track_caller]
fn check(rule: Rule, path: &str, text: &str, lines: &[usize]) {
    let found = rule(&Source::new(path, text));
    assert_eq!(
        found.iter().map(|(line, _)| *line).collect::<Vec<_>>(),
        lines,
        "{path}: {found:?}"
    );
}

#[test]
fn empty_names_are_refused_as_files_and_folders() {
    check(file_name, "lb-agent/src/utils.rs", "", &[1]);
    check(file_name, "lb-agent/src/plan/mod.rs", "", &[1]);
    check(file_name, "tests/tests/common/lab.rs", "", &[1]);
    check(file_name, "lb-common/src/model.rs", "", &[]);
}

#[test]
fn every_test_file_has_a_tier() {
    for file in [
        "kernel_icmp.rs",
        "net_clusterip.rs",
        "scenarios.rs",
        "scenario/steps.rs",
    ] {
        check(tier, &format!("tests/tests/{file}"), "", &[]);
    }
    check(tier, "tests/tests/abi.rs", "", &[1]);
    check(tier, "lb-common/tests/loom_flows.rs", "", &[]);
}

#[test]
fn a_file_of_more_than_500_lines_is_refused() {
    check(length, "a.rs", &"x\n".repeat(500), &[]);
    check(length, "a.rs", &"x\n".repeat(501), &[500]);
}

#[test]
fn a_module_opens_with_its_documentation() {
    check(module_doc, "a.rs", "//! What.\nfn f() {}\n", &[]);
    check(
        module_doc,
        "a.rs",
        "// SPDX-License-Identifier: MIT\n\n//! What.\n",
        &[],
    );
    check(module_doc, "a.rs", "use std::fs;\n//! Late.\n", &[1]);
    check(module_doc, "a.rs", "", &[1]);
}

#[test]
fn unsafe_code_stays_in_its_files() {
    let code = "//! unsafe\nfn f() { unsafe { g() } }\n#[unsafe(no_mangle)]\n";
    check(unsafe_code, "lb-agent/src/plan.rs", code, &[2, 3]);
    check(unsafe_code, "lb-ebpf/src/packet.rs", code, &[]);
    check(unsafe_code, "lb-ebpf/src/hook/tc.rs", code, &[]);
    check(unsafe_code, "lb-ebpf/src/packets.rs", code, &[2, 3]);
    check(unsafe_code, "lb-ebpf/src/main.rs", code, &[2]);
    check(
        unsafe_code,
        "lb-common/src/lib.rs",
        "#![forbid(unsafe_code)]\n",
        &[],
    );
}

#[test]
fn model_and_plan_name_no_clock_no_client_and_no_hash_map() {
    let code = "use tokio::sync;\nuse std::collections::HashMap;\nfn kubeconfig(now: Nanos) {}\n";
    check(purity, "lb-agent/src/plan/diff.rs", code, &[1, 2]);
    check(purity, "lb-agent/src/model.rs", code, &[1, 2]);
    check(purity, "lb-agent/src/reconcile.rs", code, &[]);
}

#[test]
fn unfinished_and_silenced_code_is_refused() {
    let code = format!(
        "{}();\n// {}: later\n#[{}]\n#[{}(x)]\n#[expect(x, reason = \"todo!\")]\n",
        concat!("todo", "!"),
        concat!("TO", "DO"),
        concat!("ign", "ore"),
        concat!("all", "ow"),
    );
    check(unfinished, "a.rs", &code, &[1, 3, 4, 2]);
}

#[test]
fn a_developers_machine_is_not_named() {
    let own = concat!("/wo", "rk/tree");
    check(
        places_of_a_machine,
        "a.rs",
        &format!("let a = \"{own}\";"),
        &[1],
    );
    check(places_of_a_machine, "a.rs", &format!("see {own}"), &[1]);
    let inner = concat!("target/wo", "rk/tree");
    check(places_of_a_machine, "a.rs", inner, &[]);
    check(
        places_of_a_machine,
        "a.rs",
        concat!("see http", "s://", "index.example.org"),
        &[1],
    );
    check(
        places_of_a_machine,
        "a.rs",
        "https://example.org/index.html",
        &[],
    );
}
