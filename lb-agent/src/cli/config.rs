//! `steerage config`: what the settings amount to, and whether files of them can be used.

use std::io;
use std::path::PathBuf;

use clap::{ArgMatches, Args, Subcommand};
use serde::Serialize;

use super::args::{Output, Places};
use super::error::CliError;
use super::output::{Printer, own_document, say, show_once};
use super::render::style::Style;
use super::render::table::{Table, text};
use super::settings::{FlagOrigins, SettingsArgs};
use crate::config::apply;
use crate::config::reload::is_live;
use crate::settings::Settings;

const VIEW_EXAMPLES: &str = "\
Examples:
  steerage config view --config /etc/steerage/config.yaml
  steerage config view --config config.conf --metrics-bind-address 0.0.0.0
  steerage config view -o yaml";

const VALIDATE_EXAMPLES: &str = "\
Examples:
  steerage config validate config.yaml
  steerage config validate kube-proxy.conf sizes.yaml";

/// Commands about settings.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Show every setting that `run` would use, and where it comes from
    View(ViewArgs),
    /// Check files of settings; exits with 2 if one cannot be used
    Validate(ValidateArgs),
}

/// Arguments of `config view`.
#[derive(Args, Debug)]
#[command(after_help = VIEW_EXAMPLES)]
pub(crate) struct ViewArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    output: Output,
}

/// Arguments of `config validate`.
#[derive(Args, Debug)]
#[command(after_help = VALIDATE_EXAMPLES)]
pub(crate) struct ValidateArgs {
    /// Files, as `run --config` takes them
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

/// One setting.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct SettingView {
    /// Its name, as in a `SteerageConfiguration`.
    setting: String,
    /// Its value.
    value: serde_json::Value,
    /// Where it comes from.
    origin: String,
    /// Whether a running agent takes over a change of it.
    live: bool,
}

pub(crate) fn run(
    command: &ConfigCommand,
    places: &Places,
    matches: &ArgMatches,
) -> Result<(), CliError> {
    match command {
        ConfigCommand::View(args) => view(args, places, matches),
        ConfigCommand::Validate(args) => validate(args),
    }
}

fn view(args: &ViewArgs, places: &Places, matches: &ArgMatches) -> Result<(), CliError> {
    let layers = args.settings.layers(&FlagOrigins::new(matches))?;
    for warning in layers.all_warnings() {
        say(&format!("warning: {warning}"));
    }
    let items = layers
        .settings()
        .map(|(name, setting)| SettingView {
            setting: name.to_owned(),
            value: setting.value.clone(),
            origin: setting.origin.to_string(),
            live: is_live(name),
        })
        .collect();
    let printer = Printer::new(&args.output, places);
    let document = own_document("SettingList", items);
    show_once(printer.print(&document, settings_into)?)
}

fn settings_into(out: &mut Vec<u8>, settings: &[SettingView], style: Style) -> io::Result<()> {
    let mut table = Table::new(&[text("SETTING"), text("VALUE"), text("CHANGE"), text("FROM")]);
    for setting in settings {
        let value = match &setting.value {
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let change = if setting.live { "live" } else { "restart" };
        table.row(vec![
            setting.setting.as_str().into(),
            value.into(),
            change.into(),
            setting.origin.as_str().into(),
        ]);
    }
    table.print_into(out, style)
}

fn validate(args: &ValidateArgs) -> Result<(), CliError> {
    let layers = SettingsArgs::of_files(args.files.clone()).layers(&FlagOrigins::none())?;
    let mut settings = Settings::new(String::new(), PathBuf::new());
    apply(&layers.document()?, &mut settings);
    settings.validate()?;
    for warning in layers.all_warnings() {
        say(&format!("warning: {warning}"));
    }
    show_once(b"valid\n".to_vec())
}
