//! Aligned columns, as kubectl prints them: no lines, two spaces between, numbers to the right.

use std::io::{self, Write};

use super::style::{Style, Tone};

/// A column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    title: &'static str,
    is_number: bool,
    is_wide: bool,
}

/// A column of text.
#[must_use]
pub const fn text(title: &'static str) -> Column {
    Column {
        title,
        is_number: false,
        is_wide: false,
    }
}

/// A column of numbers.
#[must_use]
pub const fn number(title: &'static str) -> Column {
    Column {
        title,
        is_number: true,
        is_wide: false,
    }
}

impl Column {
    /// The same, for `-o wide` only.
    #[must_use]
    pub const fn wide(self) -> Self {
        Self {
            is_wide: true,
            ..self
        }
    }
}

/// A cell.
#[derive(Clone, Debug)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A text in a tone.
    #[must_use]
    pub fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self {
            text: text.into(),
            tone,
        }
    }
}

impl<T: ToString> From<T> for Cell {
    fn from(value: T) -> Self {
        Self {
            text: value.to_string(),
            tone: Tone::Plain,
        }
    }
}

/// What a cell without value shows, so that columns stay columns for scripts too.
pub const NONE: &str = "-";

/// The text, or [`NONE`] where there is none.
#[must_use]
pub fn or_none(text: Option<&str>) -> Cell {
    text.filter(|text| !text.is_empty())
        .map_or_else(|| Cell::toned(NONE, Tone::Dim), Cell::from)
}

/// Rows under columns.
#[derive(Debug)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
    indent: &'static str,
}

impl Table {
    /// A table without rows.
    #[must_use]
    pub fn new(columns: &[Column]) -> Self {
        Self {
            columns: columns.to_vec(),
            rows: Vec::new(),
            indent: "",
        }
    }

    /// The same, with each line moved to the right.
    #[must_use]
    pub fn indented(self, indent: &'static str) -> Self {
        Self { indent, ..self }
    }

    /// Adds a row; it has a cell for every column, those for `-o wide` too.
    pub fn row(&mut self, cells: Vec<Cell>) {
        debug_assert_eq!(cells.len(), self.columns.len(), "a cell for each column");
        self.rows.push(cells);
    }

    /// Prints it.
    pub fn print_into(&self, out: &mut impl Write, style: Style) -> io::Result<()> {
        let shown: Vec<(usize, Column, usize)> = self
            .columns
            .iter()
            .enumerate()
            .filter(|(_, column)| style.wide || !column.is_wide)
            .map(|(index, &column)| (index, column, self.width(index, column, style)))
            .collect();
        if !style.no_headers {
            let titles: Vec<Cell> = self
                .columns
                .iter()
                .map(|column| Cell::toned(column.title, Tone::Bold))
                .collect();
            self.print_row(out, style, &titles, &shown)?;
        }
        for row in &self.rows {
            self.print_row(out, style, row, &shown)?;
        }
        Ok(())
    }

    fn width(&self, index: usize, column: Column, style: Style) -> usize {
        let title = if style.no_headers {
            0
        } else {
            column.title.len()
        };
        self.rows
            .iter()
            .filter_map(|row| row.get(index))
            .map(|cell| cell.text.chars().count())
            .fold(title, usize::max)
    }

    fn print_row(
        &self,
        out: &mut impl Write,
        style: Style,
        cells: &[Cell],
        shown: &[(usize, Column, usize)],
    ) -> io::Result<()> {
        write!(out, "{}", self.indent)?;
        for (position, &(index, column, width)) in shown.iter().enumerate() {
            let Some(cell) = cells.get(index) else {
                continue;
            };
            let padding = " ".repeat(width.saturating_sub(cell.text.chars().count()));
            let text = style.paint(&cell.text, cell.tone);
            let gap = if position == 0 { "" } else { "  " };
            let is_last = position + 1 == shown.len();
            match (column.is_number, is_last) {
                (true, _) => write!(out, "{gap}{padding}{text}")?,
                (false, true) => write!(out, "{gap}{text}")?,
                (false, false) => write!(out, "{gap}{text}{padding}")?,
            }
        }
        writeln!(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(style: Style) -> String {
        let mut table = Table::new(&[text("NAME"), number("COUNT"), text("NOTE").wide()]);
        table.row(vec!["web".into(), 7.into(), or_none(None)]);
        table.row(vec![
            Cell::toned("database", Tone::Good),
            1200.into(),
            or_none(Some("x")),
        ]);
        let mut out = Vec::new();
        table.print_into(&mut out, style).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn columns_are_aligned_and_numbers_stand_to_the_right() {
        assert_eq!(
            printed(Style::default()),
            "NAME      COUNT\nweb           7\ndatabase   1200\n"
        );
    }

    #[test]
    fn wide_columns_and_headers_are_as_asked() {
        let style = Style {
            wide: true,
            no_headers: true,
            ..Style::default()
        };
        assert_eq!(printed(style), "web          7  -\ndatabase  1200  x\n");
    }

    #[test]
    fn colours_do_not_change_the_alignment() {
        let style = Style {
            color: true,
            no_headers: true,
            ..Style::default()
        };
        assert_eq!(
            printed(style),
            "web          7\n\x1b[32mdatabase\x1b[0m  1200\n"
        );
    }
}
