//! Loads the kernel object: finds it, checks what is already pinned, creates and pins what is not,
//! and hands the programs to the verifier.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

use aya::maps::{MapError, MapInfo};
use aya::programs::{ProgramError, SchedClassifier};
use aya::{Ebpf, EbpfError, EbpfLoader};
use aya_obj::Object;

use super::bpffs::{self, BpffsError, PinPaths};
use super::chain;
use super::layout::{Difference, Shape, Table};
use super::privilege;
use super::xdp::XdpMode;
use crate::settings::Sizes;

/// Names the object file to load instead of the embedded one.
pub const OBJECT_PATH_VARIABLE: &str = "STEERAGE_BPF_OBJECT_PATH";
/// The same for the object that logs.
pub const DEBUG_OBJECT_PATH_VARIABLE: &str = "STEERAGE_BPF_OBJECT_DEBUG_PATH";
/// The program at the side of a workload's device where the pod's packets come in.
pub const WORKLOAD_INGRESS: &str = "lb_workload_ingress";
/// The program at the side of a workload's device where packets go to the pod.
pub const WORKLOAD_EGRESS: &str = "lb_workload_egress";
/// The program at the side of an uplink where packets come in.
pub const UPLINK_INGRESS: &str = "lb_uplink_ingress";
/// The program at the side of an uplink where packets leave.
pub const UPLINK_EGRESS: &str = "lb_uplink_egress";
/// What that one calls for IPv4 packets of this host.
pub const HOST_EGRESS_V4: &str = "lb_host_egress_v4";
/// The same for IPv6.
pub const HOST_EGRESS_V6: &str = "lb_host_egress_v6";
/// The program at an uplink's XDP hook, in its driver; loaded only where it is wanted.
pub const UPLINK_XDP: &str = "lb_uplink_xdp";
/// The same for the generic hook.
pub const UPLINK_XDP_GENERIC: &str = "lb_uplink_xdp_g";
/// All that are always loaded.
pub const PROGRAMS: [&str; 6] = [
    WORKLOAD_INGRESS,
    WORKLOAD_EGRESS,
    UPLINK_INGRESS,
    UPLINK_EGRESS,
    HOST_EGRESS_V4,
    HOST_EGRESS_V6,
];

/// What each table has to look like.
type Shapes = BTreeMap<Table, Shape>;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steerage-bpf.o"));
static DEBUG_OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steerage-bpf-debug.o"));

/// Which of the two objects.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Variant {
    /// The one without a line of logging in it.
    #[default]
    Normal,
    /// The one that logs flow decisions.
    Debug,
}

/// Why the datapath could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The binary must be built by xtask, or the variable must name an object.
    #[error(
        "built without the kernel object: run `cargo xtask build`, or set {OBJECT_PATH_VARIABLE}"
    )]
    NoObject,
    /// The operator must correct the variable.
    #[error("reading the kernel object {}: {source}", path.display())]
    ReadObject {
        /// What the variable names.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The object is damaged, or not ours.
    #[error("parsing the kernel object: {source}")]
    Parse {
        /// What aya says.
        #[source]
        source: aya_obj::ParseError,
    },
    /// The object is of another version than the agent.
    #[error(
        "the kernel object's table {table} has {difference}: build object and agent together with `cargo xtask build`"
    )]
    ObjectLayout {
        /// Which table.
        table: Table,
        /// In what it differs.
        difference: Difference,
    },
    /// The object is of another version than the agent.
    #[error(
        "the kernel object has no {what} {name}: build object and agent together with `cargo xtask build`"
    )]
    ObjectLacks {
        /// Map or program.
        what: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// The operator must give the capabilities.
    #[error("missing {}: run as root, or grant them", missing.join(", "))]
    Privilege {
        /// Their names.
        missing: Vec<&'static str>,
    },
    /// The pin directory cannot be used.
    #[error(transparent)]
    Bpffs(#[from] BpffsError),
    /// The operator must remove the other version's state, or run that version.
    #[error("pin directory {} holds version {version} of the tables, this is {}: run `steerage cleanup` first, which ends all translated connections, or choose another --pin-dir", path.display(), lb_common::table::ABI_VERSION)]
    OtherVersion {
        /// The pin directory.
        path: PathBuf,
        /// The version's directory.
        version: String,
    },
    /// The operator must set the settings back, or run `steerage cleanup`.
    #[error(
        "pinned table {table} has {difference}, or run `steerage cleanup`, which ends all translated connections"
    )]
    PinnedLayout {
        /// Which table.
        table: Table,
        /// In what it differs.
        difference: Difference,
    },
    /// Something else is pinned under a table's name.
    #[error("pin {}: {source}; remove it, or run `steerage cleanup`", path.display())]
    Pin {
        /// The pin.
        path: PathBuf,
        /// What aya says.
        #[source]
        source: MapError,
    },
    /// The parts of a program could not be put together; it is tried again.
    #[error("filling the array {array} of programs: {source}")]
    Parts {
        /// The array.
        array: &'static str,
        /// What aya says.
        #[source]
        source: MapError,
    },
    /// The parts of an XDP program would be lost with the agent; it is tried again.
    #[error("pin {}: {source}", path.display())]
    PinParts {
        /// The pin.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel could not make a map: too little memory, or too old a kernel.
    #[error("creating the kernel tables: {source}")]
    Create {
        /// What aya says.
        #[source]
        source: EbpfError,
    },
    /// The kernel refused a program: a kernel that lacks a feature, or a bug.
    #[error(
        "the kernel refused program {program} ({source}): {reason}; kernels from 6.1 on are supported"
    )]
    Verifier {
        /// The program.
        program: &'static str,
        /// The last line of the verifier's log.
        reason: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel refused a program for another reason.
    #[error("loading program {program}: {source}")]
    Program {
        /// The program.
        program: &'static str,
        /// What aya says.
        #[source]
        source: ProgramError,
    },
}

