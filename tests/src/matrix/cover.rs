//! A few cells in which every pair of values meets that meets in any.
//!
//! Most faults show when two things come together, few need three. The greedy choice below takes the
//! cell with the most pairs that no chosen one has, the first of equals, so it is the same each time.

use std::collections::BTreeSet;

use super::{Cell, DIMENSIONS};

/// Two dimensions and a position in each.
type Meeting = (usize, usize, usize, usize);

/// A pairwise cover of `cells`, a small part of them.
pub fn cover(cells: &[Cell]) -> Vec<Cell> {
    let meetings: Vec<_> = cells.iter().map(meetings).collect();
    let mut open: BTreeSet<Meeting> = meetings.iter().flatten().copied().collect();
    let mut chosen = Vec::new();
    while !open.is_empty() {
        let gain = |at: usize| meetings[at].iter().filter(|one| open.contains(one)).count();
        // The first of the best: `max_by_key` alone would take the last.
        let Some(best) = (0..cells.len()).rev().max_by_key(|at| gain(*at)) else {
            break;
        };
        for meeting in &meetings[best] {
            open.remove(meeting);
        }
        chosen.push(cells[best]);
    }
    chosen
}

/// Every pair of values of a cell.
fn meetings(cell: &Cell) -> Vec<Meeting> {
    let at = cell.coordinates();
    let mut pairs = Vec::with_capacity(DIMENSIONS * (DIMENSIONS - 1) / 2);
    for first in 0..DIMENSIONS {
        for second in first + 1..DIMENSIONS {
            pairs.push((first, at[first], second, at[second]));
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all_meetings(cells: &[Cell]) -> BTreeSet<Meeting> {
        cells.iter().flat_map(meetings).collect()
    }

    #[test]
    fn the_cover_of_what_runs_is_a_small_part_of_it() {
        let cells = Cell::running();
        let cover = cover(&cells);
        assert!(
            cover.len() * 10 < cells.len(),
            "{} of {}",
            cover.len(),
            cells.len()
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        #[test]
        fn every_pair_that_meets_in_any_cell_meets_in_the_cover(
            picks in prop::collection::vec(any::<prop::sample::Index>(), 1..200),
        ) {
            let all = Cell::all();
            let cells: Vec<_> = picks.iter().map(|pick| *pick.get(&all)).collect();
            let chosen = cover(&cells);
            prop_assert_eq!(all_meetings(&chosen), all_meetings(&cells));
            prop_assert!(chosen.iter().all(|cell| cells.contains(cell)));
        }
    }

    #[test]
    fn every_pair_that_can_run_meets_in_the_cover() {
        let cells = Cell::running();
        assert_eq!(all_meetings(&cover(&cells)), all_meetings(&cells));
    }
}
