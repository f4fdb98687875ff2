//! Files for `--config`: a document's kind decides what it is.
//!
//! Reading is strict, since a setting that is misspelt and ignored is found out in production:
//! unknown fields are refused with file, line and field.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lb_common::conntrack::State;
use serde::Deserialize;

use super::args::parse_duration;
use crate::settings::{AttachmentMode, Settings};

const API_VERSION: &str = "steerage.dev/v1alpha1";
const KIND: &str = "SteerageConfiguration";
const KUBE_PROXY_KIND: &str = "KubeProxyConfiguration";

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The operator must make the file readable.
    #[error("reading {}: {source}", .path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The operator must correct the file.
    #[error("{}:{line}: {message}", .path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Line, from 1.
        line: u64,
        /// The field and what is wrong with it.
        message: String,
    },
    /// The operator must correct the file.
    #[error("{}:{line}: kind {kind:?} of {api_version:?} is not known: use {KIND} of {API_VERSION}", .path.display())]
    Kind {
        /// Which file.
        path: PathBuf,
        /// Line of the document, from 1.
        line: u64,
        /// What it says.
        kind: String,
        /// What it says.
        api_version: String,
    },
    /// kube-proxy's settings concern the API.
    #[error("{}:{line}: {KUBE_PROXY_KIND} is read once objects come from the Kubernetes API; with --source dir: use {KIND}", .path.display())]
    KubeProxy {
        /// Which file.
        path: PathBuf,
        /// Line of the document, from 1.
        line: u64,
    },
    /// The operator must correct the value.
    #[error("{}:{line}: {field}: {value:?}: {hint}", .path.display())]
    Value {
        /// Which file.
        path: PathBuf,
        /// Line of the document, from 1.
        line: u64,
        /// The field.
        field: String,
        /// What it says.
        value: String,
        /// How it should be.
        hint: &'static str,
    },
}

/// What every document has.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
}

/// `SteerageConfiguration`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Configuration {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(default)]
    sizes: Sizes,
    /// By the names of states, `established: 24h`.
    #[serde(default)]
    timeouts: BTreeMap<String, String>,
    #[serde(default, rename = "serviceCIDRs")]
    service_cidrs: Vec<String>,
    #[serde(default)]
    interfaces: Interfaces,
    #[serde(default)]
    attachment: Option<Attachment>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Sizes {
    frontends: Option<u32>,
    services: Option<u32>,
    arena_words: Option<u32>,
    backends: Option<u32>,
    flow_buckets_v4: Option<u32>,
    flow_buckets_v6: Option<u32>,
    fragments: Option<u32>,
    affinity: Option<u32>,
    devices: Option<u32>,
    stats_shards: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Interfaces {
    #[serde(default)]
    workloads: Vec<String>,
    #[serde(default)]
    uplinks: Vec<String>,
    #[serde(default)]
    ignored: Vec<String>,
}

#[derive(Clone, Copy, Deserialize)]
enum Attachment {
    Probe,
    Clsact,
}

/// Reads the file at `path` and applies its documents to `settings`, in order.
pub fn apply_file(path: &Path, settings: &mut Settings) -> Result<(), ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    apply(path, &text, settings)
}

/// Applies the documents in `text`, which is the content of `path`.
pub fn apply(path: &Path, text: &str, settings: &mut Settings) -> Result<(), ConfigError> {
    for (line, document) in documents(text) {
        let header: Header = parse(path, &document)?;
        match (header.api_version.as_str(), header.kind.as_str()) {
            (API_VERSION, KIND) => {
                let configuration: Configuration = parse(path, &document)?;
                apply_configuration(path, line, configuration, settings)?;
            }
            (_, KUBE_PROXY_KIND) => {
                return Err(ConfigError::KubeProxy {
                    path: path.to_owned(),
                    line,
                });
            }
            _ => {
                return Err(ConfigError::Kind {
                    path: path.to_owned(),
                    line,
                    kind: header.kind,
                    api_version: header.api_version,
                });
            }
        }
    }
    Ok(())
}

