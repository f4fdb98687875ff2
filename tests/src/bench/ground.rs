//! Our programs with tables that a real agent filled and left: it does not run while packets are
//! timed, so neither its sweep nor anything else of it is in the figures.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::atomic::Ordering,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aya::programs::{ProgramFd, SchedClassifier};
use lb_agent::{
    dataplane::{
        bpf::Wire,
        bpffs::PinPaths,
        counters,
        flows::FlowTables,
        layout::Table,
        load::{Loaded, Variant},
        mmap::Access,
        tables::{self, WordTable},
    },
    settings::Sizes,
};
use lb_common::{table::device::DeviceRecord, verdict::Reason};
use tempfile::TempDir;

use super::{
    manifests::{Format, Manifests},
    node::Node,
    services, sizes,
};
use crate::clock;

/// The interface that test-run says a packet is at: the loopback device.
const DEVICE: u32 = 1;
/// This node's addresses there, for packets that leave with an address of its own.
pub(super) const OWN: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(192, 0, 2, 1),
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
);

/// How large it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    /// Services, besides those that are dialled.
    pub(super) services: u32,
    /// Buckets of each flow table: eight slots each, two slots a flow.
    pub(super) buckets: u32,
}

/// The tables, the programs, and what loading them took.
pub(super) struct Ground {
    node: Node,
    loaded: Loaded,
    /// What it was made with.
    pub(super) extent: Extent,
    _directory: TempDir,
    /// From the object's bytes to programs that can be attached; the tables were there.
    pub(super) load_time: Duration,
}

impl Ground {
    /// Has an agent fill the tables.
    pub(super) fn prepare(extent: Extent) -> Result<Self> {
        let directory = tempfile::tempdir().context("make a directory for manifests")?;
        let manifests = Manifests::write(directory.path(), Format::Json, extent.services)?;
        services::write(&manifests.directory)?;
        let sizes = Sizes {
            flow_buckets_v4: extent.buckets,
            flow_buckets_v6: extent.buckets,
            ..sizes::for_services(extent.services)
        };
        let config = sizes::write(directory.path(), &sizes, "")?;
        let mut node = Node::new(directory.path(), Some(config))?;
        node.start(&manifests.directory)?;
        node.stop()?;
        let began = clock::now();
        let loaded = Loaded::load(node.paths().root(), &sizes, Variant::Normal)?;
        let load_time = began.elapsed();
        ensure!(loaded.is_adopted(), "the agent's own tables are used");
        // No device is there, so the agent has written none.
        let record = DeviceRecord::uplink(DEVICE, OWN.0.octets(), OWN.1.octets());
        tables::devices(&node.paths(), Access::ReadWrite)?.insert(DEVICE, Wire(record), 0)?;
        Ok(Self {
            node,
            loaded,
            extent,
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

    /// Where the tables are.
    pub(super) fn paths(&self) -> PinPaths {
        self.node.paths()
    }

    /// The flow tables in this process's memory.
    pub(super) fn flows(&self) -> Result<FlowTables> {
        Ok(FlowTables::open(&self.node.paths())?)
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
