//! The datapath outlives the agent: killed, ended, started again, and traffic goes on.
#![expect(
    clippy::tests_outside_test_module,
    reason = "an integration test is a test module"
)]

use anyhow::{Result, ensure};
use lb_tests::{
    checks, in_every_shape, leak,
    scenario::{Check, PORT, Stage, on_one_stage},
    traffic::{FlowReport, Load, LongFlow, Transport},
};

/// Flows and load of every protocol and family from the pod `client`.
struct Traffic {
    flows: Vec<LongFlow>,
    load: Load,
}

impl Traffic {
    fn start(stage: &Stage) -> Result<Self> {
        let client = &stage.cluster.lab.pod("client").ns;
        let mut destinations = Vec::new();
        let mut flows = Vec::new();
        for address in stage.web.sockets(PORT) {
            for transport in Transport::ALL {
                destinations.push((address, transport));
                flows.push(LongFlow::start(client, address, transport)?);
            }
        }
        let load = Load::start(client, &destinations)?;
        load.wait_for_each(50)?;
        Ok(Self { flows, load })
    }

    /// Ends all, and fails if anything went wrong at any time.
    fn stop_unharmed(self) -> Result<()> {
        self.load.wait_for_each(50)?;
        let load = self.load.stop()?;
        ensure!(load.failures == 0, "{load:?}");
        for flow in self.flows {
            let first = flow.server.clone();
            let report: FlowReport = flow.stop()?;
            ensure!(report.failure.is_none(), "{first}: {report:?}");
            ensure!(
                report.servers.iter().eq([&first]),
                "{first}: moved: {report:?}"
            );
        }
        Ok(())
    }
}

/// Every check of this file, in an order in which none disturbs another.
const CHECKS: &[Check] = checks![
    a_second_agent_on_the_same_pins_is_refused_and_the_first_unharmed,
    sigterm_leaves_the_datapath_in_place,
    an_agent_killed_and_restarted_under_load_harms_nothing,
    an_agent_killed_while_it_starts_harms_nothing,
    what_changed_while_no_agent_ran_is_caught_up_with,
];

in_every_shape!(agents_come_and_go, |shape| on_one_stage(shape, CHECKS));

fn an_agent_killed_and_restarted_under_load_harms_nothing(stage: &mut Stage) -> Result<()> {
    let traffic = Traffic::start(stage)?;
    for _ in 0..3 {
        for node in 1..=3 {
            stage.cluster.crash_agent(node)?;
        }
        traffic.load.wait_for_each(12)?;
        stage.cluster.await_agents()?;
        traffic.load.wait_for_each(12)?;
    }
    traffic.stop_unharmed()
}

fn an_agent_killed_while_it_starts_harms_nothing(stage: &mut Stage) -> Result<()> {
    let traffic = Traffic::start(stage)?;
    // The load's own pace decides where in its start each agent is hit.
    for connections in [1, 3, 10, 30, 100] {
        stage.cluster.crash_agent(1)?;
        traffic.load.wait_for(connections)?;
    }
    stage.cluster.await_agents()?;
    traffic.stop_unharmed()
}

fn sigterm_leaves_the_datapath_in_place(stage: &mut Stage) -> Result<()> {
    let before = leak::attached_programs(&stage.cluster.lab)?;
    let traffic = Traffic::start(stage)?;
    for node in 1..=3 {
        stage.cluster.agent(node).terminate()?;
    }
    let after = leak::attached_programs(&stage.cluster.lab)?;
    ensure!(before == after, "programs changed: {before:?}, {after:?}");
    traffic.load.wait_for_each(50)?;
    // The CLI reads the pins; it needs no agent.
    let services = stage.cluster.steerage(1, &["service", "list", "-A"])?;
    ensure!(services.contains("web"), "{services}");
    stage.cluster.start_agents()?;
    traffic.stop_unharmed()
}

fn what_changed_while_no_agent_ran_is_caught_up_with(stage: &mut Stage) -> Result<()> {
    for node in 1..=3 {
        stage.cluster.agent(node).kill()?;
    }
    stage.set_endpoints(&["web-2"])?;
    stage.cluster.start_agents()?;
    stage.await_servers(&["web-2"])?;
    stage.set_endpoints(&["web-1", "web-2", "web-3"])?;
    stage.await_servers(&["web-1", "web-2", "web-3"])
}

fn a_second_agent_on_the_same_pins_is_refused_and_the_first_unharmed(
    stage: &mut Stage,
) -> Result<()> {
    let traffic = Traffic::start(stage)?;
    let source = format!("dir:{}", stage.cluster.manifests.directory().display());
    let arguments = ["run", "--node-name", "node1", "--source", &source];
    let second = stage.cluster.steerage(1, &arguments);
    ensure!(second.is_err(), "a second agent ran: {second:?}");
    traffic.stop_unharmed()
}
