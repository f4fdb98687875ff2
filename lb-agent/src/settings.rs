//! The settings of an agent, checked once: what is here can be used without asking again.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use lb_common::id::MAX_INDEX;
use lb_common::table::config::MAX_CIDRS;

use crate::dataplane::layout::Table;
use audit::Audit;
use client::ApiClient;
use conntrack::KernelConntrack;
pub use datapath::{Redirect, Xdp};
use outside::Outside;
use services::ServiceRules;

pub mod audit;
pub mod client;
pub mod conntrack;
pub mod datapath;
pub mod outside;
pub mod services;

/// Where the pins are unless a flag says otherwise.
pub const DEFAULT_PIN_DIR: &str = "/sys/fs/bpf/steerage";
/// Where the snapshots for the command line are unless a flag says otherwise.
pub const DEFAULT_STATE_DIR: &str = "/run/steerage";

/// Everything an agent is told when it starts.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `metadata.name` of this Node.
    pub node_name: String,
    /// Where objects come from.
    pub source: SourceSettings,
    /// Directory on a bpffs under which maps and links are pinned.
    pub pin_dir: PathBuf,
    /// Directory of the snapshots for the command line.
    pub state_dir: PathBuf,
    /// Sizes of the tables.
    pub sizes: Sizes,
    /// Ranges of addresses that services are given: an address of theirs without a Service is
    /// dropped. Network and prefix length; added to those of `ServiceCIDR` objects.
    pub service_cidrs: Vec<(IpAddr, u8)>,
    /// Devices whose role is not to be found out.
    pub interfaces: InterfaceOverrides,
    /// How programs are attached.
    pub attachment: AttachmentMode,
    /// Whether packets of flows may be sent on at once, past the host's filters.
    pub redirect: Redirect,
    /// Whether XDP takes them where their frames come in.
    pub xdp: Xdp,
    /// How long conntrack entries may be idle, by state number; `None` is the default of
    /// `lb_common`.
    pub timeouts: Vec<Option<Duration>>,
    /// Whether the object that logs flow decisions is loaded.
    pub debug_datapath: bool,
    /// Servers for health and metrics.
    pub outside: Outside,
    /// What the kernel's own connection tracking is set to; nothing unless told.
    pub conntrack: KernelConntrack,
    /// Where the kernel's settings are, normally `/proc/sys`.
    pub proc_sys: PathBuf,
    /// `oom_score_adj` of the agent's process; `None` leaves it as it is.
    pub oom_score_adj: Option<i32>,
    /// How services are served.
    pub services: ServiceRules,
    /// How the API server is asked.
    pub client: ApiClient,
    /// How the tables are compared with the plan.
    pub audit: Audit,
}

impl Settings {
    /// Settings with every default and a directory of manifests as source, checked by
    /// [`Self::validate`] later.
    pub fn new(node_name: String, manifests: PathBuf) -> Self {
        Self::with_source(node_name, SourceSettings::Directory(manifests))
    }

    /// Settings with every default but the source.
    pub fn with_source(node_name: String, source: SourceSettings) -> Self {
        Self {
            node_name,
            source,
            pin_dir: DEFAULT_PIN_DIR.into(),
            state_dir: DEFAULT_STATE_DIR.into(),
            sizes: Sizes::default(),
            service_cidrs: Vec::new(),
            interfaces: InterfaceOverrides::default(),
            attachment: AttachmentMode::default(),
            redirect: Redirect::default(),
            xdp: Xdp::default(),
            timeouts: Vec::new(),
            debug_datapath: false,
            outside: Outside::default(),
            conntrack: KernelConntrack::default(),
            proc_sys: "/proc/sys".into(),
            oom_score_adj: None,
            services: ServiceRules::default(),
            client: ApiClient::default(),
            audit: Audit::default(),
        }
    }

    /// Checks everything that can be checked without the machine.
    pub fn validate(&self) -> Result<(), SettingsError> {
        if self.node_name.is_empty() {
            return Err(SettingsError::NodeName);
        }
        for path in [&self.pin_dir, &self.state_dir] {
            if !path.is_absolute() {
                return Err(SettingsError::RelativePath { path: path.clone() });
            }
        }
        for family_is_v6 in [false, true] {
            let count = self
                .service_cidrs
                .iter()
                .filter(|(network, _)| network.is_ipv6() == family_is_v6)
                .count();
            if u32::try_from(count).map_or(true, |count| count > MAX_CIDRS) {
                return Err(SettingsError::TooManyCidrs { count });
            }
        }
        for &(network, length) in &self.service_cidrs {
            let longest = if network.is_ipv6() { 128 } else { 32 };
            if length > longest {
                return Err(SettingsError::PrefixLength { network, length });
            }
        }
        if let SourceSettings::Kubernetes(api) = &self.source {
            api.validate()?;
        }
        if let Some(setting) = self.services.missing() {
            return Err(SettingsError::LocalMode { setting });
        }
        self.sizes.validate()
    }
}

