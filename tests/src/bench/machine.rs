//! The machine that figures are from, without which they mean nothing.

use std::{fmt, fs, process::Command, thread};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::command;

/// Where the kernel says how it guards against faults of the processor.
const VULNERABILITIES: &str = "/sys/devices/system/cpu/vulnerabilities";

/// What figures depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Machine {
    /// The processor's name.
    pub(super) cpu: String,
    /// Processors that this program may use.
    pub(super) cores: usize,
    /// The kernel's release.
    pub(super) kernel: String,
    /// Mitigations that are on.
    pub(super) mitigations: Vec<String>,
    /// The compiler at hand, if there is one.
    pub(super) rustc: Option<String>,
    /// Steerage's version.
    pub(super) steerage: String,
    /// What else takes part: the programs that load the kernel's own rules.
    #[serde(default)]
    pub(super) tools: Vec<String>,
    /// Load averages over 1, 5 and 15 minutes when it began: other work makes figures worse.
    pub(super) load: String,
}

/// Looks at the machine.
pub(super) fn describe() -> Result<Machine> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let cpu = cpu.lines().find(|line| line.starts_with("model name"));
    let load = read("/proc/loadavg");
    let rustc = command::run(Command::new("rustc").arg("--version"), "").ok();
    Ok(Machine {
        cpu: cpu
            .and_then(|line| line.split_once(": "))
            .map_or_else(|| "unknown".to_owned(), |(_, name)| name.to_owned()),
        cores: thread::available_parallelism()?.get(),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        mitigations: mitigations(),
        rustc: rustc.map(|text| text.trim().to_owned()),
        steerage: env!("CARGO_PKG_VERSION").to_owned(),
        tools: [
            ("nft", "--version"),
            ("iptables", "--version"),
            ("ip", "-V"),
        ]
        .into_iter()
        .filter_map(|(tool, flag)| command::run(Command::new(tool).arg(flag), "").ok())
        .map(|text| text.trim().to_owned())
        .collect(),
        load: load.split(' ').take(3).collect::<Vec<_>>().join(" "),
    })
}

/// The faults that the kernel does something about.
fn mitigations() -> Vec<String> {
    let mut found: Vec<String> = fs::read_dir(VULNERABILITIES)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            fs::read_to_string(entry.path()).is_ok_and(|text| text.starts_with("Mitigation"))
        })
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    found.sort();
    found
}

impl fmt::Display for Machine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{}, {} cores", self.cpu, self.cores)?;
        writeln!(formatter, "kernel {}", self.kernel)?;
        writeln!(formatter, "mitigations: {}", self.mitigations.join(", "))?;
        let rustc = self.rustc.as_deref().unwrap_or("no rustc");
        writeln!(formatter, "steerage {}, {rustc}", self.steerage)?;
        if !self.tools.is_empty() {
            writeln!(formatter, "{}", self.tools.join("; "))?;
        }
        write!(formatter, "load average {}", self.load)
    }
}
