//! Settings that are read and checked, and change nothing: whoever asks for one is told so, and why.

use serde_json::{Value, json};

use super::layers::{Layers, Origin, Setting};

/// When a setting changes nothing.
#[derive(Clone, Copy)]
enum Case {
    /// In this version, unless it says one of these, which ask for nothing.
    Always(&'static [&'static str], &'static str),
    /// Where one of the entries of its list says this.
    Entry(&'static str, &'static str),
    /// In any `localTraffic.mode` but this.
    OtherMode(&'static str),
}

use self::Case::{Always, Entry, OtherMode};

/// Every such setting.
const SETTINGS: [(&str, Case); 8] = [
    (
        "services.masquerade",
        Always(
            &["Needed"],
            "addresses of clients are replaced where they must be, and nowhere else",
        ),
    ),
    (
        "services.localhostNodePorts",
        Always(
            &["false"],
            "node ports are not served at 127.0.0.1 and ::1, which takes hooks at sockets",
        ),
    ),
    (
        "services.nodePortAddresses",
        Entry(
            "localhost",
            "node ports are not served at 127.0.0.1 and ::1, only health checks are",
        ),
    ),
    ("localTraffic.clusterCIDRs", OtherMode("ClusterCIDR")),
    ("localTraffic.bridgeInterface", OtherMode("BridgeInterface")),
    (
        "localTraffic.interfaceNamePrefix",
        OtherMode("InterfaceNamePrefix"),
    ),
    ("client.qps", Always(&["5.0"], REQUESTS)),
    ("client.burst", Always(&["10"], REQUESTS)),
];

const REQUESTS: &str = "never more than one request of a kind is open, each waits longer after each \
                        failure, and Events have a limit of their own";

/// One line for each such setting that somebody has asked for.
pub(super) fn warnings(layers: &Layers) -> Vec<String> {
    let mode = layers.settings().find(|(name, _)| *name == MODE);
    let mode = mode.map(|(_, setting)| text(&setting.value));
    let asked = layers.settings().filter_map(|(name, setting)| {
        let (_, case) = SETTINGS.iter().find(|(it, _)| *it == name)?;
        let why = why(*case, setting, mode.as_deref().unwrap_or_default())?;
        Some(format!("{name} ({}) {why}", setting.origin))
    });
    asked.collect()
}

const MODE: &str = "localTraffic.mode";

/// What is said of `setting`, if anything.
fn why(case: Case, setting: &Setting, mode: &str) -> Option<String> {
    let value = &setting.value;
    if setting.origin == Origin::Default || matches!(value, Value::Null) || *value == json!([]) {
        return None;
    }
    match case {
        Always(nothing, why) => (!nothing.contains(&text(value).as_str()))
            .then(|| format!("changes nothing in this version: {why}")),
        Entry(entry, why) => {
            let entries = value.as_array().into_iter().flatten();
            let is_there = entries.into_iter().any(|it| it == entry);
            is_there.then(|| format!("has {entry}, which changes nothing in this version: {why}"))
        }
        OtherMode(own) => {
            (mode != own).then(|| format!("changes nothing, since {MODE} is {mode}, not {own}"))
        }
    }
}

/// A value as it is written.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::settings::services::ServiceRules;

    fn of(text: &str) -> Vec<String> {
        let mut layers = Layers::new();
        layers.add_text(Path::new("f.yaml"), text).unwrap();
        warnings(&layers)
    }

    fn names(text: &str) -> Vec<String> {
        let lines = of(text).into_iter();
        lines
            .map(|line| line.split(' ').next().unwrap().to_owned())
            .collect()
    }

    const OWN: &str = "apiVersion: steerage.dev/v1alpha1\nkind: SteerageConfiguration\n";
    const KUBE_PROXY: &str =
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

    #[test]
    fn what_changes_nothing_is_named_with_its_place_and_why() {
        let text = format!(
            "{OWN}services: {{masquerade: All}}\nlocalTraffic:\n  clusterCIDRs: [10.0.0.0/8]\n  \
             mode: NodeCIDR\n"
        );
        let expected = [
            "localTraffic.clusterCIDRs (f.yaml:5) changes nothing, since localTraffic.mode is NodeCIDR, not ClusterCIDR",
            "services.masquerade (f.yaml:3) changes nothing in this version: addresses of clients are replaced where they must be, and nowhere else",
        ];
        assert_eq!(of(&text), expected);
        let text =
            format!("{KUBE_PROXY}clusterCIDR: 10.244.0.0/16\nclientConnection: {{qps: 50}}\n");
        assert_eq!(names(&text), ["client.qps"]);
        let text = format!("{KUBE_PROXY}nodePortAddresses: [localhost, 192.0.2.0/24]\n");
        assert_eq!(names(&text), ["services.nodePortAddresses"]);
    }

    #[test]
    fn what_a_mode_goes_by_has_an_effect_in_that_mode_and_in_no_other() {
        let file = |mode: &str| {
            format!(
                "{KUBE_PROXY}detectLocalMode: {mode}\nclusterCIDR: 10.244.0.0/16\n\
                 detectLocal: {{bridgeInterface: cni0, interfaceNamePrefix: cali}}\n"
            )
        };
        let all = [
            ("ClusterCIDR", "localTraffic.clusterCIDRs"),
            ("BridgeInterface", "localTraffic.bridgeInterface"),
            ("InterfaceNamePrefix", "localTraffic.interfaceNamePrefix"),
            ("NodeCIDR", "none"),
        ];
        for (mode, own) in all {
            let mut others: Vec<_> = all.iter().map(|(_, name)| *name).collect();
            others.retain(|name| *name != own && *name != "none");
            others.sort_unstable();
            assert_eq!(names(&file(mode)), others, "{mode}");
        }
    }

    #[test]
    fn nobody_is_told_of_what_was_not_asked_for() {
        assert!(warnings(&Layers::new()).is_empty());
        let rules = ServiceRules::default();
        let text = format!(
            "{OWN}services: {{masquerade: {:?}}}\nclient: {{qps: 5, burst: 10}}\n",
            rules.masquerade
        );
        assert_eq!(of(&text), [""; 0]);
        let kubeadm =
            format!("{KUBE_PROXY}clusterCIDR: \"\"\nclientConnection: {{qps: 0, burst: 0}}\n");
        assert_eq!(of(&kubeadm), [""; 0]);
    }

    #[test]
    fn every_name_is_that_of_a_setting() {
        let text = format!(
            "{OWN}services: {{masquerade: All, localhostNodePorts: true, \
             nodePortAddresses: [localhost]}}\n\
             localTraffic: {{mode: NodeCIDR, clusterCIDRs: [10.0.0.0/8], bridgeInterface: br0, \
             interfaceNamePrefix: cali}}\nclient: {{qps: 50, burst: 100}}\n"
        );
        assert_eq!(of(&text).len(), SETTINGS.len());
    }
}
