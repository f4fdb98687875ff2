//! The tables by which backends are chosen, by the number of backends: how long one takes to build,
//! how even it is, whom it moves when one backend leaves, and what it takes.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, anyhow, ensure};
use lb_common::{
    family::{Family as _, V4},
    flow::Protocol,
    hash,
    maglev::{self, Cursor, Member},
    table::region::RegionHeader,
};

use super::super::{
    Options,
    report::{Figure, Report},
    rig::thread_time,
};
use crate::scenario::to_f64;

/// Backends of a set.
const SIZES: [u32; 7] = [2, 3, 10, 100, 1_000, 5_000, 50_000];
/// Flows whose backend is looked at.
const FLOWS: u32 = 1 << 17;
/// Services of a cluster, each with as many endpoints in each family.
const CLUSTERS: [u32; 3] = [100, 1_000, 10_000];
const ENDPOINTS: u16 = 10;

/// Runs this part of the group.
pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let (rounds, most) = if options.is_smoke {
        (2, 100)
    } else {
        (11, u32::MAX)
    };
    for count in SIZES.into_iter().filter(|count| *count <= most) {
        let set = Set::new(count)?;
        let case = format!("Maglev, {count} backends");
        let (mut first, mut again) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            let turns = if round % 2 == 0 {
                [&mut first, &mut again]
            } else {
                [&mut again, &mut first]
            };
            for times in turns {
                let began = thread_time();
                let slots = set.fill()?;
                times.push((thread_time() - began) / 1000.0);
                ensure!(slots == set.slots, "one set has two tables");
            }
        }
        report.add(&case, Figure::new("built, processor", "µs"), &first);
        let figure = Figure::new("built again, processor (A/A)", "µs");
        report.add_pairs(&case, figure, &again, ("itself", &first));
        let figure = Figure::new("largest deviation from an even share", "%");
        report.add(&case, figure, &[set.deviation()?]);
        let figure = Figure::new("moved without need when one backend of all leaves", "%");
        report.add(&case, figure, &[disruption(&set, &Set::new(count - 1)?)?]);
        let figure = Figure::new("memory of the set", "KiB");
        let bytes = region(u16::try_from(count)?).words() * 8;
        report.add(&case, figure, &[f64::from(bytes) / 1024.0]);
    }
    for services in CLUSTERS {
        let case = format!("Maglev, {services} Services × {ENDPOINTS} × 2");
        let bytes = u64::from(region(ENDPOINTS).words()) * 8 * 2 * u64::from(services);
        let figure = Figure::new("memory of all sets, none of them shared", "MiB");
        report.add(&case, figure, &[to_f64(bytes >> 10) / 1024.0]);
    }
    Ok(())
}

fn region(count: u16) -> RegionHeader {
    RegionHeader {
        count,
        table_size: maglev::table_size(count.into()),
        ..RegionHeader::default()
    }
}

/// So many backends and their table; one backend has none.
struct Set {
    members: Vec<Member>,
    slots: Vec<u16>,
}

impl Set {
    fn new(count: u32) -> Result<Self> {
        let members = (0..count).map(|index| {
            let address = Ipv4Addr::from_bits(0x0a80_0000 + index);
            Member {
                identity: maglev::identity(V4::mapped(address.octets()), 8080, Protocol::Tcp),
                weight: 100,
            }
        });
        let mut set = Self {
            members: members.collect(),
            slots: Vec::new(),
        };
        set.slots = set.fill()?;
        Ok(set)
    }

    fn fill(&self) -> Result<Vec<u16>> {
        let size = maglev::table_size(u32::try_from(self.members.len())?);
        let mut slots = vec![0; usize::try_from(size)?];
        if size > 0 {
            let mut cursors = vec![Cursor::default(); self.members.len()];
            maglev::fill(&self.members, &mut slots, &mut cursors)
                .map_err(|refused| anyhow!("a table of {size} slots: {refused:?}"))?;
        }
        Ok(slots)
    }

    /// By how much the share of the backend that is farthest from it differs from an even one.
    fn deviation(&self) -> Result<f64> {
        let mut counts = vec![0_u32; self.members.len()];
        for position in &self.slots {
            let count = counts.get_mut(usize::from(*position));
            *count.context("a slot names a backend of the set")? += 1;
        }
        let even = f64::from(u32::try_from(self.slots.len())?)
            / f64::from(u32::try_from(self.members.len())?);
        let deviations = counts
            .iter()
            .map(|count| (f64::from(*count) / even - 1.0).abs());
        Ok(deviations.fold(0.0, f64::max) * 100.0)
    }

    /// The backend of a flow with this hash.
    fn choice(&self, hash: u32) -> Result<u16> {
        let size = u32::try_from(self.slots.len())?;
        if size == 0 {
            return Ok(0);
        }
        let slot = self.slots.get(usize::try_from(hash::scale(hash, size))?);
        slot.copied().context("a hash is scaled to a slot")
    }
}

/// Flows that another backend gets although theirs is still there, of those that are looked at.
fn disruption(before: &Set, after: &Set) -> Result<f64> {
    let left = u16::try_from(after.members.len())?;
    let mut moved = 0_u32;
    for flow in 0..FLOWS {
        let hash = hash::upper(hash::mix(1, flow.into()));
        let (old, new) = (before.choice(hash)?, after.choice(hash)?);
        // Positions are the same in both sets; the one that left was the last.
        if old != left && old != new {
            moved += 1;
        }
    }
    Ok(f64::from(moved) / f64::from(FLOWS) * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_flows_move_without_need_unless_the_table_changes_its_size() {
        let set = |count| Set::new(count).unwrap();
        let moved = |count| disruption(&set(count), &set(count - 1)).unwrap();
        assert!(moved(10) < 10.0, "{}", moved(10));
        // 1 021 slots instead of 4 093.
        assert!(moved(11) > 50.0, "{}", moved(11));
        assert!(set(10).deviation().unwrap() < 2.0);
    }
}
