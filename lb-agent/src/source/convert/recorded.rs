//! Every object of the recorded lists, converted: pinned by golden files.

use std::fmt::Write as _;

use k8s_openapi::List;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::de::DeserializeOwned;

use super::{Notes, endpoint_slice, node, service};
use crate::source::intern::Interner;
use crate::source::report::FieldProblem;

/// A conversion of one kind.
type Convert<O, V> = fn(&O, &mut Interner, &mut Notes) -> Result<Option<V>, FieldProblem>;

/// Each object's name and value, one line each, notes below.
fn converted<O, V: std::fmt::Debug>(text: &str, convert: Convert<O, V>) -> String
where
    O: k8s_openapi::ListableResource
        + k8s_openapi::Metadata<Ty = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>
        + DeserializeOwned,
{
    let list: List<O> = serde_json::from_str(text).unwrap();
    let mut lines = String::new();
    for object in &list.items {
        let mut notes = Notes::new();
        let value = convert(object, &mut Interner::default(), &mut notes).unwrap();
        let name = object.metadata().name.as_deref().unwrap();
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
    ($file:literal, $convert:path) => {
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
    let _: Convert<EndpointSlice, _> = endpoint_slice::convert;
    recorded!("list-endpointslices", endpoint_slice::convert);
    recorded!("mid-endpointslices", endpoint_slice::convert);
    recorded!("final-endpointslices", endpoint_slice::convert);
}

#[test]
fn recorded_nodes_are_converted_as_pinned() {
    let _: Convert<Node, _> = node::convert;
    recorded!("list-nodes", node::convert);
    recorded!("mid-nodes", node::convert);
    recorded!("final-nodes", node::convert);
}
