//! Settings that are read and checked, and change nothing in this version: whoever asks for one is
//! told so.

use serde_json::{Value, json};

use super::layers::{Layers, Origin};

/// A setting, what it may say without asking for anything, and why it changes nothing.
const SETTINGS: [(&str, &[&str], &str); 7] = [
    (
        "services.masquerade",
        &["Needed"],
        "addresses of clients are replaced where they must be, and nowhere else",
    ),
    (
        "services.localhostNodePorts",
        &["false"],
        "node ports are not served at 127.0.0.1 and ::1",
    ),
    (
        "localTraffic.mode",
        &["ClusterCIDR"],
        "pods are told by their devices",
    ),
    (
        "localTraffic.bridgeInterface",
        &[],
        "pods are told by their devices",
    ),
    (
        "localTraffic.interfaceNamePrefix",
        &[],
        "pods are told by their devices",
    ),
    (
        "client.qps",
        &["5.0"],
        "one request of a kind is open at a time, and Events have a limit of their own",
    ),
    (
        "client.burst",
        &["10"],
        "one request of a kind is open at a time, and Events have a limit of their own",
    ),
];

/// One line for each such setting that somebody has asked for.
pub(super) fn warnings(layers: &Layers) -> Vec<String> {
    let asked = layers.settings().filter_map(|(name, setting)| {
        let (_, nothing, why) = SETTINGS.iter().find(|(it, ..)| *it == name)?;
        let text = match &setting.value {
            Value::String(text) => text.clone(),
            value => value.to_string(),
        };
        let asks = setting.origin != Origin::Default
            && !matches!(setting.value, Value::Null)
            && setting.value != json!([])
            && !nothing.contains(&text.as_str());
        asks.then(|| {
            format!(
                "{name} ({}) changes nothing in this version: {why}",
                setting.origin
            )
        })
    });
    asked.collect()
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

    const OWN: &str = "apiVersion: steerage.dev/v1alpha1\nkind: SteerageConfiguration\n";
    const KUBE_PROXY: &str =
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

    #[test]
    fn what_changes_nothing_is_named_with_its_place_and_why() {
        let text = format!("{OWN}services: {{masquerade: All}}\nlocalTraffic:\n  mode: NodeCIDR\n");
        let expected = [
            "localTraffic.mode (f.yaml:5) changes nothing in this version: pods are told by their devices",
            "services.masquerade (f.yaml:3) changes nothing in this version: addresses of clients are replaced where they must be, and nowhere else",
        ];
        assert_eq!(of(&text), expected);
        let text =
            format!("{KUBE_PROXY}clusterCIDR: 10.244.0.0/16\nclientConnection: {{qps: 50}}\n");
        let names: Vec<_> = of(&text)
            .iter()
            .map(|line| line.split(' ').next().unwrap().to_owned())
            .collect();
        assert_eq!(names, ["client.qps"]);
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
            "{OWN}services: {{masquerade: All, localhostNodePorts: true}}\n\
             localTraffic: {{mode: NodeCIDR, clusterCIDRs: [10.0.0.0/8], bridgeInterface: br0, \
             interfaceNamePrefix: cali}}\nclient: {{qps: 50, burst: 100}}\n"
        );
        assert_eq!(of(&text).len(), SETTINGS.len());
    }
}
