//! From kube-proxy's fields to our settings, with kube-proxy's defaults and its refusals.

use std::net::IpAddr;
use std::path::PathBuf;

use lb_common::conntrack::State;

use super::schema::KubeProxy;
use crate::config::document::{
    Client, Conntrack, Document, Health, LocalTraffic, Log, LogFormat, Metrics, Services,
};
use crate::config::value::{Bind, Cidr, GoDuration, NodePortAddress, StateName, Timeout};
use crate::settings::conntrack::KernelConntrack;
use crate::settings::outside::{HEALTH_PORT, METRICS_PORT};
use crate::settings::services::{LocalMode, Masquerade};

/// A value that kube-proxy refuses.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{field}: {rule}")]
pub(super) struct Wrong {
    /// The field.
    pub(super) field: &'static str,
    /// What it should be.
    rule: &'static str,
}

type Result<T> = std::result::Result<T, Wrong>;

const fn wrong<T>(field: &'static str, rule: &'static str) -> Result<T> {
    Err(Wrong { field, rule })
}

/// kube-proxy's default of `syncPeriod`, in nanoseconds.
const SYNC_PERIOD: i128 = 30_000_000_000;

#[derive(Clone, Copy, Eq, PartialEq)]
enum Mode {
    Default,
    IpTables,
    Ipvs,
    NfTables,
}

/// The settings that `from` asks for.
pub(super) fn convert(from: &KubeProxy) -> Result<Document> {
    let mode = match from.mode.as_deref().unwrap_or_default() {
        "" => Mode::Default,
        "iptables" => Mode::IpTables,
        "ipvs" => Mode::Ipvs,
        "nftables" => Mode::NfTables,
        _ => return wrong("mode", "use iptables, ipvs or nftables"),
    };
    let bind = match present(from.bind_address.as_deref()) {
        Some(text) => match text.parse::<IpAddr>() {
            Ok(address) => Some(address),
            Err(_) => return wrong("bindAddress", "write an IP address"),
        },
        None => None,
    };
    let is_v6 = bind.is_some_and(|address| address.is_ipv6());
    if let Some(score) = from.oom_score_adj
        && !(-1000..=1000).contains(&score)
    {
        return wrong("oomScoreAdj", "use -1000 to 1000");
    }
    if from
        .config_sync_period
        .is_some_and(|period| period.nanos < 0)
    {
        return wrong("configSyncPeriod", "use a time above 0");
    }
    let (conntrack, timeouts) = conntrack(from)?;
    Ok(Document {
        node_name: node_name(from)?,
        log: log(from)?,
        timeouts,
        health: Health {
            bind_address: Some(server(
                from.healthz_bind_address.as_deref(),
                if is_v6 { "::" } else { "0.0.0.0" },
                HEALTH_PORT,
                "healthzBindAddress",
            )?),
            timeout: health_timeout(from, mode)?,
        },
        metrics: Metrics {
            bind_address: Some(server(
                from.metrics_bind_address.as_deref(),
                if is_v6 { "::1" } else { "127.0.0.1" },
                METRICS_PORT,
                "metricsBindAddress",
            )?),
        },
        bind_hard_fail: from.bind_address_hard_fail,
        conntrack,
        oom_score_adj: from.oom_score_adj,
        services: services(from, mode, bind)?,
        local_traffic: local_traffic(from)?,
        client: client(from)?,
        ..Document::default()
    })
}

