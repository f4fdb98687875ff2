//! Two kept runs beside each other.

use std::fmt::Write as _;

use super::report::{Kept, Row};

/// Medians and ratios of what both runs measured, and what only one of them did.
pub(super) fn compare(before: &Kept, after: &Kept) -> String {
    let mut text = format!(
        "A: {}\n\nB: {}\n\nB / A of the medians; then the ratios to the baseline, A → B\n",
        before.machine, after.machine
    );
    let mut group = "";
    for row in &before.rows {
        if row.group != group {
            group = &row.group;
            line(&mut text, &format!("\n{group}"));
        }
        match after.rows.iter().find(|other| is_same(row, other)) {
            Some(other) => line(&mut text, &both(row, other)),
            None => line(&mut text, &format!("  {}: only in A", name(row))),
        }
    }
    for row in &after.rows {
        if !before.rows.iter().any(|other| is_same(row, other)) {
            line(&mut text, &format!("  {}: only in B", name(row)));
        }
    }
    text
}

fn is_same(one: &Row, other: &Row) -> bool {
    let key = |row: &Row| {
        let Row {
            group,
            case,
            contender,
            baseline,
            metric,
            ..
        } = row.clone();
        (group, case, contender, baseline, metric)
    };
    key(one) == key(other)
}

fn name(row: &Row) -> String {
    format!("{}, {}, {}", row.case, row.contender, row.metric)
}

fn both(before: &Row, after: &Row) -> String {
    let ratios = match (before.ratio, after.ratio, &before.baseline) {
        (Some(a), Some(b), Some(baseline)) => format!("  {a:.2} → {b:.2} × {baseline}"),
        _ => String::new(),
    };
    format!(
        "  {:80} {:>12.2} {:>12.2} {:4} {:>6.2}{ratios}",
        name(before),
        before.median,
        after.median,
        before.unit,
        after.median / before.median,
    )
}

fn line(text: &mut String, line: &str) {
    // Writing to a string cannot fail.
    writeln!(text, "{line}").ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(case: &str, median: f64, ratio: f64) -> Kept {
        Kept {
            rows: vec![Row {
                group: "datapath".into(),
                case: case.into(),
                contender: "steerage".into(),
                baseline: Some("other".into()),
                median,
                ratio: Some(ratio),
                ..Row::default()
            }],
            ..Kept::default()
        }
    }

    #[test]
    fn rows_of_the_same_name_are_put_beside_each_other_and_others_are_named() {
        let text = compare(&run("one", 50.0, 1.5), &run("one", 40.0, 1.25));
        assert!(text.contains("0.80  1.50 → 1.25 × other"), "{text}");
        let text = compare(&run("one", 1.0, 1.0), &run("two", 1.0, 1.0));
        assert!(text.contains("one, steerage, : only in A"), "{text}");
        assert!(text.contains("two, steerage, : only in B"), "{text}");
    }
}
