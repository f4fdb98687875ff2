//! What a path can be like: wide, narrow at a place, losing and reordering packets.

use std::{
    fs,
    net::{IpAddr, Ipv6Addr},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{
    Lab, Node, Outside, UPLINK, address,
    outside::{INNER, OUTER},
};
use crate::{
    command::{self, ip},
    leak,
    ns::Namespace,
};

/// The slow link between router and client, beside the usual one.
const SLOW: &str = "slow0";
/// Hardware addresses of its ends: the router's, the client's.
const SLOW_MACS: [&str; 2] = ["02:00:00:00:51:01", "02:00:00:00:51:02"];
/// What its ends are called by IPv6, though nobody is asked for it.
const SLOW_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x51, 1),
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x51, 2),
];
/// The routing table of what takes the slow link.
const SLOW_TABLE: u8 = 51;
/// What packets are marked with that take it.
const SLOW_MARK: u8 = 0x51;

/// The table of what makes the weather.
const WEATHER: &str = "weather";

/// How `ip` is told the family that a command is about.
const FAMILIES: [&str; 2] = ["-4", "-6"];

/// What bad weather did to packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Packets that were lost.
    pub lost: u64,
    /// Packets that were sent by the slow link, and so came after those that followed them.
    pub delayed: u64,
}

impl Lab {
    /// Gives every device of the lab's that is not `lo` or a tunnel this MTU, in bytes.
    pub fn set_mtu(&self, mtu: u16) -> Result<()> {
        let outside = self.outside.iter();
        let outside = outside.flat_map(|outside| [&outside.ns, &outside.router]);
        let nodes = self.nodes.iter().map(|node| &node.ns);
        let pods = self.pods.iter().map(|pod| &pod.ns);
        // Ports before the bridge that they are of, which takes the least of theirs.
        for ns in outside.chain(pods).chain(nodes).chain([&self.fabric]) {
            let mut devices = leak::devices_of(ns)?;
            devices.sort_by_key(|name| {
                name == super::FABRIC_BRIDGE || name == super::node::POD_BRIDGE
            });
            let devices = devices
                .iter()
                .filter(|name| *name != "lo" && *name != super::TUNNEL);
            let lines: Vec<_> = devices
                .map(|name| format!("link set {name} mtu {mtu}"))
                .collect();
            ip(ns.name(), &lines.join("\n"))?;
        }
        Ok(())
    }

    /// Has the client outside and every pod forget what they have learnt of paths.
    pub fn forget_paths(&self) -> Result<()> {
        let outside = self.outside.iter().map(|outside| &outside.ns);
        for ns in outside.chain(self.pods.iter().map(|pod| &pod.ns)) {
            for family in FAMILIES {
                let flush = ["-n", ns.name(), family, "route", "flush", "cache"];
                command::run(Command::new("ip").args(flush), "")?;
            }
        }
        Ok(())
    }

    /// Has packets leave `ns` one by one: no device carries several segments as one.
    pub fn send_one_by_one(&self, ns: &Namespace) -> Result<()> {
        ip(ns.name(), "link set eth0 gso_max_segs 1\n").map(drop)
    }
}

impl Outside {
    /// Makes the router's way to the client narrow, or as wide as the device: it says "too big" about
    /// longer answers.
    pub fn narrow_to_client(&self, mtu: Option<u16>) -> Result<()> {
        let lock = mtu.map_or_else(String::new, |mtu| format!(" mtu lock {mtu}"));
        let (v4, v6) = (address::OUTSIDE_V4, address::OUTSIDE_V6);
        ip(
            self.router.name(),
            &format!(
                "route replace {v4} dev {INNER} src {} scope link{lock}\n\
                 route replace {v6} dev {INNER} metric 256{lock}\n",
                address::outside_v4(1),
            ),
        )
        .map(drop)
    }

