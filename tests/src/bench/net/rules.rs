//! The rules that kube-proxy would load, for as many services as are asked for.
//!
//! **nftables** is as kube-proxy's own tables in `fixtures/recordings/kube-proxy`: the hooks, the
//! sets, one verdict map for all service addresses and a chain for each service, which picks an
//! endpoint by `numgen` from a map; node ports by a map of their own and a chain that marks for
//! masquerading. **iptables** is kube-proxy's `KUBE-SERVICES`, one rule for each service, searched
//! from the top; `KUBE-SVC-…` with `statistic` and `KUBE-SEP-…` with the translation; node ports last,
//! by `KUBE-NODEPORTS` and `KUBE-EXT-…`. The Services that are dialled are in the middle of it.
//!
//! Services beside them have two endpoints each, on addresses of nobody.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{
    client::Ports,
    server::{ECHO, GREET, SINK},
    site::NODE,
    way::{Backends, LOCAL, REMOTE},
};

/// The ports of the Services that are dialled.
pub(super) const PORTS: Ports = Ports {
    greet: 80,
    echo: 81,
    sink: 82,
};
/// The node ports of the one whose endpoints are on another node.
pub(super) const NODE_PORTS: Ports = Ports {
    greet: 30_080,
    echo: 30_081,
    sink: 30_082,
};
/// Protocol, port, target port and node port of each.
const DIALLED_PORTS: [(&str, u16, u16, u16); 4] = [
    ("tcp", PORTS.greet, GREET, NODE_PORTS.greet),
    ("udp", PORTS.greet, GREET, NODE_PORTS.greet),
    ("tcp", PORTS.echo, ECHO, NODE_PORTS.echo),
    ("tcp", PORTS.sink, SINK, NODE_PORTS.sink),
];

/// Rules for so many Services, those that are dialled included: they count as one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// How many.
    pub(super) services: u32,
    /// Whether these are the rules for IPv6.
    pub(super) is_v6: bool,
}

/// One port of a Service.
pub(super) struct ServicePort {
    /// A name of its own.
    pub(super) name: String,
    address: IpAddr,
    /// In small letters.
    pub(super) protocol: &'static str,
    /// What is dialled.
    pub(super) port: u16,
    /// What the endpoints listen at.
    pub(super) target_port: u16,
    endpoints: [IpAddr; 2],
    /// What is dialled at the node, if anything.
    pub(super) node_port: Option<u16>,
}

impl ServicePort {
    /// The ports of a Service that is dialled.
    pub(super) fn of(backends: &Backends, is_v6: bool) -> [Self; 4] {
        DIALLED_PORTS.map(|(protocol, port, target_port, node_port)| Self {
            name: format!("{}{protocol}{port}", backends.name),
            address: backends.dialled.of(is_v6),
            protocol,
            port,
            target_port,
            endpoints: backends.endpoints.map(|it| it.of(is_v6)),
            // The node has an IPv4 address alone.
            node_port: (backends.name == REMOTE.name && !is_v6).then_some(node_port),
        })
    }
}

impl Rules {
    /// Ports of all Services, those of the dialled ones in the middle.
    fn ports(self) -> Vec<ServicePort> {
        let others = self.services.saturating_sub(1);
        let address = |v4: u32, v6: u128| -> IpAddr {
            if self.is_v6 {
                Ipv6Addr::from_bits(v6).into()
            } else {
                Ipv4Addr::from_bits(v4).into()
            }
        };
        let other = |index: u32| ServicePort {
            name: format!("S{index:07}"),
            address: address(
                0x0a60_0100 + index,
                (0xfd00_0010_0096 << 80) + 0x100 + u128::from(index),
            ),
            protocol: "tcp",
            port: 80,
            target_port: 8080,
            endpoints: [0, 1].map(|member| {
                let number = index * 10 + member;
                address(
                    0x0a80_0000 + number,
                    (0xfd00_0010_0128 << 80) + u128::from(number),
                )
            }),
            node_port: None,
        };
        let dialled = [LOCAL, REMOTE].map(|it| ServicePort::of(&it, self.is_v6));
        let before = (0..others / 2).map(other);
        let after = (others / 2..others).map(other);
        before
            .chain(dialled.into_iter().flatten())
            .chain(after)
            .collect()
    }

