//! By which ways packets go.

use serde::{Deserialize, Serialize};

/// Whether packets of flows are sent on at once, past the host's filters: see
/// `docs/decisions/0015-sent-on-at-once.md`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum Redirect {
    /// The host routes and filters every packet.
    #[default]
    Off,
    /// New flows' packets are sent on where nothing else stands in the way.
    On,
}

/// Whether XDP programs on uplinks take what is sent on at once: see
/// `docs/decisions/0016-frames-before-packets.md`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum Xdp {
    /// No XDP program is attached.
    #[default]
    Off,
    /// On each uplink whose driver runs them.
    Native,
    /// On each uplink, by the host's receive path.
    Generic,
}
