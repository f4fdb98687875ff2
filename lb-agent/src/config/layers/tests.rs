//! Precedence, origins and mistakes of whole files.

use std::time::Duration;

use super::*;
use crate::config::apply;
use crate::settings::{AttachmentMode, Settings};

const HEAD: &str = "apiVersion: steerage.dev/v1alpha1\nkind: SteerageConfiguration\n";
const KUBE: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

fn read(text: &str) -> Result<Layers, String> {
    let mut layers = Layers::new();
    layers
        .add_text(Path::new("config.yaml"), text)
        .map_err(|error| error.to_string())?;
    Ok(layers)
}

fn settings(layers: &Layers) -> Settings {
    let mut settings = Settings::new("n1".to_owned(), "/manifests".into());
    apply(&layers.document().unwrap(), &mut settings);
    settings
}

#[test]
fn every_setting_reaches_its_place() {
    let settings = settings(
        &read(&format!(
            "# sizes first\n---\n{HEAD}\
             sizes:\n  services: 100\n  flowBucketsV4: 1024\n\
             ---\n{HEAD}\
             timeouts:\n  established: 2h\n  udp_new: 10s\n\
             serviceCIDRs: [10.96.0.0/12, \"fd00:96::/112\"]\n\
             interfaces:\n  ignored: [docker0]\n\
             attachment: Clsact\n"
        ))
        .unwrap(),
    );
    assert_eq!(settings.sizes.services, 100);
    assert_eq!(settings.sizes.flow_buckets_v4, 1024);
    let timeout = |state: State| settings.timeouts[usize::try_from(state.number()).unwrap()];
    assert_eq!(timeout(State::Established), Some(Duration::from_hours(2)));
    assert_eq!(timeout(State::UdpNew), Some(Duration::from_secs(10)));
    assert_eq!(timeout(State::LastAck), Some(Duration::from_secs(30)));
    assert_eq!(settings.service_cidrs.len(), 2);
    assert_eq!(settings.interfaces.ignored, ["docker0"]);
    assert_eq!(settings.attachment, AttachmentMode::Clsact);
}

#[test]
fn the_defaults_are_valid_and_are_the_agents_own() {
    let from_layers = settings(&Layers::new());
    assert_eq!(from_layers.validate(), Ok(()));
    let own = Settings::new("n1".to_owned(), "/manifests".into());
    assert_eq!(from_layers.sizes, own.sizes);
    assert_eq!(from_layers.services, own.services);
    assert_eq!(from_layers.client, own.client);
    assert_eq!(from_layers.conntrack, own.conntrack);
    assert_eq!(
        from_layers.outside.health_timeout,
        own.outside.health_timeout
    );
}

#[test]
fn mistakes_are_named_with_file_line_and_field() {
    for (text, expected) in [
        ("sizes:\n  servces: 1\n", vec!["config.yaml:4: ", "servces"]),
        ("colour: red\n", vec!["config.yaml:3: ", "colour"]),
        (
            "sizes:\n  services: many\n",
            vec!["config.yaml:4: ", "sizes.services"],
        ),
        (
            "log: {level: debug}\ntimeouts:\n  establish: 1h\n",
            vec!["config.yaml:5: ", "no such state"],
        ),
        (
            "timeouts:\n  established: soon\n",
            vec!["config.yaml:4: ", "timeouts", "30s, 5m or 24h"],
        ),
        (
            "serviceCIDRs:\n- 10.0.0.0/8\n- 10.96.0.1/12\n",
            vec!["config.yaml:5: ", "serviceCIDRs[1]", "10.96.0.0/12"],
        ),
        (
            "health:\n  bindAddress: localhost\n",
            vec!["config.yaml:4: ", "health.bindAddress", "0.0.0.0:10256"],
        ),
        (
            "nodeName: a\nnodeName: b\n",
            vec!["config.yaml:4: ", "nodeName"],
        ),
    ] {
        let message = read(&format!("{HEAD}{text}")).unwrap_err();
        for part in expected {
            assert!(message.contains(part), "{message:?} lacks {part:?}");
        }
        assert_eq!(message.lines().count(), 1, "{message:?}");
    }
}

#[test]
fn other_kinds_are_refused_by_name() {
    let message = read("\n---\napiVersion: v1\nkind: ConfigMap\n").unwrap_err();
    assert!(message.starts_with("config.yaml:3: "), "{message}");
    assert!(message.contains("\"ConfigMap\""), "{message}");
    assert!(read("# nothing\n").is_ok());
}

#[test]
fn a_setting_is_taken_from_the_strongest_layer_that_has_it() {
    // Our own file stands first and still wins; each setting counts for itself.
    let mut layers = read(&format!(
        "{HEAD}health:\n  bindAddress: 127.0.0.1:1\nmetrics:\n  bindAddress: 127.0.0.1:2\n\
         ---\n{KUBE}healthzBindAddress: 127.0.0.1:3\nhostnameOverride: kube\noomScoreAdj: -5\n\
         ---\n{HEAD}oomScoreAdj: -6\n---\n{HEAD}oomScoreAdj: -7\n"
    ))
    .unwrap();
    let flags = Document {
        metrics: Metrics {
            bind_address: Some(Bind::Off),
        },
        ..Document::default()
    };
    let environment = Document {
        node_name: Some("env".to_owned()),
        metrics: Metrics {
            bind_address: Some(Bind::At(([127, 0, 0, 1], 9).into())),
        },
        ..Document::default()
    };
    layers.add(&flags, |_| {
        Origin::Flag("--metrics-bind-address".to_owned())
    });
    layers.add(&environment, |_| {
        Origin::Environment("STEERAGE_NODE_NAME".to_owned())
    });
    let found = |name: &str| {
        let (_, setting) = layers.settings().find(|(path, _)| *path == name).unwrap();
        (setting.value.to_string(), setting.origin.to_string())
    };
    let expected = |value: &str, origin: &str| (value.to_owned(), origin.to_owned());
    assert_eq!(
        found("health.bindAddress"),
        expected("\"127.0.0.1:1\"", "config.yaml:4")
    );
    assert_eq!(
        found("metrics.bindAddress"),
        expected("\"Off\"", "--metrics-bind-address")
    );
    assert_eq!(found("nodeName"), expected("\"env\"", "STEERAGE_NODE_NAME"));
    assert_eq!(found("oomScoreAdj"), expected("-7", "config.yaml:20"));
    assert_eq!(
        found("conntrack.min"),
        expected("131072", "default of KubeProxyConfiguration in config.yaml")
    );
    assert_eq!(found("sizes.services"), expected("32768", "default"));
    assert_eq!(settings(&layers).outside.metrics, None);
}
