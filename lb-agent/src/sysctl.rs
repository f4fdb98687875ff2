//! The kernel's own connection tracking, set as kube-proxy sets it: other connections of the host
//! live by it too. What is written is decided by a pure function; earlier values are kept in the
//! state directory, and `steerage cleanup` puts them back.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::settings::conntrack::KernelConntrack;

pub mod local_ports;
#[cfg(test)]
mod tests;

/// Name of the file with earlier values in the state directory.
pub const FILE_NAME: &str = "sysctls.json";
/// kube-proxy's limit for `nf_conntrack_max`, before `min` is looked at.
const MAX_ENTRIES: u64 = 1_048_576;
/// Entries for each bucket of the kernel's hash table.
const ENTRIES_PER_BUCKET: u64 = 4;

/// A value of the kernel's.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Sysctl {
    /// Entries of the table.
    Max,
    /// Buckets of the table.
    Buckets,
    /// Idle seconds of an established TCP connection.
    TcpEstablished,
    /// Idle seconds of a half closed TCP connection.
    TcpCloseWait,
    /// Whether packets outside the window are let through.
    TcpBeLiberal,
    /// Idle seconds of a UDP flow without a reply.
    Udp,
    /// Idle seconds of a UDP flow with replies.
    UdpStream,
}

impl Sysctl {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Max,
        Self::Buckets,
        Self::TcpEstablished,
        Self::TcpCloseWait,
        Self::TcpBeLiberal,
        Self::Udp,
        Self::UdpStream,
    ];

    /// Its file, below `/proc/sys`.
    pub fn path(self, proc_sys: &Path) -> PathBuf {
        proc_sys.join("net/netfilter").join(match self {
            Self::Max => "nf_conntrack_max",
            Self::Buckets => "nf_conntrack_buckets",
            Self::TcpEstablished => "nf_conntrack_tcp_timeout_established",
            Self::TcpCloseWait => "nf_conntrack_tcp_timeout_close_wait",
            Self::TcpBeLiberal => "nf_conntrack_tcp_be_liberal",
            Self::Udp => "nf_conntrack_udp_timeout",
            Self::UdpStream => "nf_conntrack_udp_timeout_stream",
        })
    }
}

/// Values by name.
pub type Values = BTreeMap<Sysctl, u64>;

/// Why something could not be set.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// The operator must give the agent the right, or leave the value alone (0 in the settings).
    #[error(
        "the kernel's connection tracking keeps its own values, since {} cannot be written: {source}; mount it writable (--proc-sys), or set the conntrack settings to 0",
        path.display()
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The earlier values could not be kept: nothing was set.
    #[error("the kernel's connection tracking keeps its own values, since the earlier ones cannot be kept in {}: {source}", path.display())]
    Keep {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// `nf_conntrack_max` for this many processors; 0 leaves it alone. The limit comes first: on a
/// large machine `min` above it is not looked at.
pub fn max_entries(settings: &KernelConntrack, processors: u64) -> u64 {
    if settings.max_per_core == 0 {
        return 0;
    }
    let scaled = u64::from(settings.max_per_core).saturating_mul(processors);
    if scaled > MAX_ENTRIES {
        return MAX_ENTRIES;
    }
    scaled.max(settings.min.into())
}

/// What has to be written, in order, where the kernel has `current` values. What is right already
/// is not written again; what the kernel does not have is not asked for.
pub fn decide(settings: &KernelConntrack, processors: u64, current: &Values) -> Vec<(Sysctl, u64)> {
    let max = max_entries(settings, processors);
    let wanted = [
        (Sysctl::Max, max),
        (Sysctl::Buckets, max / ENTRIES_PER_BUCKET),
        (
            Sysctl::TcpEstablished,
            settings.tcp_established_seconds.into(),
        ),
        (Sysctl::TcpCloseWait, settings.tcp_close_wait_seconds.into()),
        (Sysctl::TcpBeLiberal, settings.tcp_be_liberal.into()),
        (Sysctl::Udp, settings.udp_seconds.into()),
        (Sysctl::UdpStream, settings.udp_stream_seconds.into()),
    ];
    wanted
        .into_iter()
        .filter(|&(_, value)| value > 0)
        .filter(|(sysctl, value)| match (sysctl, current.get(sysctl)) {
            (_, None) => false,
            // The table's buckets are only ever made more.
            (Sysctl::Buckets, Some(current)) => current < value,
            (_, Some(current)) => current != value,
        })
        .collect()
}

/// What the kernel has.
pub fn read(proc_sys: &Path) -> Values {
    Sysctl::ALL
        .into_iter()
        .filter_map(|sysctl| {
            let text = fs::read_to_string(sysctl.path(proc_sys)).ok()?;
            Some((sysctl, text.trim().parse().ok()?))
        })
        .collect()
}

/// Earlier values, and what was written over them.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Kept {
    /// Where the values are.
    pub proc_sys: PathBuf,
    /// What the kernel had before any agent wrote.
    pub earlier: Values,
    /// What an agent wrote last.
    pub written: Values,
}

