//! One object as the server keeps it: the bytes it sends, and what requests ask about.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value};

use super::resource::Resource;

/// Where an object is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Key {
    /// Empty for what is not namespaced.
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Key {
    /// Namespace and name in one, in the order that lists have.
    pub(super) fn path(&self) -> String {
        path(&self.namespace, &self.name)
    }
}

/// Namespace and name in one; the namespace is empty for what is not namespaced.
pub(super) fn path(namespace: &str, name: &str) -> String {
    if namespace.is_empty() {
        return name.to_owned();
    }
    format!("{namespace}/{name}")
}

/// A state of an object, never changed once made.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) key: Key,
    pub(super) labels: BTreeMap<String, String>,
    /// As items of a list are sent: JSON without `kind` and `apiVersion`.
    pub(super) text: String,
}

impl Object {
    /// The state of `value` as of `revision`.
    pub(super) fn new(resource: Resource, value: &Value, revision: u64) -> Result<Self> {
        let mut body = value
            .as_object()
            .context("an object is a JSON map")?
            .clone();
        body.remove("kind");
        body.remove("apiVersion");
        let metadata = body
            .get_mut("metadata")
            .and_then(Value::as_object_mut)
            .context("an object has metadata")?;
        metadata.insert("resourceVersion".to_owned(), revision.to_string().into());
        let text_of = |field: &str| metadata.get(field).and_then(Value::as_str);
        let name = text_of("name").context("an object has a name")?.to_owned();
        let namespace = if resource.is_namespaced() {
            text_of("namespace").unwrap_or("default").to_owned()
        } else {
            String::new()
        };
        let labels = metadata.get("labels").and_then(Value::as_object);
        Ok(Self {
            key: Key { namespace, name },
            labels: labels.map(texts).unwrap_or_default(),
            text: serde_json::to_string(&body)?,
        })
    }

    /// The same state under another revision: how the end of an object is told.
    pub(super) fn moved_to(&self, resource: Resource, revision: u64) -> Result<Self> {
        Self::new(resource, &self.value(), revision)
    }

    /// The state, parsed, without `kind` and `apiVersion`.
    pub(super) fn value(&self) -> Value {
        serde_json::from_str(&self.text).expect("the text was made of a value")
    }

    /// A field of `spec`, as text; empty where there is none.
    pub(super) fn spec_field(&self, field: &str) -> String {
        let value = self.value();
        let found = value.get("spec").and_then(|spec| spec.get(field));
        found.and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    /// As events of a watch and single answers have it: with `kind` and `apiVersion`.
    pub(super) fn typed(&self, resource: Resource) -> String {
        let rest = self.text.trim_start_matches('{');
        format!(
            r#"{{"kind":"{}","apiVersion":"{}",{rest}"#,
            resource.kind(),
            resource.api_version()
        )
    }
}

/// A shared state.
pub(super) type Shared = Arc<Object>;

fn texts(labels: &Map<String, Value>) -> BTreeMap<String, String> {
    let labels = labels.iter();
    labels
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}
