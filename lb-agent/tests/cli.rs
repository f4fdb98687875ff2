//! The binary as scripts see it: exit codes, what is on which stream, and errors of one line.

#![expect(
    clippy::tests_outside_test_module,
    reason = "an integration test is a crate of tests"
)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn steerage(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_steerage"))
        .args(arguments)
        .env_clear()
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The command fails with `code`, prints no data, and one line that has `part` in it.
#[track_caller]
fn fails(arguments: &[&str], code: i32, part: &str) {
    let output = steerage(arguments);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
    assert_eq!(text(&output.stdout), "", "{arguments:?}");
    assert!(stderr.contains(part), "{stderr:?} lacks {part:?}");
    if code != 2 {
        assert_eq!(stderr.lines().count(), 1, "{stderr:?}");
        assert!(stderr.starts_with("error: "), "{stderr:?}");
    }
}

/// Flags for a node that has no pins, in `directory`.
fn nowhere(directory: &Path) -> [String; 4] {
    let path = |name: &str| directory.join(name).display().to_string();
    [
        "--pin-dir".to_owned(),
        path("pins"),
        "--state-dir".to_owned(),
        path("state"),
    ]
}

#[track_caller]
fn fails_in(directory: &Path, arguments: &[&str], code: i32, part: &str) {
    let places = nowhere(directory);
    let mut all: Vec<&str> = places.iter().map(String::as_str).collect();
    all.extend(arguments);
    fails(&all, code, part);
}

#[test]
fn wrong_usage_exits_with_2() {
    fails(&["--nonsense"], 2, "--nonsense");
    fails(&["service", "get", "web"], 2, "NAMESPACE/NAME");
    fails(&["explain", "10.0.0.1"], 2, "<DST>");
    fails(&["service", "list", "--watch=1ms"], 2, "100ms");
    fails(&["run", "--source", "kube"], 2, "kubernetes or dir:PATH");
    fails(
        &["run", "--source", "dir:x", "--kubeconfig", "y"],
        2,
        "--source kubernetes",
    );
    fails(
        &["run", "--api-server", "10.0.0.1:6443"],
        2,
        "https://10.0.0.1:6443",
    );
    fails(&["conntrack", "flush", "--all"], 2, "--yes");
    fails(&["conntrack", "flush"], 2, "--all --yes");
    fails(&["service", "list", "-n", "a", "-A"], 2, "cannot be used");
}

#[test]
fn without_pins_every_reading_command_exits_with_4_and_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    for arguments in [
        &["service", "list"][..],
        &["service", "get", "default/web"],
        &["backend", "list"],
        &["maglev", "show", "default/web"],
        &["conntrack", "list"],
        &["conntrack", "stats"],
        &["conntrack", "flush", "--all", "--yes"],
        &["interface", "list"],
        &["maps"],
        &["status"],
        &["explain", "10.0.0.1", "10.96.0.1:80"],
    ] {
        fails_in(directory.path(), arguments, 4, "start the agent");
    }
}

#[test]
fn pins_of_another_version_are_named() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir_all(directory.path().join("pins/v9999/maps")).unwrap();
    fails_in(directory.path(), &["maps"], 4, "v9999");
}

#[test]
fn a_wait_without_an_agent_exits_with_7() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = ["status", "--wait", "--timeout", "100ms"];
    fails_in(directory.path(), &arguments, 7, "100ms");
}

#[test]
fn settings_are_checked_before_anything_is_touched() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.yaml");
    fs::write(
        &config,
        "apiVersion: steerage.dev/v1alpha1\nkind: SteerageConfiguration\nsizs: {}\n",
    )
    .unwrap();
    let config = config.display().to_string();
    let arguments = [
        "run",
        "--node-name",
        "n1",
        "--source",
        "dir:/",
        "--config",
        &config,
    ];
    fails_in(directory.path(), &arguments, 2, "config.yaml:3: ");
    assert!(!directory.path().join("pins").exists());
}

#[test]
fn cleanup_removes_what_is_ours_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let at = |path: &str| directory.path().join(path);
    for path in ["pins/v1/maps", "pins/v1/links", "pins/notes", "state"] {
        fs::create_dir_all(at(path)).unwrap();
    }
    for path in [
        "pins/v1/maps/FRONTENDS",
        "pins/v1/maps/SOMETHING_ELSE",
        "pins/v1/links/7-ingress",
        "pins/v1/links/7-xdp-native",
        "state/names.json",
        "state/other.json",
    ] {
        fs::write(at(path), "{}").unwrap();
    }
    let run = |last: &[&str]| {
        let places = nowhere(directory.path());
        let mut all: Vec<&str> = places.iter().map(String::as_str).collect();
        all.push("cleanup");
        all.extend(last);
        let output = steerage(&all);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let planned = run(&["--dry-run"]);
    assert!(planned.contains("would remove link"), "{planned}");
    assert!(at("pins/v1/links/7-ingress").exists());

    let done = run(&[]);
    assert!(done.contains("removed map"), "{done}");
    for gone in [
        "pins/v1/links",
        "pins/v1/maps/FRONTENDS",
        "state/names.json",
    ] {
        assert!(!at(gone).exists(), "{gone}");
    }
    for left in [
        "pins/v1/maps/SOMETHING_ELSE",
        "pins/notes",
        "state/other.json",
    ] {
        assert!(at(left).exists(), "{left}");
    }
    assert_eq!(run(&[]), "nothing to remove\n");
}

#[test]
fn the_version_is_a_document_with_the_layout_of_the_tables() {
    let output = steerage(&["version", "-o", "json"]);
    assert_eq!(output.status.code(), Some(0));
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["apiVersion"], "steerage.dev/v1");
    assert_eq!(document["kind"], "Version");
    assert_eq!(document["items"][0]["version"], env!("CARGO_PKG_VERSION"));
    let layout = u64::from(lb_common::table::ABI_VERSION);
    assert_eq!(document["items"][0]["abiVersion"], layout);
}

#[test]
fn completions_and_manual_pages_cover_every_command() {
    let output = steerage(&["completions", "bash"]);
    assert!(text(&output.stdout).contains("conntrack"));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().display().to_string();
    let output = steerage(&["man", "--dir", &path]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    for page in ["steerage.1", "steerage-conntrack-flush.1", "steerage-run.1"] {
        let page = fs::read_to_string(directory.path().join(page)).unwrap();
        assert!(page.contains(".TH"), "{page}");
    }
    assert!(text(&steerage(&["man"]).stdout).contains("Examples:"));
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    use std::process::Stdio;
    let mut child = Command::new(env!("CARGO_BIN_EXE_steerage"))
        .args(["completions", "zsh"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // More than a pipe holds is written, and nobody reads it.
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stderr), "");
}
