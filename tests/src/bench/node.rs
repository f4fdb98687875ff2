//! A real agent in a network namespace of its own, and what the kernel says of it.

use std::{
    fs::{self, OpenOptions},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use lb_agent::{
    dataplane::{bpffs::PinPaths, layout::Table, syscall},
    status::{self, AgentStatus, SyncSpent},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{
    clock,
    cluster::{BPF_FS, PIN_PREFIX, Program, mount_bpf_fs},
    command,
    ns::{self, Namespace},
};

/// Where files are kept in memory.
const MEMORY_FILES: &str = "/dev/shm";
/// How long an agent may take for anything, on a machine that does other things too.
const PATIENCE: Duration = Duration::from_mins(5);
/// The Node of the agent.
pub(super) const NAME: &str = "bench";
/// How often memory is looked at while an agent starts.
const SAMPLING: Duration = Duration::from_millis(10);

/// Memory of a process in KiB, as `/proc/PID/status` has it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Memory {
    /// Its own.
    pub(super) anonymous: u64,
    /// Files and maps that it has mapped.
    pub(super) mapped: u64,
}

/// How an agent started.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Start {
    /// From its start until its programs were loaded.
    pub(super) loaded: Duration,
    /// From its start until its tables were complete.
    pub(super) synced: Duration,
    /// Processor time of the whole process until then.
    pub(super) processor: Duration,
    /// From objects parsed to tables complete, as it says itself.
    pub(super) programmed: Duration,
    /// Processor time that the agent says its steps took.
    pub(super) spent: SyncSpent,
    /// Processor time of all other threads, which read, parse and write names.
    pub(super) others: Duration,
    /// The most anonymous memory seen, in KiB.
    pub(super) peak: u64,
}

/// A node without pods; everything of it is removed on drop.
#[derive(Debug)]
pub(super) struct Node {
    program: Program,
    namespace: Namespace,
    pins: PathBuf,
    /// On a file system in memory, as `/run` of a node is.
    state: TempDir,
    log: PathBuf,
    config: Option<PathBuf>,
    child: Option<Child>,
}

