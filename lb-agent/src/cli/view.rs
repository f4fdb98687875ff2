//! What commands show, as plain values: the JSON of `-o json` is these types as they are.
//!
//! Within `steerage.dev/v1` fields are only added. Builders in the modules below are pure functions
//! of the raw inputs; renderers read views only.

pub mod backends;
pub mod explain;
pub mod flows;
pub mod interfaces;
pub mod maglev;
pub mod maps;
pub mod services;
pub mod status;
pub mod verify;

use serde::Serialize;

/// Version of all shapes together.
pub const API_VERSION: &str = "steerage.dev/v1";

/// A list of items and where it is from: the outermost object of every JSON document.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Document<T> {
    /// [`API_VERSION`].
    pub api_version: &'static str,
    /// What the items are.
    pub kind: &'static str,
    /// The node whose state this is; empty where no agent has left its name.
    pub node: String,
    /// When it was read: RFC 3339, in UTC.
    pub collected_at: String,
    /// What it was read from.
    pub source: Source,
    /// The items.
    pub items: Vec<T>,
}

/// What data was read from.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// The pinned maps, with the names that the agent left.
    Maps,
    /// The pinned maps alone: the agent left no names.
    MapsWithoutNames,
    /// The command itself.
    Command,
}

/// The key of `FRONTENDS` for an address, port and protocol.
pub(crate) const fn frontend_key(
    address: std::net::IpAddr,
    port: u16,
    protocol: lb_common::flow::Protocol,
) -> lb_common::table::frontend::FrontendKey {
    lb_common::table::frontend::FrontendKey::new(mapped(address), port, protocol)
}

/// The table form of an address.
pub(crate) const fn mapped(address: std::net::IpAddr) -> lb_common::family::MappedAddress {
    match address {
        std::net::IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        std::net::IpAddr::V6(address) => address.octets(),
    }
}
