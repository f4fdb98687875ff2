//! The paths of ours: how each is set, and what is asked of it. One that is new needs an entry here,
//! and its line in the list of bars.

use crate::bench::{bars, report::Bar};

/// A path that our datapath takes packets by.
#[derive(Debug, PartialEq)]
pub(super) struct OurPath {
    /// How reports call it.
    pub(super) name: &'static str,
    /// What of `SteerageConfiguration` makes the datapath take it: whole lines.
    pub(super) settings: &'static str,
    /// What is asked of it.
    pub(super) bars: Bars,
}

/// What is asked of a path.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Bars {
    /// Connecting, the middle one, to direct.
    pub(super) connect: Option<Bar>,
    /// Connections a second, to nftables.
    pub(super) connections: Option<Bar>,
    /// UDP packets a second, to nftables.
    pub(super) datagrams: Option<Bar>,
    /// UDP packets a second, to direct.
    pub(super) datagrams_beside_direct: Option<Bar>,
    /// UDP packets a second by a node port to another node, to nftables.
    pub(super) node_port: Option<Bar>,
    /// The same where wires carry whole frames.
    pub(super) node_port_by_frames: Option<Bar>,
    /// Bulk TCP, to direct.
    pub(super) bulk: Option<Bar>,
}

/// Those where wires carry packets.
pub(super) const PATHS: [&OurPath; 2] = [&TC, &REDIRECT];
/// Those where they carry whole frames.
pub(super) const FRAMED_PATHS: [&OurPath; 2] = [&REDIRECT, &XDP];

/// Programs at tc, and the host between them.
const TC: OurPath = OurPath {
    name: "steerage, tc",
    settings: "",
    bars: Bars {
        connect: Some(bars::CONNECT_TC),
        connections: Some(bars::CONNECTIONS_TC),
        datagrams: Some(bars::UDP_TC),
        datagrams_beside_direct: None,
        node_port: None,
        node_port_by_frames: None,
        bulk: Some(bars::BULK),
    },
};

/// Packets are sent on at once.
const REDIRECT: OurPath = OurPath {
    name: "steerage, redirect",
    // To the other node only addresses of pods are sent on.
    settings: "datapath: {redirect: \"On\"}\n\
                   localTraffic: {clusterCIDRs: [10.244.0.0/16, \"fd00:10:244::/48\"]}\n",
    bars: Bars {
        connect: None,
        connections: Some(bars::CONNECTIONS_REDIRECT),
        datagrams: Some(bars::UDP_REDIRECT),
        datagrams_beside_direct: Some(bars::UDP_REDIRECT_BESIDE_DIRECT),
        node_port: Some(bars::NODE_PORT_REDIRECT),
        node_port_by_frames: None,
        bulk: None,
    },
};

/// XDP takes them before that.
const XDP: OurPath = OurPath {
    name: "steerage, XDP",
    settings: "datapath: {redirect: \"On\", xdp: \"Native\"}\n\
               localTraffic: {clusterCIDRs: [10.244.0.0/16, \"fd00:10:244::/48\"]}\n",
    bars: Bars {
        connect: None,
        connections: None,
        datagrams: None,
        datagrams_beside_direct: None,
        node_port: None,
        node_port_by_frames: Some(bars::NODE_PORT_XDP),
        bulk: None,
    },
};

impl OurPath {
    /// Whether XDP takes what goes by it.
    pub(super) fn is_xdp(&self) -> bool {
        *self == XDP
    }
}
