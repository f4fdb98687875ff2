//! Where a packet is seen, as a type.
//!
//! The four sides differ in what may concern them and in what they do with a packet that no flow
//! has, and what this host sends differs from what it forwards. As types, each program has only its own
//! side's instructions, to verify and to run.

use crate::flow::Hook;
use crate::table::device::Role;

/// A side of a kind of device.
pub trait Side {
    /// What the device leads to.
    const ROLE: Role;
    /// Its side.
    const HOOK: Hook;
    /// Whether a new flow is made only with the port that its client has, and left to others where that
    /// is another flow's.
    const KEEPS_PORT: bool = false;
    /// Whether this host has made the packets, which may dial services then.
    const IS_OF_HOST: bool = false;
    /// Whether more can be asked than at most one service CIDR: of the programs for frames, the first has
    /// not the stack for it, and another one behind it.
    const ASKS_ALL_CIDRS: bool = true;
}

/// What a pod sends.
#[derive(Clone, Copy, Debug)]
pub struct FromWorkload;
/// What a pod receives.
#[derive(Clone, Copy, Debug)]
pub struct ToWorkload;
/// What comes from other nodes and from outside.
#[derive(Clone, Copy, Debug)]
pub struct FromUplink;
/// The same, as frames that have another chance to be decided about.
#[derive(Clone, Copy, Debug)]
pub(super) struct FromUplinkFrame;
/// What leaves for there and has come by another device.
#[derive(Clone, Copy, Debug)]
pub struct ToUplink;
/// What leaves for there and is this host's own.
#[derive(Clone, Copy, Debug)]
pub struct FromHost;

impl Side for FromWorkload {
    const ROLE: Role = Role::Workload;
    const HOOK: Hook = Hook::Ingress;
}

impl Side for ToWorkload {
    const ROLE: Role = Role::Workload;
    const HOOK: Hook = Hook::Egress;
}

impl Side for FromUplink {
    const ROLE: Role = Role::Uplink;
    const HOOK: Hook = Hook::Ingress;
}

impl Side for FromUplinkFrame {
    const ROLE: Role = Role::Uplink;
    const HOOK: Hook = Hook::Ingress;
    const KEEPS_PORT: bool = true;
    const ASKS_ALL_CIDRS: bool = false;
}

impl Side for ToUplink {
    const ROLE: Role = Role::Uplink;
    const HOOK: Hook = Hook::Egress;
}

impl Side for FromHost {
    const ROLE: Role = Role::Uplink;
    const HOOK: Hook = Hook::Egress;
    const IS_OF_HOST: bool = true;
}
