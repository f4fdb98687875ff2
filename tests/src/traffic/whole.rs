//! Datagrams that may not be cut on their way.

use std::{io, net::SocketAddr};

use anyhow::{Context as _, Result};
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};

use crate::{
    ns::Namespace,
    traffic::{
        Greeting,
        client::{PATIENCE, udp_exchange, udp_socket},
    },
};

/// Sends one datagram with `size` bytes of payload from inside `ns` that no router and not this host
/// may fragment; the greeting of who answered with all of it.
pub fn ask_udp_whole(ns: &Namespace, server: SocketAddr, size: usize) -> Result<Greeting> {
    ns.run(|| {
        let socket = udp_socket(server, PATIENCE)?;
        let set: io::Result<()> = if server.is_ipv4() {
            set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DO).map_err(Into::into)
        } else {
            set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::DO).map_err(Into::into)
        };
        set.context("forbid fragments")?;
        udp_exchange(&socket, &vec![7; size])
            .with_context(|| format!("a datagram of {size} bytes to {server}"))
    })
}
