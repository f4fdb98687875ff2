//! What the tests and the demo expect of the machine: programs, root, a mounted bpffs.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::apt::{self, Need};
use crate::process;

const BPFFS: &str = "/sys/fs/bpf";

/// Programs that the lab calls.
const PROGRAMS: [Need; 4] = [
    Need::program("ip", "iproute2"),
    Need::program("tc", "iproute2"),
    Need::program("nft", "nftables"),
    Need::program("ethtool", "ethtool"),
];

/// Programs that only the bench calls, for the kernel's own rules.
const BENCH_PROGRAMS: [Need; 1] = [Need::program("iptables-legacy-restore", "iptables")];

/// Installs what the bench needs beside what the lab does.
pub(crate) fn prepare_bench() -> Result<()> {
    apt::ensure(&BENCH_PROGRAMS, "load the rules to compare with")
}

/// Installs what the lab needs and mounts bpffs; says what it did.
pub(crate) fn prepare() -> Result<()> {
    if !apt::is_root() {
        bail!("network namespaces and BPF need root: run this again with sudo");
    }
    apt::ensure(&PROGRAMS, "lay out network namespaces")?;
    let mounts = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    if !has_bpffs(&mounts) {
        println!("mounting bpffs at {BPFFS}");
        process::run(Command::new("mount").args(["-t", "bpf", "bpf", BPFFS]))?;
    }
    Ok(())
}

/// Whether the list of mounts has a BPF file system where pins go.
fn has_bpffs(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some(BPFFS) && fields.next() == Some("bpf")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bpf_file_system_at_its_place_counts() {
        assert!(has_bpffs(
            "proc /proc proc rw 0 0\nbpf /sys/fs/bpf bpf rw,mode=700 0 0\n"
        ));
        assert!(!has_bpffs(
            "tmpfs /sys/fs/bpf tmpfs rw 0 0\nbpf /mnt bpf rw 0 0\n"
        ));
    }
}
