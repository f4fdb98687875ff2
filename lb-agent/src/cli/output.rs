//! From a command's data to stdout.

use std::io::{self, IsTerminal as _, Write};
use std::time::Duration;

use serde::Serialize;

use super::args::{ColorChoice, Format, Output, Places};
use super::error::{CliError, while_doing};
use super::render::style::Style;
use super::render::units;
use super::view::{API_VERSION, Document, Source};
use crate::clock;
use crate::plan::names::Names;

/// How one command's data is printed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Printer {
    format: Format,
    style: Style,
}

impl Printer {
    pub(crate) fn new(output: &Output, places: &Places) -> Self {
        Self {
            format: output.output,
            style: Style {
                color: has_color(places.color),
                no_headers: output.no_headers,
                wide: output.output == Format::Wide,
            },
        }
    }

    /// Whether it prints for people.
    pub(crate) const fn is_for_people(self) -> bool {
        matches!(self.format, Format::Table | Format::Wide)
    }

    /// Prints `document`, as a table by means of `table`.
    pub(crate) fn print<T: Serialize>(
        self,
        document: &Document<T>,
        table: impl FnOnce(&mut Vec<u8>, &[T], Style) -> io::Result<()>,
    ) -> Result<Vec<u8>, CliError> {
        let mut out = Vec::new();
        let result = match self.format {
            Format::Table | Format::Wide => table(&mut out, &document.items, self.style),
            Format::Json => json_into(&mut out, document),
            Format::Yaml => yaml_into(&mut out, document),
        };
        result.map_err(while_doing("writing the output"))?;
        Ok(out)
    }
}

/// Prints `document` as JSON.
pub(crate) fn json_into<T: Serialize>(
    out: &mut impl Write,
    document: &Document<T>,
) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, document)?;
    writeln!(out)
}

/// Prints `document` as YAML.
pub(crate) fn yaml_into<T: Serialize>(
    out: &mut impl Write,
    document: &Document<T>,
) -> io::Result<()> {
    let text = serde_saphyr::to_string(document).map_err(io::Error::other)?;
    out.write_all(text.as_bytes())
}

/// A document of what was read from the maps now.
pub(crate) fn document<T>(kind: &'static str, names: &Names, items: Vec<T>) -> Document<T> {
    let source = if names.version == 0 {
        Source::MapsWithoutNames
    } else {
        Source::Maps
    };
    Document {
        source,
        node: names.node.clone(),
        ..own_document(kind, items)
    }
}

/// A document of what the command itself knows.
pub(crate) fn own_document<T>(kind: &'static str, items: Vec<T>) -> Document<T> {
    Document {
        api_version: API_VERSION,
        kind,
        node: String::new(),
        collected_at: units::timestamp(clock::unix_seconds()),
        source: Source::Command,
        items,
    }
}

/// Writes what `print` makes, once or again and again.
pub(crate) fn show(
    watch: Option<Duration>,
    is_for_people: bool,
    mut print: impl FnMut() -> Result<Vec<u8>, CliError>,
) -> Result<(), CliError> {
    loop {
        let text = print()?;
        let mut out = io::stdout().lock();
        // A terminal shows the newest state in place; a pipe gets one after the other.
        if watch.is_some() && is_for_people && out.is_terminal() {
            out.write_all(b"\x1b[H\x1b[2J")
                .map_err(while_doing("writing to stdout"))?;
        }
        out.write_all(&text)
            .and_then(|()| out.flush())
            .map_err(while_doing("writing to stdout"))?;
        drop(out);
        let Some(interval) = watch else {
            return Ok(());
        };
        std::thread::sleep(interval);
    }
}

/// Writes `text` once.
pub(crate) fn show_once(text: Vec<u8>) -> Result<(), CliError> {
    let mut text = Some(text);
    show(None, false, || Ok(text.take().unwrap_or_default()))
}

/// Writes one line for people to stderr.
pub(crate) fn say(line: &str) {
    // Without a stderr there is nobody to tell.
    drop(writeln!(io::stderr(), "{line}"));
}

fn has_color(choice: ColorChoice) -> bool {
    match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => {
            let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
            io::stdout().is_terminal()
                && !is_set("NO_COLOR")
                && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
        }
    }
}