/// The documents of a file, each with as many empty lines before it as lines precede it, so that
/// the parser's line numbers are the file's.
fn documents(text: &str) -> Vec<(u64, String)> {
    let mut documents = Vec::new();
    let mut current = String::new();
    let mut first_line = None;
    for (index, line) in text.lines().enumerate() {
        if line == "---" || line.starts_with("--- ") {
            if let Some(first) = first_line.take() {
                documents.push((first, std::mem::take(&mut current)));
            }
            current = "\n".repeat(index + 1);
            continue;
        }
        let is_content = !line.trim().is_empty() && !line.trim_start().starts_with('#');
        if first_line.is_none() && is_content {
            first_line = u64::try_from(index + 1).ok();
        }
        current.push_str(line);
        current.push('\n');
    }
    documents.extend(first_line.map(|first| (first, current)));
    documents
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path, document: &str) -> Result<T, ConfigError> {
    serde_saphyr::from_str(document).map_err(|error| {
        let line = error.location().map_or(1, |location| location.line());
        let text = error.without_snippet().to_string();
        let message = text.lines().next().unwrap_or_default();
        let message = message
            .rsplit_once(" at line ")
            .map_or(message, |(message, _)| message);
        ConfigError::Syntax {
            path: path.to_owned(),
            line,
            message: message.to_owned(),
        }
    })
}

fn apply_configuration(
    path: &Path,
    line: u64,
    configuration: Configuration,
    settings: &mut Settings,
) -> Result<(), ConfigError> {
    let wrong = |field: String, value: &str, hint| ConfigError::Value {
        path: path.to_owned(),
        line,
        field,
        value: value.to_owned(),
        hint,
    };
    apply_sizes(&configuration.sizes, settings);
    for (name, value) in &configuration.timeouts {
        let field = || format!("timeouts.{name}");
        let state = State::ALL
            .iter()
            .find(|state| state.name() == name)
            .ok_or_else(|| wrong(field(), value, "no such state; see docs/datapath.md"))?;
        let timeout = parse_duration(value)
            .ok()
            .filter(|timeout| *timeout >= Duration::from_secs(1))
            .ok_or_else(|| wrong(field(), value, "write it such as 30s, 5m or 24h"))?;
        let index = usize::try_from(state.number()).unwrap_or(usize::MAX);
        if settings.timeouts.len() <= index {
            settings.timeouts.resize(index + 1, None);
        }
        settings.timeouts[index] = Some(timeout);
    }
    for text in &configuration.service_cidrs {
        let cidr = parse_cidr(text).ok_or_else(|| {
            wrong(
                "serviceCIDRs".to_owned(),
                text,
                "write it such as 10.96.0.0/12",
            )
        })?;
        settings.service_cidrs.push(cidr);
    }
    let interfaces = configuration.interfaces;
    settings.interfaces.workloads.extend(interfaces.workloads);
    settings.interfaces.uplinks.extend(interfaces.uplinks);
    settings.interfaces.ignored.extend(interfaces.ignored);
    match configuration.attachment {
        Some(Attachment::Probe) => settings.attachment = AttachmentMode::Probe,
        Some(Attachment::Clsact) => settings.attachment = AttachmentMode::Clsact,
        None => {}
    }
    Ok(())
}

fn apply_sizes(from: &Sizes, settings: &mut Settings) {
    let to = &mut settings.sizes;
    for (value, target) in [
        (from.frontends, &mut to.frontends),
        (from.services, &mut to.services),
        (from.arena_words, &mut to.arena_words),
        (from.backends, &mut to.backends),
        (from.flow_buckets_v4, &mut to.flow_buckets_v4),
        (from.flow_buckets_v6, &mut to.flow_buckets_v6),
        (from.fragments, &mut to.fragments),
        (from.affinity, &mut to.affinity),
        (from.devices, &mut to.devices),
        (from.stats_shards, &mut to.stats_shards),
    ] {
        if let Some(value) = value {
            *target = value;
        }
    }
}

