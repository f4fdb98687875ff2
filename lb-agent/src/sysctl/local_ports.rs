//! The ports that flows get which leave with an address of this node, and who else takes ports from
//! among them.
//!
//! An answer to such a port is taken for a flow's. The host's own connections get their ports from
//! `ip_local_port_range`, which normally begins above; where it does not, a process of the host may be
//! given the port of a flow a moment later, and one of the two loses its answers. A listener is no
//! danger, since each choice of a port asks the host for sockets, but makes the range smaller.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use lb_common::lookup::{OWN_PORTS, OWN_PORTS_FROM, is_own_port};

/// How many ports may be taken by listeners before it is worth a word: about one of fourteen.
const MANY: usize = 2048;

/// One line for each thing that takes ports from among those of flows; `proc_sys` is normally
/// `/proc/sys`, `sockets` `/proc/net`. What cannot be read is taken to be as it normally is.
pub fn conflicts(proc_sys: &Path, sockets: &Path) -> Vec<String> {
    let ipv4 = |name: &str| fs::read_to_string(proc_sys.join("net/ipv4").join(name));
    let range = ipv4("ip_local_port_range").unwrap_or_default();
    let reserved = ipv4("ip_local_reserved_ports").unwrap_or_default();
    let tables = ["tcp", "tcp6", "udp", "udp6"].map(|name| fs::read_to_string(sockets.join(name)));
    let taken: BTreeSet<u16> = tables
        .iter()
        .flatten()
        .flat_map(|table| listeners(table))
        .collect();
    let (first, last) = (OWN_PORTS_FROM, OWN_PORTS_FROM + OWN_PORTS - 1);
    let mut conflicts = Vec::new();
    let shared = shared(&range, &reserved);
    if shared > 0 {
        conflicts.push(format!(
            "net.ipv4.ip_local_port_range ({}) shares {shared} ports with {first} to {last}, from which \
             flows get theirs that leave with an address of this node: connections of the host may lose \
             their answers; let it begin at {} or later, or reserve the ports \
             (net.ipv4.ip_local_reserved_ports)",
            range.trim().replace('\t', " "),
            last + 1,
        ));
    }
    if taken.len() >= MANY {
        conflicts.push(format!(
            "listeners of this host hold {} of the {OWN_PORTS} ports ({first} to {last}) from which flows \
             get theirs that leave with an address of this node: so many fewer flows to one backend fit",
            taken.len(),
        ));
    }
    conflicts
}

/// How many ports of flows the host gives to its own connections: those of `range`, two numbers, but
/// not those of `reserved`, numbers and ranges with commas between.
fn shared(range: &str, reserved: &str) -> usize {
    let mut ends = range.split_whitespace().map(str::parse::<u16>);
    let (Some(Ok(first)), Some(Ok(last))) = (ends.next(), ends.next()) else {
        return 0;
    };
    let parts = reserved.trim().split(',').filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?)
    });
    let kept: Vec<_> = parts.collect();
    let is_kept = |port: &u16| kept.iter().any(|part| part.contains(port));
    (first..=last)
        .filter(|port| is_own_port(*port) && !is_kept(port))
        .count()
}

/// The ports of flows at which a table of `/proc/net` has listeners: TCP sockets in state 0A, UDP sockets
/// that are not connected (07).
fn listeners(table: &str) -> impl Iterator<Item = u16> {
    table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (_, port) = fields.next()?.rsplit_once(':')?;
        let state = fields.nth(1)?;
        let port = u16::from_str_radix(port, 16).ok()?;
        (matches!(state, "0A" | "07") && is_own_port(port)).then_some(port)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_the_host_gives_away_itself_are_counted() {
        for (range, reserved, expected) in [
            ("32768\t60999\n", "\n", 0),
            ("30000 60999", "", 0),
            ("1024 65535", "", 28_976),
            ("29000 60999", "", 1000),
            ("29000 60999", "29000-29899,29950", 99),
            ("29000 60999", "29000-30000", 0),
            ("", "", 0),
        ] {
            assert_eq!(shared(range, reserved), expected, "{range:?} {reserved:?}");
        }
    }

    #[test]
    fn listeners_among_the_ports_of_flows_are_found() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue\n\
             0: 00000000:1F90 00000000:0000 0A 00000000:00000000\n\
             1: 0100007F:2710 0100007F:0050 01 00000000:00000000\n\
             2: 00000000:0016 00000000:0000 0A 00000000:00000000\n\
             3: 00000000000000000000000000000000:2711 0000:0000 07 0:0\n";
        assert_eq!(listeners(table).collect::<Vec<_>>(), [8080, 10_001]);
    }

    #[test]
    fn what_conflicts_is_said_with_what_to_do_and_an_ordinary_host_gets_no_word() {
        let root = tempfile::tempdir().unwrap();
        let ipv4 = root.path().join("net/ipv4");
        fs::create_dir_all(&ipv4).unwrap();
        let said = || conflicts(root.path(), root.path());
        assert_eq!(said(), [""; 0]);
        fs::write(ipv4.join("ip_local_port_range"), "32768\t60999\n").unwrap();
        assert_eq!(said(), [""; 0]);
        fs::write(ipv4.join("ip_local_port_range"), "10000\t60999\n").unwrap();
        let [line] = &said()[..] else {
            panic!("{:?}", said())
        };
        assert!(line.contains("(10000 60999) shares 20000 ports"), "{line}");
        assert!(line.contains("begin at 30000"), "{line}");
    }
}
