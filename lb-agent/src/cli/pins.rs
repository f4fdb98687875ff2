//! The pinned maps and the agent's files as a [`Reader`]. Maps are opened, and
//! arrays mapped, for reading, so that no command can change one by accident; `conntrack flush` alone
//! maps the flow tables for writing.

mod flows;
mod overlay;

pub(crate) use overlay::DryTables;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};

use aya::maps::{HashMap, Map, MapData};
use lb_common::family::{V4, V6};
use lb_common::flow::Hook;
use lb_common::table::counter::Counter;
use lb_common::table::device::DeviceRecord;
use lb_common::table::fragment::{FragmentKey, FragmentPorts};
use lb_common::table::region::RegionHeader;
use lb_common::verdict::Reason;

use super::args::Places;
use super::error::{CliError, while_doing};
use super::inputs::{Connections, DeviceInput, FlowInput, MapInput, Reader};
use crate::audit::basis::{self, Basis};
use crate::audit::node::{self, NodeTables};
use crate::audit::picture::Filters;
use crate::audit::report::{self, AuditReport};
use crate::dataplane::Actual;
use crate::dataplane::bpf::Wire;
use crate::dataplane::bpffs::{self, PinPaths, parse_link_name, parse_xdp_link_name};
use crate::dataplane::counters::{self, CountersError};
use crate::dataplane::layout::Table;
use crate::dataplane::mmap::Access;
use crate::dataplane::readback::TableReader;
use crate::dataplane::tables::{self, WordReader};
use crate::plan::names::{self, Names};
use crate::status::{self, AgentStatus, DeviceRole};

/// The maps of one pin directory, and the files of one state directory.
#[derive(Debug)]
pub(crate) struct PinnedReader {
    paths: PinPaths,
    state_dir: PathBuf,
}

/// Opens what `places` name; the error says what is missing.
pub(crate) fn open(places: &Places) -> Result<PinnedReader, CliError> {
    let paths = PinPaths::new(&places.pin_dir);
    match fs::metadata(paths.maps()) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(CliError::Privilege {
                operation: format!("reading the pins in {}", places.pin_dir.display()),
            });
        }
        Err(_) => {
            let found = paths.other_versions().unwrap_or_default();
            return Err(if found.is_empty() {
                CliError::NoPins {
                    pin_dir: places.pin_dir.clone(),
                }
            } else {
                CliError::OtherVersion {
                    pin_dir: places.pin_dir.clone(),
                    found,
                    expected: paths
                        .version()
                        .file_name()
                        .map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
                }
            });
        }
    }
    Ok(PinnedReader {
        paths,
        state_dir: places.state_dir.clone(),
    })
}

/// The agent's status file; `None` where there is none.
pub(crate) fn agent_status(state_dir: &Path) -> Result<Option<AgentStatus>, CliError> {
    read_state(&state_dir.join(status::FILE_NAME), |text| {
        serde_json::from_slice(text)
    })
}

/// What the agent's plan rests on; `None` where no agent has left it.
pub(crate) fn basis(state_dir: &Path) -> Result<Option<Basis>, CliError> {
    let basis: Option<Basis> = read_state(&state_dir.join(basis::FILE_NAME), |text| {
        serde_json::from_slice(text)
    })?;
    if basis
        .as_ref()
        .is_some_and(|it| it.version != basis::VERSION)
    {
        return Err(CliError::Inconsistent(format!(
            "{} in {} is of another version",
            basis::FILE_NAME,
            state_dir.display()
        )));
    }
    Ok(basis)
}

/// What the agent has made of the node; `None` where none has left it, or one of another version.
pub(crate) fn node_tables(state_dir: &Path) -> Result<Option<NodeTables>, CliError> {
    let tables: Option<NodeTables> = read_state(&state_dir.join(node::FILE_NAME), |text| {
        serde_json::from_slice(text)
    })?;
    Ok(tables.filter(|tables| tables.version == node::VERSION))
}

/// The agent's last audit; `None` where there was none yet.
pub(crate) fn audit_report(state_dir: &Path) -> Result<Option<AuditReport>, CliError> {
    read_state(&state_dir.join(report::FILE_NAME), |text| {
        serde_json::from_slice(text)
    })
}

fn read_state<T>(
    path: &Path,
    parse: impl FnOnce(&[u8]) -> Result<T, serde_json::Error>,
) -> Result<Option<T>, CliError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(while_doing(format!("reading {}", path.display()))(error)),
    };
    parse(&text)
        .map(Some)
        .map_err(|source| CliError::StateFile {
            path: path.to_owned(),
            source,
        })
}

impl PinnedReader {
    /// The tables for a decision that must leave no trace.
    pub(crate) fn dry_tables(&self) -> Result<DryTables, CliError> {
        DryTables::open(&self.paths)
    }

