//! One agent: the real binary, as a process in its node's namespace.

use std::{
    env,
    fs::{self, OpenOptions},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    clock,
    cluster::{BPF_FS, PIN_PREFIX},
    command,
    lab::Node,
    ns::Namespace,
};

/// How long an agent may take to end after SIGTERM.
const TERMINATION: Duration = Duration::from_secs(10);

/// Lines of a log that a failure shows.
const TAIL: usize = 40;

/// The agent's binary and the kernel object it shall load.
#[derive(Clone, Debug)]
pub struct Program {
    binary: PathBuf,
    /// `None`: the object embedded in the binary.
    object: Option<PathBuf>,
}

impl Program {
    /// Takes `STEERAGE_BIN` and `STEERAGE_BPF_OBJECT_PATH`, else looks where `cargo xtask build`
    /// puts both, beside this program's own profile directory.
    pub fn find() -> Result<Self> {
        let own = env::current_exe().context("find this program's own path")?;
        let target = own.ancestors().find(|path| path.ends_with("target"));
        let built = |path: &str| {
            target
                .map(|target| target.join(path))
                .filter(|it| it.exists())
        };
        let binary = env::var_os("STEERAGE_BIN")
            .map(PathBuf::from)
            .or_else(|| built("release/steerage"))
            .context("no agent to test: run `cargo xtask build`, or set STEERAGE_BIN to one")?;
        ensure!(
            binary.is_file(),
            "STEERAGE_BIN names no file: {}",
            binary.display()
        );
        let object = env::var_os("STEERAGE_BPF_OBJECT_PATH")
            .map(PathBuf::from)
            .or_else(|| built("bpf/steerage-bpf.o"));
        Ok(Self { binary, object })
    }

    /// The agent's binary.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// A command of it inside a namespace, about the agent with these directories.
    pub fn command(
        &self,
        namespace: &Namespace,
        [pins, state]: [&Path; 2],
        arguments: &[&str],
    ) -> Result<Command> {
        let mut command = namespace.command(&self.binary)?;
        command.args(arguments);
        command.arg("--pin-dir").arg(pins);
        command.arg("--state-dir").arg(state);
        if let Some(object) = &self.object {
            command.env("STEERAGE_BPF_OBJECT_PATH", object);
        }
        Ok(command)
    }
}

/// The agent of one node, running or not.
#[derive(Debug)]
pub struct Agent {
    program: Program,
    node: String,
    source: PathBuf,
    /// Its pins; removed by `steerage cleanup`.
    pub pins: PathBuf,
    /// Its state directory.
    pub state: PathBuf,
    log: PathBuf,
    /// Settings to start with; none by default.
    pub(super) config: Option<PathBuf>,
    child: Option<Child>,
}

impl Agent {
    pub(super) fn new(
        program: &Program,
        node: &Node,
        prefix: &str,
        directory: &Path,
    ) -> Result<Self> {
        let state = directory.join(&node.name);
        fs::create_dir(&state).with_context(|| format!("make {}", state.display()))?;
        Ok(Self {
            program: program.clone(),
            node: node.name.clone(),
            source: directory.join(super::manifest::DIRECTORY),
            pins: Path::new(BPF_FS).join(format!("{PIN_PREFIX}{prefix}-{}", node.name)),
            state,
            log: directory.join(format!("{}.log", node.name)),
            config: None,
            child: None,
        })
    }

    /// Starts the agent if it does not run; its output is appended to its log.
    pub(super) fn start(&mut self, node: &Node) -> Result<()> {
        if self.child.is_some() {
            return Ok(());
        }
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("open {}", self.log.display()))?;
        let mut command = self.command(node, &["run", "--node-name", &self.node])?;
        command
            .arg("--source")
            .arg(format!("dir:{}", self.source.display()));
        if let Some(config) = &self.config {
            command.arg("--config").arg(config);
        }
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        self.child = Some(child);
        Ok(())
    }

    /// Waits, as an operator would, with `steerage status --wait`.
    pub(super) fn await_first_sync(&self, node: &Node) -> Result<()> {
        self.cli(node, &["status", "--wait"])
            .map(drop)
            .with_context(|| format!("wait for the agent of {}", self.node))
    }

    /// Runs a command of the CLI on this agent's pins and state.
    pub(super) fn cli(&self, node: &Node, arguments: &[&str]) -> Result<String> {
        command::run(&mut self.command(node, arguments)?, "")
    }

    fn command(&self, node: &Node, arguments: &[&str]) -> Result<Command> {
        self.program
            .command(&node.ns, [&self.pins, &self.state], arguments)
    }

    /// The process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Ends the agent with SIGKILL, at whatever instruction it is. It must have been running.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self
            .child
            .take()
            .context("the agent to kill was not started")?;
        child.kill()?;
        let status = child.wait()?;
        ensure!(
            status.signal() == Some(Signal::SIGKILL as i32),
            "the agent of {} had ended by itself: {status}\n{}",
            self.node,
            self.log_tail(),
        );
        Ok(())
    }

    /// Asks the agent to end with SIGTERM, and waits until it has, successfully.
    pub fn terminate(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        let pid = Pid::from_raw(i32::try_from(child.id())?);
        kill(pid, Signal::SIGTERM).context("send SIGTERM")?;
        let what = format!("the agent of {} ends after SIGTERM", self.node);
        let ended = clock::eventually(&what, TERMINATION, || Ok(child.try_wait()?));
        let status = match ended {
            Ok(status) => status,
            Err(error) => {
                child.kill()?;
                child.wait()?;
                return Err(error);
            }
        };
        if !status.success() {
            bail!(
                "the agent of {} ended with {status}\n{}",
                self.node,
                self.log_tail()
            );
        }
        Ok(())
    }

    /// Runs `steerage cleanup`.
    pub fn cleanup(&self, node: &Node) -> Result<()> {
        self.cli(node, &["cleanup"]).map(drop)
    }

    /// Removes everything without asking how it went: the end of a test that failed.
    pub(super) fn abandon(&mut self, node: &Node) {
        if self.child.is_some() {
            self.kill().ok();
        }
        if self.pins.exists() {
            self.cleanup(node).ok();
            fs::remove_dir_all(&self.pins).ok();
        }
    }

    /// The last lines of the agent's log, with a heading.
    pub fn log_tail(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n");
        format!("--- the agent of {} said last ---\n{tail}\n", self.node)
    }
}