/// A text that says something.
fn present(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

fn node_name(from: &KubeProxy) -> Result<Option<String>> {
    let Some(text) = present(from.hostname_override.as_deref()) else {
        return Ok(None);
    };
    let name = text.trim().to_lowercase();
    if name.is_empty() {
        return wrong("hostnameOverride", "write a name, not blanks");
    }
    Ok(Some(name))
}

fn log(from: &KubeProxy) -> Result<Log> {
    let logging = from.logging.as_ref();
    let format = logging.and_then(|logging| logging.format.as_deref());
    Ok(Log {
        format: match format.unwrap_or_default() {
            "" => None,
            "text" => Some(LogFormat::Text),
            "json" => Some(LogFormat::Json),
            _ => return wrong("logging.format", "use text or json"),
        },
        level: match logging.and_then(|logging| logging.verbosity) {
            None | Some(0) => None,
            Some(1..=3) => Some("info".to_owned()),
            Some(4..=5) => Some("debug".to_owned()),
            Some(6..) => Some("trace".to_owned()),
        },
    })
}

fn server(
    text: Option<&str>,
    default: &'static str,
    port: u16,
    field: &'static str,
) -> Result<Bind> {
    let text = present(text).unwrap_or(default);
    Bind::with_default_port(text, port).ok().map_or_else(
        || wrong(field, "write it such as 0.0.0.0:10256 or [::]"),
        Ok,
    )
}

/// Twice the period of the mode in force; the other modes' are only checked.
fn health_timeout(from: &KubeProxy, mode: Mode) -> Result<Option<Timeout>> {
    let iptables = from.iptables.as_ref();
    let nftables = from.nftables.as_ref();
    let ipvs = from.ipvs.as_ref();
    let periods = [
        (
            "iptables.syncPeriod",
            "iptables.minSyncPeriod",
            iptables.and_then(|section| section.sync_period),
            iptables.and_then(|section| section.min_sync_period),
            matches!(mode, Mode::Default | Mode::IpTables),
        ),
        (
            "ipvs.syncPeriod",
            "ipvs.minSyncPeriod",
            ipvs.and_then(|section| section.sync_period),
            ipvs.and_then(|section| section.min_sync_period),
            mode == Mode::Ipvs,
        ),
        (
            "nftables.syncPeriod",
            "nftables.minSyncPeriod",
            nftables.and_then(|section| section.sync_period),
            nftables.and_then(|section| section.min_sync_period),
            mode == Mode::NfTables,
        ),
    ];
    let mut timeout = None;
    for (field, min_field, period, min, is_in_force) in periods {
        let period = period.filter(|period| period.nanos != 0);
        let nanos = period.map_or(SYNC_PERIOD, |period| period.nanos);
        if nanos < 0 {
            return wrong(field, "use a time above 0");
        }
        let min = min.map_or(0, |min| min.nanos);
        if min < 0 || min > nanos {
            return wrong(min_field, "use a time from 0 to syncPeriod");
        }
        if is_in_force && period.is_some() {
            timeout = GoDuration { nanos: nanos * 2 }.duration().map(Timeout);
        }
    }
    for (field, bit) in [
        (
            "iptables.masqueradeBit",
            iptables.and_then(|section| section.masquerade_bit),
        ),
        (
            "nftables.masqueradeBit",
            nftables.and_then(|section| section.masquerade_bit),
        ),
    ] {
        if bit.is_some_and(|bit| !(0..=31).contains(&bit)) {
            return wrong(field, "use 0 to 31");
        }
    }
    Ok(timeout)
}

fn services(from: &KubeProxy, mode: Mode, bind: Option<IpAddr>) -> Result<Services> {
    let iptables = from.iptables.as_ref();
    let nftables = from.nftables.as_ref();
    let by_iptables = iptables.and_then(|section| section.masquerade_all) == Some(true);
    let by_nftables = nftables.and_then(|section| section.masquerade_all) == Some(true);
    let is_all = match mode {
        // Which one is in force depends on kube-proxy's version.
        Mode::Default => by_iptables || by_nftables,
        Mode::IpTables | Mode::Ipvs => by_iptables,
        Mode::NfTables => by_nftables,
    };
    let mut addresses = Vec::new();
    for text in from.node_port_addresses.iter().flatten() {
        let address = match text.parse::<NodePortAddress>() {
            Ok(address) => address,
            Err(_) => NodePortAddress::Range(cidr(text, "nodePortAddresses")?),
        };
        addresses.push(address);
    }
    Ok(Services {
        masquerade: is_all.then_some(Masquerade::All),
        node_port_addresses: Some(addresses).filter(|addresses| !addresses.is_empty()),
        localhost_node_ports: iptables.and_then(|section| section.localhost_node_ports),
        node_address: bind.filter(|address| !address.is_unspecified()),
    })
}

/// Reads a range as kube-proxy does: bits behind the prefix are cut off.
fn cidr(text: &str, field: &'static str) -> Result<Cidr> {
    let parsed = text.trim().split_once('/').and_then(|(address, length)| {
        let (address, length) = (address.parse::<IpAddr>().ok()?, length.parse::<u8>().ok()?);
        let bits: u32 = if address.is_ipv4() { 32 } else { 128 };
        let behind = bits.checked_sub(length.into())?;
        Some(Cidr(
            match address {
                IpAddr::V4(address) => {
                    let mask = u32::MAX.checked_shl(behind).unwrap_or(0);
                    IpAddr::V4((address.to_bits() & mask).into())
                }
                IpAddr::V6(address) => {
                    let mask = u128::MAX.checked_shl(behind).unwrap_or(0);
                    IpAddr::V6((address.to_bits() & mask).into())
                }
            },
            length,
        ))
    });
    parsed.map_or_else(|| wrong(field, "write ranges such as 10.244.0.0/16"), Ok)
}

fn local_traffic(from: &KubeProxy) -> Result<LocalTraffic> {
    let mode = match from.detect_local_mode.as_deref().unwrap_or_default() {
        "" => None,
        "ClusterCIDR" => Some(LocalMode::ClusterCIDR),
        "NodeCIDR" => Some(LocalMode::NodeCIDR),
        "BridgeInterface" => Some(LocalMode::BridgeInterface),
        "InterfaceNamePrefix" => Some(LocalMode::InterfaceNamePrefix),
        _ => {
            return wrong(
                "detectLocalMode",
                "use ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix",
            );
        }
    };
    let detect = from.detect_local.as_ref();
    let bridge = present(detect.and_then(|detect| detect.bridge_interface.as_deref()));
    let prefix = present(detect.and_then(|detect| detect.interface_name_prefix.as_deref()));
    if mode == Some(LocalMode::BridgeInterface) && bridge.is_none() {
        return wrong("detectLocal.bridgeInterface", "name the bridge");
    }
    if mode == Some(LocalMode::InterfaceNamePrefix) && prefix.is_none() {
        return wrong("detectLocal.interfaceNamePrefix", "write the prefix");
    }
    let mut cluster_cidrs = Vec::new();
    for text in present(from.cluster_cidr.as_deref())
        .into_iter()
        .flat_map(|text| text.split(','))
    {
        cluster_cidrs.push(cidr(text, "clusterCIDR")?);
    }
    for is_v6 in [false, true] {
        if cluster_cidrs
            .iter()
            .filter(|cidr| cidr.0.is_ipv6() == is_v6)
            .count()
            > 1
        {
            return wrong("clusterCIDR", "write at most one range of each family");
        }
    }
    Ok(LocalTraffic {
        mode,
        cluster_cidrs: Some(cluster_cidrs).filter(|cidrs| !cidrs.is_empty()),
        bridge_interface: bridge.map(str::to_owned),
        interface_name_prefix: prefix.map(str::to_owned),
    })
}

fn client(from: &KubeProxy) -> Result<Client> {
    let client = from.client_connection.as_ref();
    let qps = client.and_then(|client| client.qps);
    if qps.is_some_and(|qps| !qps.is_finite() || qps < 0.0) {
        return wrong("clientConnection.qps", "use a number from 0");
    }
    let burst = match client.and_then(|client| client.burst) {
        None => None,
        Some(burst) => match u32::try_from(burst) {
            Ok(burst) => Some(burst),
            Err(_) => return wrong("clientConnection.burst", "use a number from 0"),
        },
    };
    Ok(Client {
        kubeconfig: present(client.and_then(|client| client.kubeconfig.as_deref()))
            .map(PathBuf::from),
        qps: qps.filter(|qps| *qps > 0.0),
        burst: burst.filter(|burst| *burst > 0),
    })
}

type Timeouts = std::collections::BTreeMap<StateName, Timeout>;

/// The kernel's connection tracking, with kube-proxy's defaults; timeouts that are asked for
/// hold for our own table too, since a connection passes through both.
fn conntrack(from: &KubeProxy) -> Result<(Conntrack, Timeouts)> {
    const DEFAULTS: KernelConntrack = KernelConntrack::KUBE_PROXY;
    let mut timeouts = Timeouts::new();
    let section = from.conntrack.as_ref();
    let count = |value: Option<i32>, default, field| match value.map(u32::try_from) {
        None => Ok(Some(default)),
        Some(Ok(value)) => Ok(Some(value)),
        Some(Err(_)) => wrong(field, "use a number from 0"),
    };
    let seconds = |value: Option<GoDuration>, default: u32, field| match value {
        None => Ok(Some(default)),
        Some(value) => match u32::try_from(value.nanos.div_euclid(1_000_000_000)) {
            Ok(seconds) => Ok(Some(seconds)),
            Err(_) => wrong(field, "use a time from 0"),
        },
    };
    let established = section.and_then(|section| section.tcp_established_timeout);
    let close_wait = section.and_then(|section| section.tcp_close_wait_timeout);
    let udp = section.and_then(|section| section.udp_timeout);
    let udp_stream = section.and_then(|section| section.udp_stream_timeout);
    for (state, value) in [
        (State::Established, established),
        (State::FinWait, close_wait),
        (State::CloseWait, close_wait),
        (State::UdpNew, udp),
        (State::UdpStream, udp_stream),
    ] {
        let timeout = value
            .and_then(GoDuration::duration)
            .filter(|timeout| timeout.as_secs() > 0);
        timeouts.extend(timeout.map(|timeout| (StateName(state), Timeout(timeout))));
    }
    let conntrack = Conntrack {
        max_per_core: count(
            section.and_then(|section| section.max_per_core),
            DEFAULTS.max_per_core,
            "conntrack.maxPerCore",
        )?,
        min: count(
            section.and_then(|section| section.min),
            DEFAULTS.min,
            "conntrack.min",
        )?,
        tcp_established_seconds: seconds(
            established,
            DEFAULTS.tcp_established_seconds,
            "conntrack.tcpEstablishedTimeout",
        )?,
        tcp_close_wait_seconds: seconds(
            close_wait,
            DEFAULTS.tcp_close_wait_seconds,
            "conntrack.tcpCloseWaitTimeout",
        )?,
        tcp_be_liberal: section.and_then(|section| section.tcp_be_liberal),
        udp_seconds: seconds(udp, 0, "conntrack.udpTimeout")?,
        udp_stream_seconds: seconds(udp_stream, 0, "conntrack.udpStreamTimeout")?,
    };
    Ok((conntrack, timeouts))
}
