//! How every command that reads the pins shows its list.

use std::io;

use serde::Serialize;

use super::args::{Output, Places, Watch};
use super::error::CliError;
use super::inputs::Reader as _;
use super::output::{Printer, document, show};
use super::pins::{self, PinnedReader};
use super::render::style::Style;
use crate::plan::names::Names;

/// What a list is called and how it is to be shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct List<'a> {
    /// The document's kind.
    pub(crate) kind: &'static str,
    pub(crate) output: &'a Output,
    pub(crate) watch: &'a Watch,
    pub(crate) places: &'a Places,
}

impl List<'_> {
    /// Shows what `collect` makes of the pins, as a table by means of `table`; again and again if it
    /// is watched.
    pub(crate) fn show<T: Serialize>(
        self,
        mut collect: impl FnMut(&PinnedReader, &Names) -> Result<Vec<T>, CliError>,
        table: impl Fn(&mut Vec<u8>, &[T], Style) -> io::Result<()>,
    ) -> Result<(), CliError> {
        let reader = pins::open(self.places)?;
        let printer = Printer::new(self.output, self.places);
        show(self.watch.watch, printer.is_for_people(), || {
            let names = reader.names()?;
            let document = document(self.kind, &names, collect(&reader, &names)?);
            printer.print(&document, &table)
        })
    }
}
