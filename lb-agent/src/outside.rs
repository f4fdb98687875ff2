//! What the agent shows to the outside: health for load balancers and the kubelet, metrics, and its
//! settings, at the ports and in the words of kube-proxy.
//!
//! The servers live on a thread of their own: a scrape never holds the tables up, and the tables'
//! work never an answer. They read what the agent's loop leaves in channels and atomics.

pub mod addresses;
mod collect;
pub mod metrics;
mod node_ports;
pub mod proxy_health;
pub mod report;
mod server;
pub mod service_health;
mod slis;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::routing::any;
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::collect::{PacketCollector, ProcessCollector};
use self::metrics::Metrics;
use self::node_ports::NodePorts;
use self::proxy_health::{IpFamily, ProxyHealth, Question};
use self::report::{Reporter, Reports, Subject};
use self::server::{json, not_found, respond};
use self::service_health::HealthPorts;
use self::slis::Slis;
use crate::clock;
use crate::dataplane::bpffs::PinPaths;
use crate::settings::outside::Outside as OutsideSettings;

/// What tools are told that ask for kube-proxy's mode: its words about unknown ports, node port
/// addresses and refusals are those of nftables.
pub const PROXY_MODE: &str = "nftables";

/// The type of `/metrics`.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// Why the servers could not start.
#[derive(Debug, thiserror::Error)]
pub enum OutsideError {
    /// The system has no room for another thread.
    #[error("starting the thread of the health and metrics servers: {source}")]
    Thread {
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// `bindAddressHardFail` is set, and an address cannot be had.
    #[error("cannot listen on {address}: {source}; free the address, or unset bindHardFail")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// The agent's end: what it says here is what the servers answer. They end when this is dropped.
#[derive(Debug)]
pub struct Outside {
    /// The families of this host.
    pub families: Vec<IpFamily>,
    /// What is counted.
    pub metrics: Metrics,
    health: watch::Sender<ProxyHealth>,
    health_address: watch::Sender<Option<SocketAddr>>,
    metrics_address: watch::Sender<Option<SocketAddr>>,
    configz: watch::Sender<Arc<str>>,
    node_ports: watch::Sender<NodePorts>,
    reports: watch::Receiver<Reports>,
}

impl Outside {
    /// Starts the servers. With `is_node_required`, a Node that was never seen takes no traffic.
    pub fn start(
        settings: &OutsideSettings,
        paths: PinPaths,
        is_node_required: bool,
    ) -> Result<Self, OutsideError> {
        if settings.hard_fail {
            for address in [settings.health, settings.metrics].into_iter().flatten() {
                std::net::TcpListener::bind(address)
                    .map_err(|source| OutsideError::Bind { address, source })?;
            }
        }
        let families = families(Path::new("/proc"));
        let metrics = Metrics::new(&families);
        let health = ProxyHealth::new(settings.health_timeout, is_node_required);
        let (health, health_seen) = watch::channel(health);
        let (health_address, health_wanted) = watch::channel(settings.health);
        let (metrics_address, metrics_wanted) = watch::channel(settings.metrics);
        let (configz, configz_seen) = watch::channel(Arc::from(settings.configz.to_string()));
        let (node_ports, ports_wanted) = watch::channel(NodePorts::default());
        let (report_sender, reports) = watch::channel(Reports::new());
        let reporter = Reporter(report_sender);
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        registry.register_collector(Box::new(PacketCollector { paths }));
        registry.register_collector(Box::new(ProcessCollector));
        let slis = Slis::default();
        let shown = slis.registry(health_seen.clone());
        let routers = (
            health_router(&health_seen, &metrics, &slis),
            metrics_router([registry, shown], configz_seen),
        );
        spawn(async move |servers| {
            servers.spawn(server::keep(
                Subject::Health,
                "/healthz",
                health_wanted,
                routers.0,
                reporter.clone(),
            ));
            servers.spawn(server::keep(
                Subject::Metrics,
                "/metrics",
                metrics_wanted,
                routers.1,
                reporter.clone(),
            ));
            servers.spawn(node_ports::keep(ports_wanted, health_seen, reporter));
        })?;
        Ok(Self {
            families,
            metrics,
            health,
            health_address,
            metrics_address,
            configz,
            node_ports,
            reports,
        })
    }

    /// Changes what is known of the health.
    pub fn update_health(&self, change: impl FnOnce(&mut ProxyHealth)) {
        self.health.send_modify(change);
    }

    /// Takes over changed settings.
    pub fn set_settings(&self, settings: &OutsideSettings) {
        let set = |sender: &watch::Sender<Option<SocketAddr>>, address| {
            sender.send_if_modified(|current| std::mem::replace(current, address) != address);
        };
        set(&self.health_address, settings.health);
        set(&self.metrics_address, settings.metrics);
        self.configz
            .send_replace(Arc::from(settings.configz.to_string()));
        self.update_health(|health| health.set_limit(settings.health_timeout));
    }

    /// Says which health-check node ports there are, where, and what they tell.
    pub fn set_node_ports(&self, ports: HealthPorts, addresses: BTreeMap<IpFamily, Vec<IpAddr>>) {
        let wanted = NodePorts { ports, addresses };
        self.node_ports.send_if_modified(|current| {
            let is_new = *current != wanted;
            *current = wanted;
            is_new
        });
    }

    /// What is wrong with the servers.
    pub fn reports(&self) -> Reports {
        self.reports.borrow().clone()
    }

    /// Returns when [`Self::reports`] has changed.
    pub async fn reports_changed(&mut self) {
        if self.reports.changed().await.is_err() {
            // The servers are gone, and will say nothing more.
            std::future::pending::<()>().await;
        }
    }
}

/// Runs servers on a thread of their own, until all have ended.
fn spawn(start: impl AsyncFnOnce(&mut JoinSet<()>) + Send + 'static) -> Result<(), OutsideError> {
    let failed = |source| OutsideError::Thread { source };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    std::thread::Builder::new()
        .name("outside".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                let mut servers = JoinSet::new();
                start(&mut servers).await;
                while servers.join_next().await.is_some() {}
            });
            runtime.shutdown_background();
        })
        .map_err(failed)?;
    Ok(())
}

