//! The dependency rules of `deny.toml`: licences, sources, bans, duplicate versions.
//!
//! The file has cargo-deny's format, and `cargo deny check` accepts it; but that tool takes longer
//! to compile than everything else lint does together, so the same rules are checked here on
//! `cargo metadata`. What is not checked here is advisories, which need the network.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use toml::Table;

use crate::{process, workspace};

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// What `deny.toml` says.
#[derive(Debug, Default)]
struct Rules {
    licences: BTreeSet<String>,
    banned: BTreeMap<String, String>,
    duplicates_allowed: BTreeSet<String>,
    targets: Vec<String>,
}

/// A dependency as `cargo metadata` lists it.
#[derive(Debug)]
struct Package {
    name: String,
    version: String,
    licence: String,
    /// None for our own crates.
    source: Option<String>,
}

/// The lint step.
pub(crate) fn run() -> Result<()> {
    let path = workspace::root().join("deny.toml");
    let text =
        fs::read_to_string(&path).with_context(|| format!("read the rules {}", path.display()))?;
    let table = text
        .parse::<Table>()
        .with_context(|| format!("parse {}", path.display()))?;
    let rules = rules(&table);
    let mut cargo = process::cargo();
    cargo.args([
        "metadata",
        "--format-version=1",
        "--locked",
        "--all-features",
    ]);
    for target in &rules.targets {
        cargo.args(["--filter-platform", target]);
    }
    let metadata = process::capture(&mut cargo)?;
    let metadata = serde_json::from_str(&metadata).context("parse the output of cargo metadata")?;
    let violations = violations(&rules, &packages(&metadata));
    if violations.is_empty() {
        return Ok(());
    }
    for violation in &violations {
        println!("deny.toml: {violation}");
    }
    bail!("{} dependencies break deny.toml", violations.len());
}

/// The value at a path of tables.
fn at<'a>(table: &'a Table, path: [&str; 2]) -> Option<&'a toml::Value> {
    table.get(path[0])?.get(path[1])
}

fn rules(table: &Table) -> Rules {
    let list = |path| {
        at(table, path)
            .and_then(toml::Value::as_array)
            .into_iter()
            .flatten()
    };
    let field = |entry: &toml::Value, name: &str| {
        entry
            .get(name)
            .and_then(toml::Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    Rules {
        licences: list(["licenses", "allow"])
            .filter_map(|entry| entry.as_str().map(str::to_owned))
            .collect(),
        banned: list(["bans", "deny"])
            .map(|entry| (field(entry, "crate"), field(entry, "reason")))
            .collect(),
        duplicates_allowed: list(["bans", "skip"])
            .map(|entry| field(entry, "crate"))
            .collect(),
        targets: list(["graph", "targets"])
            .filter_map(|entry| entry.as_str().map(str::to_owned))
            .collect(),
    }
}

fn packages(metadata: &Value) -> Vec<Package> {
    let field = |package: &Value, name: &str| package[name].as_str().map(str::to_owned);
    metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|package| Package {
            name: field(package, "name").unwrap_or_default(),
            version: field(package, "version").unwrap_or_default(),
            licence: field(package, "license").unwrap_or_default(),
            source: field(package, "source"),
        })
        .collect()
}

fn violations(rules: &Rules, packages: &[Package]) -> Vec<String> {
    let mut found = Vec::new();
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for Package {
        name,
        version,
        licence,
        source,
    } in packages
    {
        let Some(source) = source else {
            continue;
        };
        versions.entry(name).or_default().insert(version);
        if source != CRATES_IO {
            found.push(format!(
                "{name} {version} comes from {source}, not from crates.io"
            ));
        }
        if !is_licence_allowed(licence, &rules.licences) {
            found.push(format!(
                "{name} {version} has the licence `{licence}`, not allowed here"
            ));
        }
        if let Some(reason) = rules.banned.get(name) {
            found.push(format!("{name} is banned: {reason}"));
        }
    }
    for (name, versions) in &versions {
        if versions.len() > 1 && !rules.duplicates_allowed.contains(*name) {
            let list = versions.iter().copied().collect::<Vec<_>>().join(", ");
            found.push(format!(
                "{name} is built in {} versions ({list}): align them, or skip it with a reason",
                versions.len()
            ));
        }
    }
    for name in &rules.duplicates_allowed {
        if versions
            .get(name.as_str())
            .is_none_or(|versions| versions.len() < 2)
        {
            found.push(format!(
                "{name} has no second version any more: remove its skip"
            ));
        }
    }
    found
}

/// Whether an SPDX expression can be satisfied with the allowed licences alone.
///
/// `OR` binds loosest, `AND` tighter, `WITH` names one licence together with its exception; the old
/// slash means `OR`.
fn is_licence_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    let is_allowed = any_of(&mut rest, allowed);
    is_allowed && rest.is_empty()
}

