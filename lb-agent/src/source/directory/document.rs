//! The documents of a YAML file, one at a time.
//!
//! A line that begins with `---` begins a document, wherever it stands: YAML allows it inside no
//! scalar. So a file is cut before it is parsed; a document that cannot be parsed leaves its
//! neighbours alone, and no more than one document is in memory.

use std::io::{self, BufRead};

/// The text of one document.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Document {
    /// Its number in the file, from 1.
    pub(super) number: usize,
    /// The line in the file its text begins at, from 1.
    pub(super) first_line: u64,
    /// The line in the file its content begins at.
    pub(super) content_line: u64,
    /// Its bytes.
    pub(super) text: Vec<u8>,
}

/// Cuts a file into documents.
pub(super) struct Documents<R> {
    reader: R,
    /// The separator that ended the document before.
    pending: Vec<u8>,
    line: u64,
    number: usize,
}

impl<R: BufRead> Documents<R> {
    pub(super) const fn new(reader: R) -> Self {
        Self {
            reader,
            pending: Vec::new(),
            line: 0,
            number: 0,
        }
    }

    /// The next document that has any content.
    pub(super) fn next(&mut self) -> io::Result<Option<Document>> {
        loop {
            let mut text = std::mem::take(&mut self.pending);
            let mut content_line = has_content(&text).then_some(self.line);
            let first_line = if text.is_empty() {
                self.line + 1
            } else {
                self.line
            };
            let mut line = Vec::new();
            let is_end = loop {
                line.clear();
                if self.reader.read_until(b'\n', &mut line)? == 0 {
                    break true;
                }
                self.line += 1;
                if is_separator(&line) {
                    break false;
                }
                if content_line.is_none() && has_content(&line) {
                    content_line = Some(self.line);
                }
                text.extend_from_slice(&line);
            };
            self.pending = if is_end { Vec::new() } else { line };
            if let Some(content_line) = content_line {
                self.number += 1;
                let number = self.number;
                return Ok(Some(Document {
                    number,
                    first_line,
                    content_line,
                    text,
                }));
            }
            if is_end {
                return Ok(None);
            }
        }
    }
}

fn is_separator(line: &[u8]) -> bool {
    line.strip_prefix(b"---")
        .is_some_and(|rest| rest.first().is_none_or(u8::is_ascii_whitespace))
}

/// Whether a line is more than blanks, a comment, a directive or a marker.
fn has_content(line: &[u8]) -> bool {
    let line = line
        .strip_prefix(b"\xef\xbb\xbf")
        .unwrap_or(line)
        .trim_ascii();
    let line = line
        .strip_prefix(b"---")
        .map_or(line, <[u8]>::trim_ascii_start);
    !line.is_empty() && line != b"..." && !line.starts_with(b"#") && !line.starts_with(b"%")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents(text: &str) -> Vec<(usize, u64, u64, String)> {
        let mut documents = Documents::new(text.as_bytes());
        std::iter::from_fn(|| documents.next().unwrap())
            .map(|document| {
                let text = String::from_utf8(document.text).unwrap();
                (
                    document.number,
                    document.first_line,
                    document.content_line,
                    text,
                )
            })
            .collect()
    }

    #[test]
    fn a_file_is_cut_at_its_separators_and_lines_are_counted() {
        let text = "# licence\n---\na: 1\n--- # second\n\nb: |\n  --- not one\n---more: no\n---\n";
        assert_eq!(
            documents(text),
            [
                (1, 2, 3, "---\na: 1\n".to_owned()),
                (
                    2,
                    4,
                    6,
                    "--- # second\n\nb: |\n  --- not one\n---more: no\n".to_owned()
                ),
            ]
        );
    }

    #[test]
    fn content_may_stand_beside_its_separator_and_end_without_a_newline() {
        assert_eq!(
            documents("{a: 1}\r\n---\r\n--- {b: 2}"),
            [
                (1, 1, 1, "{a: 1}\r\n".to_owned()),
                (2, 3, 3, "--- {b: 2}".to_owned())
            ]
        );
    }

    #[test]
    fn a_file_of_comments_has_no_documents() {
        assert_eq!(documents(""), []);
        assert_eq!(documents("\u{feff}# a\n---\n%YAML 1.2\n---\n...\n"), []);
    }
}
