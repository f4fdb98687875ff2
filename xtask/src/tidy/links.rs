//! Links between the repository's own documents lead somewhere.

use std::fs;
use std::path::Path;

use super::Violation;

/// Relative links of a Markdown file whose file or heading does not exist.
pub(super) fn broken(root: &Path, path: &str, text: &str) -> Vec<Violation> {
    let mut found = Vec::new();
    for (line, target) in targets(text) {
        if target.contains("://") || target.starts_with("mailto:") {
            continue;
        }
        let (file, heading) = target.split_once('#').unwrap_or((target, ""));
        let folder = Path::new(path).parent().unwrap_or(Path::new(""));
        let linked = if file.is_empty() {
            root.join(path)
        } else {
            root.join(folder).join(file)
        };
        if !linked.exists() {
            found.push((line, format!("link to `{target}`: there is no such file")));
        } else if !heading.is_empty()
            && fs::read_to_string(&linked)
                .is_ok_and(|text| !headings(&text).any(|slug| slug == heading))
        {
            found.push((
                line,
                format!("link to `{target}`: there is no such heading"),
            ));
        }
    }
    found
}

/// Lines outside fenced code, numbered from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_code = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        (!is_code && !is_fence).then_some((index + 1, line))
    })
}

/// The targets of `[text](target)` links, with their lines.
fn targets(text: &str) -> impl Iterator<Item = (usize, &str)> {
    prose(text).flat_map(|(number, line)| {
        line.split("](").skip(1).filter_map(move |rest| {
            let target = rest.split([')', ' ']).next()?;
            (!target.is_empty()).then_some((number, target))
        })
    })
}

/// Headings as the forges spell them in links.
fn headings(text: &str) -> impl Iterator<Item = String> {
    prose(text)
        .filter(|(_, line)| line.starts_with('#'))
        .map(|(_, line)| {
            line.trim_start_matches('#')
                .trim()
                .to_lowercase()
                .chars()
                .filter_map(|c| match c {
                    ' ' => Some('-'),
                    '-' | '_' => Some(c),
                    _ => c.is_alphanumeric().then_some(c),
                })
                .collect()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_files_and_headings_are_followed() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("docs")).unwrap();
        fs::write(root.path().join("docs/a.md"), "# One `two` three\n").unwrap();
        let text = "[a](docs/a.md) [b](docs/a.md#one-two-three) [w](https://example.org/x)\n\
                    [gone](docs/b.md) and [gone too](docs/a.md#four)\n";
        assert_eq!(
            broken(root.path(), "README.md", text),
            [
                (2, "link to `docs/b.md`: there is no such file".to_owned()),
                (
                    2,
                    "link to `docs/a.md#four`: there is no such heading".to_owned()
                ),
            ]
        );
        assert!(broken(root.path(), "docs/c.md", "[a](a.md)\n").is_empty());
    }

    #[test]
    fn code_blocks_hold_no_links() {
        assert_eq!(
            targets("```\n[a](b)\n```\n[c](d)\n").collect::<Vec<_>>(),
            [(4, "d")]
        );
    }
}