/// Checks what can be checked before anything is touched: that there is an object of this version
/// and that this process may load it.
pub fn check(sizes: &Sizes, variant: Variant) -> Result<(), LoadError> {
    usable(sizes, variant).map(drop)
}

/// The object and the shapes of its tables, if this process may load it.
fn usable(sizes: &Sizes, variant: Variant) -> Result<(Cow<'static, [u8]>, Shapes), LoadError> {
    let object = object(variant)?;
    let shapes = needed_shapes(&object, sizes)?;
    let missing = privilege::missing();
    if missing.is_empty() {
        Ok((object, shapes))
    } else {
        Err(LoadError::Privilege { missing })
    }
}

/// A loaded object: its maps are pinned, its programs verified.
#[derive(Debug)]
pub struct Loaded {
    ebpf: Ebpf,
    paths: PinPaths,
    adopted: usize,
    /// The modes of XDP whose programs find each other by a pin of ours.
    pinned: Vec<XdpMode>,
}

impl Loaded {
    /// Loads `variant` with tables of `sizes`, pinned below `pin_dir`; adopts the tables that are
    /// pinned there already if they have the same shapes, and touches nothing if they do not.
    pub fn load(pin_dir: &Path, sizes: &Sizes, variant: Variant) -> Result<Self, LoadError> {
        let (object, shapes) = usable(sizes, variant)?;
        bpffs::prepare(pin_dir)?;
        let paths = PinPaths::new(pin_dir);
        let unusable = |source| BpffsError::Directory {
            path: pin_dir.to_owned(),
            source,
        };
        if let Some(version) = paths.other_versions().map_err(unusable)?.pop() {
            return Err(LoadError::OtherVersion {
                path: pin_dir.to_owned(),
                version,
            });
        }
        paths.create().map_err(unusable)?;
        let adopted = check_pins(&paths, &shapes)?;

        let mut ebpf = create(&object, sizes, &paths)?;
        drop(object);
        verify_all(&mut ebpf)?;
        chain::fill_host_parts(&mut ebpf)?;
        Ok(Self {
            ebpf,
            paths,
            adopted,
            pinned: Vec::new(),
        })
    }

    /// Where everything is pinned.
    pub const fn paths(&self) -> &PinPaths {
        &self.paths
    }

    /// Whether the tables were there before.
    pub const fn is_adopted(&self) -> bool {
        self.adopted == Table::ALL.len()
    }

    /// One of the programs.
    pub fn program(&mut self, name: &'static str) -> Result<&mut SchedClassifier, LoadError> {
        classifier(&mut self.ebpf, name)
    }

    /// The program for uplinks' XDP hooks; the first call hands it, and those that it calls, to the
    /// verifier.
    pub fn frame_program(&mut self, mode: XdpMode) -> Result<OwnedFd, LoadError> {
        let program = chain::load(&mut self.ebpf, mode)?;
        if !self.pinned.contains(&mode) {
            chain::pin(&self.ebpf, mode, &self.paths)?;
            self.pinned.push(mode);
        }
        Ok(program)
    }

    /// The object, for aya-log.
    pub const fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }
}

/// Creates the object's maps, or opens those that are pinned; programs are not yet verified.
fn create(object: &[u8], sizes: &Sizes, paths: &PinPaths) -> Result<Ebpf, LoadError> {
    let mut loader = EbpfLoader::new();
    // What aya has read of the running kernel's types takes twice what our object takes, and none of our
    // programs is relocated by them.
    loader.btf(None);
    for table in Table::ALL {
        loader.map_max_entries(table.name(), sizes.entries(table));
        loader.map_pin_path(table.name(), paths.map(table));
    }
    loader.map_pin_path(chain::HOST_PARTS, paths.maps().join(chain::HOST_PARTS));
    loader
        .load(object)
        .map_err(|source| LoadError::Create { source })
}

/// The object that was built into this program; empty where it was built without.
pub const fn embedded(variant: Variant) -> &'static [u8] {
    match variant {
        Variant::Normal => OBJECT,
        Variant::Debug => DEBUG_OBJECT,
    }
}

