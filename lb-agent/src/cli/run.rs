//! `steerage run`: from flags and files to settings, then the agent.

use std::env;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

use super::args::Places;
use super::config;
use super::error::{CliError, while_doing};
use crate::settings::{ApiSettings, Settings, SourceSettings};

const EXAMPLES: &str = "\
Examples:
  steerage run --node-name n1 --kubeconfig /etc/steerage/kubeconfig
  steerage run --api-server https://10.0.0.1:6443 --api-server https://10.0.0.2:6443
  steerage run --source dir:/etc/steerage/manifests
  steerage run --node-name n1 --source dir:manifests --config sizes.yaml
  steerage run --source dir:manifests --pin-dir /sys/fs/bpf/lab --state-dir /run/lab";

/// Arguments of `run`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RunArgs {
    /// Name of this Node [default: the host's name in lower case]
    #[arg(long, value_name = "NAME", env = "STEERAGE_NODE_NAME")]
    node_name: Option<String>,
    /// Where objects come from: kubernetes, an API server; or dir:PATH, a directory of manifests
    #[arg(
        long,
        value_parser = parse_source,
        env = "STEERAGE_SOURCE",
        default_value = "kubernetes"
    )]
    source: SourceChoice,
    /// An API server such as `https://10.0.0.1:6443`; several are asked in turn [default: that of the
    /// kubeconfig, else those known from before, else that of the pod's environment]
    #[arg(long, value_name = "URL")]
    api_server: Vec<String>,
    /// A kubeconfig with the credentials [default: the files in KUBECONFIG, else the service account
    /// of the pod]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Settings: files of `SteerageConfiguration` documents, later ones win
    #[arg(long, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// The cgroup v2 directory whose processes are this node's; for socket hooks, of which this
    /// version has none
    #[arg(long, value_name = "DIR")]
    cgroup_root: Option<PathBuf>,
    /// Load the kernel programs that log each flow decision
    #[arg(long)]
    debug_datapath: bool,
    /// Form of the log on stderr
    #[arg(long, value_name = "FORM", default_value = "text")]
    log_format: LogFormat,
    /// What is logged: a level, or directives such as info,`lb_agent::source`=debug
    #[arg(
        long,
        value_name = "LEVEL",
        default_value = "info",
        env = "STEERAGE_LOG"
    )]
    log_level: String,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

pub(crate) fn run(args: &RunArgs, places: &Places) -> Result<(), CliError> {
    let settings = settings(args, places)?;
    start_log(args)?;
    Ok(crate::agent::run(settings)?)
}

fn settings(args: &RunArgs, places: &Places) -> Result<Settings, CliError> {
    let node_name = match &args.node_name {
        Some(name) => name.clone(),
        None => host_name()?,
    };
    let source = match &args.source {
        SourceChoice::Directory(_) if !args.api_server.is_empty() || args.kubeconfig.is_some() => {
            return Err(CliError::Usage {
                message: "--api-server and --kubeconfig mean nothing to a directory".to_owned(),
                hint: "use --source kubernetes, or leave them out",
            });
        }
        SourceChoice::Directory(path) => SourceSettings::Directory(path.clone()),
        SourceChoice::Kubernetes => SourceSettings::Kubernetes(api_settings(args)),
    };
    let mut settings = Settings::with_source(node_name, source);
    settings.pin_dir.clone_from(&places.pin_dir);
    settings.state_dir.clone_from(&places.state_dir);
    settings.debug_datapath = args.debug_datapath;
    for path in &args.config {
        config::apply_file(path, &mut settings)?;
    }
    settings.validate()?;
    Ok(settings)
}

/// What the flags say, and where they are silent, the environment.
fn api_settings(args: &RunArgs) -> ApiSettings {
    let variable = |name| env::var(name).ok().filter(|value| !value.is_empty());
    let kubeconfigs = match &args.kubeconfig {
        Some(path) => vec![path.clone()],
        None => env::var_os("KUBECONFIG").map_or_else(Vec::new, |paths| {
            let paths = env::split_paths(&paths);
            paths.filter(|path| !path.as_os_str().is_empty()).collect()
        }),
    };
    let host = variable("KUBERNETES_SERVICE_HOST").map(|host| match host.parse() {
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        _ => host,
    });
    let port = variable("KUBERNETES_SERVICE_PORT").unwrap_or_else(|| "443".to_owned());
    ApiSettings {
        servers: args.api_server.clone(),
        kubeconfigs,
        environment: host.map(|host| format!("https://{host}:{port}")),
        ..ApiSettings::default()
    }
}

/// The host's name in lower case, as the kubelet registers it.
fn host_name() -> Result<String, CliError> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_err(while_doing("reading the host's name; give --node-name"))?;
    Ok(name.trim().to_lowercase())
}

fn start_log(args: &RunArgs) -> Result<(), CliError> {
    let filter = EnvFilter::try_new(&args.log_level).map_err(|error| CliError::Usage {
        message: format!("--log-level {:?}: {error}", args.log_level),
        hint: "use error, warn, info, debug or trace",
    })?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match args.log_format {
        LogFormat::Text => log.with_ansi(false).init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}

/// Where objects come from.
#[derive(Clone, Debug)]
enum SourceChoice {
    Kubernetes,
    Directory(PathBuf),
}

fn parse_source(text: &str) -> Result<SourceChoice, SourceError> {
    match text.split_once(':') {
        Some(("dir", path)) if !path.is_empty() => Ok(SourceChoice::Directory(path.into())),
        None if text == "kubernetes" => Ok(SourceChoice::Kubernetes),
        _ => Err(SourceError),
    }
}

/// A source that there is not.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("write it as kubernetes or dir:PATH")]
struct SourceError;
