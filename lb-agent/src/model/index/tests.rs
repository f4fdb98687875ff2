//! The model joins, replaces and forgets what events say, whatever their order.

use std::net::Ipv4Addr;

use lb_common::flow::Protocol;
use proptest::prelude::*;

use super::*;
use crate::model::endpoint::{DEFAULT_WEIGHT, Endpoint, EndpointPort, Hints};
use crate::model::service::{ServicePort, TrafficPolicy};
use crate::model::uid::Uid;

fn name(name: &str) -> ObjectName {
    ObjectName {
        namespace: "default".into(),
        name: name.into(),
    }
}

fn service(service: &str, port: u16) -> Arc<Service> {
    Arc::new(Service {
        name: name(service),
        uid: Uid::default(),
        created_seconds: None,
        cluster_ips: vec![Ipv4Addr::new(10, 96, 0, 1).into()],
        external_ips: vec![],
        load_balancer_ips: vec![],
        source_ranges: vec![],
        ports: vec![ServicePort {
            name: String::new(),
            protocol: Protocol::Tcp,
            port,
            node_port: 0,
        }],
        affinity_seconds: None,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        health_check_node_port: 0,
    })
}

fn slice(slice: &str, service: &str, last_octet: u8) -> Arc<EndpointSlice> {
    Arc::new(EndpointSlice {
        name: name(slice),
        service: name(service),
        is_v6: false,
        endpoints: vec![Endpoint {
            address: Ipv4Addr::new(10, 244, 1, last_octet).into(),
            ready: true,
            serving: true,
            terminating: false,
            node: None,
            zone: None,
            zone_hints: Hints::default(),
            node_hints: Hints::default(),
            pod: None,
        }],
        ports: vec![EndpointPort {
            name: String::new(),
            protocol: Protocol::Tcp,
            port: 8080,
        }],
        weight: DEFAULT_WEIGHT,
        triggered_micros: None,
    })
}

fn node(node: &str, zone: &str) -> Arc<Node> {
    Arc::new(Node {
        name: node.into(),
        zone: Some(zone.into()),
        ..Node::default()
    })
}

#[test]
fn an_address_of_the_settings_comes_before_those_of_the_node_and_once() {
    let parse = |texts: &[&str]| -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    };
    let own = parse(&["10.0.0.9"])[0];
    let mut model = Model::new("node-a").with_node_address(Some(own));
    let mut applied = |addresses: &[&str]| {
        let mut node = Arc::unwrap_or_clone(node("node-a", "a"));
        node.addresses = parse(addresses);
        let is_news = model.apply(Event::NodeApplied(Arc::new(node))).node;
        (is_news, model.node().unwrap().addresses.clone())
    };
    let expected = parse(&["10.0.0.9", "192.0.2.1", "fd00::1"]);
    let node = ["192.0.2.1", "10.0.0.9", "fd00::1"];
    assert_eq!(applied(&node), (true, expected.clone()));
    assert_eq!(applied(&node), (false, expected), "the same again");
    assert_eq!(applied(&[]), (true, vec![own]));
}

fn listed() -> Model {
    let mut model = Model::new("node-a");
    let changed = model.apply_all(Kind::ALL.map(Event::Listed));
    assert!(changed.is_empty());
    model
}

#[track_caller]
fn expect_services(changed: Changed, services: &[&str]) {
    let Changed {
        services: found,
        node,
        cidrs,
    } = changed;
    assert_eq!(
        found,
        services.iter().map(|service| name(service)).collect()
    );
    assert!(!node && !cidrs);
}

/// All that can be asked of a model, to compare two.
fn contents(model: &Model) -> impl PartialEq + std::fmt::Debug + use<> {
    (
        model.services.clone(),
        model.slices.clone(),
        model.joined.clone(),
        model.node.clone(),
        model.cidrs.clone(),
        model.is_ready(),
    )
}

