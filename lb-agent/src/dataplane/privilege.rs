//! Which capabilities the agent needs and which it lacks, so that the kernel's bare "operation not
//! permitted" never is the message.

use std::fs;

/// `CAP_NET_ADMIN`, by its number in capability.h: attaching to devices.
const NET_ADMIN: u32 = 12;
/// `CAP_SYS_ADMIN`, which contains the other two.
const SYS_ADMIN: u32 = 21;
/// `CAP_PERFMON`: without it, the verifier is stricter.
const PERFMON: u32 = 38;
/// `CAP_BPF`: maps and programs.
const BPF: u32 = 39;

/// Capabilities of this process that the datapath needs and that it does not have, by name.
pub fn missing() -> Vec<&'static str> {
    fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| effective(&status))
        .map_or_else(Vec::new, missing_of)
}

/// The effective capabilities in the text of `/proc/<pid>/status`.
fn effective(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn missing_of(effective: u64) -> Vec<&'static str> {
    let has = |number: u32| effective & (1 << number) != 0;
    let mut missing = Vec::new();
    if !has(NET_ADMIN) {
        missing.push("CAP_NET_ADMIN");
    }
    if !has(SYS_ADMIN) {
        if !has(BPF) {
            missing.push("CAP_BPF");
        }
        if !has(PERFMON) {
            missing.push("CAP_PERFMON");
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let check = |status: &str, expected: &[&str]| {
            assert_eq!(missing_of(effective(status).unwrap()), expected, "{status}");
        };
        check("Name:\tx\nCapEff:\t000001ffffffffff\n", &[]);
        check(
            "CapEff:\t0000000000000000\n",
            &["CAP_NET_ADMIN", "CAP_BPF", "CAP_PERFMON"],
        );
        // CAP_NET_ADMIN and CAP_SYS_ADMIN, as on kernels before CAP_BPF.
        check("CapEff:\t0000000000201000\n", &[]);
        check("CapEff:\t0000008000001000\n", &["CAP_PERFMON"]);
    }
}
