//! Every object of the recorded lists, converted: pinned by golden files.

use std::fmt::Write as _;

use k8s_openapi::api::core::v1::{Node, Service};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::endpoint_slice::{self, api::ApiSlice};
use super::{Notes, node, service};
use crate::source::intern::Interner;
use crate::source::report::FieldProblem;

/// A conversion of one kind.
type Convert<O, V> = fn(&O, &mut Interner, &mut Notes) -> Result<Option<V>, FieldProblem>;

/// Each object's name and value, one line each, notes below.
fn converted<O: DeserializeOwned, V: std::fmt::Debug>(
    text: &str,
    convert: Convert<O, V>,
) -> String {
    let list: Value = serde_json::from_str(text).unwrap();
    let mut lines = String::new();
    for item in list["items"].as_array().unwrap() {
        let object: O = serde_json::from_value(item.clone()).unwrap();
        let mut notes = Notes::new();
        let value = convert(&object, &mut Interner::default(), &mut notes).unwrap();
        let name = item["metadata"]["name"].as_str().unwrap();
        match value {
            Some(value) => writeln!(lines, "{name}: {value:?}").unwrap(),
            None => writeln!(lines, "{name}: none of ours").unwrap(),
        }
        for note in notes {
            writeln!(lines, "  {}: {}", note.field, note.detail).unwrap();
        }
    }
    lines
}

macro_rules! recorded {
    ($file:literal, $convert:expr) => {
        insta::assert_snapshot!(
            $file,
            converted(
                include_str!(concat!(
                    "../../../../tests/fixtures/recordings/",
                    $file,
                    ".json"
                )),
                $convert
            )
        )
    };
}

#[test]
fn recorded_services_are_converted_as_pinned() {
    let _: Convert<Service, _> = service::convert;
    recorded!("list-services", service::convert);
    recorded!("mid-services", service::convert);
    recorded!("final-services", service::convert);
}

#[test]
fn recorded_slices_are_converted_as_pinned() {
    let convert: Convert<ApiSlice<String>, _> = endpoint_slice::convert;
    recorded!("list-endpointslices", convert);
    recorded!("mid-endpointslices", convert);
    recorded!("final-endpointslices", convert);
}

#[test]
fn recorded_nodes_are_converted_as_pinned() {
    let _: Convert<Node, _> = node::convert;
    recorded!("list-nodes", node::convert);
    recorded!("mid-nodes", node::convert);
    recorded!("final-nodes", node::convert);
}
