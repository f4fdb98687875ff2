//! `steerage run`: from flags and files to settings, then the agent.

use std::env;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{ArgMatches, Args};
use tracing_subscriber::EnvFilter;

use super::args::Places;
use super::error::CliError;
use super::settings::{FlagOrigins, SettingsArgs};
use crate::config::document::{Document, LogFormat};
use crate::config::reload::{Effective, Watched};
use crate::config::{self, configz};
use crate::settings::{ApiSettings, Settings, SourceSettings};

const EXAMPLES: &str = "\
Examples:
  steerage run --node-name n1 --kubeconfig /etc/steerage/kubeconfig
  steerage run --api-server https://10.0.0.1:6443 --api-server https://10.0.0.2:6443
  steerage run --source dir:/etc/steerage/manifests
  steerage run --node-name n1 --source dir:manifests --config sizes.yaml
  steerage run --source dir:manifests --pin-dir /sys/fs/bpf/lab --state-dir /run/lab";

/// Arguments of `run`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    settings: SettingsArgs,
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
    let source = match &args.source {
        SourceChoice::Directory(_) if !args.api_server.is_empty() || args.kubeconfig.is_some() => {
            return Err(CliError::Usage {
                message: "--api-server and --kubeconfig mean nothing to a directory".to_owned(),
                hint: "use --source kubernetes, or leave them out",
            });
        }
        SourceChoice::Directory(path) => SourceSettings::Directory(path.clone()),
        SourceChoice::Kubernetes => SourceSettings::Kubernetes(api_settings(args, &document)),
    };
    let mut settings = Settings::with_source(String::new(), source);
    settings.pin_dir.clone_from(&places.pin_dir);
    settings.state_dir.clone_from(&places.state_dir);
    settings.proc_sys.clone_from(&args.proc_sys);
    settings.debug_datapath = args.debug_datapath;
    config::apply(&document, &mut settings);
    settings.outside.configz = configz(&document);
    settings.validate()?;
    Ok(Effective { layers, settings })
}

/// What the flags say, and where they are silent, the files, then the environment.
fn api_settings(args: &RunArgs, document: &Document) -> ApiSettings {
    let variable = |name| env::var(name).ok().filter(|value| !value.is_empty());
    let kubeconfigs = match args
        .kubeconfig
        .as_ref()
        .or(document.client.kubeconfig.as_ref())
    {
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