#[test]
fn a_slice_joins_its_service_in_either_order() {
    let mut model = listed();
    expect_services(
        model.apply(Event::SliceApplied(slice("web-1", "web", 1))),
        &["web"],
    );
    assert!(model.service(&name("web")).is_none());
    expect_services(
        model.apply(Event::ServiceApplied(service("web", 80))),
        &["web"],
    );
    expect_services(
        model.apply(Event::SliceApplied(slice("web-0", "web", 2))),
        &["web"],
    );
    let slices: Vec<_> = model
        .slices(&name("web"))
        .map(|slice| &*slice.name.name)
        .collect();
    assert_eq!(slices, ["web-0", "web-1"]);
    assert_eq!(model.slices(&name("other")).len(), 0);
}

#[test]
fn what_says_nothing_new_changes_nothing() {
    let mut model = listed();
    expect_services(
        model.apply(Event::ServiceApplied(service("web", 80))),
        &["web"],
    );
    expect_services(
        model.apply(Event::SliceApplied(slice("web-0", "web", 1))),
        &["web"],
    );
    expect_services(model.apply(Event::ServiceApplied(service("web", 80))), &[]);
    expect_services(
        model.apply(Event::SliceApplied(slice("web-0", "web", 1))),
        &[],
    );
    expect_services(model.apply(Event::ServiceRemoved(name("unknown"))), &[]);
    expect_services(model.apply(Event::SliceRemoved(name("unknown"))), &[]);
}

#[test]
fn a_slice_whose_label_changes_leaves_one_service_for_another() {
    let mut model = listed();
    expect_services(
        model.apply(Event::SliceApplied(slice("slice", "old", 1))),
        &["old"],
    );
    expect_services(
        model.apply(Event::SliceApplied(slice("slice", "new", 1))),
        &["new", "old"],
    );
    assert_eq!(model.slices(&name("old")).len(), 0);
    assert_eq!(model.slices(&name("new")).len(), 1);
}

#[test]
fn service_and_slices_may_go_in_either_order_and_leave_nothing() {
    for service_first in [true, false] {
        let mut model = listed();
        expect_services(
            model.apply(Event::ServiceApplied(service("web", 80))),
            &["web"],
        );
        expect_services(
            model.apply(Event::SliceApplied(slice("web-0", "web", 1))),
            &["web"],
        );
        let mut events = [
            Event::ServiceRemoved(name("web")),
            Event::SliceRemoved(name("web-0")),
        ];
        if !service_first {
            events.reverse();
        }
        for event in events {
            expect_services(model.apply(event), &["web"]);
        }
        assert_eq!(contents(&model), contents(&listed()));
    }
}

#[test]
fn it_is_ready_once_services_and_slices_are_listed_and_stays_so() {
    for kinds in [
        [Kind::Service, Kind::EndpointSlice],
        [Kind::EndpointSlice, Kind::Service],
    ] {
        let mut model = Model::new("node-a");
        let mut changed = model.apply(Event::Listed(Kind::Node));
        changed.merge(model.apply(Event::Listed(kinds[0])));
        assert!(!model.is_ready());
        changed.merge(model.apply(Event::Listed(kinds[1])));
        assert!(model.is_ready());
        changed.merge(model.apply(Event::Restarted(kinds[0])));
        assert!(model.is_ready());
        assert!(changed.is_empty());
    }
}

#[test]
fn a_new_list_deletes_only_when_services_and_slices_are_both_complete() {
    let mut model = listed();
    let before = model.apply_all([
        Event::ServiceApplied(service("kept", 80)),
        Event::ServiceApplied(service("gone", 80)),
        Event::ServiceApplied(service("told", 80)),
        Event::SliceApplied(slice("kept-0", "kept", 1)),
        Event::SliceApplied(slice("gone-0", "gone", 2)),
    ]);
    assert_eq!(before.services.len(), 3);
    let during = model.apply_all([
        Event::Restarted(Kind::Service),
        Event::Restarted(Kind::EndpointSlice),
        Event::ServiceApplied(service("kept", 80)),
        Event::ServiceApplied(service("told", 80)),
        Event::Listed(Kind::Service),
        Event::ServiceRemoved(name("told")),
        Event::SliceApplied(slice("kept-0", "kept", 1)),
    ]);
    assert!(during.is_empty());
    assert_eq!(model.services().len(), 3);
    expect_services(
        model.apply(Event::Listed(Kind::EndpointSlice)),
        &["gone", "told"],
    );
    let left: Vec<_> = model
        .services()
        .map(|service| &*service.name.name)
        .collect();
    assert_eq!(left, ["kept"]);
    assert_eq!(model.slices(&name("gone")).len(), 0);
}

