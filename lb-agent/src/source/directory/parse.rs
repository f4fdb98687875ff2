//! A file's text to objects.
//!
//! Each document is read twice: first for what it is, without building anything, then as that
//! type. The items of a list are converted one by one, so that one Kubernetes object is in memory
//! at a time, whatever the size of the file.

use std::collections::btree_map::Entry;
use std::io::{self, BufRead};
use std::sync::Arc;

use super::document::{Document, Documents};
use super::header::{Header, Typed, Wanted};
use super::holdings::FileContent;
use super::object::{Key, Object};
use super::text::{self, Format};
use crate::source::intern::Interner;
use crate::source::report::{Detail, FieldProblem, Position, Problem};

/// The most problems of one file that are told one by one.
const MAX_PROBLEMS: usize = 100;

/// Reads a file.
pub(super) fn parse_file(
    name: &Arc<str>,
    format: Format,
    mut reader: impl BufRead,
    interner: &mut Interner,
) -> io::Result<FileContent> {
    let mut parser = Parser {
        name,
        interner,
        content: FileContent::default(),
        dropped: 0,
        position: Position {
            document: 1,
            line: 1,
        },
    };
    match format {
        Format::Json => {
            let mut text = Vec::new();
            reader.read_to_end(&mut text)?;
            let document = Document {
                number: 1,
                first_line: 1,
                content_line: 1,
                text,
            };
            if !document.text.trim_ascii().is_empty() {
                parser.document(format, &document);
            }
        }
        Format::Yaml => {
            let mut documents = Documents::new(reader);
            while let Some(document) = documents.next()? {
                parser.document(format, &document);
            }
        }
    }
    Ok(parser.finish())
}

struct Parser<'a> {
    name: &'a Arc<str>,
    interner: &'a mut Interner,
    content: FileContent,
    dropped: usize,
    /// Of the document being read.
    position: Position,
}

impl Parser<'_> {
    fn document(&mut self, format: Format, document: &Document) {
        self.position = Position {
            document: document.number,
            line: document.content_line,
        };
        let Ok(text) = std::str::from_utf8(&document.text) else {
            let message = "the text is not UTF-8".to_owned();
            self.broken(None, FieldProblem::new("", Detail::Malformed { message }));
            return;
        };
        let header = match text::read(format, text, std::marker::PhantomData::<Header>) {
            Ok(header) => header,
            Err(failure) => return self.failed(None, document, failure),
        };
        let Some(wanted) = self.classify(&header) else {
            return;
        };
        let mut parsed = Vec::new();
        let sink = |index: Option<usize>, object: Typed| {
            let mut notes = Vec::new();
            let outcome = object.convert(self.interner, &mut notes);
            parsed.push((index, outcome, notes));
        };
        let result = text::read(format, text, wanted.seed(sink));
        let object = header.describe(None);
        for (index, outcome, notes) in parsed {
            let described = header.describe(index);
            for note in notes {
                self.note(described.clone(), in_item(index, note));
            }
            match outcome {
                Ok((key, value)) => self.hold(key, value),
                Err(problem) => self.broken(described, in_item(index, problem)),
            }
        }
        if let Err(failure) = result {
            self.failed(object, document, failure);
        }
    }

    /// What to read the document as; nothing where it holds none of our kinds.
    fn classify(&mut self, header: &Header) -> Option<Wanted> {
        let mut problems = Vec::new();
        let wanted = header.wanted(|index, problem| problems.push((index, problem)));
        if problems.is_empty() && !wanted.is_any() {
            tracing::debug!(
                file = &**self.name,
                document = self.position.document,
                object = header.describe(None),
                "none of our kinds is in this document: ignored"
            );
        }
        for (index, problem) in problems {
            self.broken(header.describe(index), in_item(index, problem));
        }
        wanted.is_any().then_some(wanted)
    }

    fn hold(&mut self, key: Key, object: Object) {
        let described = match self.content.objects.entry(Arc::new(key)) {
            Entry::Vacant(place) => {
                place.insert((object, self.position));
                return;
            }
            Entry::Occupied(held) => held.key().to_string(),
        };
        let detail = Detail::Duplicate {
            winner: Arc::clone(self.name),
        };
        self.note(Some(described), FieldProblem::new("", detail));
    }

    fn failed(&mut self, object: Option<String>, document: &Document, failure: text::Failure) {
        if let Some(line) = failure.line {
            self.position.line = document.first_line.saturating_add(line).saturating_sub(1);
        }
        let detail = Detail::Malformed {
            message: failure.message,
        };
        self.broken(object, FieldProblem::new(failure.path, detail));
    }

    fn broken(&mut self, object: Option<String>, problem: FieldProblem) {
        self.content.is_partial = true;
        self.note(object, problem);
    }

    fn note(&mut self, object: Option<String>, problem: FieldProblem) {
        if self.content.problems.len() >= MAX_PROBLEMS {
            self.dropped += 1;
            return;
        }
        let position = Some(self.position);
        let file = Arc::clone(self.name);
        self.content.problems.push(Problem {
            file,
            position,
            object,
            problem,
        });
    }

    fn finish(mut self) -> FileContent {
        if self.dropped > 0 {
            self.content.problems.push(Problem {
                file: Arc::clone(self.name),
                position: None,
                object: None,
                problem: FieldProblem::new(
                    "",
                    Detail::More {
                        count: self.dropped,
                    },
                ),
            });
        }
        self.content
    }
}

fn in_item(index: Option<usize>, mut problem: FieldProblem) -> FieldProblem {
    if let Some(index) = index {
        problem.field = format!("items[{index}].{}", problem.field);
    }
    problem
}

/// Reads one text as a file, for tests.
#[cfg(test)]
pub(super) fn parse_text(format: Format, text: &str) -> FileContent {
    parse_file(
        &"file".into(),
        format,
        text.as_bytes(),
        &mut Interner::default(),
    )
    .unwrap()
}

/// Objects by their description, for tests.
#[cfg(test)]
pub(super) fn described(content: &FileContent) -> std::collections::BTreeMap<String, Object> {
    content
        .objects
        .iter()
        .map(|(key, (object, _))| (key.to_string(), object.clone()))
        .collect()
}

#[cfg(test)]
mod tests;
