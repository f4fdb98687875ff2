//! What an operator gets wrong: one clear line, the exit code scripts know, and services that go on
//! as they did.

#![expect(
    clippy::tests_outside_test_module,
    reason = "a file of tests is a module of tests"
)]

use std::{fmt::Write as _, fs, net::Ipv4Addr, os::unix::fs::symlink, time::Duration};

use lb_tests::{
    clock, command,
    machine::{Machine, PATIENCE, fails, key, service},
};

/// How long room that was made may stay unused: the agent looks for it once a minute.
const ROOM: Duration = Duration::from_mins(3);

#[test]
fn an_agent_that_cannot_start_says_why_and_leaves_what_is_there() {
    let mut machine = Machine::new();
    machine.start();
    machine.stop();
    let tables = machine.tables();
    assert!(tables.frontends.contains_key(&key(10, 80)));
    let manifests = machine.path("manifests");

    let mut unknown = machine.run_command(&machine.pins, &manifests);
    let output = command::output(unknown.arg("--nonsense"), "").unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--nonsense"));

    let mut absent = machine.run_command(&machine.pins, &machine.path("absent"));
    fails(&mut absent, 1, &["absent", "--source", "name a directory"]);
    let mut file = machine.run_command(&machine.pins, &machine.path("config.yaml"));
    fails(
        &mut file,
        1,
        &["config.yaml", "--source", "name a directory"],
    );

    let elsewhere = machine.path("pins");
    symlink(machine.path("nowhere"), machine.path("dangling")).unwrap();
    let mut dangling = machine.run_command(&machine.pins, &machine.path("dangling"));
    fails(
        &mut dangling,
        1,
        &["dangling", "--source", "name a directory"],
    );

    let mut elsewhere_run = machine.run_command(&elsewhere, &manifests);
    fails(
        &mut elsewhere_run,
        1,
        &["is not on a BPF filesystem", "mount -t bpf"],
    );
    assert!(!elsewhere.exists());

    let mut without = machine.namespace.command("setpriv").unwrap();
    without.args(["--bounding-set", "-all", "--inh-caps", "-all"]);
    let run = machine.run_command(&machine.pins, &manifests);
    without.arg(run.get_program()).args(run.get_args());
    for (name, value) in run.get_envs() {
        without.env(name, value.unwrap_or_default());
    }
    fails(&mut without, 6, &["CAP_BPF", "run as root"]);

    fs::create_dir(machine.pins.join("v0")).unwrap();
    let mut other = machine.run_command(&machine.pins, &manifests);
    fails(&mut other, 4, &["v0", "steerage cleanup", "--pin-dir"]);
    fs::remove_dir(machine.pins.join("v0")).unwrap();
    machine.sizes("frontends: 2048");
    let mut larger = machine.run_command(&machine.pins, &manifests);
    fails(
        &mut larger,
        4,
        &["FRONTENDS", "1024", "2048", "steerage cleanup"],
    );

    assert_eq!(machine.tables(), tables);
    machine.still_serves();
}

#[test]
fn objects_that_cannot_be_are_named_and_leave_the_others_alone() {
    let mut machine = Machine::new();
    machine.start();
    let tables = machine.tables();
    let good = tables.frontends[&key(10, 80)];

    machine.write(
        "nameless.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {}\nspec: {clusterIP: 10.96.0.11}\n",
    );
    machine.await_problem(&["nameless.yaml:", "metadata.name"]);
    machine.write(
        "port.json",
        &service("port", "10.96.0.12", 0, &["10.244.1.6"]),
    );
    machine.await_problem(&["port.json:", "spec.ports[0].port", "0 is not a port"]);
    machine.write(
        "mixed.json",
        &service("mixed", "10.96.0.13", 80, &["fd00::1"]),
    );
    machine.await_problem(&["mixed.json:", "fd00::1", "IPv4"]);
    for (name, address, words) in [
        ("loop", "127.0.0.1", "loopback"),
        ("link", "169.254.169.254", "link-local"),
        ("many", "224.0.0.1", "multicast"),
    ] {
        machine.write(
            &format!("{name}.json"),
            &service(name, "10.96.0.14", 80, &[address]),
        );
        machine.await_problem(&[name, address, words, "correct the EndpointSlice"]);
    }

    let now = machine.tables();
    assert_eq!(now.frontends[&key(10, 80)], good);
    let index = good.service_index();
    assert_eq!(now.services[&index], tables.services[&index]);
    assert_eq!(
        now.backends, tables.backends,
        "no address of those became a backend"
    );
    machine.still_serves();
    machine.stop();
}