impl Kept {
    /// What is kept in `state_dir`.
    pub fn read(state_dir: &Path) -> Self {
        fs::read(state_dir.join(FILE_NAME))
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default()
    }

    fn write(&self, state_dir: &Path) -> io::Result<()> {
        let path = state_dir.join(FILE_NAME);
        let temporary = state_dir.join(format!("{FILE_NAME}.new"));
        fs::write(&temporary, serde_json::to_vec(self)?)?;
        fs::rename(&temporary, &path)
    }

    /// What to put back: earlier values, where nobody has changed ours since.
    pub fn to_restore(&self, current: &Values) -> Vec<(Sysctl, u64)> {
        self.earlier
            .iter()
            .filter(|(sysctl, earlier)| {
                let current = current.get(sysctl);
                current == self.written.get(sysctl) && current != Some(earlier)
            })
            .map(|(sysctl, earlier)| (*sysctl, *earlier))
            .collect()
    }
}

/// Sets what `settings` ask for; what was set is returned. The first failure ends it.
pub fn apply(
    settings: &KernelConntrack,
    processors: u64,
    proc_sys: &Path,
    state_dir: &Path,
) -> Result<Vec<(Sysctl, u64)>, SysctlError> {
    let current = read(proc_sys);
    let writes = decide(settings, processors, &current);
    if writes.is_empty() {
        return Ok(writes);
    }
    let mut kept = Kept::read(state_dir);
    proc_sys.clone_into(&mut kept.proc_sys);
    for (sysctl, value) in &writes {
        let now = current.get(sysctl).copied();
        kept.earlier.entry(*sysctl).or_insert(now.unwrap_or(*value));
        kept.written.insert(*sysctl, *value);
    }
    kept.write(state_dir).map_err(|source| SysctlError::Keep {
        path: state_dir.join(FILE_NAME),
        source,
    })?;
    write(&writes, proc_sys)?;
    Ok(writes)
}

/// Puts the earlier values back that are kept in `state_dir`; what was written is returned.
pub fn restore(state_dir: &Path) -> Result<Vec<(Sysctl, u64)>, SysctlError> {
    let kept = Kept::read(state_dir);
    // Outside of the agent's container its place is not there.
    let proc_sys = if kept.proc_sys.is_dir() {
        &kept.proc_sys
    } else {
        Path::new("/proc/sys")
    };
    let writes = kept.to_restore(&read(proc_sys));
    write(&writes, proc_sys)?;
    Ok(writes)
}

fn write(writes: &[(Sysctl, u64)], proc_sys: &Path) -> Result<(), SysctlError> {
    for (sysctl, value) in writes {
        let path = sysctl.path(proc_sys);
        fs::write(&path, value.to_string())
            .map_err(|source| SysctlError::Write { path, source })?;
    }
    Ok(())
}
