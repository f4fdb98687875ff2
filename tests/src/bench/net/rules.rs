//! The rules that kube-proxy would load, for as many services as are asked for.
//!
//! **nftables** is as kube-proxy's own table in `fixtures/recordings/kube-proxy`: the hooks, the
//! sets, one verdict map for all service addresses and a chain for each service, which picks an
//! endpoint by `numgen` from a map. **iptables** is kube-proxy's `KUBE-SERVICES`, one rule for each
//! service, searched from the top; `KUBE-SVC-…` with `statistic` and `KUBE-SEP-…` with the
//! translation. The Service that is dialled is in the middle of it.
//!
//! Services beside it have two endpoints each, on addresses of nobody.

use std::{fmt::Write as _, fs, net::Ipv4Addr, path::Path};

use anyhow::{Context as _, Result};

use super::{
    client::Ports,
    server::{ECHO, GREET, SINK},
    site::{BACKENDS, DIALLED},
};

/// The ports of the Service that is dialled.
pub(super) const PORTS: Ports = Ports {
    greet: 80,
    echo: 81,
    sink: 82,
};
/// Protocol, port and target port of each.
const DIALLED_PORTS: [(&str, u16, u16); 4] = [
    ("tcp", PORTS.greet, GREET),
    ("udp", PORTS.greet, GREET),
    ("tcp", PORTS.echo, ECHO),
    ("tcp", PORTS.sink, SINK),
];

/// Rules for so many Services, the dialled one included.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// How many.
    pub(super) services: u32,
}

/// One port of a Service.
struct ServicePort {
    name: String,
    address: Ipv4Addr,
    protocol: &'static str,
    port: u16,
    target_port: u16,
    endpoints: [Ipv4Addr; 2],
}

impl Rules {
    /// Ports of all Services, those of the dialled one in the middle.
    fn ports(self) -> Vec<ServicePort> {
        let others = self.services.saturating_sub(1);
        let other = |index: u32| ServicePort {
            name: format!("S{index:07}"),
            address: Ipv4Addr::from_bits(0x0a60_0100 + index),
            protocol: "tcp",
            port: 80,
            target_port: 8080,
            endpoints: [0, 1].map(|member| Ipv4Addr::from_bits(0x0a80_0000 + index * 10 + member)),
        };
        let dialled = DIALLED_PORTS.map(|(protocol, port, target_port)| ServicePort {
            name: format!("DIAL{protocol}{port}"),
            address: DIALLED,
            protocol,
            port,
            target_port,
            endpoints: BACKENDS,
        });
        let before = (0..others / 2).map(other);
        let after = (others / 2..others).map(other);
        before.chain(dialled).chain(after).collect()
    }

    /// What `nft -f` loads.
    pub(super) fn nftables(self) -> String {
        let mut text = String::from("table ip kube-proxy {\n");
        let ports = self.ports();
        let mut addresses: Vec<Ipv4Addr> = ports.iter().map(|port| port.address).collect();
        addresses.sort();
        addresses.dedup();
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let verdicts: Vec<String> = ports
            .iter()
            .map(|it| {
                format!(
                    "{} . {} . {} : goto service-{}",
                    it.address, it.protocol, it.port, it.name
                )
            })
            .collect();
        let hairpins: Vec<String> = ports
            .iter()
            .flat_map(|it| {
                it.endpoints.map(|endpoint| {
                    format!(
                        "{endpoint} . {endpoint} . {} . {}",
                        it.protocol, it.target_port
                    )
                })
            })
            .collect();
        // Writing to a string cannot fail.
        write!(
            text,
            "\tset cluster-ips {{\n\t\ttype ipv4_addr\n\t\telements = {{ {} }}\n\t}}\n\
             \tset nodeport-ips {{\n\t\ttype ipv4_addr\n\t}}\n\
             \tset hairpin-connections {{\n\t\ttype ipv4_addr . ipv4_addr . inet_proto . inet_service\n\
             \t\telements = {{ {} }}\n\t}}\n",
            addresses.join(", "),
            hairpins.join(", "),
        )
        .ok();
        text += NFTABLES_MAPS;
        for port in &ports {
            let endpoints: Vec<String> = port
                .endpoints
                .iter()
                .enumerate()
                .map(|(index, endpoint)| format!("{index} : {endpoint} . {}", port.target_port))
                .collect();
            writeln!(
                text,
                "\tchain service-{} {{\n\t\tmeta l4proto {} dnat ip to numgen random mod {} map {{ {} }}\n\t}}",
                port.name,
                port.protocol,
                endpoints.len(),
                endpoints.join(", "),
            )
            .ok();
        }
        writeln!(
            text,
            "\tmap service-ips {{\n\t\ttype ipv4_addr . inet_proto . inet_service : verdict\n\
             \t\telements = {{ {} }}\n\t}}",
            verdicts.join(", ")
        )
        .ok();
        text + NFTABLES_CHAINS
    }