    /// What `nft -f` loads.
    pub(super) fn nftables(self) -> String {
        let ports = self.ports();
        let mut addresses: Vec<IpAddr> = ports.iter().map(|port| port.address).collect();
        addresses.sort();
        addresses.dedup();
        let hairpins = ports.iter().flat_map(|it| {
            it.endpoints.map(|endpoint| {
                format!(
                    "{endpoint} . {endpoint} . {} . {}",
                    it.protocol, it.target_port
                )
            })
        });
        let node_ports = ports.iter().filter(|it| it.node_port.is_some());
        let is_with_node_ports = node_ports.clone().count() > 0;
        let nodes = is_with_node_ports.then(|| NODE.to_string());
        let mut text = String::from("table ip kube-proxy {\n");
        text += &set(
            "cluster-ips",
            "ipv4_addr",
            addresses.iter().map(IpAddr::to_string),
        );
        text += &set("nodeport-ips", "ipv4_addr", nodes.into_iter());
        text += &set(
            "hairpin-connections",
            "ipv4_addr . ipv4_addr . inet_proto . inet_service",
            hairpins,
        );
        text += NFTABLES_MAPS;
        for port in &ports {
            nftables_chains(port, &mut text);
        }
        let verdicts = ports.iter().map(|it| {
            format!(
                "{} . {} . {} : goto service-{}",
                it.address, it.protocol, it.port, it.name
            )
        });
        let kind = "ipv4_addr . inet_proto . inet_service : verdict";
        text += &block("map", "service-ips", kind, verdicts);
        let verdicts = node_ports.filter_map(|it| {
            let port = it.node_port?;
            Some(format!(
                "{} . {port} : goto external-{}",
                it.protocol, it.name
            ))
        });
        let kind = "inet_proto . inet_service : verdict";
        text += &block("map", "service-nodeports", kind, verdicts);
        text += NFTABLES_CHAINS;
        if self.is_v6 {
            for (v4, v6) in NFTABLES_V6 {
                text = text.replace(v4, v6);
            }
        }
        text
    }

    /// What `iptables-restore` loads: IPv4 only.
    pub(super) fn iptables(self) -> String {
        let ports = self.ports();
        let mut text = String::from(IPTABLES_HEAD);
        let mut rules = String::new();
        for port in &ports {
            let ServicePort {
                name,
                address,
                protocol,
                port: number,
                target_port,
                endpoints,
                node_port,
            } = port;
            let chain = format!("KUBE-SVC-{name}");
            // Writing to a string cannot fail.
            writeln!(text, ":{chain} - [0:0]").ok();
            let dialled = format!("-d {address}/32 -p {protocol} -m {protocol} --dport {number}");
            writeln!(rules, "-A KUBE-SERVICES {dialled} -j {chain}").ok();
            writeln!(
                rules,
                "-A {chain} ! -s 10.244.0.0/16 {dialled} -j KUBE-MARK-MASQ"
            )
            .ok();
            if let Some(node_port) = node_port {
                writeln!(text, ":KUBE-EXT-{name} - [0:0]").ok();
                write!(
                    rules,
                    "-A KUBE-NODEPORTS -p {protocol} -m {protocol} --dport {node_port} -j KUBE-EXT-{name}\n\
                     -A KUBE-EXT-{name} -j KUBE-MARK-MASQ\n\
                     -A KUBE-EXT-{name} -j {chain}\n"
                )
                .ok();
            }
            for (index, endpoint) in endpoints.iter().enumerate() {
                let own = format!("KUBE-SEP-{name}{index}");
                writeln!(text, ":{own} - [0:0]").ok();
                let chance = if index + 1 < endpoints.len() {
                    "-m statistic --mode random --probability 0.5 "
                } else {
                    ""
                };
                writeln!(rules, "-A {chain} {chance}-j {own}").ok();
                writeln!(rules, "-A {own} -s {endpoint}/32 -j KUBE-MARK-MASQ").ok();
                writeln!(
                    rules,
                    "-A {own} -p {protocol} -m {protocol} -j DNAT --to-destination {endpoint}:{target_port}"
                )
                .ok();
            }
        }
        text += IPTABLES_HOOKS;
        text + &rules + IPTABLES_NODE_PORTS + "COMMIT\n"
    }
}