/// IPv4, and IPv6 unless the host has none: kube-proxy's rule.
fn families(proc: &Path) -> Vec<IpFamily> {
    let disabled = proc.join("sys/net/ipv6/conf/all/disable_ipv6");
    let is_disabled = std::fs::read_to_string(disabled).is_ok_and(|text| text.trim() == "1");
    if proc.join("net/if_inet6").exists() && !is_disabled {
        IpFamily::ALL.to_vec()
    } else {
        vec![IpFamily::V4]
    }
}

fn health_router(health: &watch::Receiver<ProxyHealth>, metrics: &Metrics, slis: &Slis) -> Router {
    let route = |question| {
        let (health, metrics, slis) = (health.clone(), metrics.clone(), slis.clone());
        any(async move || {
            let now = clock::moment();
            let answer = {
                let health = health.borrow();
                slis.answered(question, &health, now);
                health.answer(question, now)
            };
            metrics.answered(question, answer.status);
            json(answer)
        })
    };
    Router::new()
        .route("/healthz", route(Question::Healthz))
        .route("/livez", route(Question::Livez))
        .fallback(not_found)
}

fn metrics_router([all, slis]: [Registry; 2], configz: watch::Receiver<Arc<str>>) -> Router {
    let shown = |registry: Registry| {
        let registry = Arc::new(registry);
        any(async move || {
            let mut body = String::new();
            match text::encode(&mut body, &registry) {
                Ok(()) => respond(200, OPEN_METRICS, body),
                Err(error) => respond(500, PLAIN, format!("writing the metrics: {error}\n")),
            }
        })
    };
    Router::new()
        .route("/metrics", shown(all))
        .route("/metrics/slis", shown(slis))
        .route(
            "/proxyMode",
            any(async || respond(200, PLAIN, PROXY_MODE.to_owned())),
        )
        .route(
            "/healthz",
            any(async || respond(200, PLAIN, "ok".to_owned())),
        )
        .route(
            "/configz",
            any(async move || {
                let body = configz.borrow().to_string();
                respond(200, "application/json", body)
            }),
        )
        .fallback(not_found)
}
