//! Imports stand in three groups, the standard library, external crates, our own, in that order
//! with a blank line between; rustfmt can do this only on nightly.

use super::Violation;
use super::source::Source;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    Standard,
    External,
    Own,
}

impl Group {
    /// The group of an import's first path segment, in a file with these modules.
    fn of(segment: &str, modules: &[&str]) -> Self {
        match segment {
            "std" | "core" | "alloc" => Self::Standard,
            "crate" | "self" | "super" => Self::Own,
            module if modules.contains(&module) => Self::Own,
            _ => Self::External,
        }
    }
}

/// The modules a file declares.
fn declared<'a>(source: &'a Source<'_>) -> Vec<&'a str> {
    source
        .code_lines()
        .filter(|(_, line)| !line.starts_with("use "))
        .filter_map(|(_, line)| line.split_once("mod ")?.1.trim_end().strip_suffix(';'))
        .collect()
}

/// Judges the `use` items at the left margin; re-exports have an order of their own, and so have
/// imports of which one configuration takes the one and another the other.
pub(super) fn groups(source: &Source<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut previous: Option<Group> = None;
    let mut blank_since = false;
    let mut is_inside = false;
    let mut is_conditional = false;
    let modules = declared(source);
    for ((number, line), original) in source.code_lines().zip(source.text.lines()) {
        if is_inside {
            is_inside = !line.contains(';');
            continue;
        }
        if std::mem::replace(&mut is_conditional, line.starts_with("#[cfg(")) {
            is_inside = line.starts_with("use ") && !line.contains(';');
            continue;
        }
        if let Some(path) = line.strip_prefix("use ") {
            let path = path.trim_start_matches("::");
            let end = path
                .find(|c: char| c != '_' && !c.is_alphanumeric())
                .unwrap_or(path.len());
            let group = Group::of(&path[..end], &modules);
            match previous {
                Some(before) if before > group => found.push((
                    number,
                    "imports in the order std, external crates, crate: this one comes too late"
                        .to_owned(),
                )),
                Some(before) if before < group && !blank_since => found.push((
                    number,
                    "a blank line between the groups std, external crates, crate".to_owned(),
                )),
                _ => {}
            }
            previous = Some(group);
            blank_since = false;
            is_inside = !line.contains(';');
        } else if original.trim().is_empty() {
            blank_since = true;
        } else if line.starts_with("mod ") || line.starts_with("pub mod ") {
            // What a file declares splits its imports into independent runs.
            previous = None;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, lines: &[usize]) {
        let found = groups(&Source::new("a.rs", text));
        assert_eq!(
            found.iter().map(|(line, _)| *line).collect::<Vec<_>>(),
            lines,
            "{text}"
        );
    }

    #[test]
    fn three_groups_with_blank_lines_are_tidy() {
        check(
            "use std::fs;\nuse core::fmt;\n\nuse aya::{\n    Ebpf,\n};\n\nuse crate::x;\n",
            &[],
        );
    }

    #[test]
    fn groups_without_a_blank_line_are_reported() {
        check("use std::fs;\nuse aya::Ebpf;\n", &[2]);
    }

    #[test]
    fn the_wrong_order_is_reported() {
        check("use crate::x;\n\nuse std::fs;\n", &[3]);
    }

    #[test]
    fn a_module_of_the_file_is_our_own() {
        check("mod layout;\n\nuse crate::x;\nuse layout::y;\n", &[]);
        check("use crate::x;\nuse layout::y;\n", &[2]);
    }

    #[test]
    fn alternatives_of_a_configuration_may_stand_together() {
        check(
            "#[cfg(not(loom))]\nuse std::x;\n#[cfg(loom)]\nuse loom::{\n    x,\n};\n",
            &[],
        );
    }

    #[test]
    fn imports_inside_functions_and_after_modules_are_free() {
        check("use crate::x;\nfn f() {\n    use std::fs;\n}\n", &[]);
        check("use crate::x;\n\nmod a;\n\nuse self::a::y;\n", &[]);
    }
}