impl Node {
    /// Makes the namespace; the log is in `directory`.
    pub(super) fn new(directory: &Path, config: Option<PathBuf>) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        ns::sweep(Path::new(BPF_FS));
        mount_bpf_fs()?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}{}-bench{number}", ns::PREFIX, std::process::id());
        let namespace = Namespace::create(name.clone())?;
        Ok(Self {
            program: Program::find()?,
            pins: Path::new(BPF_FS).join(format!("{PIN_PREFIX}{name}")),
            state: TempDir::with_prefix_in(ns::PREFIX, MEMORY_FILES)
                .context("make a directory for an agent's state")?,
            log: directory.join(format!("log-{number}")),
            config,
            namespace,
            child: None,
        })
    }

    /// Where it is.
    pub(super) const fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Does something in the node's namespace.
    pub(super) fn inside<T: Send>(&self, action: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let mut up = self.namespace.command("ip")?;
        command::run(up.args(["link", "set", "lo", "up"]), "")?;
        self.namespace.run(action)
    }

    /// Starts an agent on a directory of manifests and waits until its tables are complete.
    pub(super) fn start(&mut self, manifests: &Path) -> Result<Start> {
        self.start_from(&["--source", &format!("dir:{}", manifests.display())])
    }

    /// The same with the flags that say where objects come from.
    pub(super) fn start_from(&mut self, source: &[&str]) -> Result<Start> {
        // What an earlier agent said of itself must not be taken for this one's word.
        if self.status_file().exists() {
            fs::remove_file(self.status_file())?;
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)?;
        let arguments = [&["run", "--node-name", NAME], source].concat();
        let mut command =
            self.program
                .command(&self.namespace, [&self.pins, self.state.path()], &arguments)?;
        if let Some(config) = &self.config {
            command.arg("--config").arg(config);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let began = clock::now();
        let child = command.spawn().context("start the agent")?;
        let pid = child.id();
        let child = self.child.insert(child);
        let mut start = Start::default();
        let (path, log) = (self.state.path().join(status::FILE_NAME), &self.log);
        clock::eventually_every(SAMPLING, "the first sync", PATIENCE, || {
            if let Some(status) = child.try_wait()? {
                let log = fs::read_to_string(log).unwrap_or_default();
                bail!("the agent ended with {status}: {log}");
            }
            start.peak = start.peak.max(memory(pid)?.anonymous);
            let Some(status) = read_status(&path) else {
                return Ok(None);
            };
            if start.loaded.is_zero() {
                start.loaded = began.elapsed();
            }
            let Some(micros) = status.first_sync_micros else {
                return Ok(None);
            };
            start.programmed = Duration::from_micros(micros);
            start.synced = began.elapsed();
            start.processor = processor_time(&format!("/proc/{pid}/stat"))?;
            start.spent = status.first_sync_spent.unwrap_or_default();
            let main = processor_time(&format!("/proc/{pid}/task/{pid}/stat"))?;
            start.others = start.processor.saturating_sub(main);
            Ok(Some(()))
        })?;
        Ok(start)
    }

    /// Ends the agent as an operator does.
    pub(super) fn stop(&mut self) -> Result<()> {
        let mut child = self.child.take().context("no agent runs")?;
        kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
        let status = child.wait()?;
        ensure!(status.success(), "the agent ended with {status}");
        Ok(())
    }

    /// The memory of the agent that runs.
    pub(super) fn memory(&self) -> Result<Memory> {
        memory(self.child.as_ref().context("no agent runs")?.id())
    }

    /// Processor time of the agent that runs.
    pub(super) fn processor(&self) -> Result<Duration> {
        let pid = self.child.as_ref().context("no agent runs")?.id();
        processor_time(&format!("/proc/{pid}/stat"))
    }

    /// What the agent says of itself.
    pub(super) fn status(&self) -> Option<AgentStatus> {
        read_status(&self.status_file())
    }

    /// Where its tables are.
    pub(super) fn paths(&self) -> PinPaths {
        PinPaths::new(&self.pins)
    }

    /// Bytes of a table by the kernel's own accounting.
    pub(super) fn table_bytes(&self, table: Table) -> Result<u64> {
        let map = syscall::open_pin(&self.paths().map(table))?;
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd()))?;
        let memlock = info.lines().find_map(|line| line.strip_prefix("memlock:"));
        let memlock = memlock.context("the kernel does not say what a map takes")?;
        Ok(memlock.trim().parse()?)
    }

    /// Waits until the agent has said how its last change went: `before` is its count of them.
    pub(super) fn await_change(&self, before: u64) -> Result<Duration> {
        clock::eventually("the agent says how a change went", PATIENCE, || {
            let status = self.status().filter(|status| status.syncs > before);
            Ok(status.and_then(|status| status.last_sync_micros))
        })
        .map(Duration::from_micros)
    }

    /// Removes everything, and says if that fails.
    pub(super) fn finish(mut self) -> Result<()> {
        self.stop()?;
        self.finish_stopped()
    }

    /// The same after [`Self::stop`].
    pub(super) fn finish_stopped(self) -> Result<()> {
        self.clean()?;
        ensure!(!self.pins.exists(), "left: {}", self.pins.display());
        Ok(())
    }

    fn clean(&self) -> Result<()> {
        let directories = [self.pins.as_path(), self.state.path()];
        let mut command = self
            .program
            .command(&self.namespace, directories, &["cleanup"])?;
        command::run(&mut command, "").map(drop)
    }

    fn status_file(&self) -> PathBuf {
        self.state.path().join(status::FILE_NAME)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
        if self.pins.exists() {
            self.clean().ok();
            fs::remove_dir_all(&self.pins).ok();
        }
    }
}

/// Waits until `look` says so, looking often, and returns how long it took since `began`.
pub(super) fn time_until(
    what: &str,
    began: Instant,
    mut look: impl FnMut() -> bool,
) -> Result<Duration> {
    let pause = Duration::from_millis(1);
    clock::eventually_every(
        pause,
        what,
        PATIENCE,
        || Ok(look().then(|| began.elapsed())),
    )
}

fn read_status(path: &Path) -> Option<AgentStatus> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn memory(pid: u32) -> Result<Memory> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    Ok(Memory {
        anonymous: field("RssAnon:").unwrap_or(0),
        mapped: field("RssFile:").unwrap_or(0) + field("RssShmem:").unwrap_or(0),
    })
}

/// User and system time of the process or thread whose `stat` this is.
fn processor_time(stat: &str) -> Result<Duration> {
    let text = fs::read_to_string(stat)?;
    // The name, in brackets, may hold anything.
    let (_, rest) = text.rsplit_once(") ").context("a process has a name")?;
    let ticks: u64 = rest
        .split(' ')
        .skip(11)
        .take(2)
        .map(|field| field.parse().unwrap_or(0))
        .sum();
    let rate = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_millis(ticks * 1000 / rate.max(1)))
}
