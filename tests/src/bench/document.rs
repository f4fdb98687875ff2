//! `docs/performance.md`, made from a kept run: tables, plots and the commands that made them. No
//! figure in it is written by hand; what explains them is `docs/performance/notes.md`.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{
    bars::{REQUIREMENTS, Requirement, Standing},
    plot,
    report::{Kept, Row},
};

/// Where the page is, from the repository's root.
const PAGE: &str = "docs/performance.md";
/// Where its plots are, and the run it is made from.
const DIRECTORY: &str = "docs/performance";
/// What explains the figures; the only words on the page that are not made.
const NOTES: &str = "docs/performance/notes.md";
/// The part of them whose paragraphs are put beside what is missed.
const EXPLANATIONS: &str = "## Where a target is missed";

/// Writes the page and its plots below `root`.
pub(super) fn write(kept: &Kept, root: &Path) -> Result<()> {
    let notes = fs::read_to_string(root.join(NOTES)).with_context(|| format!("read {NOTES}"))?;
    for (path, text) in files(kept, &notes)? {
        let path = root.join(path);
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// The page and its plots, by their paths from the repository's root.
fn files(kept: &Kept, notes: &str) -> Result<BTreeMap<PathBuf, String>> {
    let mut files = BTreeMap::new();
    let mut pictures: BTreeMap<&str, Vec<(String, &str)>> = BTreeMap::new();
    for plot in plot::PLOTS {
        if let Some(text) = plot.draw(&kept.rows)? {
            let name = format!("{}.svg", plot.name);
            files.insert(Path::new(DIRECTORY).join(&name), text);
            let pictures = pictures.entry(plot.group).or_default();
            pictures.push((name, plot.title));
        }
    }
    let mut page = head(kept);
    requirements(&mut page, kept, notes)?;
    bars(&mut page, &kept.rows);
    let mut groups: Vec<&str> = kept.rows.iter().map(|row| row.group.as_str()).collect();
    groups.dedup();
    for group in groups {
        line(&mut page, &format!("\n## {group}\n"));
        for (name, title) in pictures.get(group).into_iter().flatten() {
            line(&mut page, &format!("![{title}](performance/{name})\n"));
        }
        let rows = kept.rows.iter().filter(|row| row.group == group);
        table(&mut page, &rows.collect::<Vec<_>>());
    }
    files.insert(PAGE.into(), page);
    Ok(files)
}

fn head(kept: &Kept) -> String {
    format!(
        "# Performance\n\n\
         Made from [a kept run](performance/run.json) by the second of these commands; the first \
         makes such a run.\nWhat is measured and how, the layouts of the kernel's own rules, and what \
         was tried, is in\n[the notes](performance/notes.md).\n\n\
         ```text\n\
         cargo xtask bench --json docs/performance/run.json\n\
         cargo xtask bench document docs/performance/run.json\n\
         ```\n\n\
         Contender and baseline alternate in one run. A ratio is the middle one of the rounds' \
         ratios, and holds\nelsewhere too; absolute figures are this machine's:\n\n\
         ```text\n{}\n```\n",
        kept.machine
    )
}

/// All that is asked for, how it stands, and why it is missed where it is.
fn requirements(page: &mut String, kept: &Kept, notes: &str) -> Result<()> {
    line(page, "\n## Targets\n");
    line(
        page,
        "What was measured is the row farthest from its limit.\n",
    );
    line(page, "| what | path | limit | measured | outcome |");
    line(page, "|---|---|---|---|---|");
    let mut missed: Vec<&str> = Vec::new();
    for requirement in REQUIREMENTS {
        let (measured, outcome) = judged(requirement, &requirement.standing(kept));
        if outcome.starts_with("missed") && !missed.contains(&requirement.explanation) {
            missed.push(requirement.explanation);
        }
        let Requirement { what, path, .. } = requirement;
        let limit = requirement.limit();
        line(
            page,
            &format!("| {what} | {path} | {limit} | {measured} | {outcome} |"),
        );
    }
    if !missed.is_empty() {
        line(page, "\n### Why\n");
        line(page, "From [the notes](performance/notes.md).\n");
    }
    for title in missed {
        let text = explanation(notes, title)
            .with_context(|| format!("{NOTES} does not explain: {title}"))?;
        line(page, &text);
    }
    Ok(())
}

/// What was measured, and what that comes to.
fn judged(requirement: &Requirement, standing: &Standing) -> (String, String) {
    let measured = |row: &Row| {
        let figure = figure(requirement.judged(row));
        if row.metric == requirement.metric {
            format!("{figure} ({})", row.case)
        } else {
            format!("{figure} ({}, {})", row.case, row.metric)
        }
    };
    match standing {
        Standing::NoPath => (String::new(), "not measured yet".to_owned()),
        Standing::NotMeasured => (String::new(), "not in this run".to_owned()),
        Standing::Met { nearest } => (measured(nearest), "met".to_owned()),
        Standing::Missed {
            farthest,
            by,
            missed,
            of,
        } => (
            measured(farthest),
            format!("missed by {:.0} % ({missed} of {of} rows)", by * 100.0),
        ),
    }
}

/// The paragraph of the notes with this title, its links as from the page.
fn explanation(notes: &str, title: &str) -> Option<String> {
    let (_, part) = notes.split_once(EXPLANATIONS)?;
    let part = part.split("\n## ").next()?;
    let start = part.find(&format!("* **{title}.**"))?;
    let rest = part.get(start..)?;
    let end = rest.find("\n* **").unwrap_or(rest.len());
    Some(rest.get(..end)?.trim_end().replace("](../", "]("))
}

/// What should be so, and whether it is, row by row.
fn bars(page: &mut String, rows: &[Row]) {
    line(page, "\n## Every figure with a target\n");
    line(page, "| group | case | measured | target | outcome |");
    line(page, "|---|---|---|---|---|");
    for row in rows {
        let name = format!("| {} | {}, {} |", row.group, row.case, row.metric);
        if let (Some(bar), Some(ratio), Some(baseline)) = (row.bar, row.ratio, &row.baseline) {
            let outcome = if bar.is_met(ratio) {
                "met".to_owned()
            } else {
                let limit = bar.limit();
                format!("missed by {:.0} %", (ratio / limit - 1.0).abs() * 100.0)
            };
            let target = bar.text();
            line(
                page,
                &format!("{name} {ratio:.2} × {baseline} | {target} × | {outcome} |"),
            );
        }
        if let Some(target) = row.target {
            let outcome = if row.median <= target {
                "met".to_owned()
            } else {
                format!("missed by {:.0} %", (row.median / target - 1.0) * 100.0)
            };
            let (measured, target) = (figure(row.median), figure(target));
            let unit = &row.unit;
            line(
                page,
                &format!("{name} {measured} {unit} | ≤ {target} {unit} | {outcome} |"),
            );
        }
    }
}

fn table(page: &mut String, rows: &[&Row]) {
    line(page, "| case | who | what | median | range | ratio |");
    line(page, "|---|---|---|---|---|---|");
    for row in rows.iter().copied() {
        let ratio = match (row.ratio, &row.baseline) {
            (Some(ratio), Some(baseline)) => format!("{ratio:.2} × {baseline}"),
            _ => String::new(),
        };
        let Row {
            case,
            contender,
            metric,
            unit,
            ..
        } = row;
        let [median, min, max] = [row.median, row.min, row.max].map(figure);
        let range = if min == max {
            String::new()
        } else {
            format!("{min} – {max}")
        };
        line(
            page,
            &format!("| {case} | {contender} | {metric} | {median} {unit} | {range} | {ratio} |"),
        );
    }
}

/// With as many digits as say something.
fn figure(figure: f64) -> String {
    if figure.abs() >= 100.0 {
        format!("{figure:.0}")
    } else if figure.abs() >= 10.0 {
        format!("{figure:.1}")
    } else {
        format!("{figure:.2}")
    }
}

fn line(text: &mut String, line: &str) {
    // Writing to a string cannot fail.
    writeln!(text, "{line}").ok();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::Bar;

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    #[test]
    fn the_page_and_its_plots_are_what_the_kept_run_makes() {
        let kept = Kept::read(&root().join(DIRECTORY).join("run.json")).unwrap();
        let notes = fs::read_to_string(root().join(NOTES)).unwrap();
        let made = files(&kept, &notes).unwrap();
        assert!(made.len() > 1, "the run has something to plot");
        for (path, text) in made {
            let written = fs::read_to_string(root().join(&path)).unwrap();
            assert!(
                written == text,
                "{} is not what `cargo xtask bench document docs/performance/run.json` writes",
                path.display()
            );
        }
    }

    #[test]
    fn everything_that_could_be_missed_has_its_paragraph_in_the_notes() {
        let notes = fs::read_to_string(root().join(NOTES)).unwrap();
        let measured = REQUIREMENTS
            .iter()
            .filter(|it| it.standing(&Kept::default()) != Standing::NoPath);
        for Requirement { explanation, .. } in measured {
            let text = super::explanation(&notes, explanation);
            assert!(text.is_some_and(|text| text.len() > 60), "{explanation}");
        }
    }

    #[test]
    fn the_page_lists_what_waits_for_a_path_and_explains_what_is_missed() {
        let row = Row {
            group: "net".into(),
            case: "1 services".into(),
            contender: "steerage, tc".into(),
            metric: "connect, p50".into(),
            baseline: Some("direct".into()),
            ratio: Some(1.21),
            ..Row::default()
        };
        let kept = Kept {
            rows: vec![row],
            ..Kept::default()
        };
        let notes = "## Where a target is missed\n\n* **Other.** No.\n\
                     * **Connect by tc.** Two [flows](../x.md).\n  More.\n* **New.** No.\n## Next\n";
        let mut page = String::new();
        requirements(&mut page, &kept, notes).unwrap();
        for wanted in [
            "| connect through ClusterIP, p50 | socket | ≤ 1.05 × direct |  | not measured yet |",
            "| tc | ≤ 1.1 × direct | 1.21 (1 services) | missed by 10 % (1 of 1 rows) |",
            "* **Connect by tc.** Two [flows](x.md).\n  More.\n",
            "| not in this run |",
        ] {
            assert!(page.contains(wanted), "{wanted} is not in {page}");
        }
        assert!(!page.contains("Other."), "{page}");
    }

    #[test]
    fn a_missed_bar_is_listed_with_how_far_it_was_missed() {
        let row = Row {
            group: "net".into(),
            case: "connect".into(),
            metric: "p50".into(),
            baseline: Some("direct".into()),
            ratio: Some(1.21),
            bar: Some(Bar::AtMost(1.1)),
            ..Row::default()
        };
        let mut page = String::new();
        bars(&mut page, &[row]);
        let wanted = "| net | connect, p50 | 1.21 × direct | ≤ 1.1 × | missed by 10 % |";
        assert!(page.contains(wanted), "{page}");
    }
}
