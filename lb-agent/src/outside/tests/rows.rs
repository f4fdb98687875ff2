//! Table 11.13 of kube-proxy's own tests, over real sockets and byte for byte but for the times. Rows are
//! lettered in their order there; `ours:` marks what differs on purpose.

use super::super::addresses::listen_addresses;
use super::*;
use crate::model::node::Node;

/// A Service with its health-check node port and the count of endpoints on this node.
type Row = (&'static str, u16, usize);

fn told(rows: &[Row]) -> HealthPorts {
    let ports = rows.iter().map(|&(name, port, local_endpoints)| {
        let service = ObjectName {
            namespace: "a".into(),
            name: name.into(),
        };
        let key = HealthKey {
            service,
            family: IpFamily::V4,
        };
        let value = HealthPort {
            port,
            local_endpoints,
        };
        (key, value)
    });
    ports.collect()
}

/// A server whose proxy is healthy, and a way to tell it of Services at 127.0.0.1.
fn proxy() -> Outside {
    let outside = start(&OutsideSettings::default());
    outside.update_health(|health| health.updated(IpFamily::V4, clock::moment()));
    outside
}

fn tell(outside: &Outside, rows: &[Row]) {
    let addresses = [(IpFamily::V4, vec![Ipv4Addr::LOCALHOST.into()])];
    outside.set_node_ports(told(rows), addresses.into());
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)
}

/// The whole answer of a health-check node port.
fn answer((name, _, count): Row, is_healthy: bool) -> String {
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"a\",\n\t\t\"name\": \"{name}\"\n\t}},\n\t\
         \"localEndpoints\": {count},\n\t\"serviceProxyHealthy\": {is_healthy}\n}}"
    );
    let status = if count > 0 && is_healthy {
        "200 OK"
    } else {
        "503 Service Unavailable"
    };
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n\
         x-content-type-options: nosniff\r\nx-load-balancing-endpoint-weight: {count}\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[track_caller]
fn check(row: Row, is_healthy: bool) {
    let answered = without_date(&get(at(row.1), "/"));
    assert_eq!(answered, answer(row, is_healthy));
}

#[track_caller]
fn await_closed(port: u16) {
    eventually("the port to be closed", || {
        ask(at(port), "GET", "/").is_none().then_some(())
    });
}

#[test]
fn row_11_13_servers_are_open_as_long_as_their_services_and_tell_their_counts() {
    let outside = proxy();
    tell(&outside, &[]);
    let port = loopback().port();
    assert_eq!(ask(at(port), "GET", "/"), None, "11.13.a");
    for count in [0, 18, 0, 11, 0] {
        let row = ("b", port, count);
        tell(&outside, &[row]);
        check(row, true);
    }
    tell(&outside, &[]);
    await_closed(port);
}

#[test]
fn row_11_13_a_service_keeps_its_server_moves_it_comes_or_goes() {
    let outside = proxy();
    // All at once, so that no two are the same.
    let held = [(); 5].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let [one, two, three, moved, four] = held.map(|it| it.local_addr().unwrap().port());
    let before = [("nsn1", one, 9), ("nsn2", two, 3), ("nsn3", three, 7)];
    tell(&outside, &before);
    for row in before {
        check(row, true);
    }
    // Endpoints of nsn1 that come later are nobody's.
    let after = [("nsn2", two, 3), ("nsn3", moved, 0), ("nsn4", four, 0)];
    tell(&outside, &after);
    for row in after {
        check(row, true);
    }
    for port in [one, three] {
        await_closed(port);
    }
}

#[test]
fn row_11_13_an_unhealthy_proxy_takes_no_traffic_whatever_the_count() {
    let outside = proxy();
    let row = ("b", loopback().port(), 18);
    tell(&outside, &[row]);
    check(row, true);
    outside.update_health(|health| health.queued(IpFamily::V4, Moment::default()));
    check(row, false);
    outside.update_health(|health| health.updated(IpFamily::V4, clock::moment()));
    check(row, true);
}

