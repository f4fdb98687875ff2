//! What this node itself dials: its packets meet a program where they leave by an uplink, which sends them
//! to their backend. The host's routes are asked as that program asks them.

use std::cell::RefCell;
use std::fs;
use std::net::IpAddr;

use lb_common::family::Family;
use lb_common::flow::{FlowTuple, Path};
use lb_common::lookup::{OWN_PORTS, OWN_PORTS_FROM, is_own_port};
use lb_common::onward::{Answer, Hop};
use lb_common::select;
use lb_common::table::device::Role;
use lb_common::tables::Tables;
use lb_common::verdict::Reason;

use super::trace::Trace;
use super::way;
use crate::cli::error::CliError;
use crate::cli::inputs::{DeviceInput, address_of};
use crate::cli::pins::device_name;
use crate::interfaces::route::Way;

/// The host's routes.
#[derive(Clone, Copy, Debug)]
pub struct Routes {
    /// The way from one of the host's addresses to another address.
    pub ask: fn(IpAddr, IpAddr) -> Result<Option<Way>, CliError>,
    /// Whether the loopback device forwards: else the kernel names programs no way that begins there.
    pub forwards: bool,
}

impl Routes {
    /// This host's, of one family.
    pub(super) fn of_host(is_v6: bool) -> Self {
        let family = if is_v6 { "ipv6" } else { "ipv4" };
        let setting = fs::read_to_string(format!("/proc/sys/net/{family}/conf/lo/forwarding"));
        Self {
            ask: way::way_from,
            forwards: setting.map_or(true, |text| text.trim() != "0"),
        }
    }
}

/// The ways of packets that this node sends to a service.
#[derive(Debug)]
pub struct OwnWays {
    /// The uplink by which they leave as the host routes them.
    uplink: DeviceInput,
    devices: Vec<DeviceInput>,
    routes: Routes,
    /// Why the host could not be asked.
    failure: RefCell<Option<CliError>>,
}

impl OwnWays {
    /// Those of packets from `source` to the service address `dialled`; why no program sees them, where
    /// none does.
    pub(crate) fn find(
        source: IpAddr,
        dialled: IpAddr,
        devices: &[DeviceInput],
        routes: Routes,
    ) -> Result<Result<Self, String>, CliError> {
        let unseen = match (routes.ask)(source, dialled)? {
            None => format!("the host has no route from {source} to {dialled}: nothing leaves"),
            Some(Way::Local) => format!(
                "{dialled} is this node's own: what its processes send there crosses the loopback \
                 device, where no program is"
            ),
            Some(Way::Device(index)) => match way::device(devices, index) {
                Some(uplink) if uplink.role == Some(Role::Uplink) && uplink.has_egress => {
                    return Ok(Ok(Self {
                        uplink: uplink.clone(),
                        devices: devices.to_vec(),
                        routes,
                        failure: RefCell::default(),
                    }));
                }
                Some(device) => format!(
                    "the host's route to {dialled} leads over {}, which is no uplink with a program \
                     for what leaves",
                    way::name(device)
                ),
                None => format!(
                    "the host's route to {dialled} leads over {}, a device without programs",
                    name(devices, index)
                ),
            },
        };
        Ok(Err(unseen))
    }

    /// Interface index of the uplink.
    pub(crate) const fn device(&self) -> u32 {
        self.uplink.index
    }

    /// The addresses of a device with a role.
    pub(crate) fn sources(&self, device: u32) -> &[IpAddr] {
        way::device(&self.devices, device).map_or(&[], |device| &device.sources)
    }

    /// The next hop from `source` to `destination`. Whether its neighbour is known makes no difference.
    pub(crate) fn hop(&self, source: IpAddr, destination: IpAddr) -> Hop {
        let Some(Way::Device(index)) = self.way(source, destination) else {
            return Hop::NONE;
        };
        if !self.routes.forwards {
            return Hop::NONE;
        }
        let device = way::device(&self.devices, index);
        Hop {
            answer: Answer::Unresolved,
            device: index,
            has_programs: device.is_some(),
            is_clear: device.is_some_and(|device| device.is_clear),
            is_open: device.is_some_and(|device| device.is_open),
            role: device.and_then(|device| device.role).unwrap_or_default(),
        }
    }

