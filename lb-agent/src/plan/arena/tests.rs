//! The allocator against a naive model: one flag for each unit.

use proptest::prelude::*;

use super::*;

const WORDS: u32 = 1024;

#[test]
fn offset_zero_is_never_given_out() {
    let mut arena = Arena::new(WORDS);
    assert_eq!(arena.allocate(WORDS), None);
    assert_eq!(arena.allocate(WORDS - UNIT), Some(UNIT));
    assert_eq!(arena.allocate(1), None);
    assert_eq!(Arena::new(0).allocate(1), None);
}

#[test]
fn retired_words_are_free_only_after_the_grace_period() {
    let mut arena = Arena::new(2 * UNIT);
    let offset = arena.allocate(UNIT).unwrap();
    arena.retire(offset, UNIT);
    assert_eq!(arena.allocate(1), None);
    assert!(arena.has_retired());
    arena.reclaim();
    assert_eq!(arena.allocate(1), Some(offset));
}

#[test]
fn a_region_that_was_found_is_taken_once() {
    let mut arena = Arena::new(WORDS);
    assert!(arena.reserve(80, 70));
    assert!(!arena.reserve(80, 1));
    assert!(!arena.reserve(144, 8), "inside of the rounded end");
    assert!(arena.reserve(152, 8));
    assert!(!arena.reserve(0, 1), "the first unit");
    assert!(!arena.reserve(81, 1), "not at a unit");
    assert!(!arena.reserve(WORDS - UNIT, UNIT + 1), "beyond the end");
    assert!(!arena.reserve(u32::MAX - 7, 8));
}

/// Regions of the usual lengths, replaced at random for a long time at 85 % load: room is always
/// found, since rounding makes them fit each other's holes.
#[test]
fn long_churn_does_not_fragment() {
    let lengths = [68, 262, 262, 263, 264, 265, 265, 265, 1037];
    let mut arena = Arena::new(lengths.iter().sum::<u32>() * 100 * 118 / 100);
    let mut held: Vec<(u32, u32)> = Vec::new();
    for length in lengths.iter().cycle().take(900) {
        held.push((arena.allocate(*length).unwrap(), *length));
    }
    let mut random = 1_u64;
    for round in 0..20_000 {
        random = lb_common::hash::mix(random, round);
        let at = usize::try_from(random % 900).unwrap();
        let (offset, length) = held[at];
        let replacement = arena.allocate(length).expect("room for a copy");
        arena.retire(offset, length);
        arena.reclaim();
        held[at] = (replacement, length);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn regions_never_overlap_and_everything_comes_back(
        steps in proptest::collection::vec((0..10_u8, 1..200_u32, any::<proptest::sample::Index>()), 1..150),
    ) {
        let mut arena = Arena::new(WORDS);
        let mut taken = [false; 128];
        taken[0] = true;
        let mut held: Vec<(u32, u32)> = Vec::new();
        let mut retired: Vec<(u32, u32)> = Vec::new();
        let units = |(offset, words): (u32, u32)| {
            let first = usize::try_from(offset / UNIT).unwrap();
            first..first + usize::try_from(words.div_ceil(UNIT)).unwrap()
        };
        for (action, words, which) in steps {
            match action {
                0..=4 => {
                    let wanted = usize::try_from(words.div_ceil(UNIT)).unwrap();
                    let has_room = taken.windows(wanted).any(|run| !run.contains(&true));
                    let offset = arena.allocate(words);
                    prop_assert_eq!(offset.is_some(), has_room);
                    if let Some(offset) = offset {
                        for unit in units((offset, words)) {
                            prop_assert!(!std::mem::replace(&mut taken[unit], true));
                        }
                        held.push((offset, words));
                    }
                }
                5..=6 if !held.is_empty() => {
                    let region = held.swap_remove(which.index(held.len()));
                    arena.retire(region.0, region.1);
                    retired.push(region);
                }
                7 if !held.is_empty() => {
                    let region = held.swap_remove(which.index(held.len()));
                    arena.cancel(region.0, region.1);
                    taken[units(region)].fill(false);
                }
                8 => {
                    arena.reclaim();
                    for region in retired.drain(..) {
                        taken[units(region)].fill(false);
                    }
                }
                _ => {
                    let offset = u32::try_from(which.index(128)).unwrap() * UNIT;
                    let end = units((offset, words)).end;
                    let is_free = end <= 128 && !taken[units((offset, words))].contains(&true);
                    prop_assert_eq!(arena.reserve(offset, words), is_free);
                    if is_free {
                        taken[units((offset, words))].fill(true);
                        held.push((offset, words));
                    }
                }
            }
            let free = taken.iter().filter(|unit| !**unit).count();
            prop_assert_eq!(arena.free_words(), u64::try_from(free).unwrap() * u64::from(UNIT));
        }
        for region in held {
            arena.retire(region.0, region.1);
        }
        arena.reclaim();
        prop_assert_eq!(arena.allocate(WORDS - UNIT), Some(UNIT));
    }
}
