//! The names file against what a reader finds in it.

use std::net::IpAddr;

use super::*;
use crate::dataplane::Capacity;
use crate::dataplane::memory::Memory;
use crate::model::event::{Event, Kind};
use crate::model::index::Model;
use crate::plan::names::Names;
use crate::plan::tests::fixture::{endpoint, name, service, slice};

const CAPACITY: Capacity = Capacity {
    frontends: 64,
    services: 32,
    arena_words: 65_536,
    backends: 128,
    node_addresses: 64,
    source_ranges: 64,
};

struct Tested {
    model: Model,
    reconciler: Reconciler<Memory>,
    keeper: NamesKeeper,
}

impl Tested {
    fn new(path: PathBuf) -> Self {
        let mut model = Model::new("node-a");
        for kind in Kind::ALL {
            let _nothing = model.apply(Event::Listed(kind));
        }
        let mut reconciler = Reconciler::start(Memory::new(CAPACITY)).unwrap();
        reconciler.listed(&ModelObjects(&model));
        Self {
            model,
            reconciler,
            keeper: NamesKeeper::new(path),
        }
    }

    /// Takes in events, writes the file, and gives each service port's name with its endpoints'
    /// addresses and whether they have ids.
    async fn after(&mut self, events: Vec<Event>) -> Vec<(String, Vec<(IpAddr, bool)>)> {
        for name in self.model.apply_all(events).services {
            self.reconciler.changed(name);
        }
        let objects = ModelObjects(&self.model);
        self.reconciler.run(&objects).unwrap();
        self.keeper.begin(&mut self.reconciler, objects, true);
        self.keeper.finish().await.unwrap();
        let names = Names::read(&std::fs::read(&self.keeper.path).unwrap()).unwrap();
        let services = names.services.into_iter();
        services
            .map(|service| {
                let endpoints = service.endpoints.iter();
                let endpoints = endpoints.map(|it| (it.address, it.backend != 0)).collect();
                let is_shadowed = service.frontends.iter().any(|it| it.is_shadowed);
                let mark = if is_shadowed { " (shadowed)" } else { "" };
                (format!("{}{mark}", service.name), endpoints)
            })
            .collect()
    }
}

fn applied(service_name: &str, address: &str) -> Event {
    let mut service = service(service_name, &[address], &[("http", 80)]);
    // The first by name is the oldest.
    service.created_seconds = Some(service_name.bytes().next().unwrap().into());
    Event::ServiceApplied(Arc::new(service))
}

fn endpoints(service: &str, addresses: &[&str]) -> Event {
    let endpoints = addresses.iter().map(|address| endpoint(address));
    let slice = slice(
        &format!("{service}-4"),
        service,
        &[("http", 8080)],
        endpoints,
    );
    Event::SliceApplied(Arc::new(slice))
}

fn line(name: &str, addresses: &[&str]) -> (String, Vec<(IpAddr, bool)>) {
    let addresses = addresses.iter();
    let addresses = addresses.map(|it| (it.parse().unwrap(), true)).collect();
    (name.to_owned(), addresses)
}

#[tokio::test]
async fn changes_are_merged_into_the_file_in_the_order_of_names() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("names.json");
    let mut tested = Tested::new(path.clone());
    let all = vec![
        applied("b", "10.96.0.2"),
        endpoints("b", &["10.0.0.2"]),
        applied("d", "10.96.0.4"),
        endpoints("d", &["10.0.0.4", "10.0.0.5"]),
    ];
    let (b, d) = (
        line("b", &["10.0.0.2"]),
        line("d", &["10.0.0.4", "10.0.0.5"]),
    );
    assert_eq!(tested.after(all).await, [b.clone(), d.clone()]);
    let more = ["a", "c", "e"].map(|name| applied(name, &format!("10.96.1.{}", name.len())));
    let more = more.into_iter().take(1).collect();
    let a = line("a", &[]);
    assert_eq!(tested.after(more).await, [a.clone(), b, d.clone()]);
    let moved = vec![endpoints("b", &["10.0.0.3"])];
    let b = line("b", &["10.0.0.3"]);
    assert_eq!(tested.after(moved).await, [a.clone(), b, d.clone()]);
    let gone = vec![Event::ServiceRemoved(name("b"))];
    assert_eq!(tested.after(gone).await, [a.clone(), d.clone()]);
    let last = line("e", &[]);
    let at_the_end = vec![applied("e", "10.96.0.5")];
    assert_eq!(tested.after(at_the_end).await, [a, d, last]);

    // Another agent's file is not merged: it may name what is gone meanwhile.
    let mut again = Tested::new(path);
    let only = vec![applied("c", "10.96.0.3")];
    assert_eq!(again.after(only).await, [line("c", &[])]);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_service_that_gets_a_contested_frontend_back_is_named_anew() {
    let directory = tempfile::tempdir().unwrap();
    let mut tested = Tested::new(directory.path().join("names.json"));
    let both = vec![applied("a", "10.96.0.1"), applied("b", "10.96.0.1")];
    let expected = [line("a", &[]), line("b (shadowed)", &[])];
    assert_eq!(tested.after(both).await, expected);
    let gone = vec![Event::ServiceRemoved(name("a"))];
    assert_eq!(tested.after(gone).await, [line("b", &[])]);
}

#[tokio::test]
async fn a_change_is_appended_until_as_much_has_changed_as_half_the_file() {
    use std::os::unix::fs::MetadataExt as _;

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("names.json");
    let mut tested = Tested::new(path.clone());
    let file = || std::fs::metadata(&path).unwrap();
    let addresses: Vec<String> = (0..100).map(|it| format!("10.0.1.{it}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let all = vec![
        applied("a", "10.96.0.1"),
        applied("b", "10.96.0.2"),
        endpoints("b", &addresses),
    ];
    let expected = [line("a", &[]), line("b", &addresses)];
    assert_eq!(tested.after(all).await, expected);
    let first = file();
    let (mut longest, mut rounds) = (first.len(), 0);
    while file().ino() == first.ino() {
        rounds += 1;
        assert!(rounds < 1000, "the file grows for ever: {longest}");
        let half = &addresses[..50 + rounds % 2];
        let moved = vec![endpoints("b", half)];
        assert_eq!(tested.after(moved).await[1], line("b", half));
        longest = longest.max(file().len());
    }
    assert!(rounds > 1, "the first change is appended");
    assert!(file().len() < first.len() * 2, "{} bytes", file().len());
    // What was appended is in the new file, and what is gone is in neither.
    let gone = vec![Event::ServiceRemoved(name("b"))];
    assert_eq!(tested.after(gone).await, [line("a", &[])]);
    let back = vec![applied("b", "10.96.0.2")];
    assert_eq!(tested.after(back).await.len(), 2);
}
