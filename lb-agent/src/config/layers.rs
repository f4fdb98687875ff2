//! Layers of settings, and what they amount to: flags before the environment, before files of our
//! own kind, before kube-proxy's files, before the defaults.
//!
//! A setting is taken from the first layer that has it, each for itself; a list is one setting. Of
//! several files of a kind, or documents in one, the last counts.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use lb_common::conntrack::State;
use serde_json::Value;

use super::document::{self, Attachment, Document, Health, Log, LogFormat, Metrics, Services};
use super::error::ConfigError;
use super::kube_proxy;
use super::text::{self, Mistake};
use super::tree::{Tree, json_leaves, put};
use super::value::{Bind, NodePortAddress, StateName, Timeout};
use super::without_effect;
use crate::settings::audit::Audit;
use crate::settings::client::ApiClient;
use crate::settings::outside::{HEALTH_PORT, HEALTH_TIMEOUT, METRICS_PORT};
use crate::settings::services::{LocalMode, Masquerade};
use crate::settings::{Redirect, Sizes, Xdp};

/// Where a setting comes from, in the order of precedence, weakest first.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// A `KubeProxyConfiguration`; without a line it is that kind's default.
    KubeProxy {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: Option<u64>,
    },
    /// A `SteerageConfiguration`.
    File {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: Option<u64>,
    },
    /// An environment variable, by its name.
    Environment(String),
    /// A flag, by its name.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, line) = match self {
            Self::Default => return formatter.write_str("default"),
            Self::Environment(name) | Self::Flag(name) => return formatter.write_str(name),
            Self::KubeProxy { path, line: None } => {
                return write!(
                    formatter,
                    "default of {} in {}",
                    kube_proxy::KIND,
                    path.display()
                );
            }
            Self::KubeProxy { path, line } | Self::File { path, line } => (path, line),
        };
        write!(formatter, "{}", path.display())?;
        line.map_or(Ok(()), |line| write!(formatter, ":{line}"))
    }
}

/// A setting with its value and where it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// Its value.
    pub value: Value,
    /// Where it comes from.
    pub origin: Origin,
}

/// Settings by their names, such as `health.bindAddress`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Layers {
    settings: BTreeMap<String, Setting>,
    /// What people should know about the files, one line each.
    pub warnings: Vec<String>,
}

impl Layers {
    /// The defaults alone.
    pub fn new() -> Self {
        let mut layers = Self::default();
        layers.add(&defaults(), |_| Origin::Default);
        layers
    }

    /// All settings, in the order of their names.
    pub fn settings(&self) -> impl Iterator<Item = (&str, &Setting)> {
        self.settings
            .iter()
            .map(|(name, setting)| (name.as_str(), setting))
    }

    /// All that people should know: [`Self::warnings`], and settings that change nothing.
    pub fn all_warnings(&self) -> Vec<String> {
        let mut warnings = self.warnings.clone();
        warnings.extend(without_effect::warnings(self));
        warnings
    }

    /// Adds what `document` says, unless a stronger layer has said it.
    pub fn add(&mut self, document: &Document, origin: impl Fn(&str) -> Origin) {
        let value = serde_json::to_value(document).unwrap_or_default();
        for (name, value) in json_leaves(&value) {
            let origin = origin(&name);
            let is_stronger = self
                .settings
                .get(&name)
                .is_none_or(|present| rank(&present.origin) <= rank(&origin));
            if is_stronger {
                self.settings.insert(name, Setting { value, origin });
            }
        }
    }

