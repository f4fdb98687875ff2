//! A table that is full under real traffic: who is in it never notices.

#![expect(
    clippy::tests_outside_test_module,
    reason = "a file of tests is a module of tests"
)]

use std::{fs, io::ErrorKind, time::Duration};

use anyhow::{Context as _, Result, ensure};
use lb_agent::status::AgentStatus;
use lb_tests::{
    clock,
    cluster::{Endpoint, Service},
    in_every_shape,
    lab::CniShape,
    leak::Foreign,
    scenario::{PORT, PROPAGATION, Stage, TARGET, finish},
    traffic::{Load, Transport, refusal},
};

/// How long room that was made may stay unused: the agents look for it once a minute.
const ROOM: Duration = Duration::from_mins(3);
/// How long silence is listened to.
const SILENCE: Duration = Duration::from_millis(400);

/// A Service of the lab takes six frontends, two ports and the address in each family: the table
/// has room for two.
fn services_that_have_a_place_are_served_while_others_wait_for_one(shape: CniShape) {
    let outcome = Stage::build_without_agents(shape).and_then(|mut stage| {
        stage.cluster.set_sizes("{frontends: 12}")?;
        stage.start()?;
        fill_and_make_room(&mut stage, shape).inspect_err(|_| stage.cluster.print_diagnosis())?;
        finish(stage, &Foreign::default())
    });
    outcome.unwrap_or_else(|error| panic!("{shape}: {error:#}"));
}

in_every_shape!(
    a_full_table,
    services_that_have_a_place_are_served_while_others_wait_for_one
);

fn fill_and_make_room(stage: &mut Stage, shape: CniShape) -> Result<()> {
    let [v4, v6] = stage.web.sockets(PORT);
    let client = &stage.cluster.lab.pod("client").ns;
    let dialled = [
        (v4, Transport::Tcp),
        (v6, Transport::Tcp),
        (v4, Transport::Udp),
    ];
    let load = Load::start(client, &dialled)?;
    let pod = Endpoint::of(stage.cluster.lab.pod("web-2"));
    let service = |name, host| Service::new(name, host).on(PORT, TARGET).to([pod.clone()]);
    let (second, third) = (service("second", 31), service("third", 32));
    stage.publish(&second)?;
    stage.cluster.manifests.write(&third)?;
    for agent in stage.cluster.agents() {
        let path = agent.state.join("status.json");
        clock::eventually("the full table is named", PROPAGATION, || {
            let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
            let status: AgentStatus = serde_json::from_slice(&text).context("read a status")?;
            let parts = ["default/third", "FRONTENDS", "raise the table's size"];
            let is_it = |line: &String| parts.iter().all(|part| line.contains(part));
            Ok(status.problems.iter().any(is_it).then_some(()))
        })?;
    }
    for address in third.sockets(PORT) {
        let (kind, _) = refusal(client, address, Transport::Tcp, SILENCE)?;
        ensure!(kind == ErrorKind::TimedOut, "{address}: {kind}");
    }
    load.wait_for_each(100)?;
    // What has its place still changes.
    stage.set_endpoints(&["web-1", "web-3"])?;
    stage.await_servers(&["web-1", "web-3"])?;

    stage.cluster.manifests.remove(&second)?;
    // A minute, in which packets matter to nobody: it is the same in every shape.
    if shape == CniShape::Routed {
        for address in third.sockets(PORT) {
            clock::eventually("there is room for the third", ROOM, || {
                Ok(stage.ask("client", address, Transport::Tcp).ok())
            })?;
        }
    }
    let report = load.stop()?;
    ensure!(report.failures == 0, "{report:?}");
    Ok(())
}
