//! What becomes of each field of `KubeProxyConfiguration`.

/// What a field does here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Effect {
    /// It is honoured, by this setting of ours.
    Honoured(&'static str),
    /// Nothing: named in a warning if it asks for anything but these texts, which ask for nothing.
    Nothing(&'static [&'static str]),
}

use Effect::{Honoured, Nothing};

/// Every field of v1alpha1.
pub const FIELDS: [(&str, Effect); 61] = [
    ("featureGates", Nothing(&[])),
    ("clientConnection.kubeconfig", Honoured("client.kubeconfig")),
    ("clientConnection.acceptContentTypes", Nothing(&[])),
    (
        "clientConnection.contentType",
        Nothing(&["application/vnd.kubernetes.protobuf"]),
    ),
    ("clientConnection.qps", Honoured("client.qps")),
    ("clientConnection.burst", Honoured("client.burst")),
    ("logging.format", Honoured("log.format")),
    ("logging.flushFrequency", Nothing(&["5s", "5000000000"])),
    ("logging.verbosity", Honoured("log.level")),
    ("logging.vmodule", Nothing(&[])),
    ("logging.options.text.splitStream", Nothing(&[])),
    ("logging.options.text.infoBufferSize", Nothing(&["0"])),
    ("logging.options.json.splitStream", Nothing(&[])),
    ("logging.options.json.infoBufferSize", Nothing(&["0"])),
    ("hostnameOverride", Honoured("nodeName")),
    ("bindAddress", Honoured("services.nodeAddress")),
    ("healthzBindAddress", Honoured("health.bindAddress")),
    ("metricsBindAddress", Honoured("metrics.bindAddress")),
    ("bindAddressHardFail", Honoured("bindHardFail")),
    ("enableProfiling", Nothing(&[])),
    ("showHiddenMetricsForVersion", Nothing(&[])),
    // The words of this proxy are those of nftables mode, whatever is asked for.
    ("mode", Nothing(&["nftables"])),
    ("iptables.masqueradeBit", Nothing(&["14"])),
    ("iptables.masqueradeAll", Honoured("services.masquerade")),
    (
        "iptables.localhostNodePorts",
        Honoured("services.localhostNodePorts"),
    ),
    ("iptables.snatNodeInternalIP", Nothing(&[])),
    ("iptables.syncPeriod", Honoured("health.timeout")),
    ("iptables.minSyncPeriod", Nothing(&["1s"])),
    ("ipvs.syncPeriod", Honoured("health.timeout")),
    ("ipvs.minSyncPeriod", Nothing(&[])),
    ("ipvs.scheduler", Nothing(&[])),
    ("ipvs.excludeCIDRs", Nothing(&[])),
    ("ipvs.strictARP", Nothing(&[])),
    ("ipvs.tcpTimeout", Nothing(&[])),
    ("ipvs.tcpFinTimeout", Nothing(&[])),
    ("ipvs.udpTimeout", Nothing(&[])),
    ("nftables.masqueradeBit", Nothing(&["14"])),
    ("nftables.masqueradeAll", Honoured("services.masquerade")),
    ("nftables.syncPeriod", Honoured("health.timeout")),
    ("nftables.minSyncPeriod", Nothing(&["1s"])),
    ("winkernel.networkName", Nothing(&[])),
    ("winkernel.sourceVip", Nothing(&[])),
    ("winkernel.enableDSR", Nothing(&[])),
    ("winkernel.rootHnsEndpointName", Nothing(&[])),
    ("winkernel.forwardHealthCheckVip", Nothing(&[])),
    ("detectLocalMode", Honoured("localTraffic.mode")),
    (
        "detectLocal.bridgeInterface",
        Honoured("localTraffic.bridgeInterface"),
    ),
    (
        "detectLocal.interfaceNamePrefix",
        Honoured("localTraffic.interfaceNamePrefix"),
    ),
    ("clusterCIDR", Honoured("localTraffic.clusterCIDRs")),
    ("nodePortAddresses", Honoured("services.nodePortAddresses")),
    ("oomScoreAdj", Honoured("oomScoreAdj")),
    ("conntrack.maxPerCore", Honoured("conntrack.maxPerCore")),
    ("conntrack.min", Honoured("conntrack.min")),
    (
        "conntrack.tcpEstablishedTimeout",
        Honoured("conntrack.tcpEstablishedSeconds"),
    ),
    (
        "conntrack.tcpCloseWaitTimeout",
        Honoured("conntrack.tcpCloseWaitSeconds"),
    ),
    ("conntrack.tcpBeLiberal", Honoured("conntrack.tcpBeLiberal")),
    ("conntrack.udpTimeout", Honoured("conntrack.udpSeconds")),
    (
        "conntrack.udpStreamTimeout",
        Honoured("conntrack.udpStreamSeconds"),
    ),
    ("configSyncPeriod", Nothing(&["15m", "15m0s"])),
    ("portRange", Nothing(&[])),
    ("windowsRunAsService", Nothing(&[])),
];
