//! One real agent, the binary, alone in a network namespace of its own with its own pins and state:
//! no pods, no packets, only tables, for tests of what becomes of objects in real maps.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use lb_agent::dataplane::Actual;
use lb_agent::dataplane::bpffs::PinPaths;
use lb_agent::dataplane::maps::BpfDataplane;
use lb_agent::dataplane::readback::TableReader;
use lb_agent::status::{self, AgentStatus};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::cluster::{BPF_FS, PIN_PREFIX, Program, mount_bpf_fs};
use crate::ns::{Namespace, PREFIX};
use crate::{clock, command};

/// Ten times as long as anything takes.
const PATIENCE: Duration = Duration::from_mins(1);
/// Tables large enough for the recorded cluster.
const SIZES: &str = "\
apiVersion: steerage.dev/v1alpha1
kind: SteerageConfiguration
sizes: {frontends: 1024, services: 1024, arenaWords: 1048576, backends: 4096, flowBucketsV4: 64, flowBucketsV6: 64}
";

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// An agent, running or not. Everything it owns goes with it.
#[derive(Debug)]
pub struct LoneAgent {
    /// Where it runs; a server for it must run there too.
    pub namespace: Namespace,
    program: Program,
    directory: TempDir,
    pins: PathBuf,
    node: String,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl LoneAgent {
    /// An agent of the named node that does not run yet, and has no source.
    pub fn new(node: &str) -> Result<Self> {
        let program = Program::find()?;
        mount_bpf_fs()?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-lone{number}-agent", std::process::id());
        let namespace = Namespace::create(name.clone())?;
        command::ip(&name, "link set lo up")?;
        let directory = tempfile::Builder::new().prefix(&name).tempdir()?;
        let agent = Self {
            pins: Path::new(BPF_FS).join(format!("{PIN_PREFIX}{name}")),
            namespace,
            program,
            directory,
            node: node.to_owned(),
            arguments: Vec::new(),
            child: None,
        };
        agent.configure("")?;
        Ok(agent)
    }

    /// A path in a directory of its own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Gives it more settings, in YAML, beside the sizes of its tables; a running agent takes over
    /// what it can.
    pub fn configure(&self, settings: &str) -> Result<()> {
        let new = self.path("config.new");
        fs::write(&new, format!("{SIZES}{settings}"))?;
        Ok(fs::rename(new, self.path("config.yaml"))?)
    }

    /// Tells it where its objects come from: further arguments of `run`.
    pub fn set_source(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|&it| it.to_owned()).collect();
    }

    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let state = self.path("state");
        self.program
            .command(&self.namespace, [&self.pins, &state], arguments)
    }

    /// Starts it, and waits for nothing.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "the agent runs");
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("log"))?;
        let mut command = self.command(&["run", "--node-name", &self.node])?;
        command.arg("--config").arg(self.path("config.yaml"));
        command.args(&self.arguments);
        command.stdin(Stdio::null()).stdout(log.try_clone()?);
        let child = command.stderr(log).spawn().context("start the agent")?;
        self.child = Some(child);
        Ok(())
    }

    /// Waits until it has been in sync once.
    pub fn await_sync(&self) -> Result<()> {
        let pid = self.child.as_ref().map(Child::id);
        clock::eventually("the agent's first sync", PATIENCE, || {
            let text = fs::read(self.path("state").join(status::FILE_NAME)).unwrap_or_default();
            let status = serde_json::from_slice::<AgentStatus>(&text).ok();
            let is_so = status.is_some_and(|it| Some(it.pid) == pid && it.first_sync_at.is_some());
            Ok(is_so.then_some(()))
        })
        .with_context(|| self.log())
    }

    /// Ends it with SIGKILL, at whatever instruction it is.
    pub fn kill(&mut self) -> Result<()> {
        self.end(Signal::SIGKILL)
    }

    /// Ends it with SIGTERM.
    pub fn terminate(&mut self) -> Result<()> {
        self.end(Signal::SIGTERM)
    }

    fn end(&mut self, signal: Signal) -> Result<()> {
        let mut child = self.child.take().context("the agent does not run")?;
        if let Some(status) = child.try_wait()? {
            bail!("the agent had ended by itself: {status}\n{}", self.log());
        }
        kill(Pid::from_raw(i32::try_from(child.id())?), signal)?;
        child.wait()?;
        Ok(())
    }

    /// Runs a command of the CLI, whatever comes of it.
    pub fn cli(&self, arguments: &[&str]) -> Result<Output> {
        command::output(&mut self.command(arguments)?, "")
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Where its maps are.
    pub fn pins(&self) -> PinPaths {
        PinPaths::new(&self.pins)
    }

    /// Its maps, open for writing behind its back.
    pub fn dataplane(&self) -> Result<BpfDataplane> {
        Ok(BpfDataplane::open(&self.pins())?)
    }

    /// What its maps hold.
    pub fn tables(&self) -> Result<Actual> {
        Ok(TableReader::open(&self.pins())?.read_all()?)
    }
}

impl Drop for LoneAgent {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill().ok();
        }
        if self.pins.exists() {
            self.cli(&["cleanup"]).ok();
            fs::remove_dir_all(&self.pins).ok();
        }
    }
}