/// Where objects come from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SourceSettings {
    /// A directory of manifests, `--source dir:PATH`.
    Directory(PathBuf),
    /// An API server, `--source kubernetes`.
    Kubernetes(ApiSettings),
}

impl fmt::Display for SourceSettings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(formatter, "dir:{}", path.display()),
            Self::Kubernetes(_) => formatter.write_str("kubernetes"),
        }
    }
}

/// Where a pod finds its service account's token and certificate authority.
pub const SERVICE_ACCOUNT_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// How the API server is found, and who we are to it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ApiSettings {
    /// `--api-server`: asked in this order, before any other.
    pub servers: Vec<String>,
    /// `--kubeconfig` or `KUBECONFIG`, merged in this order; empty for the service account.
    pub kubeconfigs: Vec<PathBuf>,
    /// Directory of `token` and `ca.crt`, used without a kubeconfig.
    pub service_account: PathBuf,
    /// What `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT` name, which often is the
    /// Service address: asked last, and not with a kubeconfig.
    pub environment: Option<String>,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            kubeconfigs: Vec::new(),
            service_account: SERVICE_ACCOUNT_DIR.into(),
            environment: None,
        }
    }
}

impl ApiSettings {
    fn validate(&self) -> Result<(), SettingsError> {
        for server in self.servers.iter().chain(&self.environment) {
            let url = server.parse::<http::Uri>().ok();
            let is_url = url.is_some_and(|url| {
                matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some()
            });
            if !is_url {
                return Err(SettingsError::ApiServer {
                    server: server.clone(),
                });
            }
        }
        Ok(())
    }
}

/// How programs are attached to devices.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum AttachmentMode {
    /// tcx where the kernel has it, else a clsact filter.
    #[default]
    Probe,
    /// Always a clsact filter.
    Clsact,
}

/// Devices by name whose role is given. `*` stands for any characters.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct InterfaceOverrides {
    /// These are workloads.
    pub workloads: Vec<String>,
    /// Ports of these bridges are workloads, unless they or the bridge are uplinks; names as they are.
    pub workload_bridges: Vec<String>,
    /// These are uplinks.
    pub uplinks: Vec<String>,
    /// These are left alone; this wins over the other two.
    pub ignored: Vec<String>,
}

/// Sizes of the tables in entries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sizes {
    /// Frontends and service addresses.
    pub frontends: u32,
    /// Service ports of one family, index 0 included, which is never used.
    pub services: u32,
    /// Words of the arena of backend sets.
    pub arena_words: u32,
    /// Backends, index 0 included, which is never used.
    pub backends: u32,
    /// Buckets of the IPv4 flow table, a power of two: eight slots each, two slots a flow.
    pub flow_buckets_v4: u32,
    /// Buckets of the IPv6 flow table, a power of two.
    pub flow_buckets_v6: u32,
    /// Fragmented packets in flight.
    pub fragments: u32,
    /// Clients that session affinity remembers, one for each service port they use.
    pub affinity: u32,
    /// Devices with programs.
    pub devices: u32,
    /// Addresses of this node.
    pub node_addresses: u32,
    /// Networks of `loadBalancerSourceRanges`, once for each service port that has them.
    pub source_ranges: u32,
    /// Copies of each of the connection counters, so that processors do not share a cache line.
    pub stats_shards: u32,
}

impl Default for Sizes {
    /// Holds 10 000 Services × 10 endpoints × 2 families and 256 k IPv4 flows.
    fn default() -> Self {
        Self {
            frontends: 65_536,
            services: 32_768,
            arena_words: 5_767_168,
            backends: 229_376,
            flow_buckets_v4: 65_536,
            flow_buckets_v6: 16_384,
            fragments: 8_192,
            affinity: 65_536,
            devices: 4_096,
            node_addresses: 4_096,
            source_ranges: 65_536,
            stats_shards: 1,
        }
    }
}

/// Largest array: `BPF_MAP_TYPE_ARRAY` is kept below 4 GiB.
const MAX_ARRAY_BYTES: u64 = 1 << 32;

impl Sizes {
    /// Entries of `table`'s map.
    pub fn entries(&self, table: Table) -> u32 {
        match table {
            Table::Frontends => self.frontends,
            Table::Services => self.services,
            Table::Arena => self.arena_words,
            Table::Backends => self.backends,
            Table::FlowsV4 => self.flow_buckets_v4,
            Table::FlowsV6 => self.flow_buckets_v6,
            Table::Fragments => self.fragments,
            Table::Affinity => self.affinity,
            Table::Devices => self.devices,
            Table::NodeAddresses => self.node_addresses,
            Table::SourceRanges => self.source_ranges,
            Table::ServiceStats => self.services.saturating_mul(self.stats_shards),
            Table::BackendStats => self.backends.saturating_mul(self.stats_shards),
            Table::ServiceFilter
            | Table::BackendFilter
            | Table::NodePorts
            | Table::Counters
            | Table::Config => table.fixed_entries().unwrap_or(1),
        }
    }

