//! kube-proxy's own configuration file, so that a cluster's `ConfigMap` serves as it is.
//!
//! A field is honoured, or has no meaning here and is named in a warning if it asks for something.
//! Fields that nobody knows are warned about, as kube-proxy's lenient reading does; a value of the
//! wrong type is refused with its line, and so is what kube-proxy itself would refuse.

mod convert;
mod fields;
mod schema;
#[cfg(test)]
mod tests;

pub use fields::{Effect, FIELDS};

use super::document::Document;
use super::text::{self, Mistake};
use super::tree::{Leaf, Tree, is_nothing};
use schema::KubeProxy;

/// The group and version of kube-proxy's file.
pub const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
/// The kind of kube-proxy's file.
pub const KIND: &str = "KubeProxyConfiguration";

/// What a file of kube-proxy's says.
#[derive(Clone, Debug, PartialEq)]
pub struct KubeProxyFile {
    /// As settings of ours.
    pub document: Document,
    /// Its leaves, with their lines.
    pub leaves: Vec<Leaf>,
    /// Fields that ask for something that has no meaning here.
    pub without_meaning: Vec<String>,
    /// Fields that no version of v1alpha1 has, with their lines.
    pub unknown: Vec<(String, u64)>,
}

/// Reads one document.
pub fn read(text: &str) -> Result<KubeProxyFile, Mistake> {
    let tree: Tree = text::parse_lenient(text)?;
    let leaves = tree.leaves();
    let fields: KubeProxy = text::parse_lenient(text)?;
    let line = |path: &str| {
        leaves
            .iter()
            .find(|leaf| leaf.path == path)
            .map_or(1, |leaf| leaf.line)
    };
    let document = convert::convert(&fields).map_err(|wrong| Mistake {
        line: line(wrong.field),
        message: wrong.to_string(),
    })?;
    let mut without_meaning = Vec::new();
    let mut unknown = Vec::new();
    for leaf in leaves.iter().filter(|leaf| !is_header(leaf)) {
        match effect(&leaf.path) {
            Some(Effect::Nothing(usual)) => {
                if !is_nothing(&leaf.value) && !is_usual(leaf, usual) {
                    without_meaning.push(leaf.path.clone());
                }
            }
            Some(Effect::Honoured(_)) => {}
            // A section that is null or empty.
            None if is_nothing(&leaf.value) && is_section(&leaf.path) => {}
            None => unknown.push((leaf.path.clone(), leaf.line)),
        }
    }
    Ok(KubeProxyFile {
        document,
        leaves,
        without_meaning,
        unknown,
    })
}

/// Where in `leaves` the setting `path` of ours was made.
pub fn line_of(leaves: &[Leaf], path: &str) -> Option<u64> {
    leaves
        .iter()
        .find(|leaf| {
            let sets = matches!(effect(&leaf.path), Some(Effect::Honoured(name)) if name == path);
            sets && !is_nothing(&leaf.value)
        })
        .map(|leaf| leaf.line)
}

fn is_header(leaf: &Leaf) -> bool {
    matches!(leaf.path.as_str(), "apiVersion" | "kind")
}

/// What becomes of the field at `path`, or of the field it is inside of.
fn effect(path: &str) -> Option<Effect> {
    FIELDS
        .iter()
        .find(|(field, _)| {
            path.strip_prefix(field)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
        .map(|(_, effect)| *effect)
}

fn is_section(path: &str) -> bool {
    FIELDS.iter().any(|(field, _)| {
        field
            .strip_prefix(path)
            .is_some_and(|rest| rest.starts_with('.'))
    })
}

fn is_usual(leaf: &Leaf, usual: &[&str]) -> bool {
    let text = match &leaf.value {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    usual.contains(&text.as_str())
}