    /// Adds the documents of a file.
    pub fn add_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        self.add_text(path, &text)
    }

    /// Adds the documents of `text`, which is the content of `path`.
    pub fn add_text(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let mistaken = |mistake: Mistake| ConfigError::Syntax {
            path: path.to_owned(),
            line: mistake.line,
            message: mistake.message,
        };
        for (line, document) in text::documents(text) {
            let tree: Tree = text::parse_lenient(&document).map_err(mistaken)?;
            let leaves = tree.leaves();
            let header = |name: &str| {
                let leaf = leaves.iter().find(|leaf| leaf.path == name);
                leaf.and_then(|leaf| leaf.value.as_str())
                    .unwrap_or_default()
                    .to_owned()
            };
            match (header("apiVersion").as_str(), header("kind").as_str()) {
                (document::API_VERSION, document::KIND) => {
                    let parsed: Document = text::parse(&document).map_err(mistaken)?;
                    self.add(&parsed, |name| Origin::File {
                        path: path.to_owned(),
                        line: leaves
                            .iter()
                            .find(|leaf| leaf.path == name)
                            .map(|leaf| leaf.line),
                    });
                }
                (kube_proxy::API_VERSION, kube_proxy::KIND) => {
                    let file = kube_proxy::read(&document).map_err(mistaken)?;
                    self.add(&file.document, |name| Origin::KubeProxy {
                        path: path.to_owned(),
                        line: kube_proxy::line_of(&file.leaves, name),
                    });
                    self.warn(path, &file);
                }
                (api_version, kind) => {
                    return Err(ConfigError::Kind {
                        path: path.to_owned(),
                        line,
                        kind: kind.to_owned(),
                        api_version: api_version.to_owned(),
                    });
                }
            }
        }
        Ok(())
    }

    fn warn(&mut self, path: &Path, file: &kube_proxy::KubeProxyFile) {
        if !file.without_meaning.is_empty() {
            self.warnings.push(format!(
                "{}: these fields have no meaning here and are ignored: {}",
                path.display(),
                file.without_meaning.join(", ")
            ));
        }
        if !file.unknown.is_empty() {
            let fields: Vec<_> = file
                .unknown
                .iter()
                .map(|(field, line)| format!("{field} (line {line})"))
                .collect();
            self.warnings.push(format!(
                "{}: no version of {} has these fields, they are ignored: {}",
                path.display(),
                kube_proxy::KIND,
                fields.join(", ")
            ));
        }
    }

    /// What all layers amount to.
    pub fn document(&self) -> Result<Document, ConfigError> {
        let mut root = Value::Object(serde_json::Map::new());
        for (name, setting) in &self.settings {
            put(&mut root, name, setting.value.clone());
        }
        serde_json::from_value(root).map_err(|source| ConfigError::Merge { source })
    }

    /// The names of settings whose values differ between `self` and `other`.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let names: std::collections::BTreeSet<_> =
            self.settings.keys().chain(other.settings.keys()).collect();
        let value = |layers: &Self, name: &String| {
            layers
                .settings
                .get(name)
                .map(|setting| setting.value.clone())
        };
        names
            .into_iter()
            .filter(|name| value(self, name) != value(other, name))
            .cloned()
            .collect()
    }
}

const fn rank(origin: &Origin) -> u8 {
    match origin {
        Origin::Default => 0,
        Origin::KubeProxy { .. } => 1,
        Origin::File { .. } => 2,
        Origin::Environment(_) => 3,
        Origin::Flag(_) => 4,
    }
}

/// What holds where nobody says anything.
fn defaults() -> Document {
    let client = ApiClient::default();
    let audit = Audit::default();
    Document {
        log: Log {
            level: Some("info".to_owned()),
            format: Some(LogFormat::default()),
        },
        sizes: Sizes::default().into(),
        timeouts: State::ALL
            .iter()
            .map(|state| {
                let seconds = state.default_timeout().0;
                let timeout = std::time::Duration::from_secs(seconds.into());
                (StateName(*state), Timeout(timeout))
            })
            .collect(),
        attachment: Some(Attachment::Probe),
        datapath: document::Datapath {
            redirect: Some(Redirect::default()),
            xdp: Some(Xdp::default()),
        },
        health: Health {
            bind_address: Some(Bind::At(([0, 0, 0, 0], HEALTH_PORT).into())),
            timeout: Some(Timeout(HEALTH_TIMEOUT)),
        },
        metrics: Metrics {
            bind_address: Some(Bind::At(([127, 0, 0, 1], METRICS_PORT).into())),
        },
        bind_hard_fail: Some(false),
        services: Services {
            masquerade: Some(Masquerade::default()),
            node_port_addresses: Some(vec![NodePortAddress::Primary]),
            localhost_node_ports: Some(true),
            node_address: None,
        },
        local_traffic: document::LocalTraffic {
            mode: Some(LocalMode::default()),
            ..document::LocalTraffic::default()
        },
        client: document::Client {
            kubeconfig: None,
            qps: Some(client.qps),
            burst: Some(client.burst),
        },
        audit: document::Audit {
            interval: Some(Timeout(audit.interval)),
            repair: Some(audit.repair),
        },
        ..Document::default()
    }
}

#[cfg(test)]
mod tests;
