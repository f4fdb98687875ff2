//! Kubernetes objects to model values, by the rules kube-proxy applies.
//!
//! Every conversion is pure and has three outcomes: a value; `None` for an object that is none of
//! ours (headless, another proxy's, of names instead of addresses), which is as if it were not
//! there; or an error for one that cannot be understood at all. What is wrong but not fatal is
//! noted, and the rest of the object is used.

pub mod address;
pub mod endpoint_slice;
pub mod node;
pub mod service;
pub mod service_cidr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use lb_common::flow::Protocol;

use super::intern::Interner;
use super::report::{Detail, FieldProblem};
use crate::model::name::ObjectName;

/// Notes of what is wrong with an object that is used all the same.
pub type Notes = Vec<FieldProblem>;

fn object_name(metadata: &ObjectMeta, interner: &mut Interner) -> Result<ObjectName, FieldProblem> {
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let name = metadata.name.as_deref().unwrap_or_default();
    checked_name((namespace, name), interner)
}

fn checked_name(
    (namespace, name): (&str, &str),
    interner: &mut Interner,
) -> Result<ObjectName, FieldProblem> {
    if name.is_empty() {
        return Err(FieldProblem::new("metadata.name", Detail::MissingName));
    }
    Ok(ObjectName {
        namespace: interner.get(namespace),
        name: interner.get_nearby(name),
    })
}

fn cluster_name(metadata: &ObjectMeta) -> Result<String, FieldProblem> {
    match metadata.name.as_deref() {
        Some(name) if !name.is_empty() => Ok(name.to_owned()),
        _ => Err(FieldProblem::new("metadata.name", Detail::MissingName)),
    }
}

fn label<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.labels.as_ref()?.get(key).map(String::as_str)
}

fn protocol(
    value: Option<&str>,
    field: impl FnOnce() -> String,
    notes: &mut Notes,
) -> Option<Protocol> {
    match value {
        None | Some("" | "TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some("SCTP") => Some(Protocol::Sctp),
        Some(other) => {
            notes.push(FieldProblem::new(
                field(),
                Detail::UnknownValue {
                    value: other.to_owned(),
                    known: "TCP, UDP, SCTP",
                    consequence: "the port is ignored",
                },
            ));
            None
        }
    }
}

/// A port from 1 to 65535; anything else is noted.
fn port(value: i32, field: impl FnOnce() -> String, notes: &mut Notes) -> Option<u16> {
    let port = u16::try_from(value).ok().filter(|port| *port != 0);
    if port.is_none() {
        notes.push(FieldProblem::new(field(), Detail::InvalidPort { value }));
    }
    port
}

#[cfg(test)]
mod recorded;
