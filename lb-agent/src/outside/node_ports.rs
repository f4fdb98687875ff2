//! Keeps the listeners of health-check node ports: one for each Service, family and address.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use axum::Router;
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use super::proxy_health::{IpFamily, ProxyHealth};
use super::report::{Reporter, Subject};
use super::server::{Families, RETRY, json, listen, refusal};
use super::service_health::{HealthKey, HealthPort, HealthPorts, answer};
use crate::clock;

/// What is to be served, replaced as a whole after each sync.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct NodePorts {
    /// Services with what they tell.
    pub(super) ports: HealthPorts,
    /// Where to listen, by family.
    pub(super) addresses: BTreeMap<IpFamily, Vec<IpAddr>>,
}

impl NodePorts {
    /// Where the port of `key` is to be.
    fn places(&self, key: &HealthKey, port: HealthPort) -> Vec<SocketAddr> {
        let addresses = self.addresses.get(&key.family);
        addresses
            .into_iter()
            .flatten()
            .map(|address| SocketAddr::new(*address, port.port))
            .collect()
    }
}

/// The listeners of one Service in one family.
struct Open {
    places: Vec<SocketAddr>,
    servers: Vec<AbortHandle>,
}

/// Opens and closes listeners as `wanted` says, until its sender is gone.
pub(super) async fn keep(
    mut wanted: watch::Receiver<NodePorts>,
    health: watch::Receiver<ProxyHealth>,
    reporter: Reporter,
) {
    let mut servers = JoinSet::new();
    let mut open: BTreeMap<HealthKey, Open> = BTreeMap::new();
    let mut failed: BTreeMap<HealthKey, Subject> = BTreeMap::new();
    loop {
        let now = wanted.borrow_and_update().clone();
        open.retain(|key, open| {
            let port = now.ports.get(key);
            let stays = port.is_some_and(|port| now.places(key, *port) == open.places);
            if !stays {
                for server in &open.servers {
                    server.abort();
                }
            }
            stays
        });
        // A listener is free once its task is gone: the same port may be wanted again at once.
        while servers.len() > open.values().map(|open| open.servers.len()).sum() {
            if servers.join_next().await.is_none() {
                break;
            }
        }
        failed.retain(|key, subject| {
            let stays = now.ports.contains_key(key);
            if !stays {
                reporter.clear(subject);
            }
            stays
        });
        for (key, port) in &now.ports {
            if open.contains_key(key) {
                continue;
            }
            let subject = Subject::Service(key.service.clone());
            let places = now.places(key, *port);
            match listen_all(&places) {
                Ok(listeners) => {
                    if failed.remove(key).is_some() {
                        reporter.clear(&subject);
                    }
                    let servers = listeners
                        .into_iter()
                        .map(|listener| {
                            let router = router(key.clone(), wanted.clone(), health.clone());
                            servers.spawn(async move {
                                // It ends by no error of a connection's, only when it is stopped.
                                drop(axum::serve(listener, router).await);
                            })
                        })
                        .collect();
                    open.insert(key.clone(), Open { places, servers });
                }
                Err((place, error)) => {
                    let what = format!(
                        "the health check of Service {} ({})",
                        key.service,
                        key.family.name()
                    );
                    reporter.set(&subject, refusal(&what, place, &error));
                    failed.insert(key.clone(), subject);
                }
            }
        }
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = sleep(RETRY), if !failed.is_empty() => {}
        }
    }
}

/// All of them or none: a load balancer must not find half of a Service's addresses.
fn listen_all(places: &[SocketAddr]) -> Result<Vec<TcpListener>, (SocketAddr, std::io::Error)> {
    places
        .iter()
        .map(|place| listen(*place, Families::Own).map_err(|error| (*place, error)))
        .collect()
}

/// Answers at any path and to any method.
fn router(
    key: HealthKey,
    wanted: watch::Receiver<NodePorts>,
    health: watch::Receiver<ProxyHealth>,
) -> Router {
    Router::new().fallback(async move || {
        let port = wanted.borrow().ports.get(&key).copied();
        let is_healthy = health.borrow().is_healthy(clock::moment());
        respond(&key, port, is_healthy)
    })
}

fn respond(key: &HealthKey, port: Option<HealthPort>, is_healthy: bool) -> Response {
    let mut response = json(answer(key, port, is_healthy));
    let count = port.map_or(0, |port| port.local_endpoints);
    let count = u64::try_from(count).unwrap_or(u64::MAX);
    response.headers_mut().insert(
        HeaderName::from_static("x-load-balancing-endpoint-weight"),
        HeaderValue::from(count),
    );
    response
}
