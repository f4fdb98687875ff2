//! Shares, determinism, disruption and cost of Maglev tables.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::cast_precision_loss,
    clippy::float_arithmetic,
    clippy::indexing_slicing,
    clippy::integer_division_remainder_used,
    clippy::print_stdout,
    reason = "statistics of tables on the host, where a panic is a failed test; figures are printed"
)]

use std::collections::BTreeMap;
use std::vec::Vec;
use std::{println, vec};

use proptest::prelude::*;

use super::*;
use crate::family::{Family as _, V4};

/// A small generator of our own, so that "200 random sets" are the same 200 on every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        hash::mix(self.0, 0x0dd_ba11)
    }

    fn members(&mut self, count: usize) -> Vec<Member> {
        let mut members = BTreeMap::new();
        while members.len() < count {
            let address = u32::try_from(self.next() >> 32).unwrap().to_be_bytes();
            let identity = identity(V4::mapped(address), 8080, Protocol::Tcp);
            members.insert(
                identity,
                Member {
                    identity,
                    weight: 100,
                },
            );
        }
        members.into_values().collect()
    }
}

fn size_of(count: usize) -> usize {
    usize::try_from(table_size(u32::try_from(count).unwrap())).unwrap()
}

/// The identity each slot leads to.
fn table(members: &[Member]) -> Vec<u64> {
    let weighted = members.iter().filter(|member| member.weight > 0).count();
    let mut slots = vec![0; size_of(weighted)];
    let mut cursors = vec![Cursor::default(); members.len()];
    fill(members, &mut slots, &mut cursors).unwrap();
    slots
        .iter()
        .map(|&slot| members[usize::from(slot)].identity)
        .collect()
}

/// The share of new flows that get another backend when `members[gone]` leaves. Flows are spread
/// evenly over the hash's range, so the same points of that range are compared in both tables.
fn disruption(members: &[Member], gone: usize) -> f64 {
    let before = table(members);
    let mut rest = members.to_vec();
    rest.remove(gone);
    let after = table(&rest);
    let points = before.len().max(after.len());
    let moved = (0..points)
        .filter(|point| {
            before[point * before.len() / points] != after[point * after.len() / points]
        })
        .count();
    moved as f64 / points as f64
}

