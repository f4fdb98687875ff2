//! kube-proxy's table of health, row by row, and every byte of the answers.

use super::*;

const LIMIT: Duration = Duration::from_secs(10);

/// The moment so many seconds after the start of the test.
fn at(seconds: u64) -> Moment {
    Moment {
        monotonic: Duration::from_secs(seconds),
        unix: Duration::from_secs(1_790_000_000 + seconds),
    }
}

fn both_updated(seconds: u64) -> ProxyHealth {
    let mut health = ProxyHealth::new(LIMIT, true);
    health.node_seen(&Node::default());
    for family in IpFamily::ALL {
        health.updated(family, at(seconds));
    }
    health
}

#[track_caller]
fn check(health: &ProxyHealth, seconds: u64, healthz: u16, livez: u16) {
    let status = |question| health.answer(question, at(seconds)).status;
    assert_eq!(status(Question::Healthz), healthz, "/healthz");
    assert_eq!(status(Question::Livez), livez, "/livez");
}

#[test]
fn before_the_first_sync_it_lives_and_is_not_healthy() {
    let mut health = ProxyHealth::new(LIMIT, true);
    health.node_seen(&Node::default());
    check(&health, 0, 503, 200);
    // However long it takes.
    health.queued(IpFamily::V4, at(0));
    check(&health, 1000, 503, 200);
    assert_eq!(
        health.answer(Question::Healthz, at(0)).body,
        "{\"lastUpdated\":\"0001-01-01T00:00:00Z\",\"currentTime\":\"2026-09-21T14:13:20Z\",\
         \"nodeEligible\":true,\"healthy\":false}"
    );
    assert_eq!(
        health.answer(Question::Livez, at(0)).body,
        "{\"lastUpdated\":\"2026-09-21T14:13:20Z\",\"currentTime\":\"2026-09-21T14:13:20Z\",\
         \"healthy\":true}"
    );
}

#[test]
fn nothing_to_do_is_healthy() {
    let health = both_updated(0);
    check(&health, 0, 200, 200);
    check(&health, 25, 200, 200);
    assert_eq!(
        health.answer(Question::Healthz, at(25)).body,
        "{\"lastUpdated\":\"2026-09-21T14:13:45Z\",\"currentTime\":\"2026-09-21T14:13:45Z\",\
         \"nodeEligible\":true,\"healthy\":true,\"status\":{\
         \"IPv4\":{\"lastUpdated\":\"2026-09-21T14:13:20Z\",\"healthy\":true},\
         \"IPv6\":{\"lastUpdated\":\"2026-09-21T14:13:20Z\",\"healthy\":true}}}"
    );
}

#[test]
fn a_family_that_lags_makes_the_node_unhealthy_and_is_named() {
    let mut health = both_updated(0);
    health.queued(IpFamily::V4, at(0));
    check(&health, 9, 200, 200);
    check(&health, 25, 503, 503);
    assert_eq!(
        health.answer(Question::Livez, at(25)).body,
        "{\"lastUpdated\":\"2026-09-21T14:13:20Z\",\"currentTime\":\"2026-09-21T14:13:45Z\",\
         \"healthy\":false,\"status\":{\
         \"IPv4\":{\"lastUpdated\":\"2026-09-21T14:13:20Z\",\"healthy\":false},\
         \"IPv6\":{\"lastUpdated\":\"2026-09-21T14:13:20Z\",\"healthy\":true}}}"
    );
}

#[test]
fn a_familys_changes_are_settled_by_its_own_updates_only() {
    let mut health = both_updated(0);
    health.queued(IpFamily::V6, at(0));
    check(&health, 25, 503, 503);
    health.updated(IpFamily::V6, at(25));
    check(&health, 25, 200, 200);
    for family in IpFamily::ALL {
        health.queued(family, at(25));
    }
    check(&health, 50, 503, 503);
    health.updated(IpFamily::V4, at(50));
    check(&health, 50, 503, 503);
    health.updated(IpFamily::V6, at(50));
    check(&health, 50, 200, 200);
    // Queued for IPv4, updated for IPv6.
    health.queued(IpFamily::V4, at(50));
    health.updated(IpFamily::V6, at(55));
    check(&health, 61, 503, 503);
}

#[test]
fn the_oldest_change_counts_not_the_newest() {
    let mut health = both_updated(0);
    health.queued(IpFamily::V4, at(0));
    health.queued(IpFamily::V4, at(9));
    check(&health, 10, 503, 503);
}

#[test]
fn a_node_that_is_about_to_go_is_not_healthy_but_lives() {
    let mut health = both_updated(0);
    let tainted = |taint: &str| Node {
        taints: vec![taint.to_owned()],
        ..Node::default()
    };
    health.node_seen(&tainted("other"));
    check(&health, 0, 200, 200);
    health.node_seen(&tainted(TO_BE_DELETED));
    check(&health, 0, 503, 200);
    // The tables are well: only the Node is not.
    assert!(
        health
            .answer(Question::Healthz, at(0))
            .body
            .contains("\"nodeEligible\":false,\"healthy\":true,")
    );
    health.node_seen(&Node::default());
    check(&health, 0, 200, 200);
    health.node_seen(&Node {
        is_deleting: true,
        ..Node::default()
    });
    check(&health, 0, 503, 200);
}

#[test]
fn a_node_that_was_never_seen_takes_no_traffic_where_there_should_be_one() {
    for (is_required, healthz) in [(true, 503), (false, 200)] {
        let mut health = ProxyHealth::new(LIMIT, is_required);
        health.updated(IpFamily::V4, at(0));
        check(&health, 0, healthz, 200);
    }
}

#[test]
fn times_have_as_many_digits_as_they_need() {
    let with = |nanos| {
        time(Some(Moment {
            monotonic: Duration::ZERO,
            unix: Duration::new(1_790_000_000, nanos),
        }))
    };
    assert_eq!(with(0), "2026-09-21T14:13:20Z");
    assert_eq!(with(120_000_000), "2026-09-21T14:13:20.12Z");
    assert_eq!(with(1), "2026-09-21T14:13:20.000000001Z");
}
