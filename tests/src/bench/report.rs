//! Figures: printed as they come, kept for the file, judged by a reader.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use super::machine::Machine;

/// How far beyond its target a figure may be on any machine.
const TOLERANCE: f64 = 10.0;

/// One figure.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Row {
    /// Group of benches.
    pub(super) group: &'static str,
    /// What was done.
    pub(super) case: String,
    /// Who did it.
    pub(super) contender: &'static str,
    /// What it is compared with, if anything.
    pub(super) baseline: Option<&'static str>,
    /// What was measured.
    pub(super) metric: &'static str,
    /// Its unit.
    pub(super) unit: &'static str,
    /// Smallest sample.
    pub(super) min: f64,
    /// Middle sample.
    pub(super) median: f64,
    /// Largest sample.
    pub(super) max: f64,
    /// Median by the baseline.
    pub(super) ratio: Option<f64>,
    /// The figure it should not exceed.
    pub(super) target: Option<f64>,
}

/// A figure before it is a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Figure {
    metric: &'static str,
    unit: &'static str,
    target: Option<f64>,
    contender: &'static str,
    baseline: Option<(&'static str, f64)>,
}

impl Figure {
    /// A figure without a target.
    pub(super) const fn new(metric: &'static str, unit: &'static str) -> Self {
        Self {
            metric,
            unit,
            target: None,
            contender: "steerage",
            baseline: None,
        }
    }

    /// The same of somebody else.
    #[must_use]
    pub(super) const fn of(mut self, contender: &'static str) -> Self {
        self.contender = contender;
        self
    }

    /// The same, compared with what somebody else's median was.
    #[must_use]
    pub(super) const fn beside(mut self, baseline: &'static str, median: f64) -> Self {
        self.baseline = Some((baseline, median));
        self
    }

    /// The same, which should be at most `target`.
    #[must_use]
    pub(super) const fn at_most(mut self, target: f64) -> Self {
        self.target = Some(target);
        self
    }
}

/// All figures, with the machine they are from.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    machine: Machine,
    rows: Vec<Row>,
    #[serde(skip)]
    group: &'static str,
}

impl Report {
    /// A report that begins with the machine.
    pub(super) fn new(machine: Machine) -> Self {
        let report = Self {
            machine,
            rows: Vec::new(),
            group: "",
        };
        report.say(&report.machine.to_string());
        report
    }

    /// Begins a group.
    pub(super) fn heading(&mut self, group: &'static str) {
        self.group = group;
        self.say(&format!("\n{group}"));
    }

    /// Prints a remark.
    #[expect(
        clippy::unused_self,
        reason = "what is said belongs to the report that is printed"
    )]
    pub(super) fn say(&self, text: &str) {
        // A reader that left does not stop the benches, which may write a file too.
        writeln!(io::stdout(), "{text}").ok();
    }

    /// Adds the figure of `samples`, of which there must be one, and returns its median.
    pub(super) fn add(&mut self, case: &str, figure: Figure, samples: &[f64]) -> f64 {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (Some(min), Some(max)) = (sorted.first(), sorted.last()) else {
            self.say(&format!("  {case}: {}: no sample", figure.metric));
            return f64::NAN;
        };
        let median = sorted[sorted.len() / 2];
        let row = Row {
            group: self.group,
            case: case.to_owned(),
            contender: figure.contender,
            baseline: figure.baseline.map(|(name, _)| name),
            metric: figure.metric,
            unit: figure.unit,
            min: *min,
            median,
            max: *max,
            ratio: figure.baseline.map(|(_, baseline)| median / baseline),
            target: figure.target,
        };
        self.say(&line(&row));
        self.rows.push(row);
        median
    }

    /// Ends the report: writes it to `json`, and with `is_checked` fails if a figure is missing, or
    /// beyond ten times its target.
    pub(super) fn finish(&self, is_checked: bool, json: Option<&Path>) -> Result<()> {
        if let Some(path) = json {
            let text = serde_json::to_string_pretty(self)?;
            fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
        }
        if !is_checked {
            return Ok(());
        }
        ensure!(!self.rows.is_empty(), "no figure at all");
        for row in &self.rows {
            ensure!(row.median.is_finite(), "{}", line(row));
            let limit = row.target.map_or(f64::INFINITY, |it| it * TOLERANCE);
            ensure!(
                row.median <= limit,
                "more than {TOLERANCE} times the target:{}",
                line(row)
            );
        }
        Ok(())
    }
}

/// A row for people.
fn line(row: &Row) -> String {
    let range = if row.min < row.max {
        format!("  ({:.2} to {:.2})", row.min, row.max)
    } else {
        String::new()
    };
    let target = row
        .target
        .map_or_else(String::new, |target| format!("  target ≤ {target}"));
    let ratio = match (row.ratio, row.baseline) {
        (Some(ratio), Some(baseline)) => format!("  {ratio:.1} × {baseline}"),
        _ => String::new(),
    };
    format!(
        "  {:34} {:14} {:44} {:>10.2} {}{range}{ratio}{target}",
        row.case, row.contender, row.metric, row.median, row.unit
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(samples: &[f64]) -> Report {
        let mut report = Report::new(Machine::default());
        report.add("a case", Figure::new("time", "s").at_most(2.0), samples);
        report
    }

    #[test]
    fn samples_become_their_range_and_their_middle() {
        let report = report(&[5.0, 1.0, 3.0]);
        let row = &report.rows[0];
        let figures = [row.min, row.median, row.max].map(|figure| format!("{figure}"));
        assert_eq!(figures, ["1", "3", "5"]);
    }

    #[test]
    fn a_figure_of_ten_times_its_target_fails_a_smoke_run_alone() {
        report(&[19.0]).finish(true, None).unwrap();
        report(&[21.0]).finish(true, None).unwrap_err();
        report(&[21.0]).finish(false, None).unwrap();
        Report::new(Machine::default())
            .finish(true, None)
            .unwrap_err();
    }
}
