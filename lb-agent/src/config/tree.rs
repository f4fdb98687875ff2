//! A document as it is written: every value with the line it stands on, before anything is made of
//! it. What is unknown, and where a setting was made, is found here.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::Spanned;

/// A node of a document.
#[derive(Clone, Debug, PartialEq)]
pub enum Tree {
    /// A value without parts.
    Scalar(Value),
    /// A list.
    List(Vec<Self>),
    /// Names and values, in the order of the document.
    Map(Vec<(String, u64, Self)>),
}

/// A value that has no names below it.
#[derive(Clone, Debug, PartialEq)]
pub struct Leaf {
    /// Names from the root, joined by dots.
    pub path: String,
    /// The line of the value, from 1.
    pub line: u64,
    /// What it is.
    pub value: Value,
}

impl Tree {
    /// All leaves, in the order of the document. A list is one leaf.
    pub fn leaves(&self) -> Vec<Leaf> {
        let mut leaves = Vec::new();
        self.collect("", 1, &mut leaves);
        leaves
    }

    fn collect(&self, path: &str, line: u64, leaves: &mut Vec<Leaf>) {
        match self {
            Self::Map(entries) if !entries.is_empty() || path.is_empty() => {
                for (name, line, tree) in entries {
                    let path = if path.is_empty() {
                        name.clone()
                    } else {
                        format!("{path}.{name}")
                    };
                    tree.collect(&path, *line, leaves);
                }
            }
            _ => leaves.push(Leaf {
                path: path.to_owned(),
                line,
                value: self.value(),
            }),
        }
    }

    fn value(&self) -> Value {
        match self {
            Self::Scalar(value) => value.clone(),
            Self::List(items) => items.iter().map(Self::value).collect(),
            Self::Map(entries) => Value::Object(
                entries
                    .iter()
                    .map(|(name, _, tree)| (name.clone(), tree.value()))
                    .collect(),
            ),
        }
    }
}

/// Whether a value asks for nothing: null, empty, zero or false.
pub fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(is_true) => !is_true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => matches!(text.as_str(), "" | "0" | "0s" | "0m" | "0h" | "0h0m0s"),
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.values().all(is_nothing),
    }
}

/// The leaves of JSON, a list being one, nulls left out.
pub fn json_leaves(value: &Value) -> Vec<(String, Value)> {
    fn collect(path: &str, value: &Value, leaves: &mut Vec<(String, Value)>) {
        match value {
            Value::Null => {}
            Value::Object(entries) => {
                for (name, value) in entries {
                    let path = if path.is_empty() {
                        name.clone()
                    } else {
                        format!("{path}.{name}")
                    };
                    collect(&path, value, leaves);
                }
            }
            _ => leaves.push((path.to_owned(), value.clone())),
        }
    }
    let mut leaves = Vec::new();
    collect("", value, &mut leaves);
    leaves
}

/// Puts `value` at `path` of `root`, making the objects on the way.
pub fn put(root: &mut Value, path: &str, value: Value) {
    let mut place = root;
    for name in path.split('.') {
        if !place.is_object() {
            *place = Value::Object(serde_json::Map::new());
        }
        place = &mut place[name];
    }
    *place = value;
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_unit<E: Error>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Null))
    }

    fn visit_none<E: Error>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        Tree::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Tree, A::Error> {
        let mut map = Vec::new();
        while let Some(name) = entries.next_key::<String>()? {
            let tree: Spanned<Tree> = entries.next_value()?;
            map.push((name, tree.referenced.line(), tree.value));
        }
        Ok(Tree::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn leaves_have_their_paths_lines_and_values() {
        let tree: Tree = serde_saphyr::from_str(
            "a: 1\nb:\n  c: text\n  d: [x, 2]\n  e: null\nf: {}\ng:\n  h: true\n",
        )
        .unwrap();
        let leaves: Vec<_> = tree
            .leaves()
            .into_iter()
            .map(|leaf| (leaf.path, leaf.line, leaf.value))
            .collect();
        let leaf = |path: &str, line: u64, value: Value| (path.to_owned(), line, value);
        assert_eq!(
            leaves,
            [
                leaf("a", 1, json!(1)),
                leaf("b.c", 3, json!("text")),
                leaf("b.d", 4, json!(["x", 2])),
                leaf("b.e", 5, Value::Null),
                leaf("f", 6, json!({})),
                leaf("g.h", 8, json!(true)),
            ]
        );
    }

    #[test]
    fn a_value_is_put_where_its_path_says() {
        let mut root = json!({"a": {"b": 1}});
        put(&mut root, "a.c", json!(2));
        put(&mut root, "d.e.f", json!([3]));
        assert_eq!(root, json!({"a": {"b": 1, "c": 2}, "d": {"e": {"f": [3]}}}));
        let leaves = json_leaves(&root);
        assert_eq!(leaves.len(), 3);
        assert_eq!(leaves[2], ("d.e.f".to_owned(), json!([3])));
    }

    #[test]
    fn zero_and_empty_ask_for_nothing() {
        for value in [
            json!(null),
            json!(""),
            json!(0),
            json!("0s"),
            json!([]),
            json!({"a": false}),
        ] {
            assert!(is_nothing(&value), "{value}");
        }
        for value in [
            json!("rr"),
            json!(1),
            json!(true),
            json!([0]),
            json!({"a": true}),
        ] {
            assert!(!is_nothing(&value), "{value}");
        }
    }
}
