//! Answers over real sockets, byte for byte.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::time::Duration;

use super::service_health::{HealthKey, HealthPort};
use super::*;
use crate::clock::Moment;
use crate::model::name::ObjectName;

mod rows;

const DEADLINE: Duration = Duration::from_secs(20);

/// An address that nobody listens on now.
fn free(ip: IpAddr) -> SocketAddr {
    TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap()
}

fn loopback() -> SocketAddr {
    free(Ipv4Addr::LOCALHOST.into())
}

fn start(settings: &OutsideSettings) -> Outside {
    let directory = tempfile::tempdir().unwrap();
    Outside::start(settings, PinPaths::new(directory.path()), false).unwrap()
}

#[track_caller]
fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let begun = clock::instant();
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(begun.elapsed() < DEADLINE, "never happened: {what}");
        std::thread::yield_now();
    }
}

/// The whole answer, headers included; `None` where nobody listens.
fn ask(address: SocketAddr, method: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

#[track_caller]
fn get(address: SocketAddr, path: &str) -> String {
    eventually("an answer", || ask(address, "GET", path))
}

/// The answer without the header that is another every second.
fn without_date(answer: &str) -> String {
    let lines = answer.split("\r\n");
    let kept: Vec<_> = lines.filter(|line| !line.starts_with("date: ")).collect();
    kept.join("\r\n")
}

/// `text` with every time replaced by `T`.
fn without_times(text: &str) -> String {
    let mut parts = text.split("\":\"2");
    let mut result = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (_, rest) = part.split_once('"').unwrap();
        result.push_str("\":\"T\"");
        result.push_str(rest);
    }
    result
}

#[test]
fn health_is_answered_byte_for_byte_but_for_the_times() {
    let address = loopback();
    let outside = start(&OutsideSettings {
        health: Some(address),
        ..OutsideSettings::default()
    });
    outside.update_health(|health| health.updated(IpFamily::V4, clock::moment()));
    let body = "{\"lastUpdated\":\"T\",\"currentTime\":\"T\",\"nodeEligible\":true,\
                \"healthy\":true,\"status\":{\"IPv4\":{\"lastUpdated\":\"T\",\"healthy\":true}}}";
    let answer = get(address, "/healthz");
    let (head, answered) = answer.split_once("\r\n\r\n").unwrap();
    assert_eq!(without_times(answered), body);
    assert_eq!(
        without_date(head),
        format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
             x-content-type-options: nosniff\r\ncontent-length: {}\r\nconnection: close",
            answered.len()
        )
    );
    let answer = get(address, "/livez");
    assert!(!answer.contains("nodeEligible"), "{answer}");
    // A change that waits for longer than the limit.
    outside.update_health(|health| {
        health.queued(IpFamily::V4, Moment::default());
    });
    assert!(get(address, "/healthz").starts_with("HTTP/1.1 503 Service Unavailable\r\n"));
    assert!(get(address, "/livez").starts_with("HTTP/1.1 503 Service Unavailable\r\n"));
    assert!(get(address, "/").ends_with("\r\n\r\n404 page not found\n"));
}

#[test]
fn an_address_that_is_taken_is_said_once_and_tried_again() {
    let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = holder.local_addr().unwrap();
    let outside = start(&OutsideSettings {
        health: Some(address),
        ..OutsideSettings::default()
    });
    let report = eventually("a report", || outside.reports().remove(&Subject::Health));
    assert!(report.contains(&address.to_string()), "{report}");
    assert!(report.contains("another process has it"), "{report}");
    assert_eq!(report.lines().count(), 1);
    assert_eq!(Subject::Health.reason(), "FailedToStartProxierHealthcheck");
    drop(holder);
    assert!(get(address, "/livez").starts_with("HTTP/1.1 200 OK\r\n"));
    assert_eq!(outside.reports(), Reports::new());
}

