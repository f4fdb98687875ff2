//! Child processes: their environment, their output and what a failure says.
//!
//! `cargo xtask` is itself run by cargo, through rustup, and both leave variables behind that would
//! steer an inner build: a pinned toolchain, compiler flags, library paths. [`cargo`] keeps what a
//! user may have meant; [`foreign_cargo`] keeps none of it, because it starts another toolchain.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::{outcome::Counts, workspace};

/// A variable that the outer `cargo run` set about xtask itself.
fn describes_xtask(name: &str) -> bool {
    name == "CARGO"
        || name == "CARGO_CRATE_NAME"
        || name == "CARGO_PRIMARY_PACKAGE"
        || ["CARGO_MANIFEST_", "CARGO_PKG_", "CARGO_BIN_"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
}

/// A variable that would change what another toolchain builds, or which one it is.
fn steers_a_build(name: &str) -> bool {
    const NAMES: [&str; 8] = [
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_TARGET_DIR",
        "LD_LIBRARY_PATH",
        "RUSTC",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_WRAPPER",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
    ];
    NAMES.contains(&name)
        || [
            "CARGO_BUILD_",
            "CARGO_PROFILE_",
            "CARGO_TARGET_",
            "CARGO_UNSTABLE_",
        ]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

fn without(command: &mut Command, is_unwanted: impl Fn(&str) -> bool) {
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(&is_unwanted) {
            command.env_remove(name);
        }
    }
}

/// The cargo that started xtask, at the repository's root, with the user's own flags.
pub(crate) fn cargo() -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(program);
    command.current_dir(workspace::root());
    without(&mut command, describes_xtask);
    command
}

/// A cargo of another toolchain, at the repository's root, with nothing of ours in its environment.
pub(crate) fn foreign_cargo(program: &Path, rustc: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(workspace::root());
    without(&mut command, |name| {
        describes_xtask(name) || steers_a_build(name)
    });
    command.env("RUSTC", rustc);
    command
}

/// The command as a person would type it.
fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let program = program.file_name().unwrap_or(program.as_os_str());
    std::iter::once(program)
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs a command to its end; anything but success is an error that names it.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("start `{}`; is it installed?", shown(command)))?;
    if !status.success() {
        bail!(
            "`{}` failed ({status}); its output above says why",
            shown(command)
        );
    }
    Ok(())
}

/// Runs a command and returns what it wrote to standard output.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("start `{}`; is it installed?", shown(command)))?;
    if !output.status.success() {
        bail!("`{}` failed ({})", shown(command), output.status);
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("`{}` wrote something that is not UTF-8", shown(command)))
}

/// Runs a `cargo test`, passes its output on and adds up its results.
///
/// A command that fails without a failed test (it did not compile, a binary crashed) counts as one
/// failure, so that a summary never hides it.
pub(crate) fn run_tests(command: &Command) -> Result<Counts> {
    let mut command = with_deadline(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start `{}`; is it installed?", shown(&command)))?;
    let mut counts = Counts::default();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.with_context(|| format!("read the output of `{}`", shown(&command)))?;
            let line = String::from_utf8_lossy(&line);
            counts.add_line(&line);
            writeln!(std::io::stdout().lock(), "{line}").context("write to standard output")?;
        }
    }
    let status = child
        .wait()
        .with_context(|| format!("wait for `{}`", shown(&command)))?;
    if status.code() == Some(TIMED_OUT) {
        eprintln!(
            "error: `{}` hung; the test that began last is named above",
            shown(&command)
        );
        counts.failed += 1;
    } else if !status.success() && counts.failed == 0 {
        eprintln!(
            "error: `{}` failed ({status}) outside its tests",
            shown(&command)
        );
        counts.failed = 1;
    }
    Ok(counts)
}

/// The longest a tier may take, build included; five times what the slowest needs on two cores.
const TEST_DEADLINE: &str = "40m";

/// How `timeout` says that it had to end the command.
const TIMED_OUT: i32 = 124;

/// The command under `timeout`, unless somebody is there to interrupt it.
///
/// `timeout` ends whatever the command started by a process group of its own, which the terminal's
/// interrupt key would not reach.
fn with_deadline(command: &Command) -> Command {
    let mut guarded = if std::io::stdin().is_terminal() {
        Command::new(command.get_program())
    } else {
        let mut timeout = Command::new("timeout");
        timeout
            .args(["--kill-after=10", TEST_DEADLINE])
            .arg(command.get_program());
        timeout
    };
    guarded.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => guarded.env(name, value),
            None => guarded.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        guarded.current_dir(folder);
    }
    guarded
}

/// Whether a program of this name can be found, in `PATH` or where root's tools live.
pub(crate) fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(program).is_file())
}

/// Measures how long a step took: xtask's only use of a clock.
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts now.
    #[expect(
        clippy::disallowed_methods,
        reason = "xtask reports how long its steps take"
    )]
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_the_outer_cargo_do_not_reach_an_inner_one() {
        for name in [
            "CARGO",
            "CARGO_PKG_NAME",
            "CARGO_MANIFEST_DIR",
            "CARGO_BIN_NAME",
        ] {
            assert!(describes_xtask(name), "{name}");
        }
        for name in ["CARGO_HOME", "CARGO_TERM_COLOR", "RUSTFLAGS", "PATH"] {
            assert!(!describes_xtask(name), "{name}");
        }
    }

    #[test]
    fn another_toolchain_inherits_no_flags_but_keeps_its_registry() {
        for name in [
            "RUSTFLAGS",
            "RUSTUP_TOOLCHAIN",
            "CARGO_TARGET_DIR",
            "CARGO_BUILD_TARGET",
        ] {
            assert!(steers_a_build(name), "{name}");
        }
        for name in ["CARGO_HOME", "CARGO_NET_OFFLINE", "HOME", "PATH"] {
            assert!(!steers_a_build(name), "{name}");
        }
    }

    #[test]
    fn a_failing_command_is_named_in_the_error() {
        let error = run(Command::new("sh").args(["-c", "exit 3"])).unwrap_err();
        assert!(
            error.to_string().contains("`sh -c exit 3` failed"),
            "{error}"
        );
    }

    #[test]
    fn a_deadline_keeps_the_commands_environment_and_folder() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $GREETING from $PWD"]);
        command.env("GREETING", "hello").current_dir("/");
        assert_eq!(
            capture(&mut with_deadline(&command)).unwrap(),
            "hello from /\n"
        );
    }

    #[test]
    fn a_crash_outside_any_test_counts_as_one_failure() {
        let counts = run_tests(Command::new("sh").args(["-c", "exit 101"])).unwrap();
        assert_eq!(
            counts,
            Counts {
                passed: 0,
                failed: 1
            }
        );
    }
}
