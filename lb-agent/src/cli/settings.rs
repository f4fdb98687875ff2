//! Flags that are settings too, and how they and the files become the settings of an agent.

use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args};

use super::error::{CliError, while_doing};
use crate::config::document::{Document, Health, Log, LogFormat, Metrics};
use crate::config::layers::{Layers, Origin};
use crate::config::value::{Bind, ValueError};
use crate::settings::outside::{HEALTH_PORT, METRICS_PORT};

/// Flags that are settings too: of `run`, and of the commands that show what it would do.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct SettingsArgs {
    /// Name of this Node [default: the host's name in lower case]
    #[arg(
        long,
        value_name = "NAME",
        env = "STEERAGE_NODE_NAME",
        visible_alias = "hostname-override"
    )]
    node_name: Option<String>,
    /// Settings: files of `SteerageConfiguration` or `KubeProxyConfiguration` documents
    ///
    /// May repeat. Flags win over the environment, that over `SteerageConfiguration`, that over
    /// `KubeProxyConfiguration`, and of one kind the later document wins.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Vec<PathBuf>,
    /// Where /healthz and /livez are served; empty for nowhere [default: 0.0.0.0:10256]
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "STEERAGE_HEALTHZ_BIND_ADDRESS",
        value_parser = parse_health
    )]
    healthz_bind_address: Option<Bind>,
    /// Where /metrics is served; empty for nowhere [default: 127.0.0.1:10249]
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "STEERAGE_METRICS_BIND_ADDRESS",
        value_parser = parse_metrics
    )]
    metrics_bind_address: Option<Bind>,
    /// Form of the log on stderr [default: text]
    #[arg(long, value_name = "FORM", env = "STEERAGE_LOG_FORMAT")]
    log_format: Option<LogFormat>,
    /// What is logged: a level, or directives such as info,`lb_agent::source`=debug [default: info]
    #[arg(long, value_name = "LEVEL", env = "STEERAGE_LOG")]
    log_level: Option<String>,
}

/// Which flags got their values from the environment.
#[derive(Clone, Debug)]
pub(crate) struct FlagOrigins {
    environment: Vec<(&'static str, &'static str)>,
}

/// Settings by the flags that make them, with the flags' variables.
const FLAGS: [(&str, &str, &str, &str); 5] = [
    ("node_name", "nodeName", "--node-name", "STEERAGE_NODE_NAME"),
    (
        "healthz_bind_address",
        "health.bindAddress",
        "--healthz-bind-address",
        "STEERAGE_HEALTHZ_BIND_ADDRESS",
    ),
    (
        "metrics_bind_address",
        "metrics.bindAddress",
        "--metrics-bind-address",
        "STEERAGE_METRICS_BIND_ADDRESS",
    ),
    (
        "log_format",
        "log.format",
        "--log-format",
        "STEERAGE_LOG_FORMAT",
    ),
    ("log_level", "log.level", "--log-level", "STEERAGE_LOG"),
];

impl FlagOrigins {
    /// Which of the flags in `matches` came from the environment.
    pub(crate) fn new(matches: &ArgMatches) -> Self {
        Self {
            environment: FLAGS
                .iter()
                .filter(|(id, ..)| matches.value_source(id) == Some(ValueSource::EnvVariable))
                .map(|&(_, setting, _, variable)| (setting, variable))
                .collect(),
        }
    }

    /// For no flags at all.
    pub(crate) const fn none() -> Self {
        Self {
            environment: Vec::new(),
        }
    }

    fn origin(&self, setting: &str) -> Origin {
        if let Some((_, variable)) = self.environment.iter().find(|(name, _)| *name == setting) {
            return Origin::Environment((*variable).to_owned());
        }
        let flag = FLAGS.iter().find(|(_, name, ..)| *name == setting);
        Origin::Flag(flag.map_or_else(String::new, |(_, _, flag, _)| (*flag).to_owned()))
    }
}

impl SettingsArgs {
    /// As if only these files were given.
    pub(crate) fn of_files(config: Vec<PathBuf>) -> Self {
        Self {
            config,
            ..Self::default()
        }
    }

    /// Reads the files and puts the flags above them.
    pub(crate) fn layers(&self, origins: &FlagOrigins) -> Result<Layers, CliError> {
        let mut layers = Layers::new();
        let host = Document {
            node_name: Some(host_name()?),
            ..Document::default()
        };
        layers.add(&host, |_| Origin::Default);
        for path in &self.config {
            layers.add_file(path)?;
        }
        let flags = Document {
            node_name: self.node_name.clone(),
            log: Log {
                level: self.log_level.clone(),
                format: self.log_format,
            },
            health: Health {
                bind_address: self.healthz_bind_address,
                timeout: None,
            },
            metrics: Metrics {
                bind_address: self.metrics_bind_address,
            },
            ..Document::default()
        };
        layers.add(&flags, |name| origins.origin(name));
        Ok(layers)
    }
}

/// The host's name in lower case, as the kubelet registers it.
fn host_name() -> Result<String, CliError> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_err(while_doing("reading the host's name; give --node-name"))?;
    Ok(name.trim().to_lowercase())
}

fn parse_health(text: &str) -> Result<Bind, ValueError> {
    parse_bind(text, HEALTH_PORT)
}

fn parse_metrics(text: &str) -> Result<Bind, ValueError> {
    parse_bind(text, METRICS_PORT)
}

fn parse_bind(text: &str, port: u16) -> Result<Bind, ValueError> {
    if text.is_empty() {
        return Ok(Bind::Off);
    }
    Bind::with_default_port(text, port)
}
