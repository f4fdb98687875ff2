//! Our programs with tables that a real agent filled and left: it does not run while packets are
//! timed, so neither its sweep nor anything else of it is in the figures.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd as _, OwnedFd},
    sync::atomic::Ordering,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aya::programs::{SchedClassifier, Xdp};
use lb_agent::{
    dataplane::{
        bpf::Wire,
        bpffs::PinPaths,
        counters,
        flows::FlowTables,
        layout::Table,
        load::{Loaded, UPLINK_XDP, Variant, WORKLOAD_EGRESS, WORKLOAD_INGRESS},
        mmap::Access,
        syscall,
        tables::{self, WordTable},
        xdp::XdpMode,
    },
    settings::Sizes,
};
use lb_common::{
    course::MACS,
    table::device::{DeviceRecord, Takes},
    verdict::Reason,
};
use tempfile::TempDir;

use super::{
    manifests::{Format, Manifests},
    node::Node,
    rig::{Layer, Runnable},
    services, sizes, uplink,
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
    /// Whether packets are seen at the devices of [`uplink`], not at the loopback device.
    has_devices: bool,
    _directory: TempDir,
    /// From the object's bytes to programs that can be attached; the tables were there.
    pub(super) load_time: Duration,
}

impl Ground {
    /// Has an agent fill the tables that is set so besides: whole lines of its settings.
    pub(super) fn prepare(extent: Extent, settings: &str) -> Result<Self> {
        let directory = tempfile::tempdir().context("make a directory for manifests")?;
        let manifests = Manifests::write(directory.path(), Format::Json, extent.services)?;
        services::write(&manifests.directory)?;
        let sizes = Sizes {
            flow_buckets_v4: extent.buckets,
            flow_buckets_v6: extent.buckets,
            ..sizes::for_services(extent.services)
        };
        let config = sizes::write(directory.path(), &sizes, settings)?;
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
            has_devices: false,
            _directory: directory,
            load_time,
        })
    }

    /// One of our programs.
    pub(super) fn program(&mut self, name: &'static str) -> Result<&mut SchedClassifier> {
        Ok(self.loaded.program(name)?)
    }

    /// The same, to be run.
    pub(super) fn runnable(&mut self, name: &'static str) -> Result<Runnable> {
        let fd = self.program(name)?.fd()?.try_clone()?;
        let device = match name {
            WORKLOAD_INGRESS | WORKLOAD_EGRESS => uplink::POD,
            _ => uplink::UPLINK,
        };
        Ok(Runnable {
            fd,
            layer: Layer::Packets,
            device: self.has_devices.then_some(device),
        })
    }

    /// Our program for XDP.
    fn frame_program(&mut self) -> Result<&mut Xdp> {
        self.frame_part(UPLINK_XDP)
    }

    /// It, or a program that it calls.
    pub(super) fn frame_part(&mut self, name: &str) -> Result<&mut Xdp> {
        self.loaded.frame_program(XdpMode::Native)?;
        let program = self.loaded.ebpf().program_mut(name);
        Ok(program
            .context("the object has a program for XDP")?
            .try_into()?)
    }

    /// The same, to be run.
    pub(super) fn frames_runnable(&mut self) -> Result<Runnable> {
        let fd = self.frame_program()?.fd()?.try_clone()?;
        Ok(Runnable {
            fd,
            layer: Layer::Frames,
            device: self.uplink(),
        })
    }

    /// Has packets come and go by the devices of [`uplink`], in whose namespace the caller is, from now on.
    /// All of them send what is sent on. XDP is attached to the uplink for as long as what is given lives:
    /// frames are made in the name of a device only if it has a program.
    pub(super) fn use_devices(&mut self) -> Result<OwnedFd> {
        let [a, b, c, d, e, f, ..] = MACS;
        let mut devices = tables::devices(&self.node.paths(), Access::ReadWrite)?;
        let (v4, v6) = OWN;
        for (index, record) in [
            (
                uplink::UPLINK,
                DeviceRecord::uplink(uplink::UPLINK, v4.octets(), v6.octets()),
            ),
            (uplink::POD, DeviceRecord::workload(uplink::POD, 0)),
        ] {
            let record = record.opened(index, true);
            let record = record.with_frames(index, [a, b, c, d, e, f], Takes::Frames, false);
            devices.insert(index, Wire(record), 0)?;
        }
        self.has_devices = true;
        let program = self.frame_program()?.fd()?.as_fd();
        syscall::attach_xdp(program, uplink::UPLINK, XdpMode::Native)
            .context("attach XDP to the uplink")
    }

    /// The device that packets come by from outside, where it is not the loopback device.
    pub(super) fn uplink(&self) -> Option<u32> {
        self.has_devices.then_some(uplink::UPLINK)
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