    /// The bits of the filters.
    pub(crate) fn filters(&self) -> Result<Filters, CliError> {
        Ok(Filters {
            services: self.words(Table::ServiceFilter)?.copy(),
            backends: self.words(Table::BackendFilter)?.copy(),
            node_ports: self.words(Table::NodePorts)?.copy(),
        })
    }

    /// All of `DEVICES`, by interface index.
    pub(crate) fn device_records(&self) -> Result<BTreeMap<u32, DeviceRecord>, CliError> {
        let map = tables::devices(&self.paths, Access::Read)?;
        let records = map.iter().map(|entry| {
            let (index, Wire(record)) = entry.map_err(|source| CliError::Map {
                table: Table::Devices,
                source,
            })?;
            Ok((index, record))
        });
        records.collect()
    }

    fn words(&self, table: Table) -> Result<WordReader, CliError> {
        Ok(WordReader::open(&self.paths, table)?)
    }

    /// Sums of the shards of a table of connection counts, by index, without zeros.
    fn sums(&self, stats: Table, counted: Table) -> Result<BTreeMap<u32, u64>, CliError> {
        let (_, shape) = tables::open(&self.paths, counted, Access::Read)?;
        let words = self.words(stats)?;
        let shards = words.entries() / shape.max_entries.max(1);
        let sum = |index: u32| -> u64 {
            (0..shards)
                .filter_map(|shard| words.load(index.checked_mul(shards)?.checked_add(shard)?))
                .sum()
        };
        Ok((0..shape.max_entries)
            .map(|index| (index, sum(index)))
            .filter(|&(_, count)| count > 0)
            .collect())
    }

    fn used(&self, table: Table, actual: &Actual) -> Result<Option<u64>, CliError> {
        let count = |count: usize| Some(u64::try_from(count).unwrap_or(u64::MAX));
        Ok(match table {
            Table::Frontends => count(actual.frontends.len()),
            Table::Services => count(actual.services.len()),
            Table::Backends => count(actual.backends.len()),
            Table::Arena => Some(
                actual
                    .regions
                    .values()
                    .filter_map(|words| Some([*words.first()?, *words.get(1)?]))
                    .map(|words| u64::from(RegionHeader::decode(words).words()))
                    .sum(),
            ),
            Table::Devices => count(tables::devices(&self.paths, Access::Read)?.keys().count()),
            Table::Fragments => count(self.fragments()?.keys().count()),
            Table::Affinity => count(tables::affinity(&self.paths, Access::Read)?.keys().count()),
            Table::NodeAddresses => count(actual.node_addresses.len()),
            Table::SourceRanges => count(actual.source_ranges.len()),
            Table::FlowsV4 | Table::FlowsV6 => Some(flows::used_slots(&self.paths, table)?),
            Table::ServiceFilter
            | Table::BackendFilter
            | Table::NodePorts
            | Table::Counters
            | Table::Config
            | Table::ServiceStats
            | Table::BackendStats => None,
        })
    }

    fn fragments(
        &self,
    ) -> Result<HashMap<MapData, Wire<FragmentKey>, Wire<FragmentPorts>>, CliError> {
        let (data, _) = tables::open(&self.paths, Table::Fragments, Access::Read)?;
        HashMap::try_from(Map::LruHashMap(data)).map_err(|source| CliError::Map {
            table: Table::Fragments,
            source,
        })
    }
}

impl Reader for PinnedReader {
    fn tables(&self) -> Result<Actual, CliError> {
        Ok(TableReader::open(&self.paths)?.read_all()?)
    }

    fn names(&self) -> Result<Names, CliError> {
        let names = read_state(&self.state_dir.join(names::FILE_NAME), Names::read)?;
        let names = names.unwrap_or_default();
        if names.version != 0 && names.version != names::VERSION {
            return Err(CliError::Inconsistent(format!(
                "the names in {} are of another version",
                self.state_dir.display()
            )));
        }
        Ok(names)
    }

    fn counters(&self) -> Result<Vec<(Reason, Counter)>, CliError> {
        counters::read(&self.paths).map_err(|error| match error {
            CountersError::Open(error) => error.into(),
            CountersError::Read { source } => CliError::Map {
                table: Table::Counters,
                source,
            },
        })
    }

    fn connections(&self) -> Result<Connections, CliError> {
        Ok(Connections {
            services: self.sums(Table::ServiceStats, Table::Services)?,
            backends: self.sums(Table::BackendStats, Table::Backends)?,
        })
    }

    fn flows(&self) -> Result<Vec<FlowInput>, CliError> {
        flows::read(&self.paths)
    }

