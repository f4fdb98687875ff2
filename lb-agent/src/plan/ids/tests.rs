//! Ids never alias.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

type Table = Ids<u8, BackendId>;

fn acquire(ids: &mut Table, key: u8) -> BackendId {
    ids.acquire(&key).unwrap().0
}

fn free_all(ids: &mut Table) -> Vec<u32> {
    ids.settle();
    ids.sweep(&BTreeSet::new())
}

#[test]
fn an_index_is_reused_first_in_first_out_with_the_next_generation() {
    let mut ids = Table::new(4);
    let [a, b, c] = [1, 2, 3].map(|key| acquire(&mut ids, key));
    assert_eq!([a.index(), b.index(), c.index()], [1, 2, 3]);
    assert_eq!(ids.acquire(&4), None, "index 0 is never given out");
    ids.release(b);
    free_all(&mut ids);
    ids.release(a);
    free_all(&mut ids);
    assert_eq!(acquire(&mut ids, 5), BackendId::new(2, 1));
    assert_eq!(acquire(&mut ids, 6), BackendId::new(1, 1));
}

#[test]
fn a_generation_after_the_last_is_the_first() {
    let mut ids = Table::new(2);
    for round in 0..=MAX_GENERATION + 1 {
        let id = acquire(&mut ids, 1);
        assert_eq!(id.generation(), round % (MAX_GENERATION + 1));
        ids.release(id);
        free_all(&mut ids);
    }
}

#[test]
fn an_index_waits_for_readers_and_for_a_sweep_that_finds_no_flow() {
    let mut ids = Table::new(8);
    let id = acquire(&mut ids, 1);
    ids.release(id);
    assert!(
        ids.sweep(&BTreeSet::new()).is_empty(),
        "programs may still run"
    );
    ids.settle();
    assert!(
        ids.sweep(&BTreeSet::from([id])).is_empty(),
        "a flow names it"
    );
    assert_ne!(acquire(&mut ids, 2).index(), id.index());
    assert_eq!(ids.sweep(&BTreeSet::new()), [id.index()]);
}

#[test]
fn a_key_that_comes_back_in_quarantine_gets_its_id_back() {
    let mut ids = Table::new(8);
    let id = acquire(&mut ids, 1);
    ids.release(id);
    ids.settle();
    assert_eq!(ids.acquire(&1), Some((id, Origin::Revived)));
    assert!(free_all(&mut ids).is_empty());
}

#[test]
fn a_cancelled_id_leaves_no_trace() {
    let mut ids = Table::new(8);
    let (id, origin) = ids.acquire(&1).unwrap();
    ids.cancel(id, origin);
    assert_eq!((ids.get(&1), ids.available()), (None, 7));
    assert_eq!(ids.acquire(&2), Some((id, Origin::New)));
}

#[test]
fn restored_ids_are_adopted_once() {
    let mut ids = Table::new(8);
    assert!(ids.restore(BackendId::new(5, 3), Some(1)));
    assert!(
        ids.restore(BackendId::new(6, 4), Some(1)),
        "a duplicate stays reserved"
    );
    assert!(ids.restore(BackendId::new(2, 9), None));
    assert!(ids.restore_quarantined(BackendId::new(3, 7)));
    assert!(!ids.restore(BackendId::new(5, 3), Some(9)), "taken");
    assert!(
        !ids.restore(BackendId::new(8, 0), Some(9)),
        "beyond the table"
    );
    ids.end_restore();
    assert_eq!(ids.get(&1), Some(BackendId::new(5, 3)));
    assert!(ids.adopt(BackendId::new(2, 9), &2));
    assert!(!ids.adopt(BackendId::new(2, 9), &3));
    assert_eq!(ids.give_up_reserved(), [BackendId::new(6, 4)]);
    assert_eq!(acquire(&mut ids, 4), BackendId::new(1, 0));
    assert_eq!(acquire(&mut ids, 5), BackendId::new(4, 0));
    assert_eq!(acquire(&mut ids, 6), BackendId::new(7, 0));
    assert_eq!(ids.acquire(&7), None);
    assert_eq!(free_all(&mut ids), [3, 6]);
    assert_eq!(acquire(&mut ids, 7), BackendId::new(3, 8));
}

#[derive(Clone, Debug)]
enum Step {
    Acquire(u8),
    Release(u8),
    Connect(u8),
    EndFlow(proptest::sample::Index),
    Settle,
    Sweep,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..12_u8).prop_map(Step::Acquire),
        4 => (0..12_u8).prop_map(Step::Release),
        3 => (0..12_u8).prop_map(Step::Connect),
        2 => any::<proptest::sample::Index>().prop_map(Step::EndFlow),
        1 => Just(Step::Settle),
        2 => Just(Step::Sweep),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    /// A flow's id always means the key it was made for: the index belongs to that key or nobody.
    #[test]
    fn ids_never_alias(steps in proptest::collection::vec(step(), 1..200)) {
        let mut ids = Table::new(9);
        let mut live = BTreeMap::new();
        let mut flows: Vec<(BackendId, u8)> = Vec::new();
        for step in steps {
            match step {
                Step::Acquire(key) => {
                    if let Some((id, origin)) = ids.acquire(&key) {
                        prop_assert_eq!(origin == Origin::Live, live.contains_key(&key));
                        live.insert(key, id);
                    }
                }
                Step::Release(key) => {
                    if let Some(id) = live.remove(&key) {
                        ids.release(id);
                    }
                }
                Step::Connect(key) => flows.extend(live.get(&key).map(|&id| (id, key))),
                Step::EndFlow(which) => {
                    if !flows.is_empty() {
                        flows.swap_remove(which.index(flows.len()));
                    }
                }
                Step::Settle => ids.settle(),
                Step::Sweep => {
                    ids.sweep(&flows.iter().map(|(id, _)| *id).collect());
                }
            }
            for (id, key) in &flows {
                let owner = ids.key(id.index());
                prop_assert_eq!(owner, Some(key), "index {} is somebody else's", id.index());
            }
            let indices: BTreeSet<_> = live.values().map(|id| id.index()).collect();
            prop_assert_eq!(indices.len(), live.len());
        }
    }
}