/// A set of nftables.
fn set(name: &str, kind: &str, elements: impl Iterator<Item = String>) -> String {
    block("set", name, kind, elements)
}

/// A set or map of nftables, of which an empty one has no list.
fn block(what: &str, name: &str, kind: &str, elements: impl Iterator<Item = String>) -> String {
    let elements: Vec<String> = elements.collect();
    let list = if elements.is_empty() {
        String::new()
    } else {
        format!("\t\telements = {{ {} }}\n", elements.join(", "))
    };
    format!("\t{what} {name} {{\n\t\ttype {kind}\n{list}\t}}\n")
}

/// The chains of one port: who comes from outside is marked for masquerading first.
fn nftables_chains(port: &ServicePort, text: &mut String) {
    let endpoints: Vec<String> = port
        .endpoints
        .iter()
        .enumerate()
        .map(|(index, endpoint)| format!("{index} : {endpoint} . {}", port.target_port))
        .collect();
    // Writing to a string cannot fail.
    writeln!(
        text,
        "\tchain service-{} {{\n\t\tmeta l4proto {} dnat ip to numgen random mod {} map {{ {} }}\n\t}}",
        port.name,
        port.protocol,
        endpoints.len(),
        endpoints.join(", "),
    )
    .ok();
    if port.node_port.is_some() {
        writeln!(
            text,
            "\tchain external-{name} {{\n\t\tmeta mark set meta mark | 0x00004000\n\t\tgoto service-{name}\n\t}}",
            name = port.name,
        )
        .ok();
    }
}

/// What is another word for IPv6, as kube-proxy's table of that family has it.
const NFTABLES_V6: [(&str, &str); 7] = [
    ("table ip ", "table ip6 "),
    ("ipv4_addr", "ipv6_addr"),
    ("ip daddr", "ip6 daddr"),
    ("ip saddr", "ip6 saddr"),
    ("dnat ip to", "dnat ip6 to"),
    ("10.244.0.0/16", "fd00:10:244::/56"),
    ("10.96.0.0/16", "fd00:10:96::/112"),
];

const NFTABLES_MAPS: &str = "\
\tmap no-endpoint-services {
\t\ttype ipv4_addr . inet_proto . inet_service : verdict
\t}
\tmap no-endpoint-nodeports {
\t\ttype inet_proto . inet_service : verdict
\t}
\tmap firewall-ips {
\t\ttype ipv4_addr . inet_proto . inet_service : verdict
\t}
";