#[test]
fn row_11_13_servers_are_at_the_addresses_of_node_ports_alone() {
    let outside = proxy();
    let row = ("b", loopback().port(), 1);
    let wanted = ["127.0.0.0/8".parse().unwrap()];
    let local = ["127.0.0.1", "192.0.2.1"].map(|it| it.parse().unwrap());
    let addresses = listen_addresses(&wanted, IpFamily::V4, &[], &local);
    outside.set_node_ports(told(&[row]), [(IpFamily::V4, addresses)].into());
    check(row, true);
    let other = SocketAddr::new(Ipv4Addr::new(127, 0, 0, 2).into(), row.1);
    assert_eq!(ask(other, "GET", "/"), None, "another address of this host");
}

/// A server of `/healthz` and `/livez` at that address.
fn health_server() -> (Outside, SocketAddr) {
    let address = loopback();
    let outside = start(&OutsideSettings {
        health: Some(address),
        ..OutsideSettings::default()
    });
    (outside, address)
}

/// The families' state in an answer.
fn families(states: &[(&str, bool)]) -> String {
    let states: Vec<_> = states
        .iter()
        .map(|(name, is_well)| {
            format!("\"{name}\":{{\"lastUpdated\":\"T\",\"healthy\":{is_well}}}")
        })
        .collect();
    format!("\"status\":{{{}}}}}", states.join(","))
}

/// Asks both paths, which must answer so but for the times.
#[track_caller]
fn check_health(address: SocketAddr, is_eligible: bool, states: &[(&str, bool)]) {
    let is_healthy = states.iter().all(|(_, is_well)| *is_well);
    for (path, eligible) in [
        ("/healthz", format!("\"nodeEligible\":{is_eligible},")),
        ("/livez", String::new()),
    ] {
        let is_ok = is_healthy && (is_eligible || path == "/livez");
        let status = if is_ok {
            "200 OK"
        } else {
            "503 Service Unavailable"
        };
        let answered = get(address, path);
        let (head, body) = answered.split_once("\r\n\r\n").unwrap();
        let expected = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n\
             x-content-type-options: nosniff\r\ncontent-length: {}\r\nconnection: close",
            body.len()
        );
        assert_eq!(without_date(head), expected, "{path}");
        let expected = format!(
            "{{\"lastUpdated\":\"T\",\"currentTime\":\"T\",{eligible}\"healthy\":{is_healthy},{}",
            families(states)
        );
        assert_eq!(without_times(body), expected, "{path}");
    }
}

#[test]
fn row_11_13_each_family_settles_its_own_changes() {
    let (outside, address) = health_server();
    let queue = |family| outside.update_health(|it| it.queued(family, Moment::default()));
    let update = |family| outside.update_health(|it| it.updated(family, clock::moment()));
    let check = |v4, v6| check_health(address, true, &[("IPv4", v4), ("IPv6", v6)]);
    for family in IpFamily::ALL {
        update(family);
    }
    check(true, true);
    queue(IpFamily::V4);
    check(false, true);
    for family in IpFamily::ALL {
        update(family);
    }
    check(true, true);
    queue(IpFamily::V6);
    check(true, false);
    update(IpFamily::V6);
    check(true, true);
    for family in IpFamily::ALL {
        queue(family);
    }
    check(false, false);
    // Queued for IPv4, updated for IPv6.
    update(IpFamily::V6);
    check(false, true);
    update(IpFamily::V4);
    check(true, true);
}

#[test]
fn row_11_13_a_node_that_is_about_to_go_is_drained_and_lives() {
    let (outside, address) = health_server();
    outside.update_health(|health| health.updated(IpFamily::V4, clock::moment()));
    let tainted = |key: &str| Node {
        taints: vec![key.to_owned()],
        ..Node::default()
    };
    let going = Node {
        is_deleting: true,
        ..Node::default()
    };
    for (node, is_eligible) in [
        (tainted("other"), true),
        (tainted(proxy_health::TO_BE_DELETED), false),
        (Node::default(), true),
        (going, false),
    ] {
        outside.update_health(|health| health.node_seen(&node));
        check_health(address, is_eligible, &[("IPv4", true)]);
    }
}

#[test]
fn row_11_13_before_the_first_sync_it_lives_and_takes_no_traffic() {
    let (outside, address) = health_server();
    outside.update_health(|health| health.node_seen(&Node::default()));
    // ours: kube-proxy says 200 here, for ever.
    let expected = "HTTP/1.1 503 Service Unavailable\r\n";
    assert!(get(address, "/healthz").starts_with(expected));
    assert!(get(address, "/livez").starts_with("HTTP/1.1 200 OK\r\n"));
}
