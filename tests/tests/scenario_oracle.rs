//! The agent's tables against the oracle: over random clusters and over the recording of a real one.
#![expect(
    clippy::tests_outside_test_module,
    reason = "a test binary is nothing but tests"
)]

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use lb_tests::apiserver::Resource;
use lb_tests::oracle::random::{Change, NODE, RandomCluster};
use lb_tests::oracle::{Cluster, Expected, tables};
use lb_tests::recording::Recording;
use lb_tests::replica::{Replica, name_of};
use serde_json::Value;

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
            Change::Apply(resource, object) => replica.applied(*resource, object)?,
            Change::Delete(resource, name) => {
                let metadata = serde_json::json!({ "namespace": "default", "name": name });
                Replica::removed(*resource, &serde_json::json!({ "metadata": metadata }))?
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

/// The objects of the recording as they are at some point.
struct Present(BTreeMap<(Resource, String), Value>);

impl Present {
    fn cluster(&self) -> Cluster {
        let all = |wanted: Resource| -> Vec<Value> {
            let objects = self.0.iter().filter(|((of, _), _)| *of == wanted);
            objects.map(|(_, object)| object.clone()).collect()
        };
        let node = self.0.get(&(Resource::Nodes, NODE.to_owned()));
        Cluster {
            services: all(Resource::Services),
            slices: all(Resource::EndpointSlices),
            service_cidrs: Vec::new(),
            node: node.cloned().unwrap_or_default(),
            node_name: NODE.to_owned(),
        }
    }
}

fn replay() -> Result<usize> {
    let recording = Recording::load()?;
    let mut replica = Replica::new(NODE, 1)?;
    let mut present = Present(BTreeMap::new());
    for (resource, objects) in &recording.lists {
        for object in objects {
            let name = name_of(object).to_string();
            present.0.insert((*resource, name), object.clone());
        }
    }
    let objects: Vec<_> = present.0.iter().map(|((of, _), it)| (*of, it)).collect();
    let listed = replica.listed(&objects)?;
    replica.take_in(listed)?;
    let mut most = 0;
    for (number, step) in recording.steps.iter().enumerate() {
        for change in recording.changes_of(number) {
            let key = (change.resource, name_of(&change.object).to_string());
            let event = if change.is_deleted {
                present.0.remove(&key);
                Replica::removed(change.resource, &change.object)?
            } else {
                present.0.insert(key, change.object.clone());
                replica.applied(change.resource, &change.object)?
            };
            replica.take_in(vec![event])?;
        }
        replica.settle()?;
        let expected = Expected::of(&present.cluster());
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
