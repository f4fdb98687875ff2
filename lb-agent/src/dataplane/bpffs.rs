//! Where the pins are: the layout of the pin directory, and making sure it is on a bpffs.
//!
//! ```text
//! <pin-dir>/v<ABI_VERSION>/maps/NAME
//!                         /links/<ifindex>-ingress, <ifindex>-egress,
//!                               <ifindex>-xdp-native or <ifindex>-xdp-generic
//!                         /clsact/<ifindex>            a directory: the qdisc there is ours
//! ```
//!
//! A bpffs holds no ordinary files, but directories: one marks what must be undone later, and it
//! vanishes with the reboot that also removes the qdisc.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use lb_common::flow::Hook;
use lb_common::table::ABI_VERSION;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{FsType, statfs};

use super::layout::Table;
use super::xdp::XdpMode;

/// `f_type` of a bpffs (`BPF_FS_MAGIC`).
const BPF_FS_MAGIC: libc::__fsword_t = 0xcafe_4a11;
/// Where distributions mount it.
const MOUNT_POINT: &str = "/sys/fs/bpf";

/// The paths of all pins.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PinPaths {
    root: PathBuf,
    version: PathBuf,
}

impl PinPaths {
    /// The paths below the pin directory `root`.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            version: root.join(version_name()),
        }
    }

    /// The paths of the version whose directory is `version`, which may be another than ours.
    pub fn of_version(version: &Path) -> Option<Self> {
        Some(Self {
            root: version.parent()?.to_owned(),
            version: version.to_owned(),
        })
    }

    /// The pin directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of this version.
    pub fn version(&self) -> &Path {
        &self.version
    }

    /// The directory of the maps.
    pub fn maps(&self) -> PathBuf {
        self.version.join("maps")
    }

    /// The pin of a table's map.
    pub fn map(&self, table: Table) -> PathBuf {
        self.maps().join(table.name())
    }

    /// The directory of the links.
    pub fn links(&self) -> PathBuf {
        self.version.join("links")
    }

    /// The pin of the link at one side of a device.
    pub fn link(&self, interface: u32, hook: Hook) -> PathBuf {
        self.links().join(link_name(interface, hook))
    }

    /// The pin of the XDP link of a device.
    pub fn xdp_link(&self, interface: u32, mode: XdpMode) -> PathBuf {
        self.links().join(xdp_link_name(interface, mode))
    }

    /// The directory of the marks of devices with a clsact filter.
    pub fn clsact(&self) -> PathBuf {
        self.version.join("clsact")
    }

    /// Makes all directories.
    pub fn create(&self) -> io::Result<()> {
        for path in [self.maps(), self.links(), self.clsact()] {
            fs::create_dir_all(path)?;
        }
        Ok(())
    }

    /// Directories of other versions in the pin directory.
    pub fn other_versions(&self) -> io::Result<Vec<String>> {
        let mut others = Vec::new();
        for entry in read_dir_or_empty(&self.root)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name != version_name() && is_version(&name) {
                others.push(name);
            }
        }
        others.sort_unstable();
        Ok(others)
    }
}

