//! Where the host's routes lead.

use std::io;
use std::net::IpAddr;

use futures::TryStreamExt as _;
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use rtnetlink::RouteMessageBuilder;
use tokio::task::JoinSet;

/// Where a route leads.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    /// To this host itself.
    Local,
    /// Over the device with this interface index.
    Device(u32),
}

/// The way of a packet that this host would send to `address`, from `source` if that is told; `None`
/// where it has no route. Must be called in a tokio runtime.
pub async fn way_to(source: Option<IpAddr>, address: IpAddr) -> io::Result<Option<Way>> {
    let length = if address.is_ipv6() { 128 } else { 32 };
    let mut request = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(address, length)
        .map_err(io::Error::other)?;
    if let Some(source) = source {
        request = request
            .source_prefix(source, length)
            .map_err(io::Error::other)?;
    }
    let request = request.build();
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let mut connections = JoinSet::new();
    connections.spawn(connection);
    match handle.route().get(request).execute().try_next().await {
        Ok(route) => Ok(route.as_ref().and_then(way)),
        // ENETUNREACH and the like: a route that forbids is none.
        Err(rtnetlink::Error::NetlinkError(_)) => Ok(None),
        Err(error) => Err(io::Error::other(error)),
    }
}

fn way(route: &RouteMessage) -> Option<Way> {
    if route.header.kind == RouteType::Local {
        return Some(Way::Local);
    }
    route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(Way::Device(*index)),
            _ => None,
        })
}
