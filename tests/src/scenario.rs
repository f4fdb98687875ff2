//! The stage of the net tests: the same cluster in every shape, and an inspection at the end.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};

use crate::{
    clock,
    cluster::{Cluster, Endpoint, Service},
    lab::CniShape,
    leak::Foreign,
    traffic::{self, Greeting, TcpServer, Transport, UdpServer},
};

mod outside;

pub use self::outside::NODE_PORT;

/// The port that clients dial.
pub const PORT: u16 = 80;
/// The port that pods serve.
pub const TARGET: u16 = 8080;
/// How long a change of manifests may take to reach every node's kernel; ten times the target.
pub const PROPAGATION: std::time::Duration = std::time::Duration::from_secs(10);

/// A cluster of three nodes with the pods `client` (node 1), `web-1`, `web-2`, `web-3` (one a
/// node), agents running, and the Service `web` over the three, which really serve.
#[derive(Debug)]
pub struct Stage {
    /// The servers, `web-1` first.
    pub servers: Vec<(TcpServer, UdpServer)>,
    /// The Service, as last written.
    pub web: Service,
    /// Agents, manifests and namespaces.
    pub cluster: Cluster,
}

impl Stage {
    /// Builds the stage; the agents have done their first sync when it returns.
    pub fn build(shape: CniShape) -> Result<Self> {
        let mut stage = Self::build_without_agents(shape)?;
        stage.start()?;
        Ok(stage)
    }

    /// Builds everything, and leaves the agents to be started by [`start`](Self::start).
    pub fn build_without_agents(shape: CniShape) -> Result<Self> {
        let mut cluster = Cluster::build(shape, 3)?;
        cluster
            .lab
            .add_pods(&[("client", 1), ("web-1", 1), ("web-2", 2), ("web-3", 3)])?;
        let mut servers = Vec::new();
        let mut web = Service::new("web", 10).on(PORT, TARGET);
        for name in ["web-1", "web-2", "web-3"] {
            let pod = cluster.lab.pod(name);
            let tcp = TcpServer::start(&pod.ns, name, TARGET)?;
            servers.push((tcp, UdpServer::start(&pod.ns, name, TARGET)?));
            web = web.to([Endpoint::of(pod)]);
        }
        cluster.manifests.write(&web)?;
        Ok(Self {
            servers,
            web,
            cluster,
        })
    }

    /// Starts the agents and waits for their first sync.
    pub fn start(&mut self) -> Result<()> {
        self.cluster
            .start_agents()
            .inspect_err(|_| self.cluster.print_diagnosis())
    }

    /// Writes a Service and waits until the pod `client` is served by one of its endpoints, by
    /// every protocol and family.
    pub fn publish(&self, service: &Service) -> Result<()> {
        self.cluster.manifests.write(service)?;
        for address in service.sockets(PORT) {
            for transport in Transport::ALL {
                let what = format!("{transport} {address} is served");
                clock::eventually(&what, PROPAGATION, || {
                    Ok(self.ask("client", address, transport).ok())
                })?;
            }
        }
        Ok(())
    }

    /// One connection or datagram from a pod.
    pub fn ask(&self, pod: &str, server: SocketAddr, transport: Transport) -> Result<Greeting> {
        let ns = &self.cluster.lab.pod(pod).ns;
        match transport {
            Transport::Tcp => traffic::connect_once(ns, server),
            Transport::Udp => traffic::ask_udp(ns, server, b"hello"),
        }
        .with_context(|| format!("{transport} from {pod} to {server}"))
    }

    /// Replaces the endpoints of `web` by these pods, all ready.
    pub fn set_endpoints(&mut self, pods: &[&str]) -> Result<()> {
        let lab = &self.cluster.lab;
        self.web.endpoints = pods
            .iter()
            .map(|name| Endpoint::of(lab.pod(name)))
            .collect();
        self.cluster.manifests.write(&self.web)
    }

    /// Waits until new connections from `client` are answered by exactly these pods.
    pub fn await_servers(&self, pods: &[&str]) -> Result<()> {
        let client = &self.cluster.lab.pod("client").ns;
        for address in self.web.sockets(PORT) {
            let what = format!("{address} is answered by {pods:?} alone");
            clock::eventually(&what, PROPAGATION, || {
                // Of three equal servers one is missed by 60 connections once in 10^10 runs.
                let spread = traffic::spread(client, address, Transport::Tcp, 60)?;
                Ok(spread.keys().eq(pods).then_some(()))
            })?;
        }
        Ok(())
    }
}

