//! What `/configz` answers: the settings as kube-proxy's document, for tools that read that, and as
//! our own, which says it all.

use serde_json::{Value, json};

use super::document::{self, Document, LogFormat};
use super::kube_proxy;
use super::value::Timeout;
use crate::settings::services::Masquerade;

/// The settings in both forms, by their groups.
pub fn configz(document: &Document) -> Value {
    let mut own = serde_json::to_value(document).unwrap_or_default();
    own["apiVersion"] = document::API_VERSION.into();
    own["kind"] = document::KIND.into();
    json!({
        "kubeproxy.config.k8s.io": as_kube_proxy(document),
        "steerage.dev": own,
    })
}

/// kube-proxy's document. What has no meaning here has the value that asks for nothing.
fn as_kube_proxy(document: &Document) -> Value {
    let text = |text: Option<String>| text.unwrap_or_default();
    let seconds = |seconds: Option<u32>| format!("{}s", seconds.unwrap_or(0));
    let is_all = document.services.masquerade == Some(Masquerade::All);
    let period = document
        .health
        .timeout
        .map_or(String::new(), |timeout| Timeout(timeout.0 / 2).to_string());
    let cidrs: Vec<_> = document
        .local_traffic
        .cluster_cidrs
        .iter()
        .flatten()
        .map(ToString::to_string)
        .collect();
    let format = match document.log.format {
        Some(LogFormat::Json) => "json",
        Some(LogFormat::Text) | None => "text",
    };
    json!({
        "apiVersion": kube_proxy::API_VERSION,
        "kind": kube_proxy::KIND,
        "clientConnection": {
            "kubeconfig": document.client.kubeconfig.clone().unwrap_or_default(),
            "acceptContentTypes": "",
            "contentType": "",
            "qps": document.client.qps,
            "burst": document.client.burst,
        },
        "logging": { "format": format },
        "hostnameOverride": text(document.node_name.clone()),
        "bindAddress": document
            .services
            .node_address
            .map_or_else(|| "0.0.0.0".to_owned(), |address| address.to_string()),
        "healthzBindAddress": text(document.health.bind_address.map(|bind| bind.to_string())),
        "metricsBindAddress": text(document.metrics.bind_address.map(|bind| bind.to_string())),
        "bindAddressHardFail": document.bind_hard_fail.unwrap_or(false),
        "enableProfiling": false,
        "showHiddenMetricsForVersion": "",
        "mode": "nftables",
        "nftables": {
            "masqueradeBit": null,
            "masqueradeAll": is_all,
            "syncPeriod": period,
            "minSyncPeriod": "0s",
        },
        "detectLocalMode": document.local_traffic.mode.unwrap_or_default(),
        "detectLocal": {
            "bridgeInterface": text(document.local_traffic.bridge_interface.clone()),
            "interfaceNamePrefix": text(document.local_traffic.interface_name_prefix.clone()),
        },
        "clusterCIDR": cidrs.join(","),
        "nodePortAddresses": document.services.node_port_addresses,
        "oomScoreAdj": document.oom_score_adj,
        "conntrack": {
            "maxPerCore": document.conntrack.max_per_core.unwrap_or(0),
            "min": document.conntrack.min.unwrap_or(0),
            "tcpEstablishedTimeout": seconds(document.conntrack.tcp_established_seconds),
            "tcpCloseWaitTimeout": seconds(document.conntrack.tcp_close_wait_seconds),
            "tcpBeLiberal": document.conntrack.tcp_be_liberal.unwrap_or(false),
            "udpTimeout": seconds(document.conntrack.udp_seconds),
            "udpStreamTimeout": seconds(document.conntrack.udp_stream_seconds),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::layers::Layers;

    #[test]
    fn the_answer_in_kube_proxys_form_is_a_file_of_kube_proxys_that_asks_for_the_same() {
        let document = Layers::new().document().unwrap();
        let answer = configz(&document);
        let text = answer["kubeproxy.config.k8s.io"].to_string();
        let file = kube_proxy::read(&text).unwrap();
        assert_eq!(file.unknown, []);
        assert_eq!(file.without_meaning, [""; 0]);
        assert_eq!(file.document.health, document.health);
        assert_eq!(file.document.metrics, document.metrics);
        assert_eq!(
            file.document.services.node_port_addresses,
            document.services.node_port_addresses
        );
        assert_eq!(answer["steerage.dev"]["kind"], document::KIND);
    }
}
