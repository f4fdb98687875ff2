//! `steerage run`: from flags and files to settings, then the agent.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

use super::args::Places;
use super::config;
use super::error::{CliError, while_doing};
use crate::settings::Settings;

const EXAMPLES: &str = "\
Examples:
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
    /// Where objects come from: dir:PATH, a directory of Kubernetes manifests
    #[arg(long, value_parser = parse_source, env = "STEERAGE_SOURCE")]
    source: PathBuf,
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
    let mut settings = Settings::new(node_name, args.source.clone());
    settings.pin_dir.clone_from(&places.pin_dir);
    settings.state_dir.clone_from(&places.state_dir);
    settings.debug_datapath = args.debug_datapath;
    for path in &args.config {
        config::apply_file(path, &mut settings)?;
    }
    settings.validate()?;
    Ok(settings)
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

fn parse_source(text: &str) -> Result<PathBuf, SourceError> {
    match text.split_once(':') {
        Some(("dir", path)) if !path.is_empty() => Ok(path.into()),
        Some(("kube", _)) => Err(SourceError::Kube),
        _ if text == "kube" => Err(SourceError::Kube),
        _ => Err(SourceError::Unknown),
    }
}

/// A source that there is not.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
enum SourceError {
    #[error("this version reads directories only: dir:PATH")]
    Kube,
    #[error("write it as dir:PATH")]
    Unknown,
}