fn any_of(words: &mut &[&str], allowed: &BTreeSet<String>) -> bool {
    let mut is_allowed = all_of(words, allowed);
    while let Some((&"OR", rest)) = words.split_first() {
        *words = rest;
        is_allowed |= all_of(words, allowed);
    }
    is_allowed
}

fn all_of(words: &mut &[&str], allowed: &BTreeSet<String>) -> bool {
    let mut is_allowed = one(words, allowed);
    while let Some((&"AND", rest)) = words.split_first() {
        *words = rest;
        is_allowed &= one(words, allowed);
    }
    is_allowed
}

fn one(words: &mut &[&str], allowed: &BTreeSet<String>) -> bool {
    match **words {
        ["(", ref rest @ ..] => {
            *words = rest;
            let is_allowed = any_of(words, allowed);
            if let Some((&")", rest)) = words.split_first() {
                *words = rest;
                return is_allowed;
            }
            false
        }
        [licence, "WITH", exception, ref rest @ ..] => {
            *words = rest;
            allowed.contains(&format!("{licence} WITH {exception}"))
        }
        [licence, ref rest @ ..] => {
            *words = rest;
            allowed.contains(licence)
        }
        [] => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed() -> BTreeSet<String> {
        [
            "MIT",
            "Apache-2.0",
            "Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception",
        ]
        .map(str::to_owned)
        .into()
    }

    #[track_caller]
    fn check(expression: &str, expected: bool) {
        assert_eq!(
            is_licence_allowed(expression, &allowed()),
            expected,
            "{expression}"
        );
    }

    #[test]
    fn one_allowed_alternative_is_enough() {
        check("MIT OR GPL-3.0-only", true);
        check("GPL-3.0-only/MIT", true);
        check("GPL-3.0-only OR LGPL-2.1-only", false);
    }

    #[test]
    fn every_conjunct_must_be_allowed() {
        check("(MIT OR GPL-3.0-only) AND Unicode-3.0", true);
        check("MIT AND GPL-3.0-only", false);
        check("MIT AND GPL-3.0-only OR Apache-2.0", true);
    }

    #[test]
    fn an_exception_belongs_to_its_licence() {
        check("Apache-2.0 WITH LLVM-exception", true);
        check("MIT WITH LLVM-exception", false);
    }

    #[test]
    fn nonsense_is_not_a_licence() {
        for expression in ["", "(MIT", "MIT)", "OR", "MIT MIT"] {
            check(expression, false);
        }
    }

    fn package(name: &str, version: &str, licence: &str, source: Option<&str>) -> Package {
        Package {
            name: name.to_owned(),
            version: version.to_owned(),
            licence: licence.to_owned(),
            source: source.map(str::to_owned),
        }
    }

    #[test]
    fn our_own_crates_are_not_judged() {
        assert!(violations(&Rules::default(), &[package("xtask", "1.0.0", "", None)]).is_empty());
    }

    #[test]
    fn each_broken_rule_is_one_line() {
        let rules = Rules {
            licences: allowed(),
            banned: [("openssl".to_owned(), "rustls serves".to_owned())].into(),
            duplicates_allowed: ["syn".to_owned(), "gone".to_owned()].into(),
            targets: Vec::new(),
        };
        let found = violations(
            &rules,
            &[
                package("syn", "1.0.0", "MIT", Some(CRATES_IO)),
                package("syn", "2.0.0", "MIT", Some(CRATES_IO)),
                package("rand", "0.8.0", "MIT", Some(CRATES_IO)),
                package("rand", "0.9.0", "MIT", Some(CRATES_IO)),
                package(
                    "forked",
                    "0.1.0",
                    "MIT",
                    Some("git+https://example.org/forked"),
                ),
                package("openssl", "0.1.0", "Apache-2.0", Some(CRATES_IO)),
                package("viral", "0.1.0", "AGPL-3.0-only", Some(CRATES_IO)),
            ],
        );
        assert_eq!(
            found,
            [
                "forked 0.1.0 comes from git+https://example.org/forked, not from crates.io",
                "openssl is banned: rustls serves",
                "viral 0.1.0 has the licence `AGPL-3.0-only`, not allowed here",
                "rand is built in 2 versions (0.8.0, 0.9.0): align them, or skip it with a reason",
                "gone has no second version any more: remove its skip",
            ]
        );
    }
}
