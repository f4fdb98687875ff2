//! Packets that no node translated: sent to an address of a Service, they go where a node sends what it
//! knows no other way for, and nothing answers there. That would look like a packet that was dropped.

use anyhow::Result;

use super::{Lab, address, firewall, path};

/// The table that counts them.
const TABLE: &str = "strays";

impl Lab {
    /// Has the gateway of the nodes count what arrives there for an address of a Service.
    pub fn count_strays(&self) -> Result<()> {
        // What the fabric carries from the router to a node is none.
        firewall::set_br_netfilter(false, &self.fabric)?;
        let rules = format!(
            "table inet {TABLE} {{
                chain arrived {{
                    type filter hook prerouting priority raw;
                    ip daddr {{ {}, {} }} counter
                    ip6 daddr {{ {}, {} }} counter
                }}
            }}\n",
            address::SERVICE_CIDR_V4,
            address::EXTERNAL_V4,
            address::SERVICE_CIDR_V6,
            address::EXTERNAL_V6,
        );
        path::nft(&self.fabric, &rules)
    }

    /// How many it has counted.
    pub fn strays(&self) -> Result<u64> {
        path::counted(&self.fabric, TABLE, "arrived")
    }
}
