//! What is looked up at each scrape: the kernel's counters, and the agent's own process.

use std::fs;
use std::path::Path;

use lb_common::verdict::Kind;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::dataplane::bpffs::PinPaths;
use crate::dataplane::counters;

/// Packets by reason, from the pinned counters.
#[derive(Debug)]
pub(super) struct PacketCollector {
    pub(super) paths: PinPaths,
}

impl Collector for PacketCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let counters = match counters::read(&self.paths) {
            Ok(counters) => counters,
            Err(error) => {
                // A scrape without these series tells that something is wrong; this tells what.
                tracing::warn!("/metrics: {error}");
                return Ok(());
            }
        };
        for (name, help, is_shown) in [
            (
                "steerage_drops",
                "Packets that were dropped, by reason",
                (|kind| matches!(kind, Kind::Drop)) as fn(Kind) -> bool,
            ),
            (
                "steerage_packets",
                "Packets that the programs met, by what became of them and why",
                |_| true,
            ),
        ] {
            let one = ConstCounter::new(0_u64);
            let mut metric = encoder.encode_descriptor(name, help, None, one.metric_type())?;
            for (reason, counter) in &counters {
                if is_shown(reason.kind()) {
                    let labels = [("reason", reason.name())];
                    let value = ConstCounter::new(counter.packets);
                    value.encode(metric.encode_family(&labels)?)?;
                }
            }
        }
        let one = ConstCounter::new(0_u64);
        let mut metric = encoder.encode_descriptor(
            "steerage_bytes",
            "Bytes of the packets that the programs met, by reason",
            None,
            one.metric_type(),
        )?;
        for (reason, counter) in &counters {
            let labels = [("reason", reason.name())];
            ConstCounter::new(counter.bytes).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// The agent's own process, by the names that every exporter gives it.
#[derive(Debug, Default)]
pub(super) struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(process) = Process::read(Path::new("/proc")) else {
            return Ok(());
        };
        let cpu = ConstCounter::new(process.cpu_seconds);
        cpu.encode(encoder.encode_descriptor(
            "process_cpu_seconds",
            "Processor time of the agent",
            None,
            cpu.metric_type(),
        )?)?;
        for (name, help, value) in [
            (
                "process_resident_memory_bytes",
                "Memory of the agent, mapped maps included",
                process.resident_bytes,
            ),
            (
                "process_virtual_memory_bytes",
                "Address space of the agent",
                process.virtual_bytes,
            ),
            (
                "process_open_fds",
                "Open file descriptors of the agent",
                process.open_fds,
            ),
            (
                "process_start_time_seconds",
                "When the agent started, in seconds since the Unix epoch",
                process.start_seconds,
            ),
        ] {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

/// What the kernel tells of this process.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Process {
    cpu_seconds: f64,
    resident_bytes: f64,
    virtual_bytes: f64,
    open_fds: f64,
    start_seconds: f64,
}

impl Process {
    fn read(proc: &Path) -> Option<Self> {
        let stat = fs::read_to_string(proc.join("self/stat")).ok()?;
        let boot = fs::read_to_string(proc.join("stat")).ok()?;
        let fds = fs::read_dir(proc.join("self/fd")).map_or(0, Iterator::count);
        let page = rustix::param::page_size();
        let ticks = rustix::param::clock_ticks_per_second();
        Self::parse(&stat, &boot, fds, page, ticks)
    }

    fn parse(stat: &str, boot: &str, fds: usize, page: usize, ticks: u64) -> Option<Self> {
        // The program's name may hold anything, blanks too; it ends with the last parenthesis.
        let (_, fields) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        // Numbers of proc(5), less the two before the parenthesis and one to count from 0.
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let small = |number: u64| u32::try_from(number).map_or(f64::NAN, f64::from);
        let ticks = small(ticks);
        let page = small(u64::try_from(page).ok()?);
        let booted = boot
            .lines()
            .find_map(|line| line.strip_prefix("btime "))?
            .trim()
            .parse::<f64>()
            .ok()?;
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) / ticks,
            resident_bytes: field(24)? * page,
            virtual_bytes: field(23)?,
            open_fds: small(u64::try_from(fds).ok()?),
            start_seconds: booted + field(22)? / ticks,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lines_are_read_by_their_numbers() {
        let stat =
            "41 (a ) b) S 1 2 3 4 5 6 7 8 9 10 250 50 13 14 15 16 17 18 1200 8192000 30 20 21";
        let process = Process::parse(stat, "cpu 1 2\nbtime 1790000000\n", 9, 4096, 100).unwrap();
        assert_eq!(
            process,
            Process {
                cpu_seconds: 3.0,
                resident_bytes: 122_880.0,
                virtual_bytes: 8_192_000.0,
                open_fds: 9.0,
                start_seconds: 1_790_000_012.0,
            }
        );
        assert_eq!(
            Process::parse("41 (a) S 1", "btime 1\n", 9, 4096, 100),
            None
        );
    }

    #[test]
    fn this_process_is_read() {
        let process = Process::read(Path::new("/proc")).unwrap();
        assert!(process.resident_bytes > 1e6);
        assert!(process.open_fds >= 3.0);
    }
}
