//! The stage with a client outside of the cluster, and the Service `web` open to it in every way.

use std::net::SocketAddr;

use anyhow::Result;

use super::{PROPAGATION, Stage};
use crate::{
    clock,
    cluster::Exposure,
    lab::{CniShape, Lab, address},
    traffic::{self, Greeting, Transport},
};

/// Node port of the Service `web`, at every address of a node that is on the underlay.
pub const NODE_PORT: u16 = 30_001;

impl Stage {
    /// Builds the stage with a client outside, whose way to external and to service addresses is
    /// node 1; `settings` are the agents', in YAML, and `prepare` changes the lab before they start.
    ///
    /// When it returns, node 1 serves its node port to clients from outside.
    pub fn build_with_outside(
        shape: CniShape,
        settings: &str,
        prepare: impl FnOnce(&mut Lab) -> Result<()>,
    ) -> Result<Self> {
        let mut stage = Self::build_without_agents(shape)?;
        let lab = &mut stage.cluster.lab;
        lab.add_outside()?;
        let networks = [
            [address::EXTERNAL_V4, address::EXTERNAL_V6],
            [address::SERVICE_CIDR_V4, address::SERVICE_CIDR_V6],
        ];
        lab.outside().route(&networks, lab.node(1))?;
        prepare(lab)?;
        let networks = [
            address::NODES_V4,
            address::NODES_V6,
            address::SECOND_WIRE_V4,
            address::SECOND_WIRE_V6,
        ];
        stage.cluster.set_config(&format!(
            "services: {{nodePortAddresses: [\"{}\"]}}\n{settings}",
            networks.join("\", \"")
        ))?;
        stage.web.exposure = Exposure::everywhere(1);
        stage.cluster.manifests.write(&stage.web)?;
        stage.start()?;
        for address in stage.at_node(1) {
            stage.await_served(address)?;
        }
        Ok(stage)
    }

    /// The node port of `web` at both addresses of a node, IPv4 first.
    pub fn at_node(&self, node: u8) -> [SocketAddr; 2] {
        let addresses = self.cluster.lab.node(node).addresses();
        addresses.map(|address| SocketAddr::new(address, NODE_PORT))
    }

    /// One connection or datagram from outside.
    pub fn ask_from_outside(&self, address: SocketAddr, transport: Transport) -> Result<Greeting> {
        let outside = &self.cluster.lab.outside().ns;
        match transport {
            Transport::Tcp => traffic::connect_once(outside, address),
            Transport::Udp => traffic::ask_udp(outside, address, b"hello"),
        }
    }

    /// Waits until somebody answers at `address` to the client outside.
    pub fn await_served(&self, address: SocketAddr) -> Result<()> {
        let what = format!("{address} is served to clients from outside");
        clock::eventually(&what, PROPAGATION, || {
            Ok(self.ask_from_outside(address, Transport::Tcp).ok())
        })?;
        Ok(())
    }
}
