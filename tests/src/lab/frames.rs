//! Wires that carry frames as those of machines do.
//!
//! A veth hands over packets of this machine whose checksums a device is to finish; XDP cannot. And it
//! takes a frame only if its other end polls, which it does once it merges packets there (GRO), as a CNI
//! may have it.

use std::process::Command;

use anyhow::Result;

use super::{FABRIC_BRIDGE, Lab};
use crate::{command, leak, ns::Namespace};

impl Lab {
    /// Has every wire to a node hand over whole frames, and every wire from one take frames: those to
    /// other nodes, and those to pods.
    pub fn carry_frames(&self) -> Result<()> {
        for device in leak::devices_of(&self.fabric)? {
            if device != "lo" && device != FABRIC_BRIDGE {
                set_features(&self.fabric, &device, &["tx", "off", "gro", "on"])?;
            }
        }
        for pod in &self.pods {
            set_features(&pod.ns, "eth0", &["gro", "on"])?;
        }
        Ok(())
    }
}

fn set_features(ns: &Namespace, device: &str, features: &[&str]) -> Result<()> {
    let mut set: Command = ns.command("ethtool")?;
    command::run(set.args(["-K", device]).args(features), "").map(drop)
}