    fn flush(&self, choose: &dyn Fn(&FlowInput) -> bool) -> Result<u64, CliError> {
        flows::flush(&self.paths, choose)
    }

    fn devices(&self) -> Result<Vec<DeviceInput>, CliError> {
        let mut indices = BTreeSet::new();
        let mut links = BTreeSet::new();
        let mut xdp = BTreeMap::new();
        let doing = || while_doing("reading the pinned links");
        for entry in bpffs::read_dir_or_empty(&self.paths.links()).map_err(doing())? {
            let name = entry.map_err(doing())?.file_name();
            if let Some((index, hook)) = parse_link_name(&name.to_string_lossy()) {
                indices.insert(index);
                links.insert((index, hook == Hook::Ingress));
            }
            xdp.extend(parse_xdp_link_name(&name.to_string_lossy()));
        }
        let records = self.device_records()?;
        indices.extend(records.keys().copied());
        let status = agent_status(&self.state_dir)?;
        let told = status.into_iter().flat_map(|status| status.devices);
        let mut told: BTreeMap<u32, DeviceRole> = told.map(|one| (one.index, one)).collect();
        let obstructed = told.values().filter(|one| one.obstacle.is_some());
        indices.extend(obstructed.map(|one| one.index));
        let mut devices = Vec::with_capacity(indices.len());
        for index in indices {
            // A device with a clsact filter has no link, but a mark in a directory of its own.
            let is_clsact = self.paths.clsact().join(index.to_string()).exists();
            let record: Option<&DeviceRecord> = records.get(&index);
            let bridge = record
                .map(DeviceRecord::bridge)
                .filter(|bridge| *bridge != 0);
            devices.push(DeviceInput {
                index,
                name: device_name(index),
                role: record.map(DeviceRecord::role),
                why: told.get(&index).map(|one| one.why.clone()),
                is_open: record.is_some_and(DeviceRecord::is_open),
                is_clear: record.is_some_and(DeviceRecord::is_clear),
                plain: told.get(&index).and_then(|one| one.plain.clone()),
                xdp: xdp.get(&index).copied(),
                no_xdp: told.get(&index).and_then(|one| one.no_xdp.clone()),
                obstacle: told.remove(&index).and_then(|one| one.obstacle),
                sources: record.map(sources).unwrap_or_default(),
                bridge: bridge
                    .map(|bridge| device_name(bridge).unwrap_or_else(|| format!("#{bridge}"))),
                has_ingress: is_clsact || links.contains(&(index, true)),
                has_egress: is_clsact || links.contains(&(index, false)),
            });
        }
        Ok(devices)
    }

    fn maps(&self) -> Result<Vec<MapInput>, CliError> {
        let actual = self.tables()?;
        let mut maps = Vec::with_capacity(Table::ALL.len());
        for table in Table::ALL {
            let (data, shape) = tables::open(&self.paths, table, Access::Read)?;
            let slots = match table {
                Table::FlowsV4 | Table::FlowsV6 => lb_common::flows::SLOTS,
                _ => 1,
            };
            let slots = u64::try_from(slots).unwrap_or(1);
            maps.push(MapInput {
                name: table.name().to_owned(),
                kind: kind_text(table).to_owned(),
                used: self.used(table, &actual)?,
                capacity: u64::from(shape.max_entries) * slots,
                memory_bytes: memory_bytes(data.fd().as_fd().as_raw_fd()),
                pin: self.paths.map(table),
            });
        }
        Ok(maps)
    }
}

/// The addresses by which flows leave a device, those of the families that it has any of.
fn sources(record: &DeviceRecord) -> Vec<IpAddr> {
    let v4 = IpAddr::from(record.source::<V4>());
    let v6 = IpAddr::from(record.source::<V6>());
    let both = [v4, v6].into_iter();
    both.filter(|address| !address.is_unspecified()).collect()
}

/// The name of the device with this index, in the network namespace of this process.
pub(super) fn device_name(index: u32) -> Option<String> {
    let name = nix::net::if_::if_indextoname(index).ok()?;
    Some(name.to_string_lossy().into_owned())
}

/// `memlock` of the map's descriptor: the kernel's own accounting, 0 where it gives none.
fn memory_bytes(descriptor: i32) -> u64 {
    fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}"))
        .ok()
        .and_then(|text| {
            text.lines()
                .find_map(|line| line.strip_prefix("memlock:"))?
                .trim()
                .parse()
                .ok()
        })
        .unwrap_or(0)
}

const fn kind_text(table: Table) -> &'static str {
    match table {
        Table::Frontends | Table::Devices | Table::NodeAddresses => "hash",
        Table::SourceRanges => "lpm_trie",
        Table::Fragments | Table::Affinity => "lru_hash",
        Table::Counters => "percpu_array",
        _ => "array",
    }
}