#[test]
fn what_is_removed_and_comes_back_during_a_list_stays() {
    let mut model = listed();
    expect_services(
        model.apply(Event::ServiceApplied(service("web", 80))),
        &["web"],
    );
    let changed = model.apply_all([
        Event::Restarted(Kind::Service),
        Event::ServiceRemoved(name("web")),
        Event::ServiceApplied(service("web", 80)),
        Event::Listed(Kind::Service),
    ]);
    assert!(changed.is_empty());
    assert!(model.service(&name("web")).is_some());
}

#[test]
fn only_its_own_node_concerns_it() {
    let mut model = listed();
    assert!(
        model
            .apply(Event::NodeApplied(node("node-b", "z")))
            .is_empty()
    );
    assert!(model.apply(Event::NodeApplied(node("node-a", "z"))).node);
    assert!(
        model
            .apply(Event::NodeApplied(node("node-a", "z")))
            .is_empty()
    );
    assert!(model.apply(Event::NodeRemoved("node-b".into())).is_empty());
    assert!(model.apply(Event::Restarted(Kind::Node)).is_empty());
    assert!(model.apply(Event::NodeRemoved("node-a".into())).is_empty());
    assert!(model.node().is_some());
    assert!(model.apply(Event::Listed(Kind::Node)).node);
    assert!(model.node().is_none());
}

#[test]
fn service_networks_are_replaced_as_a_whole() {
    let mut model = listed();
    let cidrs = vec![(Ipv4Addr::new(10, 96, 0, 0).into(), 16)];
    assert!(model.apply(Event::ServiceCidrs(cidrs.clone())).cidrs);
    assert!(model.apply(Event::ServiceCidrs(cidrs.clone())).is_empty());
    assert_eq!(model.service_cidrs(), cidrs);
}

/// A cluster: per Service its port if there is one, per slice its Service and an address.
#[derive(Clone, Debug)]
struct Cluster {
    services: BTreeMap<u8, u16>,
    slices: BTreeMap<u8, (u8, u8)>,
}

impl Cluster {
    fn events(&self) -> Vec<Event> {
        let services = self.services.iter().map(|(index, port)| {
            Event::ServiceApplied(service(&format!("service-{index}"), *port))
        });
        let slices = self.slices.iter().map(|(index, (owner, address))| {
            let owner = format!("service-{owner}");
            Event::SliceApplied(slice(&format!("slice-{index}"), &owner, *address))
        });
        services.chain(slices).collect()
    }

    fn model(&self) -> Model {
        let mut model = listed();
        let changed = model.apply_all(self.events());
        assert_eq!(
            changed.is_empty(),
            self.services.is_empty() && self.slices.is_empty()
        );
        model
    }
}

fn cluster() -> impl Strategy<Value = Cluster> {
    let services = proptest::collection::btree_map(0..6_u8, 1..4_u16, 0..6);
    let slices = proptest::collection::btree_map(0..8_u8, (0..6_u8, 1..4_u8), 0..8);
    (services, slices).prop_map(|(services, slices)| Cluster { services, slices })
}

/// What this thread has computed so far.
fn processor_time() -> std::time::Duration {
    use rustix::time::{ClockId, clock_gettime};

    let time = clock_gettime(ClockId::ThreadCPUTime);
    std::time::Duration::new(
        time.tv_sec.unsigned_abs(),
        u32::try_from(time.tv_nsec).unwrap(),
    )
}