/// Lists a directory; one that is not there is empty.
pub fn read_dir_or_empty(path: &Path) -> io::Result<Vec<io::Result<fs::DirEntry>>> {
    match fs::read_dir(path) {
        Ok(entries) => Ok(entries.collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn version_name() -> String {
    format!("v{ABI_VERSION}")
}

/// Whether `name` is that of a version's directory.
pub fn is_version(name: &str) -> bool {
    name.strip_prefix('v').is_some_and(|number| {
        !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit())
    })
}

/// Name of the pin of a link.
fn link_name(interface: u32, hook: Hook) -> String {
    format!("{interface}-{}", hook_name(hook))
}

/// The hook as pins and messages name it.
pub const fn hook_name(hook: Hook) -> &'static str {
    match hook {
        Hook::Ingress => "ingress",
        Hook::Egress => "egress",
    }
}

/// The inverse of the name of a link's pin.
pub fn parse_link_name(name: &str) -> Option<(u32, Hook)> {
    let (interface, hook) = name.split_once('-')?;
    let hook = match hook {
        "ingress" => Hook::Ingress,
        "egress" => Hook::Egress,
        _ => return None,
    };
    Some((interface.parse().ok()?, hook))
}

/// Name of the pin of an XDP link.
fn xdp_link_name(interface: u32, mode: XdpMode) -> String {
    format!("{interface}-xdp-{}", mode.name())
}

/// The inverse of the name of an XDP link's pin.
pub fn parse_xdp_link_name(name: &str) -> Option<(u32, XdpMode)> {
    let (interface, mode) = name.split_once("-xdp-")?;
    let mut modes = XdpMode::ALL.into_iter();
    let mode = modes.find(|known| known.name() == mode)?;
    Some((interface.parse().ok()?, mode))
}

/// Why the pin directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BpffsError {
    /// The operator must mount a bpffs, or choose a pin directory on one.
    #[error("{} is not on a BPF filesystem: run `mount -t bpf bpf {MOUNT_POINT}`, or choose a --pin-dir on one", path.display())]
    NotBpffs {
        /// The pin directory.
        path: PathBuf,
    },
    /// The operator must mount a bpffs; the agent was not allowed to.
    #[error(
        "mounting a BPF filesystem on {MOUNT_POINT}: {source}; run `mount -t bpf bpf {MOUNT_POINT}` as root"
    )]
    Mount {
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The operator must make the directory accessible.
    #[error("preparing pin directory {}: {source}", path.display())]
    Directory {
        /// The pin directory.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// Whether `path`, which exists, is on a bpffs.
pub fn is_bpffs(path: &Path) -> io::Result<bool> {
    Ok(statfs(path)?.filesystem_type() == FsType(BPF_FS_MAGIC))
}

/// Makes sure that `root` exists on a bpffs: mounts one where distributions do if that place is
/// still an ordinary directory, and creates the directory.
pub fn prepare(root: &Path) -> Result<(), BpffsError> {
    let failed = |source| BpffsError::Directory {
        path: root.to_owned(),
        source,
    };
    if !on_bpffs(root).map_err(failed)? {
        let may_mount = root.starts_with(MOUNT_POINT) && Path::new(MOUNT_POINT).is_dir();
        if !may_mount {
            return Err(BpffsError::NotBpffs {
                path: root.to_owned(),
            });
        }
        mount(
            Some("bpf"),
            MOUNT_POINT,
            Some("bpf"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
            Some("mode=0700"),
        )
        .map_err(|errno| BpffsError::Mount {
            source: errno.into(),
        })?;
        tracing::info!(path = MOUNT_POINT, "mounted a BPF filesystem");
    }
    fs::create_dir_all(root).map_err(failed)
}

/// Whether the nearest ancestor of `path` that exists is on a bpffs.
fn on_bpffs(path: &Path) -> io::Result<bool> {
    for ancestor in path.ancestors() {
        match is_bpffs(ancestor) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            answer => return answer,
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_link_says_where_it_is() {
        for hook in [Hook::Ingress, Hook::Egress] {
            assert_eq!(parse_link_name(&link_name(42, hook)), Some((42, hook)));
        }
        for wrong in ["42", "x-ingress", "42-sideways", "-egress", ""] {
            assert_eq!(parse_link_name(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_name_of_an_xdp_link_says_where_it_is_and_how() {
        for mode in XdpMode::ALL {
            let name = xdp_link_name(42, mode);
            assert_eq!(parse_xdp_link_name(&name), Some((42, mode)));
            assert_eq!(parse_link_name(&name), None);
        }
        for wrong in ["42-ingress", "42-xdp-", "42-xdp-offloaded", "-xdp-native"] {
            assert_eq!(parse_xdp_link_name(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn only_versions_look_like_versions() {
        assert!(is_version("v1") && is_version("v20"));
        assert!(!is_version("v") && !is_version("maps") && !is_version("v1a"));
    }

    #[test]
    fn a_directory_elsewhere_is_refused_with_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let error = prepare(&directory.path().join("pins")).unwrap_err();
        assert!(error.to_string().contains("mount -t bpf"), "{error}");
        assert!(!directory.path().join("pins").exists());
    }

    #[test]
    fn other_versions_are_found_and_this_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let paths = PinPaths::new(directory.path());
        for name in ["v0", "v99", "notes", &version_name()] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        assert_eq!(paths.other_versions().unwrap(), ["v0", "v99"]);
    }
}
