//! Rules that clippy cannot express, each a function from a file's text to what breaks it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{process, workspace};

mod conformance;
mod imports;
mod links;
mod source;

use self::source::Source;

/// What a rule found: a line (from 1) and what to do about it.
type Violation = (usize, String);

/// A rule over one Rust file.
type Rule = fn(&Source<'_>) -> Vec<Violation>;

const RULES: [Rule; 9] = [
    file_name,
    tier,
    length,
    module_doc,
    unsafe_code,
    purity,
    unfinished,
    places_of_a_machine,
    imports::groups,
];

/// Longest source file; past it a file holds two things.
const MAX_LINES: usize = 500;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 8] = [
    "common", "helper", "helpers", "manager", "misc", "mod", "util", "utils",
];

/// Files that may hold unsafe code; a folder of the same name counts as the file's.
const UNSAFE_FILES: [&str; 28] = [
    "lb-ebpf/src/atomic",
    // Programs of the bench, which no node loads.
    "lb-ebpf/src/bench/bytes",
    "lb-ebpf/src/bench/driver",
    "lb-ebpf/src/bench/floor",
    "lb-ebpf/src/bench/medium",
    "lb-ebpf/src/bench/minimal",
    "lb-ebpf/src/bench/sender",
    "lb-ebpf/src/clock",
    "lb-ebpf/src/count",
    "lb-ebpf/src/device",
    "lb-ebpf/src/flows",
    "lb-ebpf/src/forward",
    "lb-ebpf/src/frame",
    "lb-ebpf/src/hook/tc",
    "lb-ebpf/src/hook/xdp",
    "lb-ebpf/src/host",
    "lb-ebpf/src/onward",
    "lb-ebpf/src/packet",
    "lb-ebpf/src/refuse",
    "lb-ebpf/src/region",
    "lb-ebpf/src/socket",
    "lb-ebpf/src/stand",
    "lb-ebpf/src/tables",
    "lb-agent/src/dataplane/bpf",
    "lb-agent/src/dataplane/mmap",
    "lb-agent/src/dataplane/syscall",
    // One call that gives freed memory back to the kernel.
    "lb-agent/src/memory",
    "tests/src/ns",
];

/// Parts of the agent that know no clock, no I/O and no Kubernetes client.
const PURE: [&str; 2] = ["lb-agent/src/model", "lb-agent/src/plan"];

/// What pure code may not name, and why.
const IMPURE: [(&str, &str); 8] = [
    ("tokio", "no I/O here"),
    ("kube", "no Kubernetes client here"),
    ("k8s_openapi", "`source` turns objects into values first"),
    ("aya", "maps belong to `dataplane`"),
    ("Instant", "time is an argument"),
    ("SystemTime", "time is an argument"),
    ("HashMap", "order must be deterministic: BTreeMap"),
    ("HashSet", "order must be deterministic: BTreeSet"),
];

/// The lint step: every rule over every file git knows or would add.
pub(crate) fn run() -> Result<()> {
    let root = workspace::root();
    let list = process::capture(
        Command::new("git")
            .args(["ls-files", "--cached", "--others", "--exclude-standard"])
            .current_dir(&root),
    )?;
    let mut count = 0_usize;
    let mut report = |path: &str, violations: Vec<Violation>| {
        count += violations.len();
        for (line, message) in violations {
            println!("{path}:{line}: {message}");
        }
    };
    let files: BTreeSet<&str> = list.lines().filter(|it| root.join(it).is_file()).collect();
    let mut functions = BTreeSet::new();
    for path in files.iter().copied() {
        let is_markdown = has_extension(path, "md");
        if !is_markdown && !has_extension(path, "rs") {
            continue;
        }
        let text = fs::read_to_string(root.join(path)).with_context(|| format!("read {path}"))?;
        if is_markdown {
            report(path, links::broken(&root, path, &text));
            report(path, places_in(&text));
        } else {
            functions.extend(conformance::functions(&text));
            let source = Source::new(path, &text);
            for rule in RULES {
                report(path, rule(&source));
            }
        }
    }
    let page = fs::read_to_string(root.join(conformance::PAGE)).context("read what is proved")?;
    report(
        conformance::PAGE,
        conformance::unproved(&page, &files, &functions),
    );
    if count > 0 {
        bail!("{count} places break the tidy rules (xtask/src/tidy.rs says why each exists)");
    }
    Ok(())
}

fn has_extension(path: &str, extension: &str) -> bool {
    Path::new(path)
        .extension()
        .is_some_and(|found| found == extension)
}

/// Whether a path is one of these modules: the file, or inside the folder of that name.
fn is_module(path: &str, modules: &[&str]) -> bool {
    modules.iter().any(|module| {
        path.strip_prefix(module)
            .is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
    })
}

