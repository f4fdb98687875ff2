//! `/metrics/slis`: how each check of this component's health is, and how it was answered so far, by
//! the names that all of Kubernetes' components have.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use super::proxy_health::{ProxyHealth, Question};
use crate::clock::{self, Moment};

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct CheckLabels {
    name: &'static str,
    status: &'static str,
    r#type: &'static str,
}

/// One thing that an answer depends on.
struct Check {
    name: &'static str,
    question: Question,
    is_ok: bool,
}

impl Check {
    const fn kind(&self) -> &'static str {
        match self.question {
            Question::Healthz => "healthz",
            Question::Livez => "livez",
        }
    }
}

/// `tables` keep up with the objects, and the `node` takes traffic.
fn checks(health: &ProxyHealth, now: Moment) -> [Check; 3] {
    let check = |name, question, is_ok| Check {
        name,
        question,
        is_ok,
    };
    [
        check("tables", Question::Healthz, health.is_healthy(now)),
        check("node", Question::Healthz, health.is_node_eligible()),
        check("tables", Question::Livez, health.is_alive(now)),
    ]
}

/// How checks were answered. Clones share the counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Slis(Family<CheckLabels, Counter>);

impl Slis {
    /// `question` is answered.
    pub(super) fn answered(&self, question: Question, health: &ProxyHealth, now: Moment) {
        let Self(answers) = self;
        for check in checks(health, now) {
            if check.question == question {
                let labels = CheckLabels {
                    name: check.name,
                    status: if check.is_ok { "success" } else { "error" },
                    r#type: check.kind(),
                };
                answers.get_or_create(&labels).inc();
            }
        }
    }

    /// What `/metrics/slis` shows.
    pub(super) fn registry(&self, health: watch::Receiver<ProxyHealth>) -> Registry {
        let Self(answers) = self;
        let mut registry = Registry::with_prefix("kubernetes");
        registry.register(
            "healthchecks",
            "Answers to health checks, by check and outcome",
            answers.clone(),
        );
        registry.register_collector(Box::new(Now { health }));
        registry
    }
}

/// How the checks are at the scrape.
#[derive(Debug)]
struct Now {
    health: watch::Receiver<ProxyHealth>,
}

impl Collector for Now {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut metric = encoder.encode_descriptor(
            "healthcheck",
            "Whether a check is well: 1, or 0",
            None,
            MetricType::Gauge,
        )?;
        for check in checks(&self.health.borrow(), clock::moment()) {
            let labels = [("name", check.name), ("type", check.kind())];
            let value = ConstGauge::new(f64::from(u8::from(check.is_ok)));
            value.encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus_client::encoding::text;

    use super::*;

    #[test]
    fn checks_are_shown_as_they_are_and_counted_as_they_were_answered() {
        let health = ProxyHealth::new(Duration::from_mins(1), true);
        let (_sender, receiver) = watch::channel(health.clone());
        let slis = Slis::default();
        let registry = slis.registry(receiver);
        slis.answered(Question::Healthz, &health, clock::moment());
        slis.answered(Question::Livez, &health, clock::moment());
        slis.answered(Question::Livez, &health, clock::moment());
        let mut found = String::new();
        text::encode(&mut found, &registry).unwrap();
        for line in [
            "kubernetes_healthcheck{name=\"tables\",type=\"healthz\"} 0.0",
            "kubernetes_healthcheck{name=\"node\",type=\"healthz\"} 0.0",
            "kubernetes_healthcheck{name=\"tables\",type=\"livez\"} 1.0",
            "kubernetes_healthchecks_total{name=\"node\",status=\"error\",type=\"healthz\"} 1",
            "kubernetes_healthchecks_total{name=\"tables\",status=\"success\",type=\"livez\"} 2",
        ] {
            assert!(found.lines().any(|it| it == line), "{line}\n{found}");
        }
    }
}
