//! The recording of a real cluster, served by the API server of the tests and followed by the
//! agent's own source: whatever befalls streams, server and agent between any two changes, the
//! tables end as the oracle says, and as an agent makes them that begins with empty ones, and
//! `steerage verify` and the agent's own audit find nothing.
#![expect(
    clippy::tests_outside_test_module,
    reason = "a test binary is nothing but tests"
)]

use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lb_agent::dataplane::Actual;
use lb_tests::apiserver::{ApiServer, Cut, Fault, Resource, Rule, Verb};
use lb_tests::clock;
use lb_tests::dice::Dice;
use lb_tests::follower::Follower;
use lb_tests::oracle::random::NODE;
use lb_tests::oracle::{Expected, tables};
use lb_tests::recording::{Present, Recording};
use lb_tests::replica::Replica;

/// Ten times as long as anything takes.
const PATIENCE: Duration = Duration::from_secs(30);
/// Runs of each of the four parts.
const RUNS: u64 = 55;
/// Changes of one run.
const CHANGES: usize = 30;
/// What the source asks for.
const WATCHED: [Resource; 4] = [
    Resource::Services,
    Resource::EndpointSlices,
    Resource::Nodes,
    Resource::ServiceCidrs,
];

static RECORDING: LazyLock<Recording> =
    LazyLock::new(|| Recording::load().expect("the recordings are in the fixtures"));

/// What befalls streams, server or agent.
#[derive(Clone, Copy, Debug)]
enum Disturbance {
    Cut(Resource, Cut),
    BreakNext(Resource),
    CutAndForget(Resource),
    Fail(Fault),
    Close,
    Kill,
}

impl Disturbance {
    fn random(dice: &mut Dice) -> Self {
        let resource = *dice.pick(&WATCHED);
        let cut = *dice.pick(&[Cut::Graceful, Cut::Abort, Cut::MidObject]);
        let fault = *dice.pick(&[
            Fault::Unauthorized,
            Fault::TooManyRequests { retry_after: 0 },
            Fault::InternalError,
            Fault::GatewayTimeout,
            Fault::Gone,
            Fault::GoneInStream,
            Fault::EndAfter(3),
            Fault::CutMidObject(0),
            Fault::CutMidObject(5),
            Fault::SlowDrip {
                bytes: 700,
                pause: Duration::from_millis(1),
            },
        ]);
        match dice.roll(10) {
            0..2 => Self::Cut(resource, cut),
            2 => Self::BreakNext(resource),
            3..5 => Self::CutAndForget(resource),
            5..7 => Self::Fail(fault),
            7 => Self::Close,
            _ => Self::Kill,
        }
    }

    fn befall(self, server: &ApiServer, follower: &mut Follower) -> Result<()> {
        match self {
            Self::Cut(resource, cut) => server.cut(resource, cut),
            Self::BreakNext(resource) => server.break_next_event(resource),
            Self::CutAndForget(resource) => {
                server.compact();
                server.cut(resource, Cut::Abort);
            }
            Self::Fail(fault) => {
                server.inject(Rule::new(fault).times(3));
                for resource in WATCHED {
                    server.cut(resource, Cut::Graceful);
                }
            }
            Self::Close => {
                server.close()?;
                follower.pump(Duration::from_millis(3))?;
                server.reopen()?;
            }
            Self::Kill => follower.restart()?,
        }
        Ok(())
    }
}

/// Waits until the tables are what the oracle says.
fn compare(follower: &mut Follower, present: &Present<'_>) -> Result<()> {
    let expected = Expected::of(&present.cluster(NODE));
    let check = |found: &Actual| tables::check(found, &expected);
    follower.await_tables(check, PATIENCE)?;
    let found = follower.replica.audit()?;
    ensure!(found.total() == 0, "the agent's own audit: {found:?}");
    Ok(())
}

/// The same, and until they are what an agent makes of these objects that begins with empty ones.
fn compare_with_fresh(follower: &mut Follower, present: &Present<'_>) -> Result<()> {
    let mut fresh = Replica::new(NODE, 0)?;
    let objects: Vec<_> = present.objects().collect();
    let listed = fresh.listed(&objects)?;
    fresh.take_in(listed)?;
    fresh.settle()?;
    let wanted = fresh.tables()?;
    compare(follower, present)?;
    let check = |found: &Replica| {
        tables::check_same(&found.tables()?, &wanted)?;
        let differences = fresh.verify(found)?;
        ensure!(differences.is_empty(), "verify: {differences:#?}");
        Ok(())
    };
    follower.await_replica(check, PATIENCE)
}

/// A server in the state of the recording at some point, which takes no Events: they would take up
/// revisions that the recording needs.
fn serve(present: &Present<'_>, revision: u64) -> Result<ApiServer> {
    let server = ApiServer::start()?;
    server.forbid(Verb::Create, Resource::Events);
    present.fill(&server, revision)?;
    Ok(server)
}

