//! The recording of a real cluster, followed by the agent's own binary into real maps: streams are
//! cut and the agent is killed at random events, and in the end `steerage verify` and the oracle find
//! nothing.
#![expect(
    clippy::tests_outside_test_module,
    reason = "a test binary is nothing but tests"
)]

use std::sync::LazyLock;

use anyhow::{Context as _, Result, ensure};
use lb_tests::apiserver::{ApiServer, Cut, Resource, Verb};
use lb_tests::dice::Dice;
use lb_tests::lone_agent::LoneAgent;
use lb_tests::oracle::random::NODE;
use lb_tests::oracle::{Expected, tables};
use lb_tests::privilege::require_root;
use lb_tests::recording::Recording;

/// Runs of each of the two parts.
const RUNS: u64 = 6;
/// Changes of one run.
const CHANGES: usize = 30;

static RECORDING: LazyLock<Recording> =
    LazyLock::new(|| Recording::load().expect("the recordings are in the fixtures"));

/// An agent and the server it follows, both in the agent's namespace.
fn start(server: impl FnOnce() -> Result<ApiServer> + Send) -> Result<(LoneAgent, ApiServer)> {
    let mut agent = LoneAgent::new(NODE)?;
    let server = agent.namespace.run(server)?;
    let kubeconfig = agent.path("kubeconfig");
    std::fs::write(&kubeconfig, server.kubeconfig(None).to_string())?;
    let kubeconfig = kubeconfig.display().to_string();
    agent.set_source(&["--source", "kubernetes", "--kubeconfig", &kubeconfig]);
    agent.start()?;
    Ok((agent, server))
}

fn disturb(dice: &mut Dice, agent: &mut LoneAgent, server: &ApiServer) -> Result<&'static str> {
    let watched = [Resource::Services, Resource::EndpointSlices];
    let cut = *dice.pick(&[Cut::Graceful, Cut::Abort, Cut::MidObject]);
    match dice.roll(4) {
        0 => {
            server.cut(*dice.pick(&watched), cut);
            Ok("cut")
        }
        1 => {
            server.compact();
            server.cut(*dice.pick(&watched), Cut::Abort);
            Ok("cut and forget")
        }
        _ => {
            agent.kill()?;
            agent.start()?;
            Ok("kill")
        }
    }
}

fn run(seed: u64) -> Result<()> {
    let mut dice = Dice::new(seed);
    let recording = &*RECORDING;
    let first = dice.roll(recording.changes.len() - CHANGES);
    let (revision, mut present) = recording.present(first);
    let (mut agent, server) = start(|| {
        let server = ApiServer::start()?;
        server.forbid(Verb::Create, Resource::Events);
        present.fill(&server, revision)?;
        Ok(server)
    })?;
    // Half of the runs begin while the agent reads its first lists.
    if dice.one_in(2) {
        agent.await_sync()?;
    }
    let mut story = Vec::new();
    for (number, change) in recording
        .changes
        .iter()
        .skip(first)
        .take(CHANGES)
        .enumerate()
    {
        change.replay(&server)?;
        present.happen(change);
        if dice.one_in(8) || (story.is_empty() && number + 1 == CHANGES) {
            let what = disturb(&mut dice, &mut agent, &server)?;
            story.push((number, what));
        }
    }
    agent.await_sync()?;
    let context = || format!("from change {first}: {story:?}\n{}", agent.log());
    let output = agent.cli(&["verify", "--settle", "30s"])?;
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{}: {said}{complaint}\n{}",
        output.status,
        context()
    );
    ensure!(
        said.contains("source, agent and kernel"),
        "compared three ways: {said}"
    );
    let expected = Expected::of(&present.cluster(NODE));
    tables::check(&agent.tables()?, &expected).with_context(context)?;
    agent.terminate()
}

fn runs(part: u64) -> Result<()> {
    require_root()?;
    for seed in part * RUNS..(part + 1) * RUNS {
        run(seed).with_context(|| format!("seed {seed}"))?;
    }
    Ok(())
}

// Two parts, so that they may run beside each other.

#[test]
fn the_agents_binary_ends_as_the_oracle_says_whatever_befalls_it_first_part() -> Result<()> {
    runs(0)
}

#[test]
fn the_agents_binary_ends_as_the_oracle_says_whatever_befalls_it_second_part() -> Result<()> {
    runs(1)
}
