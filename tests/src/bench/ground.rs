//! Our programs with tables that a real agent filled and left: it does not run while packets are
//! timed, so neither its sweep nor anything else of it is in the figures.

use std::{fs, sync::atomic::Ordering, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aya::programs::{ProgramFd, SchedClassifier};
use lb_agent::{
    dataplane::{
        counters,
        layout::Table,
        load::{Loaded, Variant},
        tables::WordTable,
    },
    settings::Sizes,
};
use lb_common::verdict::Reason;
use tempfile::TempDir;

use super::{
    manifests::{Format, Manifests},
    node::Node,
    services,
};
use crate::clock;

/// Buckets of the IPv4 flow table: eight slots each, two slots a flow, so that a million flows fill
/// half of it.
pub(super) const BUCKETS_V4: u32 = 1 << 19;
/// Buckets of the IPv6 flow table.
const BUCKETS_V6: u32 = 1 << 16;

/// The tables, the programs, and what loading them took.
pub(super) struct Ground {
    node: Node,
    loaded: Loaded,
    _directory: TempDir,
    /// From the object's bytes to programs that can be attached; the tables were there.
    pub(super) load_time: Duration,
}

impl Ground {
    /// Has an agent fill the tables for so many services, besides those that are dialled.
    pub(super) fn prepare(services: u32) -> Result<Self> {
        let directory = tempfile::tempdir().context("make a directory for manifests")?;
        let manifests = Manifests::write(directory.path(), Format::Json, services)?;
        services::write(&manifests.directory)?;
        let sizes = sizes(services);
        let config = directory.path().join("settings.yaml");
        fs::write(&config, settings(&sizes)).context("write the settings")?;
        let mut node = Node::new(directory.path(), Some(config))?;
        node.start(&manifests.directory)?;
        node.stop()?;
        let began = clock::now();
        let loaded = Loaded::load(node.paths().root(), &sizes, Variant::Normal)?;
        let load_time = began.elapsed();
        ensure!(loaded.is_adopted(), "the agent's own tables are used");
        Ok(Self {
            node,
            loaded,
            _directory: directory,
            load_time,
        })
    }

    /// One of our programs.
    pub(super) fn program(&mut self, name: &'static str) -> Result<&mut SchedClassifier> {
        Ok(self.loaded.program(name)?)
    }

    /// What the driver calls.
    pub(super) fn descriptor(&mut self, name: &'static str) -> Result<ProgramFd> {
        Ok(self.program(name)?.fd()?.try_clone()?)
    }

    /// Packets that ended for `reason`, so far.
    pub(super) fn count(&self, reason: Reason) -> Result<u64> {
        let counters = counters::read(&self.node.paths())?;
        let counter = counters.iter().find(|(known, _)| *known == reason);
        Ok(counter.map_or(0, |(_, counter)| counter.packets))
    }

    /// Forgets every flow.
    pub(super) fn forget_flows(&self) -> Result<()> {
        for table in [Table::FlowsV4, Table::FlowsV6] {
            for word in WordTable::open(&self.node.paths(), table)?.words() {
                word.store(0, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Bytes of a table by the kernel's own accounting.
    pub(super) fn table_bytes(&self, table: Table) -> Result<u64> {
        self.node.table_bytes(table)
    }

    /// Removes everything, and says if that fails.
    pub(super) fn finish(self) -> Result<()> {
        drop(self.loaded);
        self.node.finish_stopped()
    }
}

/// The defaults, grown where so many services need it.
fn sizes(services: u32) -> Sizes {
    let default = Sizes::default();
    // The defaults hold 10 000.
    let times = services.div_ceil(10_000).max(1);
    Sizes {
        frontends: default.frontends * times,
        services: default.services * times,
        arena_words: default.arena_words * times,
        backends: default.backends * times,
        flow_buckets_v4: BUCKETS_V4,
        flow_buckets_v6: BUCKETS_V6,
        ..default
    }
}

fn settings(sizes: &Sizes) -> String {
    format!(
        "apiVersion: steerage.dev/v1alpha1\nkind: SteerageConfiguration\nsizes:\n  frontends: {}\n  \
         services: {}\n  arenaWords: {}\n  backends: {}\n  flowBucketsV4: {}\n  flowBucketsV6: {}\n",
        sizes.frontends,
        sizes.services,
        sizes.arena_words,
        sizes.backends,
        sizes.flow_buckets_v4,
        sizes.flow_buckets_v6,
    )
}