#[test]
fn a_million_endpoints_are_refused_and_the_service_keeps_what_it_had() {
    let mut machine = Machine::new();
    machine.start();
    let tables = machine.tables();
    let mut slice = r#"{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{"name":"good-1","labels":{"kubernetes.io/service-name":"good"}},"addressType":"IPv4","ports":[{"name":"p","port":8080}],"endpoints":["#.to_owned();
    for number in 0..1_000_000 {
        let address = Ipv4Addr::from_bits(0x0a00_0000 + number);
        let comma = if number == 0 { "" } else { "," };
        write!(slice, r#"{comma}{{"addresses":["{address}"]}}"#).unwrap();
    }
    slice += "]}";
    let good = service("good", "10.96.0.10", 80, &["10.244.1.5"]);
    let (head, _) = good.split_once(",\n{\"apiVersion\":\"discovery").unwrap();
    machine.write("good.json", &format!("{head},\n{slice}]}}"));
    machine.await_problem(&["good.json:", "1000000 endpoints", "split the slice"]);
    assert_eq!(machine.tables(), tables);
    machine.still_serves();
    machine.stop();
}

#[test]
fn a_directory_that_goes_or_becomes_a_file_says_nothing_about_its_objects() {
    let mut machine = Machine::new();
    machine.start();
    let tables = machine.tables();
    let (manifests, aside) = (machine.path("manifests"), machine.path("aside"));

    fs::rename(&manifests, &aside).unwrap();
    machine.await_problem(&["manifests", "cannot be read", "No such file", "stays"]);
    fs::write(&manifests, "no directory").unwrap();
    machine.await_problem(&["manifests", "cannot be read", "Not a directory", "stays"]);
    assert_eq!(machine.tables(), tables);
    machine.still_serves();

    fs::remove_file(&manifests).unwrap();
    symlink(machine.path("nowhere"), &manifests).unwrap();
    machine.await_problem(&["manifests", "cannot be read", "No such file", "stays"]);
    assert_eq!(machine.tables(), tables);

    fs::remove_file(&manifests).unwrap();
    fs::rename(&aside, &manifests).unwrap();
    machine.write(
        "new.json",
        &service("new", "10.96.0.11", 80, &["10.244.1.6"]),
    );
    clock::eventually("what is new is there", PATIENCE, || {
        let tables = machine.tables();
        Ok(tables.frontends.contains_key(&key(11, 80)).then_some(()))
    })
    .unwrap();
    machine.await_no_problem(PATIENCE);
    machine.still_serves();
    machine.stop();
}

/// Two endpoints for each Service, so that each has a table of slots.
#[test]
fn a_full_table_is_named_and_what_is_in_it_stays_until_there_is_room() {
    const MORE: u8 = 9;
    let full = [
        ("backends: 8", "BACKENDS"),
        ("services: 4", "SERVICES"),
        ("arenaWords: 512", "ARENA"),
        ("frontends: 8", "FRONTENDS"),
    ];
    let file = |number: u8| format!("more-{number}.json");
    let mut machines = Vec::new();
    for (sizes, table) in full {
        let mut machine = Machine::new();
        machine.sizes(sizes);
        machine.start();
        let before = machine.tables();
        for number in 1..=MORE {
            let (address, name) = (format!("10.96.0.1{number}"), format!("more-{number}"));
            let endpoints = [1, 2].map(|pod| format!("10.244.{pod}.{number}"));
            let endpoints = [endpoints[0].as_str(), &endpoints[1]];
            machine.write(&file(number), &service(&name, &address, 80, &endpoints));
        }
        machine.await_problem(&["default/more-9", table, "raise the table's size"]);
        let now = machine.tables();
        let good = before.frontends[&key(10, 80)];
        assert_eq!(now.frontends.get(&key(10, 80)), Some(&good), "{table}");
        let index = good.service_index();
        assert_eq!(now.services[&index], before.services[&index], "{table}");
        assert!(
            now.frontends.contains_key(&key(11, 80)),
            "{table}: there was room for one more"
        );
        assert!(!now.frontends.contains_key(&key(19, 80)), "{table}");
        machine.still_serves();
        machines.push((machine, table));
    }
    for (machine, _) in &machines {
        for number in 1..MORE {
            fs::remove_file(machine.path("manifests").join(file(number))).unwrap();
        }
    }
    for (machine, table) in &mut machines {
        let what = format!("there is room in {table}");
        clock::eventually(&what, ROOM, || {
            let tables = machine.tables();
            Ok(tables.frontends.contains_key(&key(19, 80)).then_some(()))
        })
        .unwrap();
        machine.await_no_problem(PATIENCE);
        machine.still_serves();
        machine.stop();
    }
}