/// One run: from a random point on, some changes with random disturbances among them.
fn run(seed: u64) -> Result<()> {
    let mut dice = Dice::new(seed);
    let recording = &*RECORDING;
    let first = dice.roll(recording.changes.len() - CHANGES);
    let (revision, mut present) = recording.present(first);
    let server = serve(&present, revision)?;
    let mut follower = Follower::start(&server, NODE, seed)?;
    let mut story = Vec::new();
    let changes = recording.changes.iter().skip(first).take(CHANGES);
    for (number, change) in changes.enumerate() {
        change.replay(&server)?;
        present.happen(change);
        // What the agent has heard of and written by now is left to chance.
        for _ in 0..dice.roll(4) {
            follower.pump(Duration::from_millis(1))?;
            follower.replica.step(dice.roll(12))?;
        }
        if dice.one_in(6) {
            let disturbance = Disturbance::random(&mut dice);
            story.push((number, disturbance));
            disturbance
                .befall(&server, &mut follower)
                .with_context(|| format!("{disturbance:?}"))?;
        }
        if dice.one_in(20) {
            compare(&mut follower, &present)
                .with_context(|| format!("after {number} changes from {first}: {story:?}"))?;
        }
    }
    compare_with_fresh(&mut follower, &present)
        .with_context(|| format!("at the end, from change {first}: {story:?}"))
}

fn runs(part: u64) {
    for seed in part * RUNS..(part + 1) * RUNS {
        run(seed).unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
    }
}

// Four parts, so that they run beside each other.

#[test]
fn disturbed_replays_end_as_the_oracle_says_first_part() {
    runs(0);
}

#[test]
fn disturbed_replays_end_as_the_oracle_says_second_part() {
    runs(1);
}

#[test]
fn disturbed_replays_end_as_the_oracle_says_third_part() {
    runs(2);
}

#[test]
fn disturbed_replays_end_as_the_oracle_says_fourth_part() {
    runs(3);
}

fn whole() -> Result<()> {
    let recording = &*RECORDING;
    let (revision, mut present) = recording.present(0);
    let server = serve(&present, revision)?;
    let mut follower = Follower::start(&server, NODE, 1)?;
    for (number, step) in recording.steps.iter().enumerate() {
        for change in recording.changes_of(number) {
            change.replay(&server)?;
            present.happen(change);
        }
        compare_with_fresh(&mut follower, &present)
            .with_context(|| format!("at the end of {}", step.name))?;
    }
    Ok(())
}

#[test]
fn the_whole_recording_ends_at_each_step_as_the_oracle_says() {
    whole().unwrap_or_else(|error| panic!("{error:#}"));
}

/// Disturbs an agent in the middle of the recording, at a time when nothing changes.
fn disturb(disturbance: Disturbance) -> Result<()> {
    let recording = &*RECORDING;
    let mid = recording.changes.len() / 2;
    let (revision, present) = recording.present(mid);
    let server = serve(&present, revision)?;
    let mut follower = Follower::start(&server, NODE, 1)?;
    compare(&mut follower, &present)?;
    let before = follower.replica.tables()?;
    server.forget_requests();
    disturbance.befall(&server, &mut follower)?;
    let started = clock::now();
    // Until every watch is there again, and for as long as an agent may take to do wrong.
    let mut quiet = 0;
    while quiet < 20 {
        ensure!(
            started.elapsed() < PATIENCE,
            "the watches do not return: {:?}, open {:?}, last {:#?}",
            follower.report(),
            WATCHED.map(|of| server.open_streams(of)),
            server.requests().last()
        );
        quiet = if follower.pump(Duration::from_millis(10))? {
            0
        } else {
            quiet + 1
        };
        follower.replica.settle()?;
        ensure!(
            follower.replica.tables()? == before,
            "the tables have changed"
        );
        if WATCHED.iter().any(|of| server.open_streams(*of) != 1) {
            quiet = 0;
        }
    }
    ensure!(!server.requests().is_empty(), "nobody asked again");
    ensure!(follower.replica.is_synced(), "it is not synced again");
    Ok(())
}

#[test]
fn a_disturbance_without_a_change_leaves_every_word_of_the_tables_as_it_was() {
    for disturbance in [
        Disturbance::Cut(Resource::Services, Cut::MidObject),
        Disturbance::Cut(Resource::EndpointSlices, Cut::Abort),
        Disturbance::CutAndForget(Resource::Services),
        Disturbance::CutAndForget(Resource::EndpointSlices),
        Disturbance::CutAndForget(Resource::Nodes),
        Disturbance::Fail(Fault::Gone),
        Disturbance::Fail(Fault::GoneInStream),
        Disturbance::Fail(Fault::CutMidObject(2)),
        Disturbance::Fail(Fault::Unauthorized),
        Disturbance::Close,
        Disturbance::Kill,
    ] {
        disturb(disturbance).unwrap_or_else(|error| panic!("{disturbance:?}: {error:#}"));
    }
}