#[test]
fn hard_fail_makes_a_taken_address_an_error() {
    let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = holder.local_addr().unwrap();
    let settings = OutsideSettings {
        metrics: Some(address),
        hard_fail: true,
        ..OutsideSettings::default()
    };
    let directory = tempfile::tempdir().unwrap();
    let error = Outside::start(&settings, PinPaths::new(directory.path()), false).unwrap_err();
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[test]
fn a_server_moves_with_its_settings() {
    let (first, second) = (loopback(), loopback());
    let mut settings = OutsideSettings {
        metrics: Some(first),
        configz: serde_json::json!({"kubeproxy.config.k8s.io": {"mode": "nftables"}}),
        ..OutsideSettings::default()
    };
    let outside = start(&settings);
    assert!(get(first, "/healthz").ends_with("\r\n\r\nok"));
    let mode = get(first, "/proxyMode");
    assert!(mode.contains("\r\ncontent-type: text/plain; charset=utf-8\r\n"));
    assert!(mode.ends_with("\r\n\r\nnftables"), "{mode}");
    assert!(
        get(first, "/configz").ends_with("{\"kubeproxy.config.k8s.io\":{\"mode\":\"nftables\"}}")
    );
    settings.metrics = Some(second);
    outside.set_settings(&settings);
    assert!(get(second, "/healthz").ends_with("\r\n\r\nok"));
    eventually("the first to be closed", || {
        ask(first, "GET", "/healthz").is_none().then_some(())
    });
    settings.metrics = None;
    outside.set_settings(&settings);
    eventually("the second to be closed", || {
        ask(second, "GET", "/healthz").is_none().then_some(())
    });
}

fn key(family: IpFamily) -> HealthKey {
    HealthKey {
        service: ObjectName {
            namespace: "rec".into(),
            name: "lb-local".into(),
        },
        family,
    }
}

#[test]
fn health_check_node_ports_are_answered_at_any_path_and_follow_the_services() {
    let v4 = loopback();
    let v6 = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), v4.port());
    let outside = start(&OutsideSettings::default());
    outside.update_health(|health| health.updated(IpFamily::V4, clock::moment()));
    let addresses: BTreeMap<_, _> =
        [(IpFamily::V4, vec![v4.ip()]), (IpFamily::V6, vec![v6.ip()])].into();
    let ports = |port: u16, counts: [usize; 2]| -> HealthPorts {
        IpFamily::ALL
            .into_iter()
            .zip(counts)
            .map(|(family, local_endpoints)| {
                let value = HealthPort {
                    port,
                    local_endpoints,
                };
                (key(family), value)
            })
            .collect()
    };
    outside.set_node_ports(ports(v4.port(), [1, 0]), addresses.clone());
    let body = "{\n\t\"service\": {\n\t\t\"namespace\": \"rec\",\n\t\t\"name\": \"lb-local\"\n\t},\
                \n\t\"localEndpoints\": 1,\n\t\"serviceProxyHealthy\": true\n}";
    assert_eq!(
        without_date(&get(v4, "/any/path?at=all")),
        format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
             x-content-type-options: nosniff\r\nx-load-balancing-endpoint-weight: 1\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
    );
    let posted = ask(v4, "POST", "/").unwrap();
    assert!(posted.ends_with(body), "{posted}");
    // The other family has its own count, at the same port.
    let other = get(v6, "/healthz");
    assert!(other.starts_with("HTTP/1.1 503 "), "{other}");
    assert!(other.contains("x-load-balancing-endpoint-weight: 0\r\n"));
    // An unhealthy proxy takes no traffic, and its weight says why not.
    outside.set_node_ports(ports(v4.port(), [3, 0]), addresses.clone());
    outside.update_health(|health| health.queued(IpFamily::V4, Moment::default()));
    let unhealthy = get(v4, "/");
    assert!(unhealthy.starts_with("HTTP/1.1 503 "), "{unhealthy}");
    assert!(unhealthy.contains("x-load-balancing-endpoint-weight: 3\r\n"));
    assert!(unhealthy.contains("\"serviceProxyHealthy\": false"));
    // The Service moves to another port, then goes.
    let moved = loopback();
    outside.set_node_ports(ports(moved.port(), [1, 0]), addresses.clone());
    get(moved, "/");
    assert_eq!(ask(v4, "GET", "/"), None);
    outside.set_node_ports(HealthPorts::new(), addresses);
    eventually("the port to be closed", || {
        ask(moved, "GET", "/").is_none().then_some(())
    });
}

#[test]
fn a_health_check_node_port_that_is_taken_is_said_about_its_service() {
    let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = holder.local_addr().unwrap();
    let outside = start(&OutsideSettings::default());
    let value = HealthPort {
        port: address.port(),
        local_endpoints: 1,
    };
    outside.set_node_ports(
        [(key(IpFamily::V4), value)].into(),
        [(IpFamily::V4, vec![address.ip()])].into(),
    );
    let subject = Subject::Service(key(IpFamily::V4).service);
    let report = eventually("a report", || outside.reports().remove(&subject));
    assert!(report.contains("rec/lb-local"), "{report}");
    assert_eq!(subject.reason(), "FailedToStartServiceHealthcheck");
    drop(holder);
    get(address, "/");
    eventually("the report to go", || {
        outside.reports().is_empty().then_some(())
    });
}
