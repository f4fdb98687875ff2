//! What the agent's plan rests on besides the objects: written for `steerage verify`, which makes a
//! plan of its own from the same source.

use std::net::IpAddr;
use std::path::PathBuf;

use lb_common::table::config::REDIRECT;
use serde::{Deserialize, Serialize};

use crate::agent::config;
use crate::settings::services::LocalMode;
use crate::settings::{ApiSettings, Redirect, Settings, SourceSettings};

/// Name of the file in the state directory.
pub const FILE_NAME: &str = "basis.json";
/// Version of the shape: raised by any change that an older command would misread.
pub const VERSION: u32 = 2;

/// Where the agent's objects come from, and the settings that the tables depend on. It holds paths of
/// credentials, never credentials.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Basis {
    /// [`VERSION`].
    pub version: u32,
    /// `metadata.name` of the Node.
    pub node_name: String,
    /// The setting `services.nodeAddress`.
    #[serde(default)]
    pub node_address: Option<IpAddr>,
    /// Where objects come from.
    source: SourceBasis,
    /// Service CIDRs of the settings.
    pub service_cidrs: Vec<(IpAddr, u8)>,
    /// Words of `CONFIG` that follow from the settings alone.
    pub config: Vec<(u32, u64)>,
    /// What says whose packets are the cluster's wherever they come from.
    #[serde(default)]
    rules: PodRules,
}

/// The settings that choose the ranges of pods.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
enum PodRules {
    /// These ranges.
    Ranges(Vec<(IpAddr, u8)>),
    /// Those of the Node.
    OfNode,
}

impl Default for PodRules {
    fn default() -> Self {
        Self::Ranges(Vec::new())
    }
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
enum SourceBasis {
    Directory(PathBuf),
    Kubernetes {
        servers: Vec<String>,
        kubeconfigs: Vec<PathBuf>,
        service_account: PathBuf,
        environment: Option<String>,
    },
}

impl Basis {
    /// What `settings` say. Paths become absolute, since a command runs elsewhere.
    pub fn of(settings: &Settings) -> Self {
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        let source = match &settings.source {
            SourceSettings::Directory(path) => SourceBasis::Directory(absolute(path)),
            SourceSettings::Kubernetes(api) => SourceBasis::Kubernetes {
                servers: api.servers.clone(),
                kubeconfigs: api.kubeconfigs.iter().map(absolute).collect(),
                service_account: absolute(&api.service_account),
                environment: api.environment.clone(),
            },
        };
        let mut words = config::timeouts(&settings.timeouts);
        words.push(config::flow_buckets(
            settings.sizes.flow_buckets_v4,
            settings.sizes.flow_buckets_v6,
        ));
        if settings.redirect == Redirect::On {
            words.push((REDIRECT, 1));
        }
        let rules = match settings.services.local_mode {
            LocalMode::NodeCIDR => PodRules::OfNode,
            _ => PodRules::Ranges(settings.services.pods(&[]).to_vec()),
        };
        Self {
            version: VERSION,
            node_name: settings.node_name.clone(),
            node_address: settings.services.node_address,
            source,
            service_cidrs: settings.service_cidrs.clone(),
            config: words,
            rules,
        }
    }

    /// The ranges of pods, of a Node with these `podCIDRs`.
    pub fn pods<'a>(&'a self, of_node: &'a [(IpAddr, u8)]) -> &'a [(IpAddr, u8)] {
        match &self.rules {
            PodRules::Ranges(ranges) => ranges,
            PodRules::OfNode => of_node,
        }
    }

    /// The ranges outside of which no pod of the cluster has an address.
    pub fn cluster_wide(&self) -> &[(IpAddr, u8)] {
        match &self.rules {
            PodRules::Ranges(ranges) => ranges,
            PodRules::OfNode => &[],
        }
    }

    /// Where objects come from.
    pub fn source(&self) -> SourceSettings {
        match &self.source {
            SourceBasis::Directory(path) => SourceSettings::Directory(path.clone()),
            SourceBasis::Kubernetes {
                servers,
                kubeconfigs,
                service_account,
                environment,
            } => SourceSettings::Kubernetes(ApiSettings {
                servers: servers.clone(),
                kubeconfigs: kubeconfigs.clone(),
                service_account: service_account.clone(),
                environment: environment.clone(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_of_the_settings_is_read_again() {
        for source in [
            SourceSettings::Directory("/etc/steerage/manifests".into()),
            SourceSettings::Kubernetes(ApiSettings {
                servers: vec!["https://10.0.0.1:6443".to_owned()],
                kubeconfigs: vec!["/etc/kubeconfig".into()],
                ..ApiSettings::default()
            }),
        ] {
            let mut settings = Settings::with_source("n1".to_owned(), source.clone());
            settings.service_cidrs = vec![([10, 96, 0, 0].into(), 12)];
            let basis = Basis::of(&settings);
            let text = serde_json::to_string(&basis).unwrap();
            let read: Basis = serde_json::from_str(&text).unwrap();
            assert_eq!(read, basis);
            assert_eq!(read.source(), source);
            assert!(!read.config.is_empty());
        }
    }
}
