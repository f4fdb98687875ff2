//! What clients write: events, which are created once and patched when they happen again.

use serde_json::{Value, json};

use super::access::Request;
use super::resource::Resource;
use super::status::Failure;
use super::store::Store;

/// Creates an object; the answer's body.
pub(super) fn create(store: &mut Store, asked: &Request, body: &Value) -> Result<String, Failure> {
    check_is_event(asked)?;
    let resource = asked.resource;
    let mut body = body.clone();
    let number = store.revision();
    let metadata = body.get_mut("metadata").and_then(Value::as_object_mut);
    let metadata = metadata.ok_or_else(|| Failure::bad_request("the object has no metadata"))?;
    metadata.insert("namespace".to_owned(), json!(asked.namespace));
    if !metadata.contains_key("name") {
        let prefix = metadata.get("generateName").and_then(Value::as_str);
        let name = format!("{}{number:05}", prefix.unwrap_or_default());
        metadata.insert("name".to_owned(), json!(name));
    }
    let name = metadata.get("name").and_then(Value::as_str);
    let name = name.unwrap_or_default().to_owned();
    if store.object(resource, &asked.namespace, &name).is_some() {
        return Err(Failure::already_exists(resource, &name));
    }
    save(store, asked, &name, &body)
}

/// Merges a patch into an object; the answer's body.
pub(super) fn patch(store: &mut Store, asked: &Request, patch: &Value) -> Result<String, Failure> {
    check_is_event(asked)?;
    let (resource, name) = (asked.resource, &asked.name);
    let object = store.object(resource, &asked.namespace, name);
    let object = object.ok_or_else(|| Failure::not_found(resource, name))?;
    let mut value = object.value();
    merge(&mut value, patch);
    save(store, asked, name, &value)
}

fn check_is_event(asked: &Request) -> Result<(), Failure> {
    if matches!(asked.resource, Resource::Events | Resource::CoreEvents) {
        return Ok(());
    }
    // Node agents write nothing else; a test does it by hand.
    Err(Failure::bad_request(&format!(
        "{} are written by tests only",
        asked.resource.qualified()
    )))
}

fn save(store: &mut Store, asked: &Request, name: &str, value: &Value) -> Result<String, Failure> {
    let refused = |error: anyhow::Error| Failure::bad_request(&error.to_string());
    let value = store
        .with_identity(asked.resource, value)
        .map_err(refused)?;
    store.put(asked.resource, &value, None).map_err(refused)?;
    let object = store.object(asked.resource, &asked.namespace, name);
    let object = object.ok_or_else(|| Failure::not_found(asked.resource, name))?;
    Ok(object.typed(asked.resource) + "\n")
}

/// RFC 7386: null removes, maps are merged, everything else is replaced.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let Some(target) = target.as_object_mut() else {
        return;
    };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_replaces_values_merges_maps_and_removes_nulls() {
        let mut value = json!({ "a": { "b": 1, "c": [1, 2] }, "d": "e" });
        merge(
            &mut value,
            &json!({ "a": { "b": null, "c": [3] }, "f": { "g": 1 } }),
        );
        assert_eq!(
            value,
            json!({ "a": { "c": [3] }, "d": "e", "f": { "g": 1 } })
        );
    }
}
