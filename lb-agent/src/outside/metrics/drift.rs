//! What audits have found, by table.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::dataplane::layout::Table;
use crate::reconcile::audit::Found;

/// The tables that an audit compares.
const AUDITED: [Table; 11] = [
    Table::Frontends,
    Table::Services,
    Table::Arena,
    Table::Backends,
    Table::ServiceFilter,
    Table::BackendFilter,
    Table::NodePorts,
    Table::SourceRanges,
    Table::NodeAddresses,
    Table::Devices,
    Table::Config,
];

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct TableLabel {
    table: &'static str,
}

impl From<Table> for TableLabel {
    fn from(table: Table) -> Self {
        Self {
            table: table.name(),
        }
    }
}

/// Counts of audits. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct DriftMetrics {
    entries: Family<TableLabel, Gauge>,
    found: Family<TableLabel, Counter>,
    repaired: Counter,
    passes: Counter,
}

impl DriftMetrics {
    /// No audit yet; every series is there from the start.
    pub(super) fn new() -> Self {
        let metrics = Self::default();
        for table in AUDITED {
            drop(metrics.entries.get_or_create(&table.into()));
            drop(metrics.found.get_or_create(&table.into()));
        }
        metrics
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "drift_entries",
            "Entries that differed from the plan at the last audit; repaired ones are gone from the next",
            self.entries.clone(),
        );
        registry.register(
            "drift_found_entries",
            "Entries that audits found to differ from the plan",
            self.found.clone(),
        );
        registry.register(
            "drift_repaired_entries",
            "Entries that audits wrote again",
            self.repaired.clone(),
        );
        registry.register(
            "audits",
            "Audits of the tables that were carried through",
            self.passes.clone(),
        );
    }

    pub(super) fn audited(&self, found: &Found) {
        for table in AUDITED {
            let count = found.entries.get(&table).copied().unwrap_or(0);
            let value = i64::try_from(count).unwrap_or(i64::MAX);
            self.entries.get_or_create(&table.into()).set(value);
            self.found.get_or_create(&table.into()).inc_by(count);
        }
        self.repaired.inc_by(found.repaired);
        self.passes.inc();
    }
}
