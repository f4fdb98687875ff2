//! The proofs that `docs/conformance.md` names exist: a test that was renamed or removed leaves a
//! claim that nobody can check. And each of kube-proxy's own tables of cases has a test.

use std::{collections::BTreeSet, path::Path};

use super::Violation;

/// The page.
pub(super) const PAGE: &str = "docs/conformance.md";
/// kube-proxy's tables of cases, 11.1 to this.
const TABLES: u32 = 16;
/// Names of tests are sentences: this many words joined by `_` at least. Shorter ones are names of
/// something else.
const WORDS: usize = 4;

/// Names of the functions that a source file declares.
pub(super) fn functions(text: &str) -> impl Iterator<Item = String> {
    text.lines().filter_map(|line| {
        let (before, rest) = line.split_once("fn ")?;
        let is_declaration = before
            .split_whitespace()
            .all(|word| matches!(word, "const" | "async") || word.starts_with("pub"));
        let end = rest.find(|c: char| c != '_' && !c.is_ascii_alphanumeric())?;
        (is_declaration && end > 0).then(|| rest[..end].to_owned())
    })
}

/// The files and tests named as proof that do not exist, and the tables without a test.
pub(super) fn unproved(
    page: &str,
    files: &BTreeSet<&str>,
    functions: &BTreeSet<String>,
) -> Vec<Violation> {
    let mut found = Vec::new();
    for (index, line) in page.lines().enumerate() {
        let Some((_, proof)) = line.trim_end_matches([' ', '|']).rsplit_once('|') else {
            continue;
        };
        // What stands between a pair of quotes is every second piece.
        for name in proof.split('`').skip(1).step_by(2) {
            if Path::new(name).extension() == Some("rs".as_ref()) {
                let missing = alternatives(name).into_iter();
                let missing = missing.filter(|path| !has_file(files, path));
                found.extend(missing.map(|path| (index + 1, format!("no file `{path}`"))));
            } else if is_test(name) && !has_function(functions, name) {
                found.push((index + 1, format!("no test `{name}`")));
            }
        }
    }
    for table in 1..=TABLES {
        let name = format!("row_11_{table}_*");
        if !has_function(functions, &name) {
            found.push((1, format!("no test of table 11.{table}: `{name}`")));
        }
    }
    found
}

/// `a/{b,c}.rs` is two files.
fn alternatives(path: &str) -> Vec<String> {
    let parts = path
        .split_once('{')
        .and_then(|(head, rest)| Some((head, rest.split_once('}')?)));
    let Some((head, (middle, tail))) = parts else {
        return vec![path.to_owned()];
    };
    let middle = middle.split(',');
    middle.map(|one| format!("{head}{one}{tail}")).collect()
}

/// A file by its path, or by its name alone.
fn has_file(files: &BTreeSet<&str>, path: &str) -> bool {
    let name = format!("/{path}");
    files.contains(path) || (!path.contains('/') && files.iter().any(|it| it.ends_with(&name)))
}

fn is_test(name: &str) -> bool {
    let is_identifier = name
        .chars()
        .all(|c| c == '_' || c == '*' || c.is_ascii_lowercase() || c.is_ascii_digit());
    is_identifier && name.split('_').count() >= WORDS
}

/// A function of that name, or of one that begins so where the name ends with `*`.
fn has_function(functions: &BTreeSet<String>, name: &str) -> bool {
    name.strip_suffix('*').map_or_else(
        || functions.contains(name),
        |beginning| functions.iter().any(|it| it.starts_with(beginning)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(page: &str) -> Vec<String> {
        let files = BTreeSet::from(["a/b.rs", "a/tests/c.rs"]);
        let source = "fn one_thing_is_so() {}\n    pub(crate) async fn another_is_not_so<T>() {}\n\
                      // where fn names_in_comments_do_not_count stands\n";
        let tables = (1..=TABLES).map(|table| format!("row_11_{table}_all_rows"));
        let functions = functions(source).chain(tables).collect();
        let found = unproved(page, &files, &functions);
        found.into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn proofs_that_exist_are_left_alone() {
        for page in [
            "| `x_y_z_w_is_no_proof` | `a/b.rs` `one_thing_is_so` |",
            "| x | `c.rs` `another_is_not_so`, `row_11_5_*` |",
            "| x | `a/{b,tests/c}.rs` |",
            "| x | not yet: `ports_exhausted` is counted, `--flag` |",
            "no table: `a_test_that_is_gone`",
        ] {
            assert_eq!(found(page), [""; 0], "{page}");
        }
    }

    #[test]
    fn a_file_or_test_that_is_gone_is_named() {
        for (page, text) in [
            ("| x | `a/d.rs` |", "no file `a/d.rs`"),
            ("| x | `d.rs` |", "no file `d.rs`"),
            ("| x | `a/{b,d}.rs` |", "no file `a/d.rs`"),
            ("| x | `one_thing_is_gone` |", "no test `one_thing_is_gone`"),
            ("| x | `one_thing_was_*` |", "no test `one_thing_was_*`"),
            (
                "| x | `names_in_comments_do_not_count` |",
                "no test `names_in_comments_do_not_count`",
            ),
        ] {
            assert_eq!(found(page), [text], "{page}");
        }
    }

    #[test]
    fn a_table_without_a_test_is_named() {
        let found = unproved("", &BTreeSet::new(), &BTreeSet::new());
        assert_eq!(found.len(), 16);
        assert!(found[4].1.contains("table 11.5"), "{found:?}");
    }
}
