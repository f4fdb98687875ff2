//! Where things are: the root of the repository and what the build leaves under `target`.
//!
//! These paths are a contract with the tests and the agent's build script; nothing else spells them.

use std::path::{Path, PathBuf};

use crate::arch::Arch;

/// The repository's root, found from this crate's own place in it.
pub(crate) fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_path_buf()
}

/// Cargo's target directory, absolute; honours `CARGO_TARGET_DIR`.
pub(crate) fn target_dir() -> PathBuf {
    let named = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    root().join(named)
}

/// A kernel object: the one the agent embeds, the one that logs flow decisions, or the bench's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Object {
    /// No logging in it.
    Normal,
    /// Logs flow decisions through aya-log.
    DebugLog,
    /// What the bench measures with and against.
    Bench,
}

impl Object {
    /// The target of the package `lb-ebpf` that it is built from.
    pub(crate) const fn binary(self) -> &'static str {
        match self {
            Self::Normal | Self::DebugLog => "steerage-bpf",
            Self::Bench => "steerage-bench-bpf",
        }
    }

    /// Where `build` leaves the object; another architecture's has its name in the file.
    pub(crate) fn path(self, arch: Arch) -> PathBuf {
        let stem = match self {
            Self::Normal => "steerage-bpf",
            Self::DebugLog => "steerage-bpf-debug",
            Self::Bench => "steerage-bench-bpf",
        };
        let name = if arch == Arch::host() {
            format!("{stem}.o")
        } else {
            format!("{stem}-{}.o", arch.name())
        };
        target_dir().join("bpf").join(name)
    }
}

/// The agent's release binary.
pub(crate) fn agent() -> PathBuf {
    target_dir().join("release/steerage")
}
