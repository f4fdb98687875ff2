//! From a file's text to documents, and from a document to a value, with lines in every complaint.

use serde::de::DeserializeOwned;
use serde_saphyr::Options;

/// What is wrong with a document.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mistake {
    /// Line, from 1.
    pub line: u64,
    /// The field and what is wrong with it.
    pub message: String,
}

/// The documents of a file, each with as many empty lines before it as lines precede it, so that
/// the parser's line numbers are the file's; and the line where each begins.
pub fn documents(text: &str) -> Vec<(u64, String)> {
    let mut documents = Vec::new();
    let mut current = String::new();
    let mut first_line = None;
    for (index, line) in text.lines().enumerate() {
        if line == "---" || line.starts_with("--- ") {
            if let Some(first) = first_line.take() {
                documents.push((first, std::mem::take(&mut current)));
            }
            current = "\n".repeat(index + 1);
            continue;
        }
        let is_content = !line.trim().is_empty() && !line.trim_start().starts_with('#');
        if first_line.is_none() && is_content {
            first_line = u64::try_from(index + 1).ok();
        }
        current.push_str(line);
        current.push('\n');
    }
    documents.extend(first_line.map(|first| (first, current)));
    documents
}

/// Reads a document of ours: a name twice is a mistake.
pub fn parse<T: DeserializeOwned>(document: &str) -> Result<T, Mistake> {
    parse_with(document, Options::default())
}

/// Reads a document as kube-proxy does: of a name that is there twice the last counts.
pub fn parse_lenient<T: DeserializeOwned>(document: &str) -> Result<T, Mistake> {
    parse_with(
        document,
        serde_saphyr::options! {
            duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
            no_schema: true,
        },
    )
}

fn parse_with<T: DeserializeOwned>(document: &str, options: Options) -> Result<T, Mistake> {
    let mut track = serde_path_to_error::Track::new();
    serde_saphyr::with_deserializer_from_str_with_options(document, options, |deserializer| {
        T::deserialize(serde_path_to_error::Deserializer::new(
            deserializer,
            &mut track,
        ))
    })
    .map_err(|error| {
        let line = error.location().map_or(1, |location| location.line());
        let text = error.without_snippet().to_string();
        let message = text.lines().next().unwrap_or_default();
        let message = message
            .rsplit_once(" at line ")
            .map_or(message, |(message, _)| message);
        // Wrappers around a value that is there, and around one with its place.
        let path = track
            .path()
            .to_string()
            .replace(".?", "")
            .replace(".value", "");
        let message = match path.as_str() {
            "." | "?" | "" => message.to_owned(),
            path => format!("{path}: {message}"),
        };
        Mistake { line, message }
    })
}
