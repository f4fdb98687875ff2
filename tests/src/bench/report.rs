//! Figures: printed as they come, kept for the file, judged by a reader.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::machine::Machine;

/// How far beyond its target a figure may be on any machine.
const TOLERANCE: f64 = 10.0;

/// What a ratio should be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Bar {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
}

impl Bar {
    /// Whether a ratio is what it should be.
    pub(super) fn is_met(self, ratio: f64) -> bool {
        match self {
            Self::AtMost(bar) => ratio <= bar,
            Self::AtLeast(bar) => ratio >= bar,
        }
    }

    /// The number it is about.
    pub(super) const fn limit(self) -> f64 {
        match self {
            Self::AtMost(limit) | Self::AtLeast(limit) => limit,
        }
    }

    /// For people: `≤ 1.05`.
    pub(super) fn text(self) -> String {
        match self {
            Self::AtMost(bar) => format!("≤ {bar}"),
            Self::AtLeast(bar) => format!("≥ {bar}"),
        }
    }
}

/// One figure.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Row {
    /// Group of benches.
    pub(super) group: String,
    /// What was done.
    pub(super) case: String,
    /// Who did it.
    pub(super) contender: String,
    /// What it is compared with, if anything.
    pub(super) baseline: Option<String>,
    /// What was measured.
    pub(super) metric: String,
    /// Its unit.
    pub(super) unit: String,
    /// Smallest sample.
    pub(super) min: f64,
    /// Middle sample.
    pub(super) median: f64,
    /// Largest sample.
    pub(super) max: f64,
    /// The middle one of the rounds' ratios to the baseline; where contender and baseline were not
    /// measured in rounds, the ratio of their medians.
    pub(super) ratio: Option<f64>,
    /// The figure that the median should not exceed.
    pub(super) target: Option<f64>,
    /// What the ratio should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) bar: Option<Bar>,
}

/// A run that was kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// Where it was measured.
    pub(super) machine: Machine,
    /// What was measured.
    pub(super) rows: Vec<Row>,
}

impl Kept {
    /// Reads a file that [`Report::write`] wrote.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text)
            .with_context(|| format!("{} is no run of the benches", path.display()))
    }
}

/// A figure before it is a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Figure {
    metric: &'static str,
    unit: &'static str,
    target: Option<f64>,
    bar: Option<Bar>,
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
            bar: None,
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

    /// The same, whose ratio should be as `bar` says.
    #[must_use]
    pub(super) const fn with_bar(mut self, bar: Option<Bar>) -> Self {
        self.bar = bar;
        self
    }
}

/// All figures, with the machine they are from.
#[derive(Debug)]
pub(super) struct Report {
    kept: Kept,
    group: &'static str,
}

impl Report {
    /// A report that begins with the machine.
    pub(super) fn new(machine: Machine) -> Self {
        let report = Self {
            kept: Kept {
                machine,
                rows: Vec::new(),
            },
            group: "",
        };
        report.say(&report.kept.machine.to_string());
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
        let median = middle(samples);
        let ratio = figure.baseline.map(|(_, baseline)| median / baseline);
        self.push(case, figure, samples, ratio);
        median
    }

    /// Adds the figure of samples that were taken in turn with `baseline`'s.
    pub(super) fn add_pairs(
        &mut self,
        case: &str,
        figure: Figure,
        samples: &[f64],
        (name, baseline): (&'static str, &[f64]),
    ) {
        let pairs = samples.iter().zip(baseline);
        let ratios: Vec<f64> = pairs.map(|(ours, theirs)| ours / theirs).collect();
        let figure = figure.beside(name, middle(baseline));
        self.push(case, figure, samples, Some(middle(&ratios)));
    }

    fn push(&mut self, case: &str, figure: Figure, samples: &[f64], ratio: Option<f64>) {
        if samples.is_empty() {
            self.say(&format!("  {case}: {}: no sample", figure.metric));
            return;
        }
        let row = Row {
            group: self.group.to_owned(),
            case: case.to_owned(),
            contender: figure.contender.to_owned(),
            baseline: figure.baseline.map(|(name, _)| name.to_owned()),
            metric: figure.metric.to_owned(),
            unit: figure.unit.to_owned(),
            min: rounded(samples.iter().copied().fold(f64::INFINITY, f64::min)),
            median: rounded(middle(samples)),
            max: rounded(samples.iter().copied().fold(f64::NEG_INFINITY, f64::max)),
            ratio: ratio.map(rounded),
            target: figure.target,
            bar: figure.bar,
        };
        self.say(&line(&row));
        self.kept.rows.push(row);
    }

    /// Writes what there is so far: a group that fails does not lose those before it.
    pub(super) fn write(&self, json: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.kept)?;
        fs::write(json, text + "\n").with_context(|| format!("write {}", json.display()))
    }

    /// Ends the report: with `is_checked` fails if a figure is missing, or beyond ten times its target.
    pub(super) fn finish(&self, is_checked: bool) -> Result<()> {
        if !is_checked {
            return Ok(());
        }
        ensure!(!self.kept.rows.is_empty(), "no figure at all");
        for row in &self.kept.rows {
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

/// The middle sample, or not a number where there is none.
pub(super) fn middle(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Without the digits that no clock here has: they would only make a kept run hard to read.
fn rounded(figure: f64) -> f64 {
    (figure * 10_000.0).round() / 10_000.0
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
    let ratio = match (row.ratio, &row.baseline) {
        (Some(ratio), Some(baseline)) => format!("  {ratio:.2} × {baseline}"),
        _ => String::new(),
    };
    let bar = match (row.bar, row.ratio) {
        (Some(bar), Some(ratio)) => {
            let outcome = if bar.is_met(ratio) { "met" } else { "missed" };
            format!("  bar {} {outcome}", bar.text())
        }
        _ => String::new(),
    };
    format!(
        "  {:34} {:14} {:44} {:>10.2} {}{range}{ratio}{bar}{target}",
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
        let row = &report.kept.rows[0];
        let figures = [row.min, row.median, row.max].map(|figure| format!("{figure}"));
        assert_eq!(figures, ["1", "3", "5"]);
    }

    #[test]
    fn the_ratio_of_pairs_is_the_middle_of_their_ratios_not_the_ratio_of_the_middles() {
        let mut report = Report::new(Machine::default());
        let figure = Figure::new("time", "s").with_bar(Some(Bar::AtMost(1.5)));
        // A round in which the machine was three times as slow changes nothing.
        let (ours, theirs) = ([2.0, 6.0, 9.0], [1.0, 3.0, 9.0]);
        report.add_pairs("a case", figure, &ours, ("other", &theirs));
        let row = &report.kept.rows[0];
        assert_eq!(row.ratio.map(|ratio| format!("{ratio}")), Some("2".into()));
        assert_eq!(row.baseline.as_deref(), Some("other"));
        assert!(
            line(row).contains("2.00 × other  bar ≤ 1.5 missed"),
            "{}",
            line(row)
        );
    }

    #[test]
    fn a_run_is_read_back_as_it_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run.json");
        let report = report(&[1.25, 1.0 / 3.0]);
        report.write(&path).unwrap();
        assert_eq!(Kept::read(&path).unwrap(), report.kept);
        fs::write(&path, "[]").unwrap();
        Kept::read(&path).unwrap_err();
    }

    #[test]
    fn a_figure_of_ten_times_its_target_fails_a_smoke_run_alone() {
        report(&[19.0]).finish(true).unwrap();
        report(&[21.0]).finish(true).unwrap_err();
        report(&[21.0]).finish(false).unwrap();
        Report::new(Machine::default()).finish(true).unwrap_err();
    }
}