#[test]
fn table_sizes_are_primes_at_least_a_hundred_times_the_members() {
    for size in TABLE_SIZES {
        assert!(
            (2..size)
                .take_while(|d| d * d <= size)
                .all(|d| size % d != 0)
        );
    }
    for (members, size) in [
        (0, 0),
        (1, 0),
        (2, 251),
        (3, 1021),
        (10, 1021),
        (11, 4093),
        (40, 4093),
        (41, 16_381),
        (163, 16_381),
        (164, 65_521),
        (655, 65_521),
        (656, 131_071),
        (65_535, 131_071),
    ] {
        assert_eq!(table_size(members), size, "{members} members");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let members = Random(1).members(2);
    let mut cursors = [Cursor::default(); 2];
    assert_eq!(
        fill(&members, &mut [0; 250], &mut cursors),
        Err(Unfillable::TableSize)
    );
    assert_eq!(
        fill(&members, &mut [0; 251], &mut cursors[..1]),
        Err(Unfillable::Members)
    );
    let weightless = [Member::default(); 2];
    assert_eq!(
        fill(&weightless, &mut [0; 251], &mut cursors),
        Err(Unfillable::Weight)
    );
}

#[test]
fn equal_weights_differ_by_one_slot_at_most() {
    let mut random = Random(2);
    for count in [2, 3, 10, 11, 40, 41, 100, 655, 1000] {
        let slots = table(&random.members(count));
        let mut shares = BTreeMap::<u64, usize>::new();
        for slot in &slots {
            *shares.entry(*slot).or_default() += 1;
        }
        let least = slots.len() / count;
        assert_eq!(shares.len(), count);
        assert!(
            shares
                .values()
                .all(|&share| share == least || share == least + 1)
        );
    }
}

/// Removal of one of N that keeps the size: N in each size's range, 200 random sets in all.
#[test]
fn few_slots_move_when_a_member_leaves() {
    let mut random = Random(4);
    let counts = [4, 5, 7, 10, 12, 20, 30, 40, 42, 80, 120, 163, 170];
    let mut excess = Vec::new();
    let mut worst = 0_f64;
    for round in 0..200 {
        let count = counts[round % counts.len()];
        let members = random.members(count);
        assert_eq!(size_of(count), size_of(count - 1));
        let gone = usize::try_from(random.next() % 1_000_000).unwrap() % count;
        let moved = disruption(&members, gone);
        let over = moved - 1.0 / count as f64;
        assert!(over <= 0.30, "{count} members: {moved} moved");
        worst = worst.max(over);
        excess.push(over);
    }
    let mean = excess.iter().sum::<f64>() / excess.len() as f64;
    println!(
        "beyond 1/N moved: mean {:.2} %, worst {:.2} %",
        mean * 100.0,
        worst * 100.0
    );
    assert!(mean <= 0.04, "mean {mean}");
}

/// A change of the size reshuffles; the numbers are for the documents, the bound is that somebody
/// keeps a slot.
#[test]
fn crossing_a_size_is_measured() {
    let mut random = Random(5);
    for count in [3, 11, 41, 164, 656] {
        assert_ne!(size_of(count), size_of(count - 1));
        let sets = if count > 100 { 3 } else { 40 };
        let mean = (0..sets)
            .map(|_| disruption(&random.members(count), 0))
            .sum::<f64>()
            / f64::from(sets);
        println!(
            "{count} → {} members: {:.1} % of new flows move",
            count - 1,
            mean * 100.0
        );
        assert!(mean < 1.0);
    }
}

#[test]
fn filling_costs_grow_with_the_slots() {
    for (count, deadline_ms) in [(10, 20), (1000, 4000)] {
        let members = Random(6).members(count);
        let size = if count == 1000 {
            65_521
        } else {
            size_of(count)
        };
        let mut slots = vec![0; size];
        let mut cursors = vec![Cursor::default(); count];
        let begin = now();
        fill(&members, &mut slots, &mut cursors).unwrap();
        let elapsed = begin.elapsed();
        println!("maglev/fill/{count}-of-{size}: {elapsed:?}");
        assert!(elapsed.as_millis() < deadline_ms, "{elapsed:?}");
    }
}

#[expect(clippy::disallowed_methods, reason = "a test may look at the clock")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

fn weighted_members() -> impl Strategy<Value = Vec<Member>> {
    proptest::collection::btree_map(any::<u64>(), 0_u16..=1000, 2..60).prop_filter_map(
        "at least two weights",
        |map| {
            let members: Vec<_> = map
                .into_iter()
                .map(|(identity, weight)| Member { identity, weight })
                .collect();
            (members.iter().filter(|member| member.weight > 0).count() >= 2).then_some(members)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn shares_follow_the_weights(members in weighted_members()) {
        let slots = table(&members);
        let total: f64 = members.iter().map(|member| f64::from(member.weight)).sum();
        for member in &members {
            let share = slots.iter().filter(|slot| **slot == member.identity).count() as f64;
            let ideal = slots.len() as f64 * f64::from(member.weight) / total;
            prop_assert!((share - ideal).abs() < members.len() as f64, "{share} for {ideal}");
            prop_assert!(member.weight > 0 || share == 0.0);
        }
    }

    #[test]
    fn the_order_of_the_members_does_not_matter(
        members in weighted_members(),
        order in any::<proptest::sample::Index>(),
    ) {
        let mut other = members.clone();
        other.rotate_left(order.index(members.len()));
        other.swap(0, order.index(members.len()));
        prop_assert_eq!(table(&members), table(&other));
    }
}
