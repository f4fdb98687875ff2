//! kube-proxy's own table of who goes where and whose address is changed
//! (`TestInternalExternalMasquerade`), as it stands there, beside what we do.
//!
//! Its row for processes of the node that dial the node's own port needs the socket hooks and is not
//! here. Who serves is the same in every cell; the address is changed where the reply would miss the node
//! that has to translate it back, and kept elsewhere, which is marked as a difference where masquerading
//! would give another address.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};

use super::{
    Expectation,
    dimension::{Address, Family, Source},
    expectation::{Scope, Server, scope, served, translator},
    stage::{MatrixStage, masqueraded},
};
use crate::{cluster::Policy, lab::CniShape, traffic::Transport};

/// Connections that meet every one of two endpoints: both are missed by all of them once in 10^9.
const CONNECTIONS: usize = 30;

/// The Services' policies, internal and external.
pub(super) const POLICIES: [[Policy; 2]; 3] = [
    [Policy::Cluster, Policy::Cluster],
    [Policy::Cluster, Policy::Local],
    [Policy::Local, Policy::Cluster],
];

/// A cell of the table: who serves, and whether kube-proxy masquerades the client.
type Upstream = (&'static [Server], bool);

const BOTH: &[Server] = &[Server::Here, Server::Elsewhere];
const HERE: &[Server] = &[Server::Here];

/// The table; a column for each of [`POLICIES`].
const TABLE: [(Source, Address, [Upstream; 3]); 8] = [
    (
        Source::PodHere,
        Address::ClusterIp,
        [(BOTH, false), (BOTH, false), (HERE, false)],
    ),
    (
        Source::PodHere,
        Address::NodePortHere,
        [(BOTH, true), (BOTH, false), (BOTH, true)],
    ),
    (
        Source::PodHere,
        Address::LoadBalancer,
        [(BOTH, true), (BOTH, false), (BOTH, true)],
    ),
    (
        Source::ThisNode,
        Address::ClusterIp,
        [(BOTH, true), (BOTH, true), (HERE, true)],
    ),
    (
        Source::ThisNode,
        Address::LoadBalancer,
        [(BOTH, true), (BOTH, true), (BOTH, true)],
    ),
    (
        Source::External,
        Address::ClusterIp,
        [(BOTH, true), (BOTH, true), (HERE, true)],
    ),
    (
        Source::External,
        Address::NodePortHere,
        [(BOTH, true), (HERE, false), (BOTH, true)],
    ),
    (
        Source::External,
        Address::LoadBalancer,
        [(BOTH, true), (HERE, false), (BOTH, true)],
    ),
];

/// Who serves by our rules.
fn servers(source: Source, address: Address, policies: [Policy; 2]) -> Vec<Server> {
    let mut servers = BOTH.to_vec();
    if scope(source, address, policies) == Scope::OnTranslator {
        servers.retain(|server| server.node() == translator(source, address));
    }
    servers
}

/// Tries every cell of the table.
pub(super) fn check(stage: &MatrixStage, shape: CniShape) -> Result<()> {
    for (source, address, _) in TABLE {
        for (position, policies) in (0..).zip(POLICIES) {
            let own = servers(source, address, policies);
            for family in Family::ALL {
                let dialled = stage.socket(address, masqueraded(position), family);
                let mut met = BTreeSet::new();
                for _ in 0..CONNECTIONS {
                    let greeting = stage.ask(source, dialled, Transport::Tcp)?;
                    let server = BOTH.iter().find(|one| one.name() == greeting.server);
                    let server = *server.with_context(|| format!("{greeting}"))?;
                    let expected = served(source, address, policies[1], server, shape);
                    let Expectation::Served { seen, .. } = expected else {
                        anyhow::bail!("{expected}");
                    };
                    let client = stage.seen(source, seen, dialled);
                    ensure!(
                        greeting.client.ip() == client,
                        "{source} to {address} {dialled}: {greeting}, not {client}"
                    );
                    met.insert(server);
                }
                ensure!(
                    met.iter().eq(&own),
                    "{source} to {address} {dialled}: {met:?}, not {own:?}"
                );
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::Seen;

    /// Whom a server sees where kube-proxy masquerades: the address of the device that leads to it, or
    /// the first of the node's where that has none.
    fn masqueraded_as(server: Server, shape: CniShape) -> &'static str {
        match server {
            Server::Here if shape.has_bridge() => "the bridge",
            Server::Elsewhere if shape == CniShape::Vxlan => "the tunnel",
            _ => "the uplink",
        }
    }

    /// Whom a server sees.
    fn known_as(source: Source, seen: Seen) -> &'static str {
        match (seen, source) {
            (Seen::Tunnel(1), _) => "the tunnel",
            (Seen::Node(1), _) | (Seen::Client, Source::ThisNode) => "the uplink",
            (Seen::Client, _) => "the client",
            (seen, source) => panic!("{source} seen as {seen:?}"),
        }
    }

    #[test]
    fn who_serves_is_as_upstream_and_each_kept_address_is_marked_where_upstream_changes_it() {
        for (source, address, row) in TABLE {
            for (policies, (upstream, masquerades)) in POLICIES.into_iter().zip(row) {
                let own = servers(source, address, policies);
                assert_eq!(own, upstream, "{source} to {address}, {policies:?}");
                for (server, shape) in own
                    .iter()
                    .flat_map(|server| CniShape::ALL.map(|shape| (*server, shape)))
                {
                    let expected = served(source, address, policies[1], server, shape);
                    let Expectation::Served {
                        seen, difference, ..
                    } = expected
                    else {
                        panic!("{source} to {address}: {expected}");
                    };
                    let changed = masqueraded_as(server, shape);
                    let known = known_as(source, seen);
                    assert_eq!(
                        difference.is_some(),
                        masquerades && known != changed,
                        "{source} to {address}, {policies:?}, {server:?}, {shape}"
                    );
                    // Never the other way round.
                    assert!(
                        seen == Seen::Client || masquerades,
                        "{source} to {address}, {policies:?}, {shape}"
                    );
                }
            }
        }
    }
}
