//! The agent's tables against the oracle: over random clusters and over the recording of a real one.
#![expect(
    clippy::tests_outside_test_module,
    reason = "a test binary is nothing but tests"
)]

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use lb_tests::oracle::random::{Change, NODE, RandomCluster};
use lb_tests::oracle::{Expectation, Expected, Frontend, Outcome, tables};
use lb_tests::recording::Recording;
use lb_tests::replica::Replica;
use serde_json::json;

/// Random clusters, and what happens in each.
const CLUSTERS: u64 = 150;
const CHANGES: usize = 30;

/// What the oracle said in all clusters.
#[derive(Debug, Default)]
struct Tally {
    served: usize,
    refused: usize,
    dropped: usize,
    sticky: usize,
}

impl Tally {
    fn count(&mut self, expected: &Expected) {
        for expectation in expected.frontends.values() {
            match expectation.inside {
                Outcome::To(_) => self.served += 1,
                Outcome::Refuse => self.refused += 1,
                Outcome::Drop => self.dropped += 1,
            }
            self.sticky += usize::from(expectation.affinity_seconds > 0);
        }
    }
}

fn follow(seed: u64, tally: &mut Tally) -> Result<()> {
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
        tally.count(&expected);
        tables::check(&replica.tables()?, &expected, &tables::PUBLISHED)
            .with_context(|| format!("after change {number}: {change:?}"))?;
    }
    Ok(())
}

#[test]
fn tables_of_random_clusters_are_what_the_oracle_says_after_every_change() {
    let mut tally = Tally::default();
    for seed in 0..CLUSTERS {
        follow(seed, &mut tally).unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
    }
    let Tally {
        served,
        refused,
        dropped,
        sticky,
    } = tally;
    assert!(
        served.min(refused).min(dropped).min(sticky) > 500,
        "every outcome is met often: {tally:?}"
    );
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

/// One way in which an expectation may be wrong.
type Mistake = fn(&mut Expected);

#[test]
fn tables_that_differ_from_the_oracle_in_anything_are_noticed() {
    let recording = Recording::load().expect("the recordings are in the fixtures");
    let (_, present) = recording.present(recording.changes.len() / 2);
    let mut replica = Replica::new(NODE, 1).expect("empty tables");
    let objects: Vec<_> = present.objects().collect();
    let listed = replica.listed(&objects).expect("objects that are read");
    replica.take_in(listed).expect("a living agent");
    replica.settle().expect("tables with room");
    let tables = replica.tables().expect("sound tables");
    let right = Expected::of(&present.cluster(NODE));
    tables::check(&tables, &right, &tables::PUBLISHED).expect("they are as expected");
    let mistakes: [(&str, Mistake); 6] = [
        ("a frontend less", |it| {
            it.frontends.retain(|frontend, _| !is_cluster_ip(frontend));
        }),
        ("a frontend more", |it| {
            let (frontend, expectation) = first(it);
            let Frontend::Address(address, _, protocol) = frontend else {
                panic!("not a node port");
            };
            let other = Frontend::Address(address, 9, protocol);
            it.frontends.insert(other, expectation);
        }),
        ("no endpoint", |it| change(it, BTreeSet::clear)),
        ("an endpoint more", |it| {
            change(it, |places| {
                places.insert(("192.0.2.1".parse().unwrap(), 1));
            });
        }),
        ("another affinity", |it| {
            let (frontend, mut expectation) = first(it);
            expectation.affinity_seconds += 1;
            it.frontends.insert(frontend, expectation);
        }),
        ("no address", |it| it.addresses.clear()),
    ];
    for (what, mistake) in mistakes {
        let mut wrong = right.clone();
        mistake(&mut wrong);
        let error = tables::check(&tables, &wrong, &tables::PUBLISHED);
        assert!(error.is_err(), "{what} is not noticed");
    }
}

fn is_cluster_ip(frontend: &Frontend) -> bool {
    matches!(frontend, Frontend::Address(address, ..) if address.to_string() == "10.96.0.1")
}

/// The first frontend of a cluster address.
fn first(expected: &Expected) -> (Frontend, Expectation) {
    let found = expected.frontends.iter().find(|(it, _)| is_cluster_ip(it));
    let (frontend, expectation) = found.expect("the API server's own Service");
    (frontend.clone(), expectation.clone())
}

fn change(expected: &mut Expected, change: impl FnOnce(&mut BTreeSet<(IpAddr, u16)>)) {
    let (frontend, mut expectation) = first(expected);
    let Outcome::To(places) = &mut expectation.inside else {
        panic!("it is served");
    };
    change(places);
    expectation.outside = expectation.inside.clone();
    expected.frontends.insert(frontend, expectation);
}
