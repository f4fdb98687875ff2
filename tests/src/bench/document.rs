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
    plot,
    report::{Kept, Row},
};

/// Where the page is, from the repository's root.
const PAGE: &str = "docs/performance.md";
/// Where its plots are, and the run it is made from.
const DIRECTORY: &str = "docs/performance";

/// Writes the page and its plots below `root`.
pub(super) fn write(kept: &Kept, root: &Path) -> Result<()> {
    for (path, text) in files(kept)? {
        let path = root.join(path);
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// The page and its plots, by their paths from the repository's root.
fn files(kept: &Kept) -> Result<BTreeMap<PathBuf, String>> {
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

/// What should be so, and whether it is.
fn bars(page: &mut String, rows: &[Row]) {
    line(page, "\n## Targets\n");
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
        let made = files(&kept).unwrap();
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
