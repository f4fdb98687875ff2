//! Scans tell what changed in a directory, and keep what is broken as it was.

use super::*;
use crate::model::index::Model;
use crate::model::name::ObjectName;

fn service(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
         spec: {{clusterIP: 10.96.0.1, ports: [{{port: {port}}}]}}\n---\n"
    )
}

/// A directory, its scanner and the model that its events make.
struct Fixture {
    directory: tempfile::TempDir,
    scanner: Scanner,
    model: Model,
}

impl Fixture {
    fn new(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let scanner = Scanner::new(directory.path().to_owned());
        let mut fixture = Self {
            directory,
            scanner,
            model: Model::new("node-a"),
        };
        for (name, text) in files {
            fixture.write(name, text);
        }
        fixture.scan();
        fixture
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.directory.path().join(name), text).unwrap();
    }

    /// Scans, and returns how many events there were.
    fn scan(&mut self) -> usize {
        let files = list(&self.scanner.path).unwrap().into_keys().collect();
        let scan = self.scanner.scan(&files).unwrap();
        let count = scan.events.len();
        let _changed = self.model.apply_all(scan.events);
        count
    }

    /// The Services as `name:port`.
    fn services(&self) -> Vec<String> {
        let port = |ports: &[crate::model::service::ServicePort]| ports.first().unwrap().port;
        let services = self.model.services();
        services
            .map(|it| format!("{}:{}", it.name.name, port(&it.ports)))
            .collect()
    }

    fn problems(&self) -> Vec<String> {
        self.scanner
            .report()
            .problems
            .iter()
            .map(ToString::to_string)
            .collect()
    }
}

#[test]
fn manifests_are_told_from_other_files() {
    for name in ["a.yaml", "b.yml", "c.json"] {
        assert!(format_of(name).is_some(), "{name}");
    }
    for name in [
        ".a.yaml.swp",
        ".a.yaml",
        "a.yaml~",
        "a.yaml.swp",
        "README.md",
        "yaml",
        "4913",
    ] {
        assert!(format_of(name).is_none(), "{name}");
    }
}

#[test]
fn the_first_scan_is_a_full_list_of_the_manifests_only() {
    let mut fixture = Fixture::new(&[
        ("a.yaml", &service("a", 80)),
        ("a.yaml~", &service("copy", 80)),
        (".hidden.yaml", &service("hidden", 80)),
    ]);
    assert!(fixture.model.is_ready());
    assert_eq!(fixture.services(), ["a:80"]);
    assert_eq!(fixture.scan(), 0);
}

#[test]
fn an_empty_directory_is_a_full_list_of_nothing() {
    let fixture = Fixture::new(&[]);
    assert!(fixture.model.is_ready());
    assert!(fixture.services().is_empty());
}

#[test]
fn directories_inside_are_not_entered_and_symbolic_links_are_followed() {
    let mut fixture = Fixture::new(&[]);
    let inside = fixture.directory.path().join("inside.yaml");
    fs::create_dir(&inside).unwrap();
    fs::write(inside.join("a.yaml"), service("a", 80)).unwrap();
    std::os::unix::fs::symlink(
        "inside.yaml/a.yaml",
        fixture.directory.path().join("l.yaml"),
    )
    .unwrap();
    assert_eq!(fixture.scan(), 1);
    assert_eq!(fixture.services(), ["a:80"]);
}

#[test]
fn what_a_document_held_stays_while_it_is_broken() {
    let good = service("a", 80) + &service("b", 80);
    let mut fixture = Fixture::new(&[("a.yaml", &good)]);
    fixture.write("a.yaml", &(service("a", 81) + "kind: [\n"));
    assert_eq!(fixture.scan(), 1);
    assert_eq!(fixture.services(), ["a:81", "b:80"]);
    assert_eq!(fixture.problems().len(), 1);
    assert!(
        fixture.problems()[0].starts_with("a.yaml:"),
        "{:?}",
        fixture.problems()
    );
    fixture.write("a.yaml", &service("a", 81));
    assert_eq!(fixture.scan(), 1);
    assert_eq!(fixture.services(), ["a:81"]);
    assert!(fixture.problems().is_empty());
}

#[test]
fn a_file_that_is_removed_takes_its_objects_and_problems_along() {
    let mut fixture = Fixture::new(&[
        ("a.yaml", &service("a", 80)),
        ("b.yaml", &(service("b", 80) + "x: [")),
    ]);
    assert_eq!(fixture.problems().len(), 1);
    fs::remove_file(fixture.directory.path().join("b.yaml")).unwrap();
    assert_eq!(fixture.scan(), 1);
    assert_eq!(fixture.services(), ["a:80"]);
    assert!(fixture.problems().is_empty());
}

#[test]
fn a_file_that_is_too_large_is_not_read_and_keeps_what_it_held() {
    let mut fixture = Fixture::new(&[("a.yaml", &service("a", 80))]);
    let file = File::options()
        .write(true)
        .open(fixture.directory.path().join("a.yaml"))
        .unwrap();
    file.set_len(MAX_FILE_BYTES + 1).unwrap();
    assert_eq!(fixture.scan(), 0);
    assert_eq!(fixture.services(), ["a:80"]);
    assert_eq!(
        fixture.problems(),
        ["a.yaml: larger than 64 MiB and not read; what it held before stays; split it"]
    );
}

#[test]
fn a_directory_that_vanishes_is_reported_and_its_objects_stay() {
    let mut fixture = Fixture::new(&[("a.yaml", &service("a", 80))]);
    let (path, aside) = (
        fixture.directory.path(),
        fixture.directory.path().with_extension("x"),
    );
    fs::rename(path, &aside).unwrap();
    assert!(fixture.scanner.scan(&BTreeSet::new()).is_err());
    assert_eq!(fixture.services(), ["a:80"]);
    assert_eq!(fixture.problems().len(), 1);
    fs::rename(&aside, fixture.directory.path()).unwrap();
    assert_eq!(fixture.scan(), 0);
    assert!(fixture.problems().is_empty());
}

#[test]
fn a_file_that_is_not_named_is_read_again_when_its_stamp_changes() {
    let mut fixture = Fixture::new(&[("a.yaml", &service("a", 80))]);
    fixture.write("a.yaml", &service("longer", 80));
    let scan = fixture.scanner.scan(&BTreeSet::new()).unwrap();
    let name = ObjectName {
        namespace: "default".into(),
        name: "a".into(),
    };
    assert_eq!(scan.events.len(), 2);
    assert!(scan.events.contains(&Event::ServiceRemoved(name)));
}