    /// How often the router has said "too big" of either family, or another thing that IPv4 counts
    /// with it.
    pub fn too_big_sent(&self) -> Result<u64> {
        self.router.run(|| {
            // Of the namespace of this thread, not of the process.
            let v4 = fs::read_to_string("/proc/thread-self/net/snmp")?;
            let lines: Vec<_> = v4
                .lines()
                .filter(|line| line.starts_with("Icmp:"))
                .collect();
            let [names, counts] = lines[..] else {
                bail!("no ICMP counters in {v4}");
            };
            let mut columns = names.split(' ').zip(counts.split(' '));
            let sent_v4 = columns.find(|(name, _)| *name == "OutDestUnreachs");
            let v6 = fs::read_to_string("/proc/thread-self/net/snmp6")?;
            let mut columns = v6
                .lines()
                .filter_map(|line| line.split_once(char::is_whitespace));
            let sent_v6 = columns.find(|(name, _)| *name == "Icmp6OutPktTooBigs");
            let (Some((_, sent_v4)), Some((_, sent_v6))) = (sent_v4, sent_v6) else {
                bail!("no counters of errors in {v4}{v6}");
            };
            Ok(sent_v4.trim().parse::<u64>()? + sent_v6.trim().parse::<u64>()?)
        })
    }

    /// Puts the router between two nodes: what `from` sends to pods of `to`, and what `to` sends to the
    /// node `from`, goes by it, and it says "too big" about what is longer than `mtu`.
    pub fn stand_between(&self, from: &Node, to: &Node, mtu: u16) -> Result<()> {
        // It would else tell `from` of the shorter way.
        self.router.sysctl(&[
            ("net/ipv4/conf/all/send_redirects", "0"),
            (&format!("net/ipv4/conf/{OUTER}/send_redirects"), "0"),
        ])?;
        let pods = (address::pod_v4(to.number, 0), address::pod_v6(to.number, 0));
        let (v4, v6) = (address::ROUTER_V4, address::ROUTER_V6);
        ip(
            from.ns.name(),
            &format!(
                "route replace {}/24 via {v4} dev {UPLINK}\n\
                 route replace {}/64 via {v6} dev {UPLINK}\n",
                pods.0, pods.1
            ),
        )?;
        ip(
            to.ns.name(),
            &format!(
                "route replace {}/32 via {v4} dev {UPLINK}\n\
                 route replace {}/128 via {v6} dev {UPLINK}\n",
                from.v4, from.v6
            ),
        )?;
        ip(
            self.router.name(),
            &format!(
                "route replace {}/24 via {} dev {OUTER} mtu lock {mtu}\n\
                 route replace {}/64 via {} dev {OUTER} mtu lock {mtu}\n\
                 route replace {}/32 dev {OUTER} mtu lock {mtu}\n\
                 route replace {}/128 dev {OUTER} mtu lock {mtu}\n",
                pods.0, to.v4, pods.1, to.v6, from.v4, from.v6
            ),
        )
        .map(drop)
    }