fn file_name(source: &Source<'_>) -> Vec<Violation> {
    Path::new(source.path)
        .components()
        .filter_map(|part| Path::new(part.as_os_str()).file_stem()?.to_str())
        .filter(|stem| EMPTY_NAMES.contains(stem))
        .map(|stem| {
            (
                1,
                format!("`{stem}` says nothing: name the file after what it holds"),
            )
        })
        .collect()
}

/// A test file of no tier would be run by nobody.
fn tier(source: &Source<'_>) -> Vec<Violation> {
    let has_tier = source.path.strip_prefix("tests/tests/").is_none_or(|file| {
        file.contains('/')
            || ["kernel_", "net_", "scenario_", "scenarios."]
                .iter()
                .any(|prefix| file.starts_with(prefix))
    });
    if has_tier {
        return Vec::new();
    }
    vec![(
        1,
        "name the file kernel_*, net_*, scenario_* or scenarios: that is its tier".to_owned(),
    )]
}

fn length(source: &Source<'_>) -> Vec<Violation> {
    let lines = source.text.lines().count();
    if lines <= MAX_LINES {
        return Vec::new();
    }
    vec![(
        MAX_LINES,
        format!("{lines} lines, {MAX_LINES} at most: split the file by what it does"),
    )]
}

fn module_doc(source: &Source<'_>) -> Vec<Violation> {
    let first = source
        .text
        .lines()
        .find(|line| !line.trim().is_empty() && !line.starts_with("// SPDX-License-Identifier:"));
    if first.is_some_and(|line| line.starts_with("//!")) {
        return Vec::new();
    }
    vec![(
        1,
        "a module opens with `//!`: what it is and why it exists".to_owned(),
    )]
}

fn unsafe_code(source: &Source<'_>) -> Vec<Violation> {
    if is_module(source.path, &UNSAFE_FILES) {
        return Vec::new();
    }
    source
        .lines_with_word("unsafe")
        // The kernel reads the object's licence from a section, which only this attribute names.
        .filter(|(_, line)| {
            let is_root = matches!(
                source.path,
                "lb-ebpf/src/main.rs" | "lb-ebpf/src/bench/main.rs"
            );
            !(is_root && line.trim_start().starts_with("#[unsafe("))
        })
        .map(|(number, _)| {
            (
                number,
                "unsafe code lives in the files that UNSAFE_FILES names".to_owned(),
            )
        })
        .collect()
}

fn purity(source: &Source<'_>) -> Vec<Violation> {
    // Tests may measure what pure code costs.
    if !is_module(source.path, &PURE) || source.path.contains("/tests/") {
        return Vec::new();
    }
    IMPURE
        .iter()
        .flat_map(|(word, reason)| {
            source
                .lines_with_word(word)
                .map(move |(number, _)| (number, format!("`{word}` in pure code: {reason}")))
        })
        .collect()
}

fn unfinished(source: &Source<'_>) -> Vec<Violation> {
    const CODE: [(&str, &str); 4] = [
        (concat!("todo", "!"), "finish it or leave it out"),
        (concat!("unimplemented", "!"), "finish it or leave it out"),
        (concat!("#[", "ignore"), "assert today's behaviour instead"),
        (concat!("all", "ow("), "use #[expect(lint, reason = \"…\")]"),
    ];
    let code = source.code_lines().flat_map(|(number, line)| {
        CODE.iter()
            .filter(move |(pattern, _)| source::has_token(line, pattern))
            .map(move |(pattern, advice)| (number, format!("`{pattern}`: {advice}")))
    });
    let notes = source.text.lines().enumerate().filter_map(|(index, line)| {
        let note = [concat!("TO", "DO"), concat!("FIX", "ME")]
            .into_iter()
            .find(|note| source::has_token(line, note))?;
        Some((
            index + 1,
            format!("{note}: do it, or list the gap in docs/conformance.md"),
        ))
    });
    code.chain(notes).collect()
}

fn places_of_a_machine(source: &Source<'_>) -> Vec<Violation> {
    places_in(source.text)
}

/// Paths of one developer's machine, and hosts of one network's mirrors.
fn places_in(text: &str) -> Vec<Violation> {
    const PATHS: [&str; 3] = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
    ];
    const HOSTS: [&str; 6] = ["registry", "index", "static", "files", "deb", "proxy"];
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for path in PATHS {
            // Inside a longer path or a URL it is somebody's folder name, not the machine's.
            let is_absolute = line.match_indices(path).any(|(at, _)| {
                !line[..at].ends_with(|c: char| c.is_alphanumeric() || "-_.~}>*".contains(c))
            });
            if is_absolute {
                found.push((index + 1, format!("`{path}…` exists on one machine only")));
            }
        }
        let host_is_named = line.split("://").skip(1).any(|rest| {
            HOSTS.iter().any(|host| {
                rest.strip_prefix(host)
                    .is_some_and(|rest| rest.starts_with('.'))
            })
        });
        if host_is_named {
            found.push((
                index + 1,
                "the host of a package registry: leave it to its client".into(),
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests;
