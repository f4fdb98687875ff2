//! Table 11.14: which addresses take node ports.

use super::*;

fn select(networks: &[&str], local: &[&str]) -> BTreeSet<IpAddr> {
    let networks = networks.iter().map(|text| network(text)).collect();
    NodePortAddresses::in_networks(networks).select(&NodeView::default(), addresses(local))
}

/// `local` has addresses of both families, so that a family that nothing chooses is seen.
#[track_caller]
fn check(row: &str, networks: &[&str], local: &[&str], expected: &[&str]) {
    assert_eq!(select(networks, local), set(expected), "11.14.{row}");
}

#[test]
fn row_11_14_a_family_without_a_network_has_no_node_ports() {
    // ours: kube-proxy opens every address of the family that is not listed.
    let dual = ["10.20.30.51", "100.200.201.1", "2001:db8::1"];
    check("a", &["10.20.30.0/24"], &dual, &["10.20.30.51"]);
    let v6 = ["2001:db8::1", "10.20.30.51"];
    check("c", &["2001:db8::/64"], &v6, &["2001:db8::1"]);
    check("g, none", &[], &dual, &[]);
}

#[test]
fn row_11_14_an_empty_prefix_chooses_its_family_but_loopback() {
    // ours, as in kube-proxy's nftables mode: loopback takes no part.
    let v4 = ["10.20.30.51", "127.0.0.1", "2001:db8::1"];
    check("b", &["0.0.0.0/0"], &v4, &["10.20.30.51"]);
    let v6 = ["2001:db8::1", "::1", "10.20.30.51"];
    check(
        "c, loopback",
        &["2001:db8::/64", "::1/128"],
        &v6,
        &["2001:db8::1"],
    );
    check("d", &["::/0"], &v6, &["2001:db8::1"]);
    for networks in [["127.0.0.1/32"], ["127.0.0.0/8"]] {
        check("e", &networks, &["127.0.0.1", "127.0.1.1"], &[]);
    }
}

#[test]
fn row_11_14_networks_choose_what_is_in_them() {
    let two = ["10.20.30.0/24", "100.200.201.0/24"];
    let local = ["10.20.30.51", "100.200.201.1", "192.168.0.1"];
    check(
        "f, both match",
        &two,
        &local,
        &["10.20.30.51", "100.200.201.1"],
    );
    check("f, none matches", &two, &["192.168.0.1"], &[]);
    check(
        "h",
        &["1.2.3.0/24", "0.0.0.0/0"],
        &["1.2.3.4", "9.9.9.9"],
        &["1.2.3.4", "9.9.9.9"],
    );
    let dual = ["1.2.3.4", "9.9.9.9", "2001:db8::1", "2001:db8::2"];
    check(
        "i",
        &["0.0.0.0/0", "1.2.3.0/24", "2001:db8::1/128"],
        &dual,
        &["1.2.3.4", "9.9.9.9", "2001:db8::1"],
    );
    check(
        "j",
        &["::/0", "1.2.3.0/24", "2001:db8::1/128"],
        &dual,
        &["1.2.3.4", "2001:db8::1", "2001:db8::2"],
    );
}

#[test]
fn the_primary_addresses_are_the_first_of_each_family_and_no_other_while_they_are_unknown() {
    let local = addresses(&["192.168.0.2", "192.168.1.2", "2001:db8::1", "127.0.0.1"]);
    let select = |known: &[&str]| {
        let known = addresses(known);
        let node = NodeView {
            addresses: &known,
            ..NodeView::default()
        };
        NodePortAddresses::default().select(&node, local.clone())
    };
    let both = set(&["192.168.0.2", "2001:db8::1"]);
    assert_eq!(select(&["192.168.0.2", "2001:db8::1", "192.168.1.2"]), both);
    // ours: kube-proxy opens every IPv6 address of an IPv4-only node, and all of an unknown one.
    assert_eq!(select(&["192.168.0.2"]), set(&["192.168.0.2"]));
    assert_eq!(select(&[]), set(&[]));
    assert_eq!(select(&["127.0.0.1"]), set(&[]));
    // An address that no device has yet is chosen once one has it.
    assert_eq!(select(&["192.168.7.7"]), set(&[]));
}

#[test]
fn the_table_has_every_local_address_and_marks_those_that_take_node_ports() {
    let local = addresses(&["192.168.0.2", "192.168.1.2"]);
    let chosen = set(&["192.168.1.2"]);
    let entries: Vec<_> = crate::plan::node_ports::table(local, &chosen)
        .map(|(key, value)| (value.belongs_to(key), value.takes_node_ports()))
        .collect();
    assert_eq!(entries, [(true, false), (true, true)]);
}