/// What a test does on a stage, with its name. It leaves the stage as it found it.
pub type Check = (&'static str, fn(&mut Stage) -> Result<()>);

/// Runs the checks one after the other on one stage of this shape, then stops the agents, cleans up
/// and inspects what is left.
///
/// One stage for all of them, since the kernel verifies the programs anew for each of its agents,
/// which takes longer than most checks.
///
/// # Panics
///
/// When anything of that fails; the ends of the agents' logs were printed before.
#[track_caller]
pub fn on_one_stage(shape: CniShape, checks: &[Check]) {
    on_stage(shape, Stage::build(shape), checks);
}

/// [`on_one_stage`], on a stage that was built in another way.
///
/// # Panics
///
/// When it was not built, or anything fails on it.
#[track_caller]
pub fn on_stage(shape: CniShape, stage: Result<Stage>, checks: &[Check]) {
    let outcome = stage.and_then(|mut stage| {
        for (name, check) in checks {
            let started = clock::now();
            check(&mut stage)
                .with_context(|| (*name).to_owned())
                .inspect_err(|_| stage.cluster.print_diagnosis())?;
            eprintln!("  {shape}: {name} ({:.1?})", started.elapsed());
        }
        finish(stage, &Foreign::default())
    });
    outcome.unwrap_or_else(|error| panic!("{shape}: {error:#}"));
}

/// Makes a slice of checks of functions, each named as in the source.
#[macro_export]
macro_rules! checks {
    ($($check:ident),* $(,)?) => {
        &[$((stringify!($check), $check as fn(&mut $crate::scenario::Stage) -> ::anyhow::Result<()>)),*]
    };
}

/// Makes a module with a test for each shape in which CNIs connect pods, which calls `check` with it.
#[macro_export]
macro_rules! in_every_shape {
    ($name:ident, $check:expr) => {
        mod $name {
            use super::*;
            use $crate::lab::CniShape;

            #[test]
            fn with_routed_veths() {
                ($check)(CniShape::Routed);
            }

            #[test]
            fn on_a_bridge() {
                ($check)(CniShape::Bridge { br_netfilter: true });
            }

            #[test]
            fn on_a_bridge_without_br_netfilter() {
                ($check)(CniShape::Bridge {
                    br_netfilter: false,
                });
            }

            #[test]
            fn over_vxlan() {
                ($check)(CniShape::Vxlan);
            }
        }
    };
}

/// Stops and cleans up a stage, and checks that it leaves no namespace either.
pub fn finish(stage: Stage, foreign: &Foreign) -> Result<()> {
    let Stage {
        servers, cluster, ..
    } = stage;
    drop(servers);
    let prefix = cluster.lab.prefix().to_owned();
    cluster.finish(foreign).context("after the test")?;
    crate::leak::check_namespaces(&prefix)
}

/// Fails unless every server got its share of `total` connections: within 4 standard deviations of
/// a fair draw, plus what Maglev's table itself may be off (one slot in a hundred, and its rounding).
pub fn check_share(spread: &traffic::Spread, shares: &[(&str, f64)]) -> Result<()> {
    let total: u64 = spread.values().sum();
    let names: Vec<&str> = shares.iter().map(|(name, _)| *name).collect();
    ensure!(
        spread.keys().eq(&names),
        "{names:?} should have answered: {spread:?}"
    );
    for (name, share) in shares {
        let count = spread[*name];
        let tolerance = tolerance(total, *share, shares.len());
        let expected = share * to_f64(total);
        ensure!(
            (to_f64(count) - expected).abs() <= tolerance,
            "{name} got {count} of {total} connections, not {expected:.0} ± {tolerance:.0}",
        );
    }
    Ok(())
}

/// Connections by which a server may be off its share: 4 σ of a binomial draw, plus N/M of all.
pub fn tolerance(total: u64, share: f64, servers: usize) -> f64 {
    let total = to_f64(total);
    let sigma = (total * share * (1.0 - share)).sqrt();
    // The smallest prime of the list that is at least 100 times the number of servers.
    let primes = [251_u32, 1021, 4093, 16381, 65521, 131_071];
    let wanted = servers.saturating_mul(100);
    let size = primes
        .into_iter()
        .find(|prime| usize::try_from(*prime).is_ok_and(|it| it >= wanted));
    let servers = u32::try_from(servers).unwrap_or(u32::MAX);
    4.0 * sigma + total * f64::from(servers) / f64::from(size.unwrap_or(131_071))
}

/// Counts of connections, which are far below 2^32.
pub fn to_f64(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_within_four_sigma_passes_and_one_beyond_fails() {
        let spread = |a: u64, b: u64| traffic::Spread::from([("a".into(), a), ("b".into(), b)]);
        let equal = [("a", 0.5), ("b", 0.5)];
        // σ = 50, N/M = 2/251 of 10 000 = 80: the bound is 280.
        check_share(&spread(5270, 4730), &equal).expect("270 off");
        check_share(&spread(5290, 4710), &equal).expect_err("290 off");
        check_share(&spread(10_000, 0), &[("a", 1.0)])
            .expect_err("b answered nothing, but is there");
    }
}