    /// What `iptables-restore` loads.
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
            } = port;
            let chain = format!("KUBE-SVC-{name}");
            writeln!(text, ":{chain} - [0:0]").ok();
            let dialled = format!("-d {address}/32 -p {protocol} -m {protocol} --dport {number}");
            writeln!(rules, "-A KUBE-SERVICES {dialled} -j {chain}").ok();
            writeln!(
                rules,
                "-A {chain} ! -s 10.244.0.0/16 {dialled} -j KUBE-MARK-MASQ"
            )
            .ok();
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
        text + &rules + "COMMIT\n"
    }
}

/// The dialled Service for our agent.
pub(super) fn write_manifest(directory: &Path) -> Result<()> {
    let ports = |is_service: bool| {
        let ports = DIALLED_PORTS.map(|(protocol, port, target)| {
            let (name, protocol) = (format!("{protocol}{port}"), protocol.to_uppercase());
            if is_service {
                format!(r#"{{"name":"{name}","protocol":"{protocol}","port":{port},"targetPort":{target}}}"#)
            } else {
                format!(r#"{{"name":"{name}","protocol":"{protocol}","port":{target}}}"#)
            }
        });
        ports.join(",")
    };
    let endpoints = BACKENDS.map(|it| format!(r#"{{"addresses":["{it}"],"nodeName":"bench"}}"#));
    let text = format!(
        r#"{{"apiVersion":"v1","kind":"List","items":[{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"dialled"}},"spec":{{"clusterIP":"{DIALLED}","clusterIPs":["{DIALLED}"],"ports":[{}]}}}},{{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{{"name":"dialled-1","labels":{{"kubernetes.io/service-name":"dialled"}}}},"addressType":"IPv4","ports":[{}],"endpoints":[{}]}}]}}"#,
        ports(true),
        ports(false),
        endpoints.join(",")
    );
    let path = directory.join("dialled.json");
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}

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
\tmap service-nodeports {
\t\ttype inet_proto . inet_service : verdict
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::{Fate, Ruleset, Source};

    #[test]
    fn the_nftables_rules_send_the_dialled_ports_to_the_backends() {
        let rules = Ruleset::parse(&Rules { services: 5 }.nftables()).unwrap();
        assert_eq!(rules.maps["service-ips"].len(), 4 + 4);
        let verdict = &rules.maps["service-ips"]["10.96.0.10 . tcp . 80"];
        let fate = rules.follow(verdict, Source::Pod).unwrap();
        let backends = BACKENDS.map(|backend| format!("{backend}:{GREET}"));
        assert_eq!(fate, Fate::To(backends.into()));
    }

    #[test]
    fn the_dialled_service_is_in_the_middle_of_the_iptables_rules() {
        let text = Rules { services: 1001 }.iptables();
        let rules: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("-A KUBE-SERVICES"))
            .collect();
        assert_eq!(rules.len(), 1000 + 4);
        assert!(rules[500].contains("10.96.0.10/32"), "{}", rules[500]);
    }
}
