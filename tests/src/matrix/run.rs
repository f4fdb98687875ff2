//! Runs cells, many at a time, and says of each that fails what happened there.

use std::{
    collections::BTreeMap,
    env,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use anyhow::{Result, ensure};

use super::{
    Cell, Expectation, Standing, cover::cover, dimension::Path, expectation, masquerade,
    stage::MatrixStage, standing,
};
use crate::{clock, lab::CniShape};

/// Cells tried at once: most of them wait for silence.
const AT_ONCE: usize = 8;
/// Failures that are told; all are counted.
const TOLD: usize = 40;
/// The variable that asks for every cell.
const VARIABLE: &str = "STEERAGE_MATRIX";

/// Which cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selected {
    /// A pairwise cover.
    Cover,
    /// Every cell that runs.
    Full,
}

impl Selected {
    /// What the environment asks for: all if `STEERAGE_MATRIX` is `full`.
    pub fn from_environment() -> Self {
        if env::var_os(VARIABLE).is_some_and(|value| value == "full") {
            Self::Full
        } else {
            Self::Cover
        }
    }

    fn cells(self) -> Vec<Cell> {
        match self {
            Self::Cover => cover(&Cell::running()),
            Self::Full => Cell::running(),
        }
    }
}

/// Tries the selected cells of one shape on each path that runs, and kube-proxy's table of who is
/// masqueraded.
pub fn run(selected: Selected, shape: CniShape) -> Result<()> {
    for path in Path::ALL {
        let mut cells = selected.cells();
        cells.retain(|cell| cell.shape == shape && cell.path == path);
        if !cells.is_empty() {
            run_on(path, shape, &cells)?;
        }
    }
    Ok(())
}

fn run_on(path: Path, shape: CniShape, cells: &[Cell]) -> Result<()> {
    let started = clock::now();
    let stage = MatrixStage::build(shape, path)?;
    let built = started.elapsed();
    let failures = attempt_all(&stage, cells);
    let tried = started.elapsed();
    let told = failures.iter().take(TOLD);
    let told = told.map(|(cell, error)| format!("\n  {cell}: {}: {error}", expectation(*cell)));
    let told: Vec<_> = told.collect();
    if !failures.is_empty() {
        stage.print_diagnosis();
    }
    ensure!(
        failures.is_empty(),
        "{} of {} cells fail:{}",
        failures.len(),
        cells.len(),
        told.concat()
    );
    masquerade::check(&stage, shape).inspect_err(|_| stage.print_diagnosis())?;
    stage.check_strays()?;
    eprintln!(
        "  {shape}, {path}: {} cells ({}), built in {built:.1?}, tried in {:.1?}, masquerade table in {:.1?}",
        cells.len(),
        summary(cells),
        tried.saturating_sub(built),
        started.elapsed().saturating_sub(tried),
    );
    stage.finish()
}

fn attempt_all(stage: &MatrixStage, cells: &[Cell]) -> Vec<(Cell, String)> {
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(cell) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = stage.attempt(*cell) {
                        let failed = (*cell, format!("{error:#}"));
                        failures
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(failed);
                    }
                }
            });
        }
    });
    failures
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
}

/// How many cells are served, refused and silent, and how many differ from kube-proxy.
fn summary(cells: &[Cell]) -> String {
    let mut silent = 0;
    let [mut served, mut refused] = [[0, 0]; 2];
    for cell in cells {
        let (count, difference) = match expectation(*cell) {
            Expectation::Served { difference, .. } => (&mut served, difference),
            Expectation::Refused { difference } => (&mut refused, difference),
            Expectation::Silent => {
                silent += 1;
                continue;
            }
        };
        count[0] += 1;
        count[1] += usize::from(difference.is_some());
    }
    let [[served, other_served], [refused, other_refused]] = [served, refused];
    format!(
        "{served} served, {other_served} of them unlike kube-proxy on purpose, \
         {refused} refused, {other_refused} of them so, {silent} silent"
    )
}

/// How many cells do not run, by the reason; a line each.
pub fn not_running() -> String {
    let mut reasons: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for cell in Cell::all() {
        let reason = match standing(cell) {
            Standing::Runs => continue,
            Standing::NotYet(reason) => ("not yet", reason),
            Standing::Senseless(reason) => ("senseless", reason),
        };
        *reasons.entry(reason).or_default() += 1;
    }
    let lines = reasons
        .into_iter()
        .map(|((what, reason), count)| format!("  {count:5} {what}: {reason}\n"));
    lines.collect::<Vec<_>>().concat()
}