#[test]
fn ten_times_the_events_take_about_ten_times_as_long() {
    let time = |count: u32| {
        let events: Vec<_> = (0..count)
            .map(|index| Event::SliceApplied(slice("x", &format!("service-{index:05}"), 1)))
            .collect();
        let (mut model, start) = (Model::new("node-a"), processor_time());
        let changed = model.apply_all(events);
        assert_eq!(changed.services.len(), usize::try_from(count).unwrap());
        processor_time().saturating_sub(start)
    };
    let (few, many) = (time(800), time(8_000));
    assert!(many < few * 40, "800: {few:?}, 8 000: {many:?}");
}

#[test]
fn addresses_of_devices_concern_the_services_that_claim_them_when_they_come_and_go() {
    let claimed = IpAddr::from([192, 0, 2, 7]);
    let mut model = listed();
    let claiming = Service {
        external_ips: vec![claimed],
        ..Service::clone(&service("claiming", 80))
    };
    let services = [Arc::new(claiming), service("other", 81)];
    drop(model.apply_all(services.map(Event::ServiceApplied)));
    let set = |model: &mut Model, addresses: &[IpAddr]| {
        let changed = model.set_device_addresses(addresses.to_vec());
        changed.services.into_iter().collect::<Vec<_>>()
    };
    let other = IpAddr::from([192, 0, 2, 1]);
    assert_eq!(set(&mut model, &[other]), []);
    assert_eq!(set(&mut model, &[other, claimed]), [name("claiming")]);
    assert_eq!(set(&mut model, &[claimed, other, claimed]), []);
    assert_eq!(set(&mut model, &[]), [name("claiming")]);
}

proptest! {
    #[test]
    fn any_order_of_the_same_objects_gives_the_same_model(
        (events, shuffled) in cluster().prop_flat_map(|cluster| {
            let events = cluster.events();
            (Just(events.clone()), Just(events).prop_shuffle())
        })
    ) {
        let (mut ordered, mut other) = (Model::new("node-a"), Model::new("node-a"));
        let lists = Kind::ALL.map(Event::Listed);
        let changed = ordered.apply_all(events.into_iter().chain(lists.clone()));
        prop_assert_eq!(changed, other.apply_all(lists.into_iter().chain(shuffled)));
        prop_assert_eq!(contents(&ordered), contents(&other));
    }

    #[test]
    fn a_new_list_is_the_same_as_a_model_of_only_that_list(
        before in cluster(),
        after in cluster(),
        kinds in Just([Kind::Service, Kind::EndpointSlice]).prop_shuffle(),
    ) {
        let mut model = before.model();
        let mut changed = model.apply_all(kinds.map(Event::Restarted));
        changed.merge(model.apply_all(after.events()));
        changed.merge(model.apply_all(kinds.map(Event::Listed)));
        prop_assert_eq!(contents(&model), contents(&after.model()));
        let unchanged = contents(&before.model()) == contents(&after.model());
        prop_assert!(changed.is_empty() || !unchanged);
    }

    #[test]
    fn events_one_by_one_lead_from_any_cluster_to_any_other(
        before in cluster(),
        after in cluster(),
    ) {
        let mut model = before.model();
        let gone_services = before.services.keys().filter(|it| !after.services.contains_key(it));
        let gone_slices = before.slices.keys().filter(|it| !after.slices.contains_key(it));
        let events: Vec<_> = gone_services
            .map(|index| Event::ServiceRemoved(name(&format!("service-{index}"))))
            .chain(gone_slices.map(|index| Event::SliceRemoved(name(&format!("slice-{index}")))))
            .chain(after.events())
            .collect();
        let changed = model.apply_all(events);
        prop_assert_eq!(contents(&model), contents(&after.model()));
        let unchanged = contents(&before.model()) == contents(&after.model());
        prop_assert_eq!(changed.is_empty(), unchanged);
    }
}
