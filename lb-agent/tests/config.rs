//! `steerage config` as scripts see it.

#![expect(
    clippy::tests_outside_test_module,
    reason = "an integration test is a crate of tests"
)]

use std::fs;
use std::process::{Command, Output};

fn steerage(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_steerage"))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

const KUBE_PROXY: &str = "\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
hostnameOverride: from-kube-proxy
metricsBindAddress: 127.0.0.1:1
clusterCIDR: 10.244.0.0/16
mode: ipvs
ipvs:
  scheduler: rr
colour: red
";

const OWN: &str = "\
apiVersion: steerage.dev/v1alpha1
kind: SteerageConfiguration
metrics: {bindAddress: \"127.0.0.1:2\"}
health: {bindAddress: \"127.0.0.1:2\"}
log: {level: debug}
";

#[test]
fn view_shows_each_setting_with_its_origin() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let kube_proxy = file("config.conf", KUBE_PROXY);
    let own = file("steerage.yaml", OWN);
    let output = steerage(
        &[
            "config",
            "view",
            "--config",
            &own,
            "--config",
            &kube_proxy,
            "--healthz-bind-address",
            "",
            "-o",
            "json",
        ],
        &[
            ("STEERAGE_LOG", "trace"),
            ("STEERAGE_HEALTHZ_BIND_ADDRESS", "127.0.0.1:3"),
        ],
    );
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let lines: Vec<_> = stderr.lines().collect();
    assert_eq!(lines.len(), 2, "one warning each: {stderr}");
    assert!(lines[0].contains("mode, ipvs.scheduler"), "{stderr}");
    assert!(lines[1].contains("colour (line 9)"), "{stderr}");
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["kind"], "SettingList");
    let items = document["items"].as_array().unwrap();
    for (setting, value, origin, live) in [
        (
            "nodeName",
            "\"from-kube-proxy\"",
            format!("{kube_proxy}:3"),
            false,
        ),
        (
            "metrics.bindAddress",
            "\"127.0.0.1:2\"",
            format!("{own}:3"),
            true,
        ),
        (
            "health.bindAddress",
            "\"Off\"",
            "--healthz-bind-address".to_owned(),
            true,
        ),
        ("log.level", "\"trace\"", "STEERAGE_LOG".to_owned(), false),
        (
            "localTraffic.clusterCIDRs",
            "[\"10.244.0.0/16\"]",
            format!("{kube_proxy}:5"),
            false,
        ),
        ("sizes.services", "32768", "default".to_owned(), false),
    ] {
        let item = items.iter().find(|item| item["setting"] == setting);
        let item = item.unwrap_or_else(|| panic!("no {setting}"));
        assert_eq!(item["value"].to_string(), value, "{setting}");
        assert_eq!(item["origin"], origin, "{setting}");
        assert_eq!(item["live"], live, "{setting}");
    }
}

#[test]
fn view_is_a_table_for_people() {
    let output = steerage(&["config", "view"], &[]);
    assert_eq!(output.status.code(), Some(0));
    let stdout = text(&output.stdout);
    let words = |line: &str| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let mut lines = stdout.lines();
    assert_eq!(
        words(lines.next().unwrap()),
        ["SETTING", "VALUE", "CHANGE", "FROM"]
    );
    assert!(
        lines.any(|line| words(line) == ["health.bindAddress", "0.0.0.0:10256", "live", "default"]),
        "{stdout}"
    );
}

#[test]
fn validate_says_valid_or_where_the_mistake_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.yaml");
    let file = path.display().to_string();
    for (text_of_file, code, part) in [
        (OWN, 0, ""),
        (KUBE_PROXY, 0, "warning: "),
        (
            "apiVersion: steerage.dev/v1alpha1\nkind: SteerageConfiguration\nsizes:\n  services: 0\n",
            2,
            "SERVICES",
        ),
        (
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
             conntrack:\n  min: many\n",
            2,
            "config.yaml:4: conntrack.min: ",
        ),
    ] {
        fs::write(&path, text_of_file).unwrap();
        let output = steerage(&["config", "validate", &file], &[]);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert!(stderr.contains(part), "{stderr:?} lacks {part:?}");
        let expected = if code == 0 { "valid\n" } else { "" };
        assert_eq!(text(&output.stdout), expected);
    }
    let missing = steerage(&["config", "validate", "/nowhere.yaml"], &[]);
    assert_eq!(missing.status.code(), Some(2));
}
