//! What is counted of the conversation with API servers: the names that every Kubernetes client has,
//! and what our own watches add.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use http::Method;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::machine::Tally;
use super::servers::Url;
use crate::model::event::Kind;

/// The code of a request that got no answer, as in every other client.
const NO_ANSWER: &str = "<error>";
/// Buckets of the official clients, in seconds.
const BUCKETS: [f64; 12] = [
    0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0,
];

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct RequestLabels {
    code: String,
    host: String,
    method: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct DurationLabels {
    host: String,
    verb: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ServerLabel {
    server: String,
}

fn request_buckets() -> Histogram {
    Histogram::new(BUCKETS)
}

/// Everything that is counted. Clones share the counts.
#[derive(Clone, Debug)]
pub struct ApiMetrics {
    requests: Family<RequestLabels, Counter>,
    durations: Family<DurationLabels, Histogram, fn() -> Histogram>,
    relists: Family<KindLabel, Counter>,
    bookmarks: Family<KindLabel, Counter>,
    errors: Family<KindLabel, Counter>,
    last_event: Gauge<f64, AtomicU64>,
    active: Family<ServerLabel, Gauge>,
}

impl Default for ApiMetrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(request_buckets),
            relists: Family::default(),
            bookmarks: Family::default(),
            errors: Family::default(),
            last_event: Gauge::default(),
            active: Family::default(),
        }
    }
}

impl ApiMetrics {
    /// Registers all of it.
    pub fn register(&self, registry: &mut Registry) {
        let client = registry.sub_registry_with_prefix("rest_client");
        client.register(
            "requests",
            "Requests to API servers, by the status of the answer, method and server",
            self.requests.clone(),
        );
        client.register(
            "request_duration_seconds",
            "Time until the head of the answer, of a watch too",
            self.durations.clone(),
        );
        let own = registry.sub_registry_with_prefix("steerage_api");
        own.register(
            "watch_relists",
            "Full lists that began, the first one included",
            self.relists.clone(),
        );
        own.register(
            "watch_bookmarks",
            "Bookmarks of watches, by which a server says how far it is",
            self.bookmarks.clone(),
        );
        own.register(
            "watch_errors",
            "Requests for lists and watches that failed",
            self.errors.clone(),
        );
        own.register(
            "last_event_timestamp_seconds",
            "When an object last came, 0 for never",
            self.last_event.clone(),
        );
        own.register(
            "server_active",
            "1 for the API server in use",
            self.active.clone(),
        );
    }

    /// A request was answered with this status, or not at all.
    pub(super) fn asked(&self, server: &Url, method: &Method, status: Option<u16>, took: Duration) {
        let host = server.split_once("://").map_or(&**server, |(_, host)| host);
        let (host, verb) = (host.to_owned(), method.to_string());
        self.requests
            .get_or_create(&RequestLabels {
                code: status.map_or_else(|| NO_ANSWER.to_owned(), |status| status.to_string()),
                host: host.clone(),
                method: verb.clone(),
            })
            .inc();
        self.durations
            .get_or_create(&DurationLabels { host, verb })
            .observe(took.as_secs_f64());
    }

    /// What the watches have met since `before`.
    pub(super) fn tally(&self, before: &BTreeMap<Kind, Tally>, now: &BTreeMap<Kind, Tally>) {
        for (kind, tally) in now {
            let label = KindLabel { kind: kind.name() };
            let before = before.get(kind).copied().unwrap_or_default();
            for (family, count) in [
                (&self.relists, tally.relists - before.relists),
                (&self.bookmarks, tally.bookmarks - before.bookmarks),
                (&self.errors, tally.errors - before.errors),
            ] {
                family.get_or_create(&label).inc_by(count);
            }
        }
    }

    /// An object last came at this time, in seconds since the Unix epoch.
    pub(super) fn heard(&self, seconds: f64) {
        self.last_event.set(seconds);
    }

    /// This server is in use.
    pub(super) fn uses(&self, server: &Url) {
        self.active.clear();
        let server = server.to_string();
        self.active.get_or_create(&ServerLabel { server }).set(1);
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text;

    use super::*;

    #[test]
    fn names_and_labels_are_those_of_every_client() {
        let metrics = ApiMetrics::default();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let server: Url = "https://10.0.0.1:6443".into();
        let took = Duration::from_millis(30);
        metrics.asked(&server, &Method::GET, Some(200), took);
        metrics.asked(&server, &Method::GET, None, took);
        let tally = Tally {
            relists: 2,
            bookmarks: 1,
            errors: 0,
        };
        let now = BTreeMap::from([(Kind::Service, tally)]);
        metrics.tally(&BTreeMap::new(), &now);
        metrics.tally(&now, &now);
        metrics.uses(&"https://10.0.0.9:6443".into());
        metrics.uses(&server);
        let mut text = String::new();
        text::encode(&mut text, &registry).unwrap();
        for line in [
            r#"rest_client_requests_total{code="200",host="10.0.0.1:6443",method="GET"} 1"#,
            r#"rest_client_requests_total{code="<error>",host="10.0.0.1:6443",method="GET"} 1"#,
            r#"rest_client_request_duration_seconds_bucket{le="0.025",host="10.0.0.1:6443",verb="GET"} 0"#,
            r#"rest_client_request_duration_seconds_bucket{le="0.1",host="10.0.0.1:6443",verb="GET"} 2"#,
            r#"steerage_api_watch_relists_total{kind="Service"} 2"#,
            r#"steerage_api_watch_bookmarks_total{kind="Service"} 1"#,
            r#"steerage_api_server_active{server="https://10.0.0.1:6443"} 1"#,
        ] {
            assert!(text.lines().any(|it| it == line), "{line}\n{text}");
        }
        assert!(!text.contains("10.0.0.9"), "{text}");
    }
}