    /// From now on the path between router and client loses one packet in a hundred of each direction
    /// and family, and one in twenty is overtaken by others.
    pub fn worsen(&self) -> Result<()> {
        let (router, client) = (self.router.name(), self.ns.name());
        let [router_mac, client_mac] = SLOW_MACS;
        ip(
            router,
            &format!(
                "link add {SLOW} address {router_mac} type veth \
                 peer name {SLOW} address {client_mac} netns {client}\n\
                 link set {SLOW} up\n"
            ),
        )?;
        ip(client, &format!("link set {SLOW} up\n"))?;
        command::await_device(router, SLOW)?;
        // Of IPv6 the kernel takes no gateway of a network that another device has.
        let ends: [(_, [IpAddr; 2], _); 2] = [
            (
                &self.router,
                [self.v4.into(), SLOW_V6[1].into()],
                client_mac,
            ),
            (
                &self.ns,
                [address::outside_v4(1).into(), SLOW_V6[0].into()],
                router_mac,
            ),
        ];
        for (ns, gateway, mac) in ends {
            ns.sysctl(&[
                ("net/ipv4/conf/all/rp_filter", "0"),
                (&format!("net/ipv4/conf/{SLOW}/rp_filter"), "0"),
            ])?;
            slow_way(ns, gateway, mac)?;
        }
        let mark = format!("numgen inc mod 20 == 7 counter meta mark set {SLOW_MARK:#x}");
        let rules = |hook: &str, kind: &str, priority: &str, to: [&str; 2]| {
            let [v4, v6] = to;
            format!(
                "table inet weather {{
                    chain slow {{
                        type {kind} hook {hook} priority {priority};
                        ip daddr {v4} {mark}
                        ip6 daddr {v6} {mark}
                    }}
                }}\n"
            )
        };
        let networks = [address::OUTSIDE_V4, address::OUTSIDE_V6];
        let lossy = "table inet weather {
            chain lossy {
                type filter hook forward priority filter;
                meta l4proto { tcp, udp } numgen inc mod 100 == 50 counter drop
            }
        }\n";
        nft(
            &self.router,
            &rules("prerouting", "filter", "mangle", networks),
        )?;
        nft(&self.router, lossy)?;
        nft(
            &self.ns,
            &rules("output", "route", "mangle", ["0.0.0.0/0", "::/0"]),
        )
    }

    /// What became of packets since the weather turned, both directions together.
    pub fn damage(&self) -> Result<Damage> {
        let (lost, delayed) = (
            counted(&self.router, WEATHER, "lossy")?,
            counted(&self.router, WEATHER, "slow")?,
        );
        let requests = counted(&self.ns, WEATHER, "slow")?;
        Ok(Damage {
            lost,
            delayed: delayed + requests,
        })
    }

    /// Ends it.
    pub fn clear(&self) -> Result<()> {
        for ns in [&self.ns, &self.router] {
            nft(ns, "delete table inet weather\n")?;
            for family in FAMILIES {
                let rule = ["-n", ns.name(), family, "rule", "del", "table"];
                let table = SLOW_TABLE.to_string();
                command::run(Command::new("ip").args(rule).arg(table), "")?;
            }
        }
        ip(self.router.name(), &format!("link del {SLOW}\n")).map(drop)
    }
}

/// What is marked leaves by the slow link, at 8 Mbit/s.
fn slow_way(ns: &Namespace, gateways: [IpAddr; 2], mac: &str) -> Result<()> {
    for (gateway, family) in gateways.into_iter().zip(FAMILIES) {
        let run = |words: &str| {
            let mut command = Command::new("ip");
            command.args(["-n", ns.name(), family]);
            command::run(command.args(words.split(' ')), "")
        };
        run(&format!(
            "neigh replace {gateway} lladdr {mac} dev {SLOW} nud permanent"
        ))?;
        run(&format!("rule add fwmark {SLOW_MARK} table {SLOW_TABLE}"))?;
        let onlink = if gateway.is_ipv4() { " onlink" } else { "" };
        run(&format!(
            "route add default via {gateway} dev {SLOW} table {SLOW_TABLE}{onlink}"
        ))?;
    }
    let mut tc = Command::new("tc");
    tc.args(["-n", ns.name(), "qdisc", "add", "dev", SLOW, "root"]);
    tc.args(["tbf", "rate", "8mbit", "burst", "1600", "limit", "200000"]);
    command::run(&mut tc, "").map(drop)
}

/// Loads rules in nftables' language.
pub(super) fn nft(ns: &Namespace, rules: &str) -> Result<()> {
    command::run(ns.command("nft")?.args(["-f", "-"]), rules).map(drop)
}

/// Packets that the counters of a chain saw.
pub(super) fn counted(ns: &Namespace, table: &str, chain: &str) -> Result<u64> {
    let list = ["list", "chain", "inet", table, chain];
    let text = command::run(ns.command("nft")?.args(list), "")?;
    let mut words = text.split_whitespace();
    let mut sum = 0;
    while words.any(|word| word == "packets") {
        let count = words.next().context("a counter without a number")?;
        sum += count.parse::<u64>()?;
    }
    Ok(sum)
}