/// Reads a network with its prefix length, which must not have bits beyond it.
pub fn parse_cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    let (address, length): (IpAddr, u8) = (address.parse().ok()?, length.parse().ok()?);
    let (bits, width) = match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    let beyond = u128::MAX.checked_shr(length.into()).unwrap_or(0);
    (length <= width && bits & beyond == 0).then_some((address, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(text: &str) -> Result<Settings, String> {
        let mut settings = Settings::new("n1".to_owned(), "/manifests".into());
        apply(Path::new("config.yaml"), text, &mut settings)
            .map(|()| settings)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn every_setting_reaches_its_place() {
        let settings = applied(
            "# sizes first\n---\n\
             apiVersion: steerage.dev/v1alpha1\nkind: SteerageConfiguration\n\
             sizes:\n  services: 100\n  flowBucketsV4: 1024\n\
             ---\n\
             apiVersion: steerage.dev/v1alpha1\nkind: SteerageConfiguration\n\
             timeouts:\n  established: 2h\n  udp_new: 10s\n\
             serviceCIDRs: [10.96.0.0/12, \"fd00:96::/112\"]\n\
             interfaces:\n  ignored: [docker0]\n\
             attachment: Clsact\n",
        )
        .unwrap();
        assert_eq!(settings.sizes.services, 100);
        assert_eq!(settings.sizes.flow_buckets_v4, 1024);
        let timeout = |state: State| settings.timeouts[usize::try_from(state.number()).unwrap()];
        assert_eq!(timeout(State::Established), Some(Duration::from_hours(2)));
        assert_eq!(timeout(State::UdpNew), Some(Duration::from_secs(10)));
        assert_eq!(timeout(State::FinWait), None);
        assert_eq!(settings.service_cidrs.len(), 2);
        assert_eq!(settings.interfaces.ignored, ["docker0"]);
        assert_eq!(settings.attachment, AttachmentMode::Clsact);
    }

    #[test]
    fn mistakes_are_named_with_file_line_and_field() {
        const HEAD: &str = "apiVersion: steerage.dev/v1alpha1\nkind: SteerageConfiguration\n";
        for (text, expected) in [
            ("sizes:\n  servces: 1\n", vec!["config.yaml:4: ", "servces"]),
            ("colour: red\n", vec!["config.yaml:3: ", "colour"]),
            ("sizes:\n  services: many\n", vec!["config.yaml:4: "]),
            (
                "timeouts: {establish: 1h}\n",
                vec!["config.yaml:1: timeouts.establish: \"1h\""],
            ),
            (
                "timeouts: {established: soon}\n",
                vec!["config.yaml:1: timeouts.established: \"soon\""],
            ),
            (
                "serviceCIDRs: [10.96.0.1/12]\n",
                vec!["config.yaml:1: serviceCIDRs: \"10.96.0.1/12\""],
            ),
        ] {
            let message = applied(&format!("{HEAD}{text}")).unwrap_err();
            for part in expected {
                assert!(message.contains(part), "{message:?} lacks {part:?}");
            }
            assert_eq!(message.lines().count(), 1, "{message:?}");
        }
    }

    #[test]
    fn other_kinds_are_refused_by_name() {
        let kube_proxy = "\n---\napiVersion: kubeproxy.config.k8s.io/v1alpha1\n\
                          kind: KubeProxyConfiguration\nmode: nftables\n";
        let message = applied(kube_proxy).unwrap_err();
        assert!(message.starts_with("config.yaml:3: KubeProxyConfiguration"));
        let message = applied("apiVersion: v1\nkind: ConfigMap\n").unwrap_err();
        assert!(message.contains("\"ConfigMap\""), "{message}");
        assert!(applied("# nothing\n").is_ok());
    }
}
