//! The firewall of every node: what a careful operator and a CNI leave behind together.
//!
//! It is the half of the lab that makes a load balancer's mistakes visible. A packet whose two
//! directions take different paths is *invalid* to connection tracking and dropped first; a packet
//! to an address that no CNI announced meets the policy.

use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::{
    command,
    lab::{
        CniShape,
        address::{CLUSTER_CIDR_V4, CLUSTER_CIDR_V6},
    },
    ns::Namespace,
};

/// The sysctls that decide whether bridged packets pass this firewall.
const BRIDGE_SWITCHES: [&str; 2] = [
    "net/bridge/bridge-nf-call-iptables",
    "net/bridge/bridge-nf-call-ip6tables",
];

/// Loads the rules into a node and sets its bridge switches.
pub(super) fn install(shape: CniShape, node: &Namespace) -> Result<()> {
    if shape.has_bridge() {
        set_br_netfilter(shape.has_br_netfilter(), node)?;
    }
    command::run(node.command("nft")?.args(["-f", "-"]), &rules())?;
    Ok(())
}

/// The rules in nftables' language.
///
/// Neighbour discovery and what multicast listeners report are accepted because with `br_netfilter`
/// they are forwarded, between pods of one bridge, from link-local addresses: what is left to be
/// dropped is somebody's mistake.
fn rules() -> String {
    format!(
        "table inet lab {{
            chain input {{
                type filter hook input priority filter; policy accept;
                ct state invalid drop
            }}
            chain forward {{
                type filter hook forward priority filter; policy drop;
                ct state invalid counter drop
                ct state established,related accept
                ip saddr {CLUSTER_CIDR_V4} accept
                ip daddr {CLUSTER_CIDR_V4} accept
                ip6 saddr {CLUSTER_CIDR_V6} accept
                ip6 daddr {CLUSTER_CIDR_V6} accept
                icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit }} accept
                icmpv6 type {{ mld2-listener-report, mld-listener-done }} accept
                counter
            }}
        }}\n"
    )
}

/// Sets whether bridged packets of a namespace pass its firewall.
pub(super) fn set_br_netfilter(wanted: bool, node: &Namespace) -> Result<()> {
    let exists = node.run(|| Ok(fs::exists("/proc/sys/net/bridge")?))?;
    if !exists && !wanted {
        // Without the module no bridged packet passes the firewall, as wanted.
        return Ok(());
    }
    if !exists {
        command::run(
            std::process::Command::new("modprobe").arg("br_netfilter"),
            "",
        )
        .context("this shape needs br_netfilter, as a module or built into the kernel")?;
        if !node.run(|| Ok(fs::exists("/proc/sys/net/bridge")?))? {
            bail!(
                "br_netfilter is loaded, but {} has no net/bridge sysctls",
                node.name()
            );
        }
    }
    let value = if wanted { "1" } else { "0" };
    node.sysctl(&BRIDGE_SWITCHES.map(|key| (key, value)))
}