    fn validate(&self) -> Result<(), SettingsError> {
        for table in Table::ALL {
            let entries = self.entries(table);
            let smallest = if table.fixed_entries().is_some() {
                1
            } else {
                2
            };
            let largest = match table {
                Table::Services | Table::Backends => MAX_INDEX + 1,
                _ => u32::MAX,
            };
            let bytes = u64::from(entries)
                .saturating_mul(u64::try_from(table.value_size()).unwrap_or(u64::MAX));
            if entries < smallest || entries > largest || bytes >= MAX_ARRAY_BYTES {
                return Err(SettingsError::Size { table, entries });
            }
        }
        for table in [Table::FlowsV4, Table::FlowsV6] {
            let entries = self.entries(table);
            if !entries.is_power_of_two() {
                return Err(SettingsError::PowerOfTwo { table, entries });
            }
        }
        Ok(())
    }
}

/// A setting that cannot be.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SettingsError {
    /// The operator must name the Node.
    #[error("the node name is empty: pass --node-name")]
    NodeName,
    /// The operator must give an absolute path.
    #[error("{} is not an absolute path", path.display())]
    RelativePath {
        /// What was given.
        path: PathBuf,
    },
    /// The operator must correct the address.
    #[error("{server:?} is not the address of an API server: write it as https://10.0.0.1:6443")]
    ApiServer {
        /// What was given.
        server: String,
    },
    /// The operator must choose another size.
    #[error(
        "table {table} cannot have {entries} entries: choose a size between 2 and what fits into 4 GiB (4194304 services or backends)"
    )]
    Size {
        /// Which table.
        table: Table,
        /// What was asked for.
        entries: u32,
    },
    /// The operator must choose another size.
    #[error("table {table} cannot have {entries} buckets: choose a power of two")]
    PowerOfTwo {
        /// Which table.
        table: Table,
        /// What was asked for.
        entries: u32,
    },
    /// The operator must name fewer or larger ranges.
    #[error("{count} service CIDRs of one family: at most {MAX_CIDRS} are possible")]
    TooManyCidrs {
        /// How many there are.
        count: usize,
    },
    /// The operator must write what the mode goes by.
    #[error("write {setting}, by which localTraffic.mode tells the devices of pods")]
    LocalMode {
        /// The setting.
        setting: &'static str,
    },
    /// The operator must correct the range.
    #[error("{network}/{length} is not a range: the prefix is too long")]
    PrefixLength {
        /// The network.
        network: IpAddr,
        /// Its prefix length.
        length: u8,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings::new("n1".into(), "/etc/steerage/manifests".into())
    }

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(settings().validate(), Ok(()));
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        let check = |change: fn(&mut Sizes), expected: SettingsError| {
            let mut settings = settings();
            change(&mut settings.sizes);
            assert_eq!(settings.validate(), Err(expected));
        };
        check(
            |sizes| sizes.flow_buckets_v4 = 1000,
            SettingsError::PowerOfTwo {
                table: Table::FlowsV4,
                entries: 1000,
            },
        );
        check(
            |sizes| sizes.services = 0,
            SettingsError::Size {
                table: Table::Services,
                entries: 0,
            },
        );
        check(
            |sizes| sizes.backends = MAX_INDEX + 2,
            SettingsError::Size {
                table: Table::Backends,
                entries: MAX_INDEX + 2,
            },
        );
        check(
            |sizes| sizes.flow_buckets_v4 = 1 << 23,
            SettingsError::Size {
                table: Table::FlowsV4,
                entries: 1 << 23,
            },
        );
    }

    #[test]
    fn ranges_that_cannot_be_are_refused() {
        let network: IpAddr = "10.96.0.0".parse().unwrap();
        let mut wrong = settings();
        wrong.service_cidrs = vec![(network, 33)];
        assert_eq!(
            wrong.validate(),
            Err(SettingsError::PrefixLength {
                network,
                length: 33
            })
        );
        wrong.service_cidrs = vec![(network, 12); 9];
        assert_eq!(
            wrong.validate(),
            Err(SettingsError::TooManyCidrs { count: 9 })
        );
    }

    #[test]
    fn api_servers_are_urls() {
        for (server, is_right) in [
            ("https://10.0.0.1:6443", true),
            ("https://[fd00::1]:6443", true),
            ("http://127.0.0.1:8001", true),
            ("https://api.example.com/clusters/one", true),
            ("10.0.0.1:6443", false),
            ("api", false),
            ("ftp://10.0.0.1", false),
            ("", false),
        ] {
            let api = ApiSettings {
                servers: vec![server.into()],
                ..ApiSettings::default()
            };
            let source = SourceSettings::Kubernetes(api);
            let result = Settings::with_source("n1".into(), source).validate();
            assert_eq!(result.is_ok(), is_right, "{server}: {result:?}");
        }
    }

    #[test]
    fn relative_directories_are_refused() {
        let mut wrong = settings();
        wrong.pin_dir = "steerage".into();
        assert!(matches!(
            wrong.validate(),
            Err(SettingsError::RelativePath { .. })
        ));
    }
}
