//! The agent's tables against the oracle: over random clusters and over the recording of a real one.
#![expect(
    clippy::tests_outside_test_module,
    reason = "a test binary is nothing but tests"
)]

use anyhow::{Context as _, Result};
use lb_tests::oracle::random::{Change, NODE, RandomCluster};
use lb_tests::oracle::{Expected, tables};
use lb_tests::recording::Recording;
use lb_tests::replica::Replica;
use serde_json::json;

/// Random clusters, and what happens in each.
const CLUSTERS: u64 = 150;
const CHANGES: usize = 30;

fn follow(seed: u64) -> Result<()> {
    let mut cluster = RandomCluster::new(seed);
    let mut replica = Replica::new(NODE, seed)?;
    let objects: Vec<_> = cluster.objects().collect();
    let listed = replica.listed(&objects)?;
    replica.take_in(listed)?;
    for number in 0..CHANGES {
        let change = cluster.change();
        let event = match &change {
            Change::Apply(resource, object) => replica.event_of(*resource, object)?,
            Change::Delete(resource, name) => {
                let metadata = json!({ "namespace": "default", "name": name });
                Replica::event_without(*resource, &json!({ "metadata": metadata }))?
            }
        };
        replica.take_in(vec![event])?;
        replica.settle()?;
        if number % 8 == 7 {
            replica.sweep()?;
        }
        let expected = Expected::of(&cluster.cluster());
        tables::check(&replica.tables()?, &expected, &tables::PUBLISHED)
            .with_context(|| format!("after change {number}: {change:?}"))?;
    }
    Ok(())
}

#[test]
fn tables_of_random_clusters_are_what_the_oracle_says_after_every_change() {
    for seed in 0..CLUSTERS {
        follow(seed).unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
    }
}

fn replay() -> Result<usize> {
    let recording = Recording::load()?;
    let mut replica = Replica::new(NODE, 1)?;
    let (_, mut present) = recording.present(0);
    let objects: Vec<_> = present.objects().collect();
    let listed = replica.listed(&objects)?;
    replica.take_in(listed)?;
    let mut most = 0;
    for (number, step) in recording.steps.iter().enumerate() {
        for change in recording.changes_of(number) {
            present.happen(change);
            let event = if change.is_deleted {
                Replica::event_without(change.resource, &change.object)?
            } else {
                replica.event_of(change.resource, &change.object)?
            };
            replica.take_in(vec![event])?;
        }
        replica.settle()?;
        let expected = Expected::of(&present.cluster(NODE));
        most = most.max(expected.frontends.len());
        tables::check(&replica.tables()?, &expected, &tables::PUBLISHED)
            .with_context(|| format!("at the end of {}", step.name))?;
    }
    Ok(most)
}

#[test]
fn tables_of_the_recorded_cluster_are_what_the_oracle_says_at_every_step() {
    let most = replay().unwrap_or_else(|error| panic!("{error:#}"));
    assert!(most > 50, "only {most} frontends at most");
}