const NFTABLES_CHAINS: &str = "\
\tchain nodeport-endpoints-check {
\t\tip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports
\t}
\tchain service-endpoints-check {
\t\tip daddr . meta l4proto . th dport vmap @no-endpoint-services
\t}
\tchain firewall-check {
\t\tip daddr . meta l4proto . th dport vmap @firewall-ips
\t}
\tchain services {
\t\tip daddr @cluster-ips ip saddr != 10.244.0.0/16 meta mark set meta mark | 0x00004000
\t\tip daddr . meta l4proto . th dport vmap @service-ips
\t\tip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
\t}
\tchain masquerading {
\t\tmeta mark & 0x00004000 != 0x00000000 meta mark set meta mark ^ 0x00004000 masquerade fully-random
\t\tct status dnat ip saddr . ip daddr . meta l4proto . th dport @hairpin-connections masquerade fully-random
\t}
\tchain cluster-ips-check {
\t\tip daddr @cluster-ips reject
\t\tip daddr 10.96.0.0/16 drop
\t}
\tchain filter-prerouting-pre-dnat {
\t\ttype filter hook prerouting priority dstnat - 10; policy accept;
\t\tct state new jump firewall-check
\t}
\tchain filter-output-pre-dnat {
\t\ttype filter hook output priority -110; policy accept;
\t\tct state new jump firewall-check
\t}
\tchain filter-input {
\t\ttype filter hook input priority filter; policy accept;
\t\tct state new jump nodeport-endpoints-check
\t\tct state new jump service-endpoints-check
\t}
\tchain filter-forward {
\t\ttype filter hook forward priority filter; policy accept;
\t\tct state new jump service-endpoints-check
\t\tct state new jump cluster-ips-check
\t}
\tchain filter-output {
\t\ttype filter hook output priority filter; policy accept;
\t\tct state new jump service-endpoints-check
\t\tct state new jump cluster-ips-check
\t}
\tchain nat-prerouting {
\t\ttype nat hook prerouting priority dstnat; policy accept;
\t\tjump services
\t}
\tchain nat-output {
\t\ttype nat hook output priority -100; policy accept;
\t\tjump services
\t}
\tchain nat-postrouting {
\t\ttype nat hook postrouting priority srcnat; policy accept;
\t\tjump masquerading
\t}
}
";

const IPTABLES_HEAD: &str = "\
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
";

const IPTABLES_HOOKS: &str = "\
-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
";

/// kube-proxy's last rule of `KUBE-SERVICES`.
const IPTABLES_NODE_PORTS: &str =
    "-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::{Fate, Ruleset, Source};

    fn rules(services: u32) -> Rules {
        Rules {
            services,
            is_v6: false,
        }
    }

    /// Where a verdict of a map sends a packet, and where that should be.
    fn check(rules: &Ruleset, [map, element]: [&str; 2], source: Source, backends: [&str; 2]) {
        let verdict = &rules.maps[map][element];
        let fate = rules.follow(verdict, source).unwrap();
        let backends = backends.map(|backend| format!("{backend}:{GREET}"));
        assert_eq!(fate, Fate::To(backends.into()), "{element}");
    }

    #[test]
    fn the_nftables_rules_send_the_dialled_ports_to_the_backends() {
        let rules = Ruleset::parse(&rules(5).nftables()).unwrap();
        assert_eq!(rules.maps["service-ips"].len(), 4 + 2 * 4);
        let local = ["10.244.1.11", "10.244.1.12"];
        let remote = ["10.244.2.11", "10.244.2.12"];
        let service = "service-ips";
        check(
            &rules,
            [service, "10.96.0.10 . tcp . 80"],
            Source::Pod,
            local,
        );
        check(
            &rules,
            [service, "10.96.0.11 . udp . 80"],
            Source::Pod,
            remote,
        );
        let node_port = ["service-nodeports", "udp . 30080"];
        check(&rules, node_port, Source::Outside, remote);
    }

    #[test]
    fn the_rules_of_ipv6_speak_of_ipv6_alone() {
        let rules = Rules {
            services: 5,
            is_v6: true,
        };
        let text = rules.nftables();
        for word in ["ip daddr", "ip saddr", "ip to", "ipv4", "10.96", "10.244.1"] {
            assert!(!text.contains(word), "{word}");
        }
        let rules = Ruleset::parse(&text).unwrap();
        assert!(rules.maps["service-ips"].contains_key("fd00:10:96::10 . udp . 80"));
    }

    #[test]
    fn the_dialled_services_are_in_the_middle_of_the_iptables_rules() {
        let text = rules(1001).iptables();
        let rules: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("-A KUBE-SERVICES"))
            .collect();
        assert_eq!(rules.len(), 1000 + 2 * 4 + 1);
        assert!(rules[500].contains("10.96.0.10/32"), "{}", rules[500]);
    }
}
