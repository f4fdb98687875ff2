//! `steerage run`: from flags and files to settings, then the agent.

use std::path::PathBuf;

use clap::{ArgMatches, Args};
use tracing_subscriber::EnvFilter;

use super::args::Places;
use super::error::CliError;
use super::settings::{FlagOrigins, SettingsArgs};
use crate::config::document::{Document, LogFormat};
use crate::config::reload::{Effective, Watched};
use crate::config::{self, configz};
use crate::settings::Settings;

const EXAMPLES: &str = "\
Examples:
  steerage run --source dir:/etc/steerage/manifests
  steerage run --node-name n1 --source dir:manifests --config sizes.yaml
  steerage run --source dir:manifests --pin-dir /sys/fs/bpf/lab --state-dir /run/lab";

/// Arguments of `run`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RunArgs {
    /// Where objects come from: dir:PATH, a directory of Kubernetes manifests
    #[arg(long, value_parser = parse_source, env = "STEERAGE_SOURCE")]
    source: PathBuf,
    #[command(flatten)]
    settings: SettingsArgs,
    /// The cgroup v2 directory whose processes are this node's; for socket hooks, of which this
    /// version has none
    #[arg(long, value_name = "DIR")]
    cgroup_root: Option<PathBuf>,
    /// Load the kernel programs that log each flow decision
    #[arg(long)]
    debug_datapath: bool,
    /// Directory of the kernel's settings, where a container has them elsewhere
    #[arg(
        long,
        value_name = "DIR",
        env = "STEERAGE_PROC_SYS",
        default_value = "/proc/sys"
    )]
    proc_sys: PathBuf,
}

pub(crate) fn run(args: &RunArgs, places: &Places, matches: &ArgMatches) -> Result<(), CliError> {
    let origins = FlagOrigins::new(matches);
    let watched = Watched::new(args.settings.config.clone(), {
        let (args, places, origins) = (args.clone(), places.clone(), origins.clone());
        Box::new(move || effective(&args, &places, &origins).map_err(|error| error.to_string()))
    });
    let effective = effective(args, places, &origins)?;
    start_log(&effective.layers.document()?)?;
    Ok(crate::agent::run_watched(effective, watched)?)
}

/// What flags and files amount to now.
fn effective(
    args: &RunArgs,
    places: &Places,
    origins: &FlagOrigins,
) -> Result<Effective, CliError> {
    let layers = args.settings.layers(origins)?;
    let document = layers.document()?;
    let mut settings = Settings::new(String::new(), args.source.clone());
    settings.pin_dir.clone_from(&places.pin_dir);
    settings.state_dir.clone_from(&places.state_dir);
    settings.proc_sys.clone_from(&args.proc_sys);
    settings.debug_datapath = args.debug_datapath;
    config::apply(&document, &mut settings);
    settings.outside.configz = configz(&document);
    settings.validate()?;
    Ok(Effective { layers, settings })
}

fn start_log(document: &Document) -> Result<(), CliError> {
    let level = document.log.level.as_deref().unwrap_or("info");
    let filter = EnvFilter::try_new(level).map_err(|error| CliError::Usage {
        message: format!("log level {level:?}: {error}"),
        hint: "use error, warn, info, debug or trace",
    })?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match document.log.format.unwrap_or_default() {
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
