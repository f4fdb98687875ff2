//! Network namespaces: named, entered by threads and child processes, gone with their owner.
//!
//! A namespace belongs to a *thread*, so whatever has to happen inside one is a closure that runs on
//! a thread of its own. A socket stays in the namespace it was made in, wherever it is used later.
//! Child processes enter the network namespace only: `ip netns exec` would also give them a fresh
//! `/sys`, and with it hide the BPF file system.
//!
//! Names are `stg-<pid>-<lab>-<role>` and visible to `ip netns`. [`sweep`] removes those whose
//! process no longer exists, and nothing else.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result};
use nix::{
    mount::{MntFlags, umount2},
    sched::{CloneFlags, setns},
    sys::{
        prctl,
        signal::{Signal, kill},
    },
    unistd::Pid,
};

use crate::command;

/// What the names of all our namespaces begin with.
pub const PREFIX: &str = "stg-";

/// Where `ip netns` keeps its namespaces.
const DIRECTORY: &str = "/run/netns";

/// A network namespace, removed on drop.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    handle: File,
}

impl Namespace {
    /// Makes a namespace. `name` must begin with [`PREFIX`] and this process's id, so that a later
    /// run can tell whose it was.
    pub fn create(name: String) -> Result<Self> {
        debug_assert_eq!(owner(&name), Some(std::process::id()), "{name}");
        command::run(Command::new("ip").args(["netns", "add", &name]), "")?;
        let path = path(&name);
        match File::open(&path) {
            Ok(handle) => Ok(Self { name, handle }),
            Err(error) => {
                remove(&name);
                Err(error).with_context(|| format!("open {}", path.display()))
            }
        }
    }

    /// The name, as `ip netns` and `ip -n` take it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `action` on a new thread inside the namespace and returns its result.
    pub fn run<T: Send>(&self, action: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let entered = scope.spawn(|| {
                enter(&self.handle).with_context(|| format!("enter {}", self.name))?;
                action()
            });
            entered
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts a thread that lives inside the namespace.
    pub fn spawn<T: Send + 'static>(
        &self,
        action: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<JoinHandle<Result<T>>> {
        let handle = self
            .handle
            .try_clone()
            .context("duplicate a namespace's handle")?;
        let name = self.name.clone();
        Ok(thread::spawn(move || {
            enter(&handle).with_context(|| format!("enter {name}"))?;
            action()
        }))
    }

    /// A command that will run inside the namespace.
    ///
    /// The child is killed when the *thread* that starts it ends: start long-lived processes from a
    /// thread that outlives them.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let handle = self
            .handle
            .try_clone()
            .context("duplicate a namespace's handle")?;
        let mut command = Command::new(program);
        let enter_before_exec = move || {
            enter(&handle)?;
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            Ok(())
        };
        // SAFETY: between fork and exec only async-signal-safe calls are allowed. The closure makes
        // two plain system calls (setns, prctl) on a file that was opened before the fork; it takes
        // no lock and allocates nothing, and `nix` turns their failure into an error number.
        unsafe { command.pre_exec(enter_before_exec) };
        Ok(command)
    }

    /// Sets a sysctl of the namespace, such as `net/ipv4/ip_forward`.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            for (key, value) in settings {
                fs::write(Path::new("/proc/sys").join(key), value)
                    .with_context(|| format!("set {key} to {value} in {}", self.name))?;
            }
            Ok(())
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Moves the calling thread into the namespace behind `handle`.
fn enter(handle: &File) -> nix::Result<()> {
    setns(handle, CloneFlags::CLONE_NEWNET)
}

/// The names of this process's namespaces that exist now.
pub fn existing(prefix: &str) -> Vec<String> {
    entries(Path::new(DIRECTORY))
        .filter(|name| name.starts_with(prefix))
        .collect()
}

/// Removes what a crashed run left behind, and returns the names of it.
///
/// Namespaces and pin directories carry the id of the process that made them; only those of
/// processes that no longer exist are touched. Processes inside such a namespace are killed.
pub fn sweep(pin_root: &Path) -> Vec<String> {
    let mut swept = Vec::new();
    for name in entries(Path::new(DIRECTORY)).filter(|name| is_orphan(name)) {
        for pid in processes(&name) {
            // It may have ended by itself since it was listed.
            kill(pid, Signal::SIGKILL).ok();
        }
        remove(&name);
        swept.push(name);
    }
    for name in entries(pin_root) {
        if name
            .strip_prefix(crate::cluster::PIN_PREFIX)
            .is_some_and(is_orphan)
        {
            fs::remove_dir_all(pin_root.join(&name)).ok();
            swept.push(name);
        }
    }
    swept
}

/// The processes inside the namespace called `name`.
pub fn processes(name: &str) -> Vec<Pid> {
    let listed = command::run(Command::new("ip").args(["netns", "pids", name]), "");
    listed
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.trim().parse().ok().map(Pid::from_raw))
        .collect()
}

/// Whether the process that made `name` is gone.
fn is_orphan(name: &str) -> bool {
    owner(name).is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
}

/// The process id in one of our names.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

fn path(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

/// Best effort: the file may be left by an interrupted `ip netns add`, without a mount on it.
fn remove(name: &str) {
    let path = path(name);
    umount2(&path, MntFlags::MNT_DETACH).ok();
    fs::remove_file(&path).ok();
}

fn entries(directory: &Path) -> impl Iterator<Item = String> + use<> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_is_read_from_our_names_only() {
        assert_eq!(owner("stg-17-0-node1"), Some(17));
        assert_eq!(owner("stg-x-0-node1"), None);
        assert_eq!(owner("other-17-0"), None);
    }

    #[test]
    fn a_name_of_a_living_process_is_no_orphan() {
        assert!(!is_orphan(&format!("stg-{}-0-a", std::process::id())));
        // Above the largest process id that Linux can hand out (2^22).
        assert!(is_orphan("stg-4194305-0-a"));
        assert!(!is_orphan("somebody-else"));
    }
}
