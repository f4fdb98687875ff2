//! YAML and JSON behind one function, with the path and the line of a failure.

use serde::de::DeserializeSeed;
use serde_path_to_error::{Deserializer, Track};
use serde_saphyr::Options;

/// How a file is written, by its extension.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Format {
    Yaml,
    Json,
}

/// Why a text could not be read.
#[derive(Debug)]
pub(super) struct Failure {
    /// Path of the field, empty for the document.
    pub(super) path: String,
    /// Line in the text, from 1.
    pub(super) line: Option<u64>,
    /// What the parser said, in one line.
    pub(super) message: String,
}

/// Reads the one document of a text.
pub(super) fn read<'de, S: DeserializeSeed<'de>>(
    format: Format,
    text: &'de str,
    seed: S,
) -> Result<S::Value, Failure> {
    let mut track = Track::new();
    let (line, message) = match format {
        Format::Json => {
            let mut json = serde_json::Deserializer::from_str(text);
            let result = seed
                .deserialize(Deserializer::new(&mut json, &mut track))
                .and_then(|value| json.end().map(|()| value));
            match result {
                Ok(value) => return Ok(value),
                Err(error) => {
                    let message = error.to_string();
                    let place = format!(" at line {} column {}", error.line(), error.column());
                    let message = message.strip_suffix(&place).unwrap_or(&message).to_owned();
                    (u64::try_from(error.line()).ok(), message)
                }
            }
        }
        Format::Yaml => {
            let result =
                serde_saphyr::with_deserializer_from_str_with_options(text, options(), |yaml| {
                    seed.deserialize(Deserializer::new(yaml, &mut track))
                });
            match result {
                Ok(value) => return Ok(value),
                Err(error) => (error.location().map(|at| at.line()), error.to_string()),
            }
        }
    };
    let path = track.path().to_string();
    let path = if path == "." { String::new() } else { path };
    Err(Failure {
        path,
        line,
        message: first_line(&message),
    })
}

/// Limits of one document. The size of the file bounds the work already, so they need only keep
/// aliases from multiplying it; the library's own would refuse a slice of a few thousand endpoints.
fn options() -> Options {
    serde_saphyr::options! {
        with_snippet: false,
        emit_comments: false,
        budget: serde_saphyr::budget! {
            max_events: 100_000_000,
            max_nodes: 100_000_000,
        },
    }
}

fn first_line(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    // The line it names is the document's, and ours is the file's.
    let line = line
        .rsplit_once(" at line ")
        .map_or(line, |(message, _)| message);
    line.to_owned()
}