    fn way(&self, source: IpAddr, destination: IpAddr) -> Option<Way> {
        (self.routes.ask)(source, destination).unwrap_or_else(|error| {
            self.failure.replace(Some(error));
            None
        })
    }

    /// Adds to the `trace` of a packet how it goes on from the uplink, and why it does not.
    pub(crate) fn explain<F: Family>(
        &self,
        trace: &mut Trace<F>,
        tables: &impl Tables,
    ) -> Result<(), CliError> {
        let uplink = way::name(&self.uplink);
        trace.begin(
            "route",
            format!("the host's route leads over {uplink}, an uplink, at whose egress the packet is seen"),
        );
        if let Some(entry) = trace.entry {
            self.explain_way(trace, &entry.translated, entry.path);
        } else if matches!(
            trace.reason,
            Reason::NoWayToBackend | Reason::NoSourceAddress
        ) && let Some(backend) = trace.new_flow_to
            && let Some(record) = select::record(tables, backend)
        {
            let source = address_of(F::mapped(trace.tuple.source));
            let finding = self.told(source, address_of(record.address()));
            trace.step("way", finding);
        }
        self.failure.take().map_or(Ok(()), Err)
    }

    /// How packets go that are translated to `tuple`.
    fn explain_way<F: Family>(&self, trace: &mut Trace<F>, tuple: &FlowTuple<F>, path: Path) {
        let source = address_of(F::mapped(tuple.source));
        let destination = address_of(F::mapped(tuple.destination));
        trace.step("way", self.told(source, destination));
        if trace.reason != Reason::Established {
            trace.step("source", of_source(&trace.tuple, tuple));
        }
        trace.path(&super::path::of_flow(path));
        // The program asks again for each packet that it has translated.
        let carried = self.hop(source, destination).answer != Answer::Other;
        if path == Path::OfHost && !carried {
            trace.reason = Reason::NotCarried;
        }
    }

    /// What the host's routes say of the way from `source` to a backend.
    fn told(&self, source: IpAddr, backend: IpAddr) -> String {
        match self.way(source, backend) {
            None => format!("the host has no route from {source} to {backend}"),
            Some(Way::Local) => format!(
                "{backend} is this node's own: its answers would cross the loopback device, where \
                 nobody restores them"
            ),
            Some(Way::Device(_)) if !self.routes.forwards => {
                "the loopback device does not forward (net.ipv4.conf.lo.forwarding, or net.ipv6): the \
                 kernel names programs no way"
                    .to_owned()
            }
            Some(Way::Device(index)) => format!(
                "the host's route to {backend} leads over {}, {}",
                name(&self.devices, index),
                self.kind(index, backend)
            ),
        }
    }

    /// What the device is that leads to a backend.
    fn kind(&self, index: u32, backend: IpAddr) -> &'static str {
        if index == self.uplink.index {
            return "the same uplink";
        }
        match way::device(&self.devices, index) {
            Some(device) if device.role == Some(Role::Workload) => "a pod's device",
            Some(device) => {
                let is_of_family = |source: &IpAddr| source.is_ipv6() == backend.is_ipv6();
                if device.sources.iter().any(is_of_family) {
                    "another uplink, by whose address answers come back"
                } else {
                    "another uplink, which has no address for answers to come back to"
                }
            }
            None if way::is_bridge_of_pods(&self.devices, index) => "a bridge of pods",
            None => "a device without programs",
        }
    }
}

/// What becomes of the source of a new flow that leaves as `left`.
fn of_source<F: Family>(dialled: &FlowTuple<F>, left: &FlowTuple<F>) -> String {
    let address = if left.source == dialled.source {
        "the client's own address"
    } else {
        "the address of the uplink that leads to the backend"
    };
    let (first, last) = (
        OWN_PORTS_FROM,
        OWN_PORTS_FROM.saturating_add(OWN_PORTS).saturating_sub(1),
    );
    let port = if left.source_port == dialled.source_port && is_own_port(left.source_port) {
        format!("the client's own port {}", left.source_port)
    } else {
        format!(
            "a port of {first} to {last}, by lot, {} for one",
            left.source_port
        )
    };
    format!(
        "{address}, and {port}; whether a socket has that port is not seen here, then it is another"
    )
}

fn name(devices: &[DeviceInput], index: u32) -> String {
    let known = way::device(devices, index).map(way::name);
    let name = known.or_else(|| device_name(index));
    name.unwrap_or_else(|| format!("#{index}"))
}
