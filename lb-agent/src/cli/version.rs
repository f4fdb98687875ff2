//! `steerage version`.

use std::io::{self, Write};

use clap::Args;
use lb_common::hash::mix;
use lb_common::table::ABI_VERSION;
use serde::Serialize;

use super::args::{Output, Places};
use super::error::CliError;
use super::output::{Printer, own_document, show_once};
use super::render::style::{Style, Tone};
use crate::dataplane::load::{self, Variant};

const EXAMPLES: &str = "\
Examples:
  steerage version
  steerage version -o json";

/// Arguments of `version`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct VersionArgs {
    #[command(flatten)]
    output: Output,
}

/// What this program is.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct VersionView {
    /// Version of the program.
    pub version: String,
    /// Version of the layout of the kernel tables, and part of every pin's path.
    pub abi_version: u32,
    /// Hash of the embedded kernel object; `None` where it was built without.
    pub object_hash: Option<String>,
    /// Size of the embedded kernel object in bytes.
    pub object_bytes: usize,
    /// Whether the kernel object that logs flow decisions is embedded too.
    pub has_debug_object: bool,
    /// Processor architecture.
    pub architecture: &'static str,
    /// `release` or `debug`.
    pub profile: &'static str,
}

pub(crate) fn run(args: &VersionArgs, places: &Places) -> Result<(), CliError> {
    let printer = Printer::new(&args.output, places);
    let object = load::embedded(Variant::Normal);
    let view = VersionView {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        abi_version: ABI_VERSION,
        object_hash: (!object.is_empty()).then(|| format!("{:016x}", hash(object))),
        object_bytes: object.len(),
        has_debug_object: !load::embedded(Variant::Debug).is_empty(),
        architecture: std::env::consts::ARCH,
        profile: if cfg!(debug_assertions) {
            "debug"
        } else {
            "release"
        },
    };
    let document = own_document("Version", vec![view]);
    show_once(printer.print(&document, |out, items, style| {
        items
            .iter()
            .try_for_each(|view| version_into(out, view, style))
    })?)
}

/// Prints `view` for people.
fn version_into(out: &mut impl Write, view: &VersionView, style: Style) -> io::Result<()> {
    writeln!(
        out,
        "steerage {} ({}, {})",
        view.version, view.architecture, view.profile
    )?;
    writeln!(out, "tables   layout {}", view.abi_version)?;
    match &view.object_hash {
        Some(hash) => writeln!(out, "object   {hash}, {} bytes", view.object_bytes),
        None => writeln!(
            out,
            "object   {}: build it with cargo xtask build",
            style.paint("none", Tone::Warning)
        ),
    }
}

/// A name for `bytes`, not a proof of them.
fn hash(bytes: &[u8]) -> u64 {
    bytes.chunks(size_of::<u64>()).fold(0, |state, chunk| {
        let mut word = [0; size_of::<u64>()];
        for (target, &byte) in word.iter_mut().zip(chunk) {
            *target = byte;
        }
        mix(state, u64::from_be_bytes(word))
    })
}