fn object(variant: Variant) -> Result<Cow<'static, [u8]>, LoadError> {
    let (variable, embedded) = match variant {
        Variant::Normal => (OBJECT_PATH_VARIABLE, embedded(variant)),
        Variant::Debug => (DEBUG_OBJECT_PATH_VARIABLE, embedded(variant)),
    };
    if let Some(path) = std::env::var_os(variable).filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        return match std::fs::read(&path) {
            Ok(object) => Ok(object.into()),
            Err(source) => Err(LoadError::ReadObject { path, source }),
        };
    }
    if embedded.is_empty() {
        return Err(LoadError::NoObject);
    }
    Ok(embedded.into())
}

/// The shape of each table: as the object declares it, of the settings' size.
fn needed_shapes(object: &[u8], sizes: &Sizes) -> Result<Shapes, LoadError> {
    let object = Object::parse(object).map_err(|source| LoadError::Parse { source })?;
    let mut shapes = BTreeMap::new();
    for table in Table::ALL {
        let map = object
            .maps
            .get(table.name())
            .ok_or(LoadError::ObjectLacks {
                what: "table",
                name: table.name(),
            })?;
        let declared = Shape {
            map_type: map.map_type(),
            key_size: map.key_size(),
            value_size: map.value_size(),
            max_entries: sizes.entries(table),
            flags: map.map_flags(),
        };
        let known = Shape {
            map_type: table.kind() as u32,
            key_size: u32::try_from(table.key_size()).unwrap_or(u32::MAX),
            value_size: u32::try_from(table.value_size()).unwrap_or(u32::MAX),
            ..declared
        };
        if let Some(difference) = declared.difference(&known) {
            return Err(LoadError::ObjectLayout { table, difference });
        }
        shapes.insert(table, declared);
    }
    Ok(shapes)
}

/// Compares what is pinned with what is needed; counts what is there.
fn check_pins(paths: &PinPaths, shapes: &Shapes) -> Result<usize, LoadError> {
    let mut adopted = 0;
    for (&table, needed) in shapes {
        let path = paths.map(table);
        if !path.exists() {
            continue;
        }
        let pinned = MapInfo::from_pin(&path).and_then(|info| Shape::of(&info));
        let pinned = pinned.map_err(|source| LoadError::Pin { path, source })?;
        if let Some(difference) = pinned.difference(needed) {
            return Err(LoadError::PinnedLayout { table, difference });
        }
        adopted += 1;
    }
    Ok(adopted)
}

pub(super) fn classifier<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, LoadError> {
    let program = ebpf.program_mut(name).ok_or(LoadError::ObjectLacks {
        what: "program",
        name,
    })?;
    program.try_into().map_err(|source| LoadError::Program {
        program: name,
        source,
    })
}

/// Hands the programs to the verifier, each by a thread of its own: what it does for one takes a good
/// part of a second, and nothing of it concerns the others.
fn verify_all(ebpf: &mut Ebpf) -> Result<(), LoadError> {
    for name in PROGRAMS {
        classifier(ebpf, name)?;
    }
    thread::scope(|scope| {
        let mut verifying = Vec::new();
        for (name, program) in ebpf.programs_mut() {
            let Some(&name) = PROGRAMS.iter().find(|&&known| known == name) else {
                continue;
            };
            let program = program.try_into().map_err(|source| LoadError::Program {
                program: name,
                source,
            })?;
            verifying.push(scope.spawn(move || verify(program, name)));
        }
        for thread in verifying {
            thread.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        }
        Ok(())
    })
}

fn verify(program: &mut SchedClassifier, name: &'static str) -> Result<(), LoadError> {
    program.load().map_err(|error| refused(name, error))
}

/// What the kernel has against a program.
pub(super) fn refused(name: &'static str, error: ProgramError) -> LoadError {
    match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => LoadError::Verifier {
            program: name,
            reason: last_words(&verifier_log.to_string()),
            source: io_error,
        },
        source => LoadError::Program {
            program: name,
            source,
        },
    }
}

/// The line of a verifier's log that says what is wrong: the last before its statistics.
fn last_words(log: &str) -> String {
    log.lines()
        .rev()
        .map(str::trim)
        .find(|line| {
            !line.is_empty()
                && !line.starts_with("processed ")
                && !line.starts_with("verification time")
                && !line.starts_with("stack depth")
        })
        .unwrap_or("no reason given")
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_the_last_line_before_the_statistics() {
        let log = "0: R1=ctx() R10=fp0\n1: (61) r0 = *(u32 *)(r1 +400)\n\
                   invalid bpf_context access off=400 size=4\nverification time 40 usec\n\
                   stack depth 0\nprocessed 1 insns (limit 1000000)\n\n";
        assert_eq!(last_words(log), "invalid bpf_context access off=400 size=4");
        assert_eq!(last_words(""), "no reason given");
    }

    #[test]
    fn something_that_is_no_object_is_refused() {
        assert!(matches!(
            needed_shapes(b"not an object", &Sizes::default()),
            Err(LoadError::Parse { .. })
        ));
    }
}
