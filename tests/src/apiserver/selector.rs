//! Label and field selectors, as far as node agents use them.

use std::collections::BTreeMap;

use super::object::Object;

/// What a list or watch is narrowed to.
#[derive(Clone, Debug, Default)]
pub(super) struct Selector {
    labels: Vec<LabelRule>,
    fields: Vec<FieldRule>,
    namespace: Option<String>,
}

#[derive(Clone, Debug)]
enum LabelRule {
    Absent(String),
    Present(String),
    Equal(String, String),
    Unequal(String, String),
}

#[derive(Clone, Debug)]
struct FieldRule {
    path: String,
    value: String,
    is_equal: bool,
}

impl Selector {
    /// Reads both selectors of a request; `Err` is the part that is not understood.
    pub(super) fn parse(
        namespace: Option<&str>,
        labels: &str,
        fields: &str,
    ) -> Result<Self, String> {
        let parts = |text: &str| -> Vec<String> {
            let parts = text.split(',').map(str::trim);
            parts
                .filter(|part| !part.is_empty())
                .map(str::to_owned)
                .collect()
        };
        Ok(Self {
            labels: parts(labels)
                .iter()
                .map(|part| label_rule(part))
                .collect::<Result<_, _>>()?,
            fields: parts(fields)
                .iter()
                .map(|part| field_rule(part))
                .collect::<Result<_, _>>()?,
            namespace: namespace.map(str::to_owned),
        })
    }

    /// Whether anything but the namespace narrows it: lists then do not count what remains.
    pub(super) const fn is_narrow(&self) -> bool {
        !(self.labels.is_empty() && self.fields.is_empty())
    }

    /// Whether an object is selected.
    pub(super) fn matches(&self, object: &Object) -> bool {
        self.namespace
            .as_ref()
            .is_none_or(|namespace| object.key.namespace == *namespace)
            && self.labels.iter().all(|rule| rule.matches(&object.labels))
            && self.fields.iter().all(|rule| rule.matches(object))
    }
}

fn label_rule(part: &str) -> Result<LabelRule, String> {
    if let Some(key) = part.strip_prefix('!') {
        return Ok(LabelRule::Absent(key.trim().to_owned()));
    }
    if part.contains(['(', ' ']) {
        return Err(part.to_owned());
    }
    let pair = |key: &str, value: &str| (key.trim().to_owned(), value.trim().to_owned());
    if let Some((key, value)) = part.split_once("!=") {
        let (key, value) = pair(key, value);
        return Ok(LabelRule::Unequal(key, value));
    }
    if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        let (key, value) = pair(key, value);
        return Ok(LabelRule::Equal(key, value));
    }
    Ok(LabelRule::Present(part.to_owned()))
}

fn field_rule(part: &str) -> Result<FieldRule, String> {
    let (path, value, is_equal) = if let Some((path, value)) = part.split_once("!=") {
        (path, value, false)
    } else {
        let (path, value) = part
            .split_once("==")
            .or_else(|| part.split_once('='))
            .ok_or_else(|| part.to_owned())?;
        (path, value, true)
    };
    if ![
        "metadata.name",
        "metadata.namespace",
        "spec.clusterIP",
        "spec.type",
    ]
    .contains(&path)
    {
        return Err(part.to_owned());
    }
    Ok(FieldRule {
        path: path.to_owned(),
        value: value.to_owned(),
        is_equal,
    })
}

impl LabelRule {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Self::Absent(key) => !labels.contains_key(key),
            Self::Present(key) => labels.contains_key(key),
            Self::Equal(key, value) => labels.get(key) == Some(value),
            // An object without the label is selected too.
            Self::Unequal(key, value) => labels.get(key) != Some(value),
        }
    }
}

impl FieldRule {
    fn matches(&self, object: &Object) -> bool {
        let found = match self.path.as_str() {
            "metadata.name" => object.key.name.clone(),
            "metadata.namespace" => object.key.namespace.clone(),
            path => object.spec_field(path.trim_start_matches("spec.")),
        };
        (found == self.value) == self.is_equal
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::apiserver::resource::Resource;

    #[track_caller]
    fn check(labels: &str, fields: &str, expected: &str) {
        let selector = Selector::parse(None, labels, fields).expect("it is understood");
        let objects = [
            ("plain", json!({}), "10.0.0.1"),
            (
                "other",
                json!({ "service.kubernetes.io/service-proxy-name": "" }),
                "10.0.0.2",
            ),
            ("headless", json!({ "a": "b" }), "None"),
        ];
        let found: Vec<&str> = objects
            .iter()
            .filter(|(name, labels, address)| {
                let object = Object::new(
                    Resource::Services,
                    &json!({
                        "metadata": { "name": name, "namespace": "n", "labels": labels },
                        "spec": { "clusterIP": address },
                    }),
                    1,
                );
                selector.matches(&object.expect("it has a name"))
            })
            .map(|(name, _, _)| *name)
            .collect();
        assert_eq!(found.join(" "), expected, "{labels} {fields}");
    }

    #[test]
    fn the_selectors_of_node_agents_select_what_they_say() {
        check("", "", "plain other headless");
        check(
            "!service.kubernetes.io/service-proxy-name",
            "",
            "plain headless",
        );
        check("service.kubernetes.io/service-proxy-name", "", "other");
        check("a=b", "", "headless");
        check("a==b", "", "headless");
        check("a!=b", "", "plain other");
        check("!a,!service.kubernetes.io/service-proxy-name", "", "plain");
        check("", "metadata.name=plain", "plain");
        check("", "spec.clusterIP!=None", "plain other");
        check("!a", "metadata.name=headless", "");
    }

    #[test]
    fn what_is_not_understood_is_refused_rather_than_ignored() {
        Selector::parse(None, "a in (b, c)", "").expect_err("sets are not needed");
        Selector::parse(None, "", "spec.nodeName=x").expect_err("no such field is indexed");
    }
}
