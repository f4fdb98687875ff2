//! `deploy/Dockerfile`, read as a build would read it: what it copies is there, what it runs exists, and
//! the image starts a command that the binary has. No image is built: that takes a container's tools and
//! a network.

#![expect(
    clippy::tests_outside_test_module,
    reason = "a file of tests is a module of tests"
)]

use std::fs;
use std::path::{Path, PathBuf};

use lb_agent::cli;
use lb_agent::settings::{DEFAULT_PIN_DIR, DEFAULT_STATE_DIR};
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// An instruction with its argument, continued lines joined.
fn instructions() -> Vec<(String, String)> {
    let joined = text("deploy/Dockerfile").replace("\\\n", " ");
    let lines = joined.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let (name, rest) = line.split_once(' ').unwrap();
            let rest: Vec<_> = rest.split_whitespace().collect();
            (name.to_owned(), rest.join(" "))
        })
        .collect()
}

/// Every argument of an instruction of this name.
fn all(name: &str) -> Vec<String> {
    let found = instructions().into_iter().filter(|(it, _)| it == name);
    found.map(|(_, argument)| argument).collect()
}

/// The commands of every `RUN`, one by one.
fn commands() -> Vec<String> {
    let runs = all("RUN");
    let commands = runs.iter().flat_map(|run| run.split(" && "));
    commands.map(|it| it.trim().to_owned()).collect()
}

/// The words of an exec form, such as `["a", "b"]`.
#[track_caller]
fn exec(name: &str) -> Vec<String> {
    let found = all(name);
    assert_eq!(found.len(), 1, "{name}: {found:?}");
    let words: Value = serde_json::from_str(&found[0]).unwrap();
    let words = words.as_array().unwrap().iter();
    words
        .map(|word| word.as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn only_instructions_that_are_known_and_only_of_a_build_and_an_image() {
    let known = ["FROM", "RUN", "WORKDIR", "COPY", "ENTRYPOINT", "CMD"];
    for (name, argument) in instructions() {
        assert!(known.contains(&name.as_str()), "{name} {argument}");
    }
    let stages = all("FROM");
    assert_eq!(stages.len(), 2, "{stages:?}");
    assert!(stages[0].ends_with(" AS build"), "{}", stages[0]);
    // Nothing but the binary: no shell, no library, no package with a hole.
    assert_eq!(stages[1], "scratch");
}

#[test]
fn what_is_copied_is_there() {
    let copies = all("COPY");
    assert_eq!(copies, [". .", "--from=build /out /"]);
    // The image is what the build has installed below /out.
    let installs: Vec<_> = commands()
        .into_iter()
        .filter(|command| command.starts_with("install "))
        .collect();
    assert_eq!(installs.len(), 2, "{installs:?}");
    assert!(
        installs.iter().all(|it| it.contains("/out/")),
        "{installs:?}"
    );
    let licences = fs::read_dir(root()).unwrap();
    let licences = licences.filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_string_lossy().starts_with("LICENSE-")
    });
    assert!(installs[1].ends_with("LICENSE-*"), "{installs:?}");
    assert_eq!(licences.count(), 3);
}

#[test]
fn nothing_that_the_build_needs_is_kept_from_it() {
    let ignored = text("deploy/Dockerfile.dockerignore");
    let ignored: Vec<_> = ignored.lines().collect();
    assert!(
        ignored.contains(&"target"),
        "it is larger than all the rest"
    );
    let needed = [
        ".cargo/config.toml",
        "Cargo.toml",
        "Cargo.lock",
        "lb-agent",
        "lb-common",
        "lb-ebpf",
        "xtask",
        // A member of the workspace, without which cargo reads none of it.
        "tests",
    ];
    for path in needed {
        assert!(root().join(path).exists(), "{path}");
        assert!(!ignored.contains(&path), "{path}");
    }
}

#[test]
fn the_build_is_what_the_projects_own_tools_know() {
    let commands = commands();
    let objects = commands.iter().position(|it| it == "cargo xtask build");
    let objects = objects.expect("xtask builds the kernel objects");
    let agent = commands
        .iter()
        .position(|it| it.contains("cargo build "))
        .expect("the agent is built");
    assert!(objects < agent, "the agent embeds the objects");
    let build = &commands[agent];
    for part in [
        "--release",
        "--locked",
        "--package lb-agent",
        "--bin steerage",
        // The image has no C library.
        "-Ctarget-feature=+crt-static",
    ] {
        assert!(build.contains(part), "no {part} in {build}");
    }
    // Variables of the agent's build script, and files that xtask leaves for them.
    let script = text("lb-agent/build.rs");
    let workspace = text("xtask/src/workspace.rs");
    let variables: Vec<_> = build
        .split(' ')
        .filter_map(|word| word.split_once("=/src/target/bpf/"))
        .collect();
    assert_eq!(variables.len(), 2, "{build}");
    for (variable, file) in variables {
        assert!(script.contains(&format!("\"{variable}\"")), "{variable}");
        let name = file.strip_suffix(".o").unwrap();
        assert!(workspace.contains(&format!("\"{name}\"")), "{file}");
    }
    assert_eq!(all("WORKDIR"), ["/src"]);
    // `cargo xtask` is an alias.
    assert!(text(".cargo/config.toml").contains("xtask"));
}

#[test]
fn packages_are_those_that_the_toolchain_looks_for() {
    let commands = commands();
    let install = commands
        .iter()
        .find(|it| it.starts_with("apt-get install "))
        .unwrap();
    let packages: Vec<_> = install
        .split(' ')
        .skip(2)
        .filter(|it| !it.starts_with("--"))
        .collect();
    let toolchain = text("xtask/src/toolchain.rs");
    for package in ["rustc-web", "cargo-web", "rust-web-src"] {
        assert!(packages.contains(&package), "{packages:?}");
        assert!(toolchain.contains(&format!("\"{package}\"")), "{package}");
    }
}

#[test]
fn the_image_starts_the_agent_as_root_with_nothing_of_its_own() {
    let binary = exec("ENTRYPOINT");
    assert_eq!(binary, ["/usr/bin/steerage"]);
    let installed = format!("/out{}", binary[0]);
    let installs = commands().into_iter().filter(|it| it.ends_with(&installed));
    assert_eq!(installs.count(), 1, "{installed}");
    let mut words = vec!["steerage".to_owned()];
    words.extend(exec("CMD"));
    cli::command().try_get_matches_from(&words).unwrap();
    // The manifests give arguments, so CMD is for who starts it by hand; they give no command.
    let manifest = text("deploy/daemonset.yaml");
    assert!(!manifest.contains("command:"), "ENTRYPOINT is the command");
    // Capabilities are root's: another user would need them in the file.
    assert_eq!(all("USER"), [""; 0]);
    let users = manifest.lines().filter(|line| line.contains("runAs"));
    let users: Vec<_> = users.map(str::trim).collect();
    assert_eq!(users, ["runAsUser: 0"]);
    // What the agent writes is mounted: the root file system is read-only.
    for path in [DEFAULT_PIN_DIR, DEFAULT_STATE_DIR] {
        let is_mounted = Path::new(path)
            .ancestors()
            .filter(|it| it.components().count() > 1)
            .any(|it| manifest.contains(&format!("mountPath: {}", it.display())));
        assert!(is_mounted, "{path}");
    }
}
